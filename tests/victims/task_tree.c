/* Three generations of processes with their ids and their parents' ids. */
#include "victim.h"

enum { BREADTH = 3, DEPTH = 2 };

/* A node of the tree: starts its children, waits, checks its ids and theirs. */
static void grow(int depth, pid_t parent, struct arrivals *arrivals)
{
	pid_t children[BREADTH], self = getpid();
	for (int child = 0; depth < DEPTH && child < BREADTH; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			grow(depth + 1, self, arrivals);
			_exit(0);
		}
	}
	if (depth > 0)
		arrive(arrivals);
	else {
		await_arrivals(arrivals, BREADTH + BREADTH * BREADTH);
		victim_ready();
	}
	victim_wait();
	expect_equal("process id", self, getpid());
	expect_equal("process id from the kernel", self, syscall(SYS_getpid));
	expect_equal("thread id", self, thread_id());
	if (depth > 0)
		expect_equal("parent", parent, getppid());
	for (int child = 0; depth < DEPTH && child < BREADTH; child++)
		join_child(children[child]);
	expect_equal("children left", -1, waitpid(-1, NULL, WNOHANG));
	expect_equal("why none", ECHILD, errno);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	grow(0, 0, &arrivals);
	victim_ok();
}
