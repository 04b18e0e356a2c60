/* Directions that are closed, and peers that have gone: with bytes left to read, with bytes that they did not read. */
#include "unix.h"

static short events_of(int socket)
{
	struct pollfd polled = {socket, POLLIN | POLLOUT | POLLRDHUP, 0};
	poll(&polled, 1, 0);
	return polled.revents;
}

int main(void)
{
	int writing[2], reading[2], both[2], gone[2], reset[2], packets[2], unread[2], datagrams[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, writing));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, reading));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, both));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, gone));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, reset));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, unread));
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
	put(writing[0], "last words");
	must(shutdown(writing[0], SHUT_WR));
	put(reading[0], "unread");
	must(shutdown(reading[1], SHUT_RD));
	put(both[0], "rest");
	must(shutdown(both[0], SHUT_RDWR));
	must(shutdown(datagrams[0], SHUT_WR));
	put(gone[1], "left behind");
	close(gone[1]);
	put(reset[1], "left, too");
	put(reset[0], "never read");
	close(reset[1]);
	put(packets[1], "one");
	put(packets[1], "two");
	close(packets[1]);
	put(unread[0], "never read");
	close(unread[1]);
	/* Through a name: the server's end and the client's end each lose their peer. */
	struct name server = path_name("server");
	int listener = listening_socket(SOCK_STREAM, server, 5);
	int left = connected_socket(SOCK_STREAM, server), served = must(accept(listener, NULL, NULL));
	int going = connected_socket(SOCK_STREAM, server), kept = must(accept(listener, NULL, NULL));
	put(served, "bye");
	close(served);
	put(going, "from a client");
	close(going);
	/* A name that was never bound by any of the two that are left. */
	struct name other = absolute_name("other");
	int second = listening_socket(SOCK_STREAM, other, 5);
	int orphan = connected_socket(SOCK_STREAM, other), parent = must(accept(second, NULL, NULL));
	close(second);
	must(unlink("other"));
	close(parent);
	expect_equal("events of a reset peer", POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR, events_of(reset[0]));

	victim_ready();
	victim_wait();

	expect_get("bytes before the end", writing[1], "last words");
	expect_get("end of a direction", writing[1], "");
	expect_put("the other direction", writing[1], "back");
	expect_get("the other direction", writing[0], "back");
	expect_error("writing to a closed direction", EPIPE, send(writing[0], "x", 1, MSG_NOSIGNAL));
	expect_error("writing to one that does not read", EPIPE, send(reading[0], "x", 1, MSG_NOSIGNAL));
	expect_get("what it had not read", reading[1], "unread");
	expect_get("what it had not read", both[1], "rest");
	expect_get("end of both directions", both[1], "");
	expect_error("sending a datagram", EPIPE, send(datagrams[0], "x", 1, MSG_NOSIGNAL));
	expect_put("a datagram the other way", datagrams[1], "y");
	expect_get("a datagram the other way", datagrams[0], "y");
	expect_equal("events of one whose peer has gone", POLLIN | POLLOUT | POLLRDHUP | POLLHUP, events_of(gone[0]));
	expect_get("left behind", gone[0], "left behind");
	expect_get("end of one that has gone", gone[0], "");
	expect_error("writing to one that has gone", EPIPE, send(gone[0], "x", 1, MSG_NOSIGNAL));
	expect_equal("events of a reset peer", POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR, events_of(reset[0]));
	expect_get("left by one that did not read", reset[0], "left, too");
	char byte;
	expect_error("one that did not read", ECONNRESET, recv(reset[0], &byte, 1, 0));
	expect_equal("after the reset", 0, recv(reset[0], &byte, 1, 0));
	expect_get("first message left", packets[0], "one");
	expect_get("second message left", packets[0], "two");
	expect_get("end of the messages", packets[0], "");
	expect_error("messages that were not read", ECONNRESET, recv(unread[0], &byte, 1, 0));
	expect_get("from the server's end", left, "bye");
	expect_get("end of the server's end", left, "");
	expect_peer_name("the server's name", left, server);
	expect_get("from a client that has gone", kept, "from a client");
	expect_get("end of the client", kept, "");
	expect_own_name("own name without a client", kept, server);
	expect_peer_name("a name that nobody has", orphan, other);
	expect_get("end of the orphan", orphan, "");
	expect_error("the file of the orphan's peer", ENOENT, access("other", F_OK));
	int late = expect_success(socket(AF_UNIX, SOCK_STREAM, 0));
	expect_connected(late, server);
	expect_success(accept(listener, NULL, NULL));
	victim_ok();
}
