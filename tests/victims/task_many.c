/* A hundred processes under one parent, each with its own memory, all counted afterwards. */
#include "victim.h"

enum { COUNT = 100, LENGTH = 64 * 1024 };

int main(void)
{
	pid_t children[COUNT];
	struct arrivals arrivals = arrivals_open();
	char *body = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	for (int child = 0; child < COUNT; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			fill_pattern(body, LENGTH, (uint64_t)child);
			arrive(&arrivals);
			while (!victim_may_go())
				victim_nap(20000);
			check_pattern("memory of a child", body, LENGTH, (uint64_t)child);
			_exit(child % 100);
		}
	}
	await_arrivals(&arrivals, COUNT);
	victim_ready();
	victim_wait();
	for (int child = 0; child < COUNT; child++) {
		int status;
		expect_equal("child", children[child], waitpid(children[child], &status, 0));
		if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && child != 1)
			wrong("child %d found its memory changed", children[child]);
		expect_equal("status of a child", child << 8, status);
	}
	victim_ok();
}
