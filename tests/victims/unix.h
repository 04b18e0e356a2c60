/* What the victims with unix sockets have in common. */
#ifndef UNIX_H
#define UNIX_H

#include "victim.h"
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif

struct name {
	struct sockaddr_un address;
	socklen_t length;
};

/* A name that is a path. */
VICTIM_UNUSED static struct name path_name(const char *path)
{
	struct name name = {.address.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof name.address.sun_path)
		skip("%s is too long for the name of a socket", path);
	memcpy(name.address.sun_path, path, strlen(path));
	name.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
	return name;
}

/* A name that is the absolute path of a file in the working directory. */
VICTIM_UNUSED static struct name absolute_name(const char *file)
{
	char path[4096];
	if (getcwd(path, sizeof path - 64) == NULL)
		broken("getcwd: %s", strerror(errno));
	size_t length = strlen(path);
	snprintf(path + length, sizeof path - length, "/%s", file);
	return path_name(path);
}

/* An abstract name of this victim's own, with a zero in its middle. */
VICTIM_UNUSED static struct name abstract_name(const char *text)
{
	struct name name = {.address.sun_family = AF_UNIX};
	int length = snprintf(name.address.sun_path + 1, sizeof name.address.sun_path - 1, "victim-%d-%llx:%s", getpid(),
			      (unsigned long long)victim_start, text);
	name.address.sun_path[7] = '\0';
	name.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
	return name;
}

VICTIM_UNUSED static int bound_socket(int kind, struct name name)
{
	int made = must(socket(AF_UNIX, kind, 0));
	must(bind(made, (struct sockaddr *)&name.address, name.length));
	return made;
}

VICTIM_UNUSED static int listening_socket(int kind, struct name name, int backlog)
{
	int made = bound_socket(kind, name);
	must(listen(made, backlog));
	return made;
}

VICTIM_UNUSED static int connected_socket(int kind, struct name name)
{
	int made = must(socket(AF_UNIX, kind, 0));
	must(connect(made, (struct sockaddr *)&name.address, name.length));
	return made;
}

/* Connects after the wait. */
VICTIM_UNUSED static void expect_connected(int socket, struct name name)
{
	expect_success(connect(socket, (struct sockaddr *)&name.address, name.length));
}

VICTIM_UNUSED static void expect_name(const char *what, struct name expected, const struct sockaddr_un *found,
				      socklen_t length)
{
	expect_equal(what, expected.length, length);
	if (memcmp(&expected.address, found, length) != 0)
		wrong("%s: expected \"%s\", found \"%s\"", what, expected.address.sun_path + !expected.address.sun_path[0],
		      found->sun_path + !found->sun_path[0]);
}

/* The name of a socket, and that of its peer. */
VICTIM_UNUSED static void expect_own_name(const char *what, int socket, struct name expected)
{
	struct sockaddr_un found;
	socklen_t length = sizeof found;
	expect_success(getsockname(socket, (struct sockaddr *)&found, &length));
	expect_name(what, expected, &found, length);
}

VICTIM_UNUSED static void expect_peer_name(const char *what, int socket, struct name expected)
{
	struct sockaddr_un found;
	socklen_t length = sizeof found;
	expect_success(getpeername(socket, (struct sockaddr *)&found, &length));
	expect_name(what, expected, &found, length);
}

VICTIM_UNUSED static void put(int socket, const char *text)
{
	if (send(socket, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)strlen(text))
		broken("sending \"%s\": %s", text, strerror(errno));
}

/* Sends after the wait. */
VICTIM_UNUSED static void expect_put(const char *what, int socket, const char *text)
{
	ssize_t sent = send(socket, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		wrong("%s: sending \"%s\": expected success, found: %s", what, text, strerror(errno));
	expect_equal(what, strlen(text), sent);
}

/* Receives what is there: a message, or what a stream has. */
VICTIM_UNUSED static void expect_get(const char *what, int socket, const char *text)
{
	char found[4096] = "";
	ssize_t got = recv(socket, found, sizeof found - 1, MSG_DONTWAIT);
	if (got < 0)
		wrong("%s: expected \"%s\", found: %s", what, text, strerror(errno));
	found[got] = '\0';
	expect_text(what, text, found);
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

VICTIM_UNUSED static int number_option(int socket, int option)
{
	int value = -1;
	socklen_t length = sizeof value;
	expect_success(getsockopt(socket, SOL_SOCKET, option, &value, &length));
	return value;
}

VICTIM_UNUSED static void set_option(int socket, int option, int value)
{
	must(setsockopt(socket, SOL_SOCKET, option, &value, sizeof value));
}

/* Sends a message with descriptors. */
VICTIM_UNUSED static void put_descriptors(int socket, const char *text, int count, const int *descriptors)
{
	union {
		char room[CMSG_SPACE(64 * sizeof(int))];
		struct cmsghdr header;
	} control = {{0}};
	struct iovec vector = {(void *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
	memcpy(CMSG_DATA(header), descriptors, (size_t)count * sizeof(int));
	must(sendmsg(socket, &message, MSG_DONTWAIT));
}

/* Receives a message of at most `room` bytes with exactly `count` descriptors; credentials, if asked for. */
VICTIM_UNUSED static void expect_descriptors(const char *what, int socket, size_t room, const char *text, int count,
					     int *descriptors, struct ucred *credentials)
{
	char control[CMSG_SPACE(64 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))], found[256] = "";
	struct iovec vector = {found, room};
	struct msghdr message = {
	    .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT);
	if (got < 0)
		wrong("%s: expected \"%s\", found: %s", what, text, strerror(errno));
	found[got] = '\0';
	expect_text(what, text, found);
	int arrived = 0, told = 0;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET)
			continue;
		if (header->cmsg_type == SCM_RIGHTS) {
			arrived = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			if (arrived == count && count > 0)
				memcpy(descriptors, CMSG_DATA(header), (size_t)count * sizeof(int));
		} else if (header->cmsg_type == SCM_CREDENTIALS) {
			told = 1;
			if (credentials != NULL)
				memcpy(credentials, CMSG_DATA(header), sizeof *credentials);
		}
	}
	if (arrived != count)
		wrong("%s: expected %d descriptors with it, found %d", what, count, arrived);
	if (told != (credentials != NULL))
		wrong("%s: expected %s credentials", what, credentials != NULL ? "its sender's" : "no");
}

#endif
