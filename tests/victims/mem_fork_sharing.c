/* Pages that parent and children had in common take their memory once, not once per process. */
#include "victim.h"

enum { CHILDREN = 4, LENGTH = 16 * 1024 * 1024 };

int main(void)
{
	char *body = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	struct arrivals arrivals = arrivals_open();
	pid_t children[CHILDREN];
	sigset_t end;
	sigemptyset(&end);
	sigaddset(&end, SIGUSR1);
	must(sigprocmask(SIG_BLOCK, &end, NULL));
	fill_pattern(body, LENGTH, 1);
	for (int child = 0; child < CHILDREN; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			arrive(&arrivals);
			victim_wait();
			check_pattern("memory in a child", body, LENGTH, 1);
			/* Still there while the parent measures its share. */
			expect_equal("signal to end", SIGUSR1, sigwaitinfo(&end, NULL));
			_exit(0);
		}
	}
	await_arrivals(&arrivals, CHILDREN);
	victim_ready();
	victim_wait();
	long share = smaps_kilobytes(body, "Pss");
	check_pattern("memory in the parent", body, LENGTH, 1);
	for (int child = 0; child < CHILDREN; child++)
		expect_success(kill(children[child], SIGUSR1));
	for (int child = 0; child < CHILDREN; child++)
		join_child(children[child]);
	expect_within("the parent's share of the pages in kB", LENGTH / 1024 / (CHILDREN + 1), LENGTH / 1024 / 2, share);
	victim_ok();
}
