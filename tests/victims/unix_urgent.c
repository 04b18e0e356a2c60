/* The urgent byte of a stream (MSG_OOB): before, among and after others, read already, inline. */
#include "unix.h"

static void stream(int *pair, const char *before, const char *after)
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
	if (*before)
		put(pair[0], before);
	if (send(pair[0], "!", 1, MSG_OOB) < 0) {
		if (errno == EOPNOTSUPP)
			skip("this kernel has no urgent data on unix sockets");
		broken("MSG_OOB: %s", strerror(errno));
	}
	if (*after)
		put(pair[0], after);
}

static void expect_urgent(const char *what, int socket)
{
	char byte = 0;
	expect_equal(what, 1, recv(socket, &byte, 1, MSG_OOB));
	expect_equal(what, '!', byte);
}

static int at_mark(int socket)
{
	int value = -1;
	expect_success(ioctl(socket, SIOCATMARK, &value));
	return value;
}

int main(void)
{
	int among[2], first[2], last[2], taken[2], inside[2];
	char byte;
	stream(among, "abc!", "!def");
	stream(first, "", "after");
	stream(last, "before", "");
	stream(taken, "head", "tail");
	must(recv(taken[1], &byte, 1, MSG_OOB));
	stream(inside, "one", "two");
	set_option(inside[1], SO_OOBINLINE, 1);

	victim_ready();
	victim_wait();

	struct pollfd polled = {among[1], POLLPRI, 0};
	expect_equal("urgent event", 1, poll(&polled, 1, 0));
	expect_get("before the urgent byte", among[1], "abc!");
	expect_equal("at the mark", 1, at_mark(among[1]));
	expect_urgent("urgent byte among others", among[1]);
	expect_get("after the urgent byte", among[1], "!def");
	expect_equal("at the mark", 1, at_mark(first[1]));
	expect_urgent("urgent byte first", first[1]);
	expect_get("after the first", first[1], "after");
	expect_get("before the last", last[1], "before");
	expect_urgent("urgent byte last", last[1]);
	expect_nothing("after the last", last[1]);
	expect_get("before one that was read", taken[1], "head");
	expect_equal("at the mark of one that was read", 1, at_mark(taken[1]));
	expect_get("after one that was read", taken[1], "tail");
	expect_get("before an inline one", inside[1], "one");
	expect_get("from an inline one on", inside[1], "!two");
	victim_ok();
}
