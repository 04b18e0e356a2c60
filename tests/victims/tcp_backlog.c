/* Connections that nobody has accepted, and one that is being made while there is no room. */
#include "inet.h"

int main(void)
{
	int listener = listening_at("127.0.0.1", 3), clients[3];
	union place at = own_place(listener), own[3];
	for (int index = 0; index < 3; index++) {
		clients[index] = connected_to(at);
		own[index] = own_place(clients[index]);
	}
	must(shutdown(clients[1], SHUT_WR));
	int narrow = listening_at("::1", 0);
	union place there = own_place(narrow);
	int first = connected_to(there), late = must(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
	expect_error("connecting", EINPROGRESS, connect(late, &there.any, place_length(there)));

	victim_ready();
	victim_wait();

	for (int index = 0; index < 3; index++) {
		int served = expect_success(accept(listener, NULL, NULL));
		union place from = peer_place(served);
		int whose = 0;
		while (whose < 3 && memcmp(&from, &own[whose], place_length(from)) != 0)
			whose++;
		expect_true(whose < 3);
		expect_put("to a client", served, "welcome");
		expect_get("from the server", clients[whose], "welcome");
		if (whose == 1) {
			expect_end("of the second", served);
		} else {
			expect_put("from a client", clients[whose], "thanks");
			expect_get("to the server", served, "thanks");
		}
		own[whose].any.sa_family = AF_UNSPEC;
	}
	int served = expect_success(accept(narrow, NULL, NULL));
	expect_put("first", first, "first");
	expect_get("first", served, "first");
	struct pollfd poll_for = {.fd = late, .events = POLLOUT};
	expect_equal("the late one", 1, poll(&poll_for, 1, 20000));
	expect_equal("the late one", 0, option_of(late, SOL_SOCKET, SO_ERROR));
	served = expect_success(accept(narrow, NULL, NULL));
	fcntl(late, F_SETFL, 0);
	expect_put("late", late, "late");
	expect_get("late", served, "late");
	victim_ok();
}
