/* Datagram sockets: names, senders' addresses, also of senders that have gone, peers one way and both ways. */
#include "unix.h"

static void send_to(int socket, struct name to, const char *text)
{
	if (sendto(socket, text, strlen(text), MSG_DONTWAIT, (struct sockaddr *)&to.address, to.length) < 0)
		broken("sendto: %s", strerror(errno));
}

/* Receives a datagram from a name, or from none. */
static void expect_from(const char *what, int socket, const struct name *from, const char *text)
{
	char found[256] = "";
	struct sockaddr_un sender;
	socklen_t length = sizeof sender;
	ssize_t got = recvfrom(socket, found, sizeof found - 1, MSG_DONTWAIT, (struct sockaddr *)&sender, &length);
	if (got < 0)
		wrong("%s: expected \"%s\", found: %s", what, text, strerror(errno));
	expect_text(what, text, found);
	if (from == NULL)
		expect_equal("length of the name of a sender without one", 0, length);
	else
		expect_name(what, *from, &sender, length);
}

int main(void)
{
	struct name inbox = path_name("inbox"), one = path_name("one"), gone = path_name("gone"),
		    hidden = abstract_name("hidden"), vanished = abstract_name("vanished"), left = path_name("left"),
		    right = path_name("right"), deleted = absolute_name("deleted");
	int box = bound_socket(SOCK_DGRAM, inbox), sender = bound_socket(SOCK_DGRAM, one),
	    secret = bound_socket(SOCK_DGRAM, hidden), nameless = must(socket(AF_UNIX, SOCK_DGRAM, 0));
	send_to(sender, inbox, "from one");
	send_to(nameless, inbox, "from nobody");
	send_to(secret, inbox, "from hidden");
	int going = bound_socket(SOCK_DGRAM, gone), vanishing = bound_socket(SOCK_DGRAM, vanished);
	send_to(going, inbox, "from gone");
	send_to(vanishing, inbox, "from vanished");
	must(sendto(nameless, "", 0, 0, (struct sockaddr *)&inbox.address, inbox.length));
	close(going);
	must(unlink("gone"));
	close(vanishing);
	send_to(sender, hidden, "to hidden");
	/* A peer one way. */
	must(connect(nameless, (struct sockaddr *)&inbox.address, inbox.length));
	/* Peers both ways, more than a queue without a peer takes. */
	int first = bound_socket(SOCK_DGRAM, left), second = bound_socket(SOCK_DGRAM, right);
	send_to(sender, right, "before the connection");
	must(connect(first, (struct sockaddr *)&right.address, right.length));
	must(connect(second, (struct sockaddr *)&left.address, left.length));
	for (int count = 0; count < 20; count++)
		put(first, "between peers");
	/* A name that is deleted, but in use. */
	int lost = bound_socket(SOCK_DGRAM, deleted), finder = connected_socket(SOCK_DGRAM, deleted);
	put(finder, "to the deleted one");
	must(unlink("deleted"));
	/* One end of a pair with a name, and a peer that has gone. */
	int pair[2], alone[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	struct name end = abstract_name("end");
	must(bind(pair[0], (struct sockaddr *)&end.address, end.length));
	put(pair[0], "from the named end");
	put(pair[1], "from the other end");
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, alone));
	put(alone[1], "last words");
	close(alone[1]);

	victim_ready();
	victim_wait();

	expect_from("first datagram", box, &one, "from one");
	expect_from("second datagram", box, NULL, "from nobody");
	expect_from("third datagram", box, &hidden, "from hidden");
	expect_from("fourth datagram", box, &gone, "from gone");
	expect_from("fifth datagram", box, &vanished, "from vanished");
	expect_from("to the abstract name", secret, &one, "to hidden");
	expect_put("to a peer", nameless, "one way");
	char found[64];
	ssize_t got = recv(box, found, sizeof found, MSG_DONTWAIT);
	/* What a second checkpoint does not see any more. */
	if (got == 0)
		got = recv(box, found, sizeof found, MSG_DONTWAIT);
	expect_equal("one way", 7, got);
	expect_peer_name("the peer one way", nameless, inbox);
	expect_from("before the connection", second, &one, "before the connection");
	for (int count = 0; count < 20; count++)
		expect_from("between peers", second, &left, "between peers");
	expect_put("back", second, "back");
	expect_from("back", first, &right, "back");
	errno = 0;
	expect_error("from a stranger", EPERM,
		     sendto(sender, "x", 1, 0, (struct sockaddr *)&left.address, left.length));
	expect_from("to the deleted name", lost, NULL, "to the deleted one");
	expect_put("to the deleted name", finder, "again");
	expect_from("to the deleted name", lost, NULL, "again");
	expect_own_name("deleted name", lost, deleted);
	expect_error("the deleted file", ENOENT, access("deleted", F_OK));
	expect_error("the sender's file", ENOENT, access("gone", F_OK));
	expect_from("from the named end", pair[1], &end, "from the named end");
	expect_from("to the named end", pair[0], NULL, "from the other end");
	expect_from("from one that has gone", alone[0], NULL, "last words");
	expect_error("to one that has gone", ECONNREFUSED, send(alone[0], "x", 1, MSG_NOSIGNAL));
	victim_ok();
}
