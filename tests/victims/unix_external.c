/*
 * Sockets whose peers are outside the job: a stream and a datagram socket, connected to names of the test.
 *   close      the peers are seen to have gone
 *   reconnect  they are connected to the same names again
 */
#include "unix.h"

int main(int count, char **arguments)
{
	bool again = count > 1 && strcmp(arguments[1], "reconnect") == 0;
	/* The end of the stream that is left is not its end by a signal. */
	signal(SIGPIPE, SIG_IGN);
	struct name service = absolute_name("service"), journal = absolute_name("log");
	int stream = connected_socket(SOCK_STREAM, service), datagrams = connected_socket(SOCK_DGRAM, journal);
	put(stream, "before");
	put(datagrams, "before");

	victim_ready();
	victim_wait();

	expect_peer_name("the service's name", stream, service);
	expect_peer_name("the log's name", datagrams, journal);
	if (again) {
		expect_put("to the service", stream, "after");
		expect_put("to the log", datagrams, "after");
	} else {
		expect_get("from the service", stream, "");
		expect_error("to the service", EPIPE, send(stream, "after", 5, MSG_NOSIGNAL));
		expect_error("to the log", ECONNREFUSED, send(datagrams, "after", 5, MSG_NOSIGNAL));
	}
	victim_ok();
}
