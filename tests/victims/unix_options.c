/* Options of unix sockets. */
#include "unix.h"
#include <linux/filter.h>

static void expect_time(const char *what, int socket, int option, long seconds, long microseconds)
{
	struct timeval time;
	socklen_t length = sizeof time;
	expect_success(getsockopt(socket, SOL_SOCKET, option, &time, &length));
	expect_equal(what, seconds, time.tv_sec);
	expect_equal(what, microseconds, time.tv_usec);
}

int main(void)
{
	int pair[2], usual[2], force;
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, usual));
	set_option(pair[0], SO_SNDBUF, 30000);
	set_option(pair[0], SO_RCVBUF, 40000);
	set_option(pair[0], SO_PASSCRED, 1);
	set_option(pair[0], SO_REUSEADDR, 1);
	set_option(pair[0], SO_BROADCAST, 1);
	set_option(pair[0], SO_KEEPALIVE, 1);
	set_option(pair[0], SO_DONTROUTE, 1);
	set_option(pair[0], SO_OOBINLINE, 1);
	set_option(pair[0], SO_RCVLOWAT, 5);
	set_option(pair[0], SO_PEEK_OFF, 2);
	set_option(pair[0], SO_PRIORITY, 3);
	set_option(pair[0], SO_TIMESTAMPNS, 1);
	struct timeval receive = {7, 20000}, sending = {11, 40000};
	must(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof receive));
	must(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &sending, sizeof sending));
	struct linger linger = {1, 9};
	must(setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
	/* Accepts at most three bytes. */
	struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, 3)};
	struct sock_fprog program = {1, code};
	must(setsockopt(usual[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
	set_option(usual[1], SO_LOCK_FILTER, 1);
	int sizes[] = {number_option(usual[0], SO_SNDBUF), number_option(usual[0], SO_RCVBUF)};
	bool forced = geteuid() == 0;
	if (forced) {
		force = 3000000;
		must(setsockopt(usual[0], SOL_SOCKET, SO_SNDBUFFORCE, &force, sizeof force));
		sizes[0] = 2 * force;
		set_option(usual[0], SO_MARK, 17);
	}
	put(pair[1], "0123456789");

	victim_ready();
	victim_wait();

	expect_equal("SO_SNDBUF", 60000, number_option(pair[0], SO_SNDBUF));
	expect_equal("SO_RCVBUF", 80000, number_option(pair[0], SO_RCVBUF));
	expect_equal("SO_PASSCRED", 1, number_option(pair[0], SO_PASSCRED));
	expect_equal("SO_PASSCRED of the other", 0, number_option(pair[1], SO_PASSCRED));
	expect_equal("SO_REUSEADDR", 1, number_option(pair[0], SO_REUSEADDR));
	expect_equal("SO_BROADCAST", 1, number_option(pair[0], SO_BROADCAST));
	expect_equal("SO_KEEPALIVE", 1, number_option(pair[0], SO_KEEPALIVE));
	expect_equal("SO_DONTROUTE", 1, number_option(pair[0], SO_DONTROUTE));
	expect_equal("SO_OOBINLINE", 1, number_option(pair[0], SO_OOBINLINE));
	expect_equal("SO_RCVLOWAT", 5, number_option(pair[0], SO_RCVLOWAT));
	expect_equal("SO_PEEK_OFF", 2, number_option(pair[0], SO_PEEK_OFF));
	expect_equal("SO_PEEK_OFF of the other", -1, number_option(pair[1], SO_PEEK_OFF));
	expect_equal("SO_PRIORITY", 3, number_option(pair[0], SO_PRIORITY));
	expect_equal("SO_TIMESTAMPNS", 1, number_option(pair[0], SO_TIMESTAMPNS));
	expect_time("SO_RCVTIMEO", pair[0], SO_RCVTIMEO, 7, 20000);
	expect_time("SO_SNDTIMEO", pair[0], SO_SNDTIMEO, 11, 40000);
	socklen_t length = sizeof linger;
	linger = (struct linger){0, 0};
	expect_success(getsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, &length));
	expect_equal("SO_LINGER", 1, linger.l_onoff);
	expect_equal("time of SO_LINGER", 9, linger.l_linger);
	expect_equal("SO_SNDBUF of the usual one", sizes[0], number_option(usual[0], SO_SNDBUF));
	expect_equal("SO_RCVBUF of the usual one", sizes[1], number_option(usual[0], SO_RCVBUF));
	if (forced)
		expect_equal("SO_MARK", 17, number_option(usual[0], SO_MARK));
	expect_equal("SO_LOCK_FILTER", 1, number_option(usual[1], SO_LOCK_FILTER));
	expect_put("through the filter", usual[0], "abcdef");
	expect_get("through the filter", usual[1], "abc");
	char found[16] = "";
	expect_equal("bytes after the peek offset", 8, recv(pair[0], found, sizeof found, MSG_PEEK | MSG_DONTWAIT));
	expect_text("bytes after the peek offset", "23456789", found);
	expect_equal("all bytes", 10, recv(pair[0], found, sizeof found, MSG_DONTWAIT));
	victim_ok();
}
