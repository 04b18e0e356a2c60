/* Ended children that nobody has waited for: exit statuses, signals, and what waitid tells of them. */
#include "victim.h"

static const struct {
	int exit, signal;
} ends[] = {{0, 0}, {7, 0}, {255, 0}, {0, SIGKILL}, {0, SIGTERM}, {0, SIGSEGV}, {0, 40}};
enum { COUNT = sizeof ends / sizeof ends[0] };

int main(void)
{
	pid_t children[COUNT], self = getpid();
	struct rlimit no_core = {0, 0};
	sigset_t chld;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	must(sigprocmask(SIG_BLOCK, &chld, NULL));
	must(setrlimit(RLIMIT_CORE, &no_core));
	for (int child = 0; child < COUNT; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			must(setpgid(0, 0));
			if (ends[child].signal != 0)
				kill(getpid(), ends[child].signal);
			_exit(ends[child].exit);
		}
	}
	for (int child = 0; child < COUNT; child++)
		await_state(children[child], children[child], 'Z');

	victim_ready();
	victim_wait();

	siginfo_t info;
	for (int child = 0; child < COUNT; child++) {
		int status;
		expect_equal("state of a zombie", 'Z', task_state(children[child], children[child]));
		expect_equal("group of a zombie", children[child], getpgid(children[child]));
		memset(&info, 0, sizeof info);
		expect_success(waitid(P_PID, (id_t)children[child], &info, WEXITED | WNOWAIT | WNOHANG));
		expect_equal("zombie told by waitid", children[child], info.si_pid);
		expect_equal("its code", ends[child].signal != 0 ? CLD_KILLED : CLD_EXITED, info.si_code);
		expect_equal("its user", getuid(), info.si_uid);
		expect_equal("zombie waited for", children[child], waitpid(children[child], &status, WNOHANG));
		if (ends[child].signal != 0)
			expect_equal("status of a killed child", ends[child].signal, status);
		else
			expect_equal("status of a child that ended", ends[child].exit << 8, status);
	}
	struct timespec none = {0, 0};
	expect_equal("SIGCHLD pending", SIGCHLD, sigtimedwait(&chld, &info, &none));
	expect_equal("SIGCHLD pending once", -1, sigtimedwait(&chld, &info, &none));
	expect_equal("process id", self, getpid());
	victim_ok();
}
