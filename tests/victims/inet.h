/* What the victims with internet sockets have in common. */
#ifndef INET_H
#define INET_H

#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

union place {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

VICTIM_UNUSED static socklen_t place_length(union place place)
{
	return place.any.sa_family == AF_INET6 ? sizeof place.six : sizeof place.four;
}

/* A place by its address in words; port in the machine's order, 0 for any. */
VICTIM_UNUSED static union place place_at(const char *address, int port)
{
	union place place;
	memset(&place, 0, sizeof place);
	if (strchr(address, ':') != NULL) {
		place.six.sin6_family = AF_INET6;
		place.six.sin6_port = htons((uint16_t)port);
		if (inet_pton(AF_INET6, address, &place.six.sin6_addr) != 1)
			broken("%s is no address", address);
	} else {
		place.four.sin_family = AF_INET;
		place.four.sin_port = htons((uint16_t)port);
		if (inet_pton(AF_INET, address, &place.four.sin_addr) != 1)
			broken("%s is no address", address);
	}
	return place;
}

VICTIM_UNUSED static int place_port(union place place)
{
	return ntohs(place.any.sa_family == AF_INET6 ? place.six.sin6_port : place.four.sin_port);
}

VICTIM_UNUSED static union place own_place(int socket)
{
	union place found;
	memset(&found, 0, sizeof found);
	socklen_t length = sizeof found;
	expect_success(getsockname(socket, &found.any, &length));
	return found;
}

VICTIM_UNUSED static union place peer_place(int socket)
{
	union place found;
	memset(&found, 0, sizeof found);
	socklen_t length = sizeof found;
	expect_success(getpeername(socket, &found.any, &length));
	return found;
}

VICTIM_UNUSED static void expect_place(const char *what, union place expected, union place found)
{
	char wanted[64] = "", seen[64] = "";
	if (memcmp(&expected, &found, place_length(expected)) == 0)
		return;
	if (expected.any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &expected.six.sin6_addr, wanted, sizeof wanted);
		inet_ntop(AF_INET6, &found.six.sin6_addr, seen, sizeof seen);
	} else {
		inet_ntop(AF_INET, &expected.four.sin_addr, wanted, sizeof wanted);
		inet_ntop(AF_INET, &found.four.sin_addr, seen, sizeof seen);
	}
	wrong("%s: expected family %d, %s port %d, found family %d, %s port %d", what, expected.any.sa_family, wanted,
	      place_port(expected), found.any.sa_family, seen, place_port(found));
}

VICTIM_UNUSED static int option_of(int socket, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof value;
	if (getsockopt(socket, level, option, &value, &length) != 0)
		wrong("option %d of level %d: expected success, found: %s", option, level, strerror(errno));
	return value;
}

VICTIM_UNUSED static void set_option_at(int socket, int level, int option, int value)
{
	must(setsockopt(socket, level, option, &value, sizeof value));
}

/* A socket at an address and any port; skips the victim where there is no such address. */
VICTIM_UNUSED static int bound_at(int kind, const char *address)
{
	union place place = place_at(address, 0);
	int made = must(socket(place.any.sa_family, kind, 0));
	if (bind(made, &place.any, place_length(place)) != 0)
		skip("binding to %s: %s", address, strerror(errno));
	return made;
}

VICTIM_UNUSED static int listening_at(const char *address, int backlog)
{
	int made = bound_at(SOCK_STREAM, address);
	must(listen(made, backlog));
	return made;
}

VICTIM_UNUSED static int connected_to(union place place)
{
	int made = must(socket(place.any.sa_family, SOCK_STREAM, 0));
	must(connect(made, &place.any, place_length(place)));
	return made;
}

/* Two ends of a connection: ends[0] connects, ends[1] is accepted. The listener is closed. */
VICTIM_UNUSED static void connected_ends(const char *address, int ends[2])
{
	int listener = listening_at(address, 1);
	ends[0] = connected_to(own_place(listener));
	ends[1] = must(accept(listener, NULL, NULL));
	close(listener);
}

VICTIM_UNUSED static void put(int socket, const char *text)
{
	if (send(socket, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
		broken("sending \"%s\": %s", text, strerror(errno));
}

/* Sends after the wait. */
VICTIM_UNUSED static void expect_put(const char *what, int socket, const char *text)
{
	ssize_t sent = send(socket, text, strlen(text), MSG_NOSIGNAL);
	if (sent < 0)
		wrong("%s: sending \"%s\": expected success, found: %s", what, text, strerror(errno));
	expect_equal(what, strlen(text), sent);
}

/* Receives exactly this much of a stream, however it comes. */
VICTIM_UNUSED static void expect_get(const char *what, int socket, const char *text)
{
	char found[4096] = "";
	size_t used = 0;
	while (used < strlen(text)) {
		ssize_t got = recv(socket, found + used, strlen(text) - used, 0);
		if (got < 0)
			wrong("%s: expected \"%s\", found: %s", what, text, strerror(errno));
		if (got == 0)
			break;
		used += (size_t)got;
	}
	expect_text(what, text, found);
}

VICTIM_UNUSED static void expect_end(const char *what, int socket)
{
	char byte;
	ssize_t got = recv(socket, &byte, 1, 0);
	if (got < 0)
		wrong("%s: expected the end, found: %s", what, strerror(errno));
	expect_equal(what, 0, got);
}

VICTIM_UNUSED static void expect_error(const char *what, int error, ssize_t result)
{
	int found = errno;
	expect_equal(what, -1, result);
	expect_equal(what, error, found);
}

VICTIM_UNUSED static void expect_nothing(const char *what, int socket)
{
	char byte;
	expect_error(what, EAGAIN, recv(socket, &byte, 1, MSG_DONTWAIT));
}

#endif
