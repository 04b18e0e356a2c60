/* Socket pairs of all kinds: bytes and messages under way in both directions, empty messages, shared after fork, flags. */
#include "unix.h"

static char large[100000], found[sizeof large];

static void fill(const int *pair)
{
	put(pair[0], "to one ");
	put(pair[0], "and more");
	put(pair[1], "to zero");
}

int main(void)
{
	int stream[2], datagram[2], sequence[2], empty[2], between[2], full[2];
	struct arrivals arrivals = arrivals_open();
	fill_pattern(large, sizeof large, 3);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, stream));
	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagram));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sequence));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, empty));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, between));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, full));
	fill(stream);
	fill(datagram);
	fill(sequence);
	for (int count = 0; count < 30; count++)
		put(datagram[0], "one of many");
	must(send(sequence[0], large, sizeof large, 0));
	must(send(sequence[1], "", 0, 0));
	put(sequence[1], "after the empty one");
	long written = 0;
	for (ssize_t more; (more = send(full[0], large, sizeof large, 0)) > 0;)
		written += more;

	pid_t child = must(fork());
	if (child == 0) {
		close(between[0]);
		put(between[1], "from the child");
		arrive(&arrivals);
		victim_wait();
		expect_get("from the parent", between[1], "from the parent");
		expect_put("to the parent", between[1], " later");
		_exit(0);
	}
	close(between[1]);
	await_arrivals(&arrivals, 1);
	put(between[0], "from the parent");
	victim_ready();
	victim_wait();
	join_child(child);

	expect_get("from the child", between[0], "from the child later");
	expect_get("end of the child", between[0], "");
	expect_get("stream", stream[1], "to one and more");
	expect_get("stream", stream[0], "to zero");
	expect_nothing("drained stream", stream[0]);
	expect_get("first datagram", datagram[1], "to one ");
	expect_get("second datagram", datagram[1], "and more");
	for (int count = 0; count < 30; count++)
		expect_get("one of many datagrams", datagram[1], "one of many");
	expect_nothing("drained datagram socket", datagram[1]);
	expect_get("datagram back", datagram[0], "to zero");
	expect_get("first message", sequence[1], "to one ");
	expect_get("second message", sequence[1], "and more");
	expect_equal("large message", sizeof large, recv(sequence[1], found, sizeof found, 0));
	check_pattern("bytes of the large message", found, sizeof found, 3);
	expect_get("message back", sequence[0], "to zero");
	expect_equal("empty message", 0, recv(sequence[0], found, sizeof found, MSG_DONTWAIT));
	expect_get("message after the empty one", sequence[0], "after the empty one");
	expect_nothing("empty pair", empty[0]);
	expect_put("empty pair", empty[0], "x");
	expect_get("empty pair", empty[1], "x");
	for (long place = 0; place < written;) {
		long rest = (long)sizeof large - place % (long)sizeof large;
		ssize_t got = recv(full[1], found, (size_t)rest, 0);
		if (got <= 0)
			wrong("full stream: expected %ld bytes, found %ld", written, place);
		if (memcmp(found, large + place % (long)sizeof large, (size_t)got) != 0)
			wrong("full stream: other bytes after %ld", place);
		place += got;
	}
	expect_nothing("drained full stream", full[1]);
	expect_equal("flags", O_RDWR | O_NONBLOCK, fcntl(stream[0], F_GETFL));
	expect_equal("flags", O_RDWR, fcntl(datagram[0], F_GETFL));
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(datagram[1], F_GETFD));
	close(stream[0]);
	expect_get("end of a stream", stream[1], "");
	victim_ok();
}
