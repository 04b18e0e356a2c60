/* A process that reaps orphans: one it has already, and one that becomes its child afterwards. */
#include "victim.h"

int main(void)
{
	pid_t *ids = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED), self = getpid(), middle, dying;
	struct arrivals arrivals = arrivals_open();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if ((dying = must(fork())) == 0) {
		pid_t born = must(fork());
		if (born == 0) {
			while (getppid() != self)
				victim_nap(500);
			arrive(&arrivals);
			victim_wait();
			expect_equal("parent of the orphan", self, getppid());
			_exit(0);
		}
		ids[0] = born;
		_exit(0);
	}
	join_child(dying);
	if ((middle = must(fork())) == 0) {
		pid_t parent = getpid();
		pid_t born = must(fork());
		if (born == 0) {
			arrive(&arrivals);
			victim_wait();
			for (int naps = 0; getppid() == parent; naps++) {
				expect_true(naps < 10000);
				victim_nap(500);
			}
			expect_equal("new parent", self, getppid());
			_exit(0);
		}
		ids[1] = born;
		arrive(&arrivals);
		for (;;)
			victim_nap(100000);
	}
	await_arrivals(&arrivals, 3);
	victim_ready();
	victim_wait();
	join_child(ids[0]);
	expect_success(kill(middle, SIGKILL));
	expect_equal("killed child", middle, waitpid(middle, NULL, 0));
	join_child(ids[1]);
	expect_equal("children left", -1, waitpid(-1, NULL, 0));
	victim_ok();
}
