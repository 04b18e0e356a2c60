/* The urgent byte: waiting in the middle, at the beginning, received already, kept in line. */
#include "inet.h"

int main(void)
{
	int middle[2], first[2], taken[2], inline_ends[2];
	connected_ends("127.0.0.1", middle);
	put(middle[0], "before");
	must(send(middle[0], "U", 1, MSG_OOB));
	put(middle[0], "after");
	connected_ends("127.0.0.1", first);
	must(send(first[0], "F", 1, MSG_OOB));
	put(first[0], "rest");
	connected_ends("127.0.0.1", taken);
	put(taken[0], "one");
	must(send(taken[0], "T", 1, MSG_OOB));
	put(taken[0], "two");
	connected_ends("::1", inline_ends);
	set_option_at(inline_ends[1], SOL_SOCKET, SO_OOBINLINE, 1);
	put(inline_ends[0], "in");
	must(send(inline_ends[0], "L", 1, MSG_OOB));
	put(inline_ends[0], "ine");
	victim_nap(20000);
	char byte = 0;
	expect_equal("taken", 1, recv(taken[1], &byte, 1, MSG_OOB));

	victim_ready();
	victim_wait();

	char text[32] = "";
	expect_equal("urgent", 1, recv(middle[1], &byte, 1, MSG_OOB));
	expect_equal("urgent", 'U', byte);
	expect_equal("before it", 6, recv(middle[1], text, sizeof text, 0));
	int mark = 0;
	expect_success(ioctl(middle[1], SIOCATMARK, &mark));
	expect_equal("mark", 1, mark);
	expect_get("after it", middle[1], "after");
	expect_equal("first", 1, recv(first[1], &byte, 1, MSG_OOB));
	expect_equal("first", 'F', byte);
	expect_get("rest", first[1], "rest");
	expect_error("taken", EINVAL, recv(taken[1], &byte, 1, MSG_OOB));
	expect_equal("up to the taken one", 3, recv(taken[1], text, sizeof text, 0));
	expect_get("after the taken one", taken[1], "two");
	expect_equal("in line", 2, recv(inline_ends[1], text, sizeof text, 0));
	expect_success(ioctl(inline_ends[1], SIOCATMARK, &mark));
	expect_equal("mark in line", 1, mark);
	expect_get("in line", inline_ends[1], "Line");
	victim_ok();
}
