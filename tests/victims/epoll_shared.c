/* One epoll used by two processes after fork, and targets that only one of them still has. */
#include "victim.h"
#include <sys/epoll.h>

int main(void)
{
	int pipes[2];
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 99};
	struct arrivals arrivals = arrivals_open();
	int epoll = must(epoll_create1(0));
	must(pipe(pipes));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event));
	pid_t child = must(fork());
	if (child == 0) {
		/* The target stays watched through the parent's descriptor. */
		close(pipes[0]);
		arrive(&arrivals);
		expect_equal("targets ready in the child", 1, epoll_wait(epoll, &event, 1, -1));
		expect_equal("data in the child", 99, event.data.u64);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	expect_equal("targets ready before", 0, epoll_wait(epoll, &event, 1, 0));
	expect_equal("bytes written", 1, write(pipes[1], "x", 1));
	join_child(child);
	expect_equal("targets ready in the parent", 1, epoll_wait(epoll, &event, 1, 0));
	expect_equal("data in the parent", 99, event.data.u64);
	victim_ok();
}
