/* Connections on their way to the end: closed directions, peers that have gone, connections that are over, one with itself. */
#include "inet.h"

int main(void)
{
	int half[2], back[2], deaf[2], both[2], unread[2], gone[2], quiet[2];
	connected_ends("127.0.0.1", half);
	put(half[0], "last words");
	must(shutdown(half[0], SHUT_WR));
	connected_ends("127.0.0.1", back);
	must(shutdown(back[1], SHUT_WR));
	put(back[0], "still open");
	connected_ends("::1", deaf);
	must(shutdown(deaf[0], SHUT_RD));
	connected_ends("127.0.0.1", both);
	must(shutdown(both[0], SHUT_WR));
	expect_end("before", both[1]);
	must(shutdown(both[1], SHUT_WR));
	/* The same with an end that has an address of IPv4 in the guise of IPv6. */
	int guise[2], all = listening_at("::", 1);
	guise[0] = connected_to(place_at("127.0.0.1", place_port(own_place(all))));
	guise[1] = must(accept(all, NULL, NULL));
	must(shutdown(guise[0], SHUT_WR));
	expect_end("before, in guise", guise[1]);
	must(shutdown(guise[1], SHUT_WR));
	close(all);
	union place worn = own_place(guise[1]);
	connected_ends("127.0.0.1", unread);
	put(unread[0], "for one");
	put(unread[1], "for other");
	must(shutdown(unread[0], SHUT_WR));
	must(shutdown(unread[1], SHUT_WR));
	connected_ends("127.0.0.1", gone);
	put(gone[0], "from the grave");
	close(gone[0]);
	connected_ends("::1", quiet);
	close(quiet[1]);
	/* A socket that is connected to itself. */
	int self = bound_at(SOCK_STREAM, "127.0.0.1");
	union place own = own_place(self);
	must(connect(self, &own.any, place_length(own)));
	put(self, "to myself");
	/* One that was refused, and told so. */
	int closed = bound_at(SOCK_STREAM, "127.0.0.1"), refused = must(socket(AF_INET, SOCK_STREAM, 0));
	union place nowhere = own_place(closed);
	close(closed);
	expect_error("refused", ECONNREFUSED, connect(refused, &nowhere.any, place_length(nowhere)));
	int listener = listening_at("127.0.0.1", 1);
	union place there = own_place(listener);
	victim_nap(20000);

	victim_ready();
	victim_wait();

	expect_get("of half", half[1], "last words");
	expect_end("of half", half[1]);
	expect_put("of half", half[1], "answer");
	expect_get("of half", half[0], "answer");
	expect_error("closed half", EPIPE, send(half[0], "x", 1, MSG_NOSIGNAL));
	close(half[1]);
	expect_end("of half", half[0]);

	expect_end("of back", back[0]);
	expect_get("of back", back[1], "still open");
	expect_put("of back", back[0], "on");
	expect_get("of back", back[1], "on");

	expect_end("of deaf", deaf[0]);
	expect_put("of deaf", deaf[0], "I speak");
	expect_get("of deaf", deaf[1], "I speak");

	for (int index = 0; index < 2; index++) {
		expect_end("of both", both[index]);
		expect_error("of both", EPIPE, send(both[index], "x", 1, MSG_NOSIGNAL));
		expect_error("of both", ENOTCONN, getpeername(both[index], &there.any, &(socklen_t){sizeof there}));
	}
	expect_place("in guise", worn, own_place(guise[1]));
	for (int index = 0; index < 2; index++)
		expect_end("in guise", guise[index]);
	there = own_place(listener);
	expect_get("of unread", unread[0], "for other");
	expect_get("of unread", unread[1], "for one");
	expect_end("of unread", unread[0]);
	expect_end("of unread", unread[1]);

	expect_get("of gone", gone[1], "from the grave");
	expect_end("of gone", gone[1]);
	expect_end("of quiet", quiet[0]);
	struct pollfd poll_for = {.fd = quiet[0], .events = POLLRDHUP};
	expect_equal("hang-up", 1, poll(&poll_for, 1, 0));
	expect_equal("hang-up", POLLRDHUP, poll_for.revents);

	expect_place("myself", own, peer_place(self));
	expect_get("from myself", self, "to myself");
	expect_put("to myself", self, "again");
	expect_get("from myself", self, "again");

	expect_success(connect(refused, &there.any, place_length(there)));
	int served = expect_success(accept(listener, NULL, NULL));
	expect_put("after all", refused, "after all");
	expect_get("after all", served, "after all");
	victim_ok();
}
