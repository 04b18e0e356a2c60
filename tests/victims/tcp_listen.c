/* Listening, bound and fresh TCP sockets: addresses, backlog, what they share a port with, options. */
#include "inet.h"

static void set_options(int socket)
{
	set_option_at(socket, SOL_SOCKET, SO_REUSEADDR, 1);
	set_option_at(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option_at(socket, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option_at(socket, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set_option_at(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, 7);
	set_option_at(socket, IPPROTO_TCP, TCP_MAXSEG, 900);
	set_option_at(socket, IPPROTO_IP, IP_TTL, 9);
	set_option_at(socket, IPPROTO_IP, IP_TOS, 0x10);
	set_option_at(socket, SOL_SOCKET, SO_RCVBUF, 20000);
}

static const int kept[][2] = {
    {SOL_SOCKET, SO_REUSEADDR},	       {SOL_SOCKET, SO_REUSEPORT},    {SOL_SOCKET, SO_KEEPALIVE}, {IPPROTO_TCP, TCP_NODELAY},
    {IPPROTO_TCP, TCP_KEEPIDLE},       {IPPROTO_TCP, TCP_MAXSEG},     {IPPROTO_IP, IP_TTL},	  {IPPROTO_IP, IP_TOS},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT},   {SOL_SOCKET, SO_RCVBUF},	      {SOL_SOCKET, SO_SNDBUF},	  {SOL_SOCKET, SO_PRIORITY},
    {IPPROTO_TCP, TCP_FASTOPEN},
};
enum { KEPT = sizeof kept / sizeof kept[0] };

static void read_options(int socket, int values[KEPT])
{
	for (int index = 0; index < KEPT; index++)
		values[index] = option_of(socket, kept[index][0], kept[index][1]);
}

/* A connection that is made, used and closed. */
static void expect_service(const char *what, int listener, union place at)
{
	int client = expect_success(socket(at.any.sa_family, SOCK_STREAM, 0));
	if (connect(client, &at.any, place_length(at)) != 0)
		wrong("%s: connecting: expected success, found: %s", what, strerror(errno));
	expect_put(what, client, "request");
	int served = expect_success(accept(listener, NULL, NULL));
	expect_get(what, served, "request");
	close(client);
	expect_end(what, served);
	close(served);
}

int main(void)
{
	enum { FOUR, SIX, WILD, ONLY_SIX, FIRST, SECOND, GIVEN_UP, AGREED, ABROAD, BOUND, FRESH, COUNT };
	int sockets[COUNT], before[COUNT][KEPT], after[COUNT][KEPT];
	union place names[COUNT];
	sockets[FOUR] = bound_at(SOCK_STREAM, "127.0.0.1");
	set_options(sockets[FOUR]);
	must(listen(sockets[FOUR], 3));
	sockets[SIX] = listening_at("::1", 5);
	sockets[WILD] = listening_at("0.0.0.0", 1);
	sockets[ONLY_SIX] = must(socket(AF_INET6, SOCK_STREAM, 0));
	set_option_at(sockets[ONLY_SIX], IPPROTO_IPV6, IPV6_V6ONLY, 1);
	union place same = place_at("::", place_port(own_place(sockets[WILD])));
	if (bind(sockets[ONLY_SIX], &same.any, place_length(same)) != 0)
		skip("the same port of IPv6: %s", strerror(errno));
	must(listen(sockets[ONLY_SIX], 2));
	for (int index = FIRST; index <= SECOND; index++) {
		union place place = index == FIRST ? place_at("127.0.0.1", 0) : own_place(sockets[FIRST]);
		sockets[index] = must(socket(AF_INET, SOCK_STREAM, 0));
		set_option_at(sockets[index], SOL_SOCKET, SO_REUSEPORT, 1);
		must(bind(sockets[index], &place.any, place_length(place)));
		must(listen(sockets[index], 4));
	}
	/* Two share a port, and one has said since that it does not. */
	for (int index = GIVEN_UP; index <= AGREED; index++) {
		union place place = index == GIVEN_UP ? place_at("127.0.0.1", 0) : own_place(sockets[GIVEN_UP]);
		sockets[index] = must(socket(AF_INET, SOCK_STREAM, 0));
		set_option_at(sockets[index], SOL_SOCKET, SO_REUSEPORT, 1);
		must(bind(sockets[index], &place.any, place_length(place)));
		must(listen(sockets[index], 4));
	}
	set_option_at(sockets[GIVEN_UP], SOL_SOCKET, SO_REUSEPORT, 0);
	/* An address that the machine does not have. */
	union place abroad = place_at("192.0.2.77", 0);
	sockets[ABROAD] = must(socket(AF_INET, SOCK_STREAM, 0));
	set_option_at(sockets[ABROAD], IPPROTO_IP, IP_FREEBIND, 1);
	must(bind(sockets[ABROAD], &abroad.any, place_length(abroad)));
	must(listen(sockets[ABROAD], 4));
	set_option_at(sockets[ABROAD], IPPROTO_IP, IP_FREEBIND, 0);
	sockets[BOUND] = bound_at(SOCK_STREAM | SOCK_NONBLOCK, "127.0.0.1");
	sockets[FRESH] = must(socket(AF_INET6, SOCK_STREAM, 0));
	set_option_at(sockets[FRESH], IPPROTO_TCP, TCP_USER_TIMEOUT, 4321);
	for (int index = 0; index < COUNT; index++) {
		names[index] = own_place(sockets[index]);
		read_options(sockets[index], before[index]);
	}
	int one_end = connected_to(names[FOUR]);

	victim_ready();
	victim_wait();

	for (int index = 0; index < COUNT; index++) {
		char what[32];
		snprintf(what, sizeof what, "socket %d", index);
		expect_place(what, names[index], own_place(sockets[index]));
		read_options(sockets[index], after[index]);
		for (int option = 0; option < KEPT; option++) {
			snprintf(what, sizeof what, "socket %d option %d", index, kept[option][1]);
			expect_equal(what, before[index][option], after[index][option]);
		}
	}
	/* It was connected, but not accepted: TCP_DEFER_ACCEPT waits for its data. */
	expect_put("to a socket that defers", one_end, "request");
	int served = expect_success(accept(sockets[FOUR], NULL, NULL));
	expect_get("from one that was deferred", served, "request");
	set_option_at(sockets[FOUR], IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	expect_service("IPv4", sockets[FOUR], names[FOUR]);
	expect_service("IPv6", sockets[SIX], names[SIX]);
	expect_service("all of IPv4", sockets[WILD], place_at("127.0.0.1", place_port(names[WILD])));
	expect_service("all of IPv6", sockets[ONLY_SIX], place_at("::1", place_port(names[ONLY_SIX])));
	/* Both share the port: what comes goes to one of them. */
	int client = connected_to(names[FIRST]), got = 0;
	for (int index = FIRST; index <= SECOND; index++) {
		fcntl(sockets[index], F_SETFL, O_NONBLOCK);
		got += accept(sockets[index], NULL, NULL) >= 0;
	}
	expect_equal("who accepts", 1, got);
	int third = expect_success(socket(AF_INET, SOCK_STREAM, 0));
	expect_error("without sharing", EADDRINUSE, bind(third, &names[FIRST].any, place_length(names[FIRST])));
	set_option_at(third, SOL_SOCKET, SO_REUSEPORT, 1);
	expect_success(bind(third, &names[FIRST].any, place_length(names[FIRST])));
	expect_equal("sharing that was given up", 0, option_of(sockets[GIVEN_UP], SOL_SOCKET, SO_REUSEPORT));
	expect_equal("sharing", 1, option_of(sockets[AGREED], SOL_SOCKET, SO_REUSEPORT));
	expect_equal("names of others", 0, option_of(sockets[ABROAD], IPPROTO_IP, IP_FREEBIND));
	expect_equal("flags of the bound one", O_RDWR | O_NONBLOCK, fcntl(sockets[BOUND], F_GETFL));
	expect_success(listen(sockets[BOUND], 1));
	expect_equal("time-out of the fresh one", 4321, option_of(sockets[FRESH], IPPROTO_TCP, TCP_USER_TIMEOUT));
	struct tcp_info found;
	socklen_t length = sizeof found;
	expect_success(getsockopt(sockets[SIX], IPPROTO_TCP, TCP_INFO, &found, &length));
	expect_equal("backlog", 5, found.tcpi_sacked);
	close(client);
	victim_ok();
}
