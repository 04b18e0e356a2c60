/*
 * A connection whose peer is outside the job, at the port that the second argument names: it is sent to before, and something it
 * has sent waits.
 *   close      the peer is seen to have gone, after what waits
 *   reconnect  it is connected to the same address again
 *   goes_on    nothing happens to it, and it is sent more meanwhile
 */
#include "inet.h"

int main(int count, char **arguments)
{
	if (count < 3)
		broken("usage: tcp_external close|reconnect|goes_on PORT");
	bool again = strcmp(arguments[1], "reconnect") == 0;
	union place there = place_at("127.0.0.1", atoi(arguments[2]));
	int stream = connected_to(there);
	put(stream, "before");
	struct pollfd poll_for = {.fd = stream, .events = POLLIN};
	must(poll(&poll_for, 1, -1));

	victim_ready();
	victim_wait();

	if (again) {
		expect_place("the service", there, peer_place(stream));
		expect_put("to the service", stream, "after");
	} else if (strcmp(arguments[1], "goes_on") == 0) {
		expect_get("what was sent before and meanwhile", stream, "answermeanwhile");
		expect_put("to the service", stream, "after");
	} else {
		expect_get("what waited", stream, "answer");
		expect_end("from the service", stream);
		expect_error("to the service", EPIPE, send(stream, "after", 5, MSG_NOSIGNAL));
	}
	victim_ok();
}
