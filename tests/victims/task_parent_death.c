/* The signal at a parent's death is delivered when the parent dies afterwards. */
#include "victim.h"

int main(void)
{
	pid_t *ids = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED), middle;
	struct arrivals arrivals = arrivals_open();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if ((middle = must(fork())) == 0) {
		pid_t born = must(fork());
		if (born == 0) {
			sigset_t set;
			struct timespec limit = {10, 0};
			sigemptyset(&set);
			sigaddset(&set, SIGUSR2);
			must(sigprocmask(SIG_BLOCK, &set, NULL));
			must(prctl(PR_SET_PDEATHSIG, SIGUSR2));
			arrive(&arrivals);
			victim_wait();
			expect_equal("signal at the parent's death", SIGUSR2, sigtimedwait(&set, NULL, &limit));
			_exit(0);
		}
		ids[0] = born;
		arrive(&arrivals);
		for (;;)
			victim_nap(100000);
	}
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	expect_success(kill(middle, SIGKILL));
	expect_equal("killed child", middle, waitpid(middle, NULL, 0));
	join_child(ids[0]);
	victim_ok();
}
