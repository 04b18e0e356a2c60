/* A chain of 500 processes, each the child of the one before. */
#include "victim.h"

enum { DEPTH = 500 };

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	pid_t next = 0, parent = 0, self = getpid();
	int level = 0;
	while (level < DEPTH && (next = must(fork())) == 0) {
		level++;
		parent = self;
		self = getpid();
	}
	if (level > 0)
		arrive(&arrivals);
	else
		await_arrivals(&arrivals, DEPTH);
	if (level == 0)
		victim_ready();
	/* Hundreds that look every millisecond would keep a small machine busy. */
	while (!victim_may_go())
		victim_nap(level == 0 ? 1000 : 100000);
	expect_equal("own pid", self, getpid());
	if (level > 0)
		expect_equal("parent", parent, getppid());
	if (level < DEPTH)
		join_child(next);
	if (level > 0)
		_exit(0);
	victim_ok();
}
