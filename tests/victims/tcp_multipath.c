/* Sockets of Multipath TCP, as Go programs listen on: bound, listening, and a connection that they took from plain TCP. */
#include "inet.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static int multipath_at(const char *address)
{
	union place place = place_at(address, 0);
	int made = socket(place.any.sa_family, SOCK_STREAM, IPPROTO_MPTCP);
	if (made < 0)
		skip("Multipath TCP: %s", strerror(errno));
	set_option_at(made, SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(made, &place.any, place_length(place)) != 0)
		skip("binding to %s: %s", address, strerror(errno));
	return made;
}

static void expect_multipath(const char *what, int socket, union place place)
{
	expect_equal(what, IPPROTO_MPTCP, option_of(socket, SOL_SOCKET, SO_PROTOCOL));
	expect_equal(what, 1, option_of(socket, SOL_SOCKET, SO_REUSEADDR));
	expect_place(what, place, own_place(socket));
}

int main(void)
{
	int four = multipath_at("127.0.0.1"), six = multipath_at("::1"), bound = multipath_at("127.0.0.1");
	union place places[] = {own_place(four), own_place(six), own_place(bound)};
	must(listen(four, 5));
	must(listen(six, 6));
	int client = connected_to(places[0]), served = must(accept(four, NULL, NULL));
	expect_equal("what was taken", IPPROTO_TCP, option_of(served, SOL_SOCKET, SO_PROTOCOL));
	put(client, "request");
	int waiting = connected_to(places[1]);

	victim_ready();
	victim_wait();

	expect_multipath("IPv4", four, places[0]);
	expect_multipath("IPv6", six, places[1]);
	expect_multipath("bound", bound, places[2]);
	expect_get("before", served, "request");
	expect_put("after", served, "answer");
	expect_get("after", client, "answer");
	int taken = expect_success(accept(six, NULL, NULL));
	expect_put("one that waited", waiting, "late");
	expect_get("one that waited", taken, "late");
	/* And it still takes what has several paths. */
	int other = expect_success(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
	expect_success(connect(other, &places[0].any, place_length(places[0])));
	taken = expect_success(accept(four, NULL, NULL));
	expect_equal("several paths", IPPROTO_MPTCP, option_of(taken, SOL_SOCKET, SO_PROTOCOL));
	victim_ok();
}
