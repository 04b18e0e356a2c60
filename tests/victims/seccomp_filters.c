/* Seccomp filters: several on each other, inherited and added to by fork, one that permits next to nothing, traps, kills. */
#include "seccomp.h"

static volatile sig_atomic_t trapped;

static void on_trap(int signal, siginfo_t *about, void *context)
{
	(void)signal;
	(void)context;
	if (about->si_code == 1 /* SYS_SECCOMP */)
		trapped = about->si_syscall;
}

/* Under a filter that kills for what a checkpoint has a process call. */
static void narrow(struct arrivals *arrivals)
{
	const unsigned calls[] = {SYS_write,   SYS_access,      SYS_nanosleep,      SYS_clock_nanosleep,
				  SYS_faccessat, SYS_exit_group, SYS_restart_syscall, SYS_getppid};
	arrive(arrivals);
	must(allow_only(calls, sizeof calls / sizeof *calls));
	victim_wait();
	_exit(0);
}

/* Inherits two filters, adds one. */
static void heir(struct arrivals *arrivals)
{
	must(judge(ALSO_JUDGED, SECCOMP_RET_ERRNO | EDOM, 0));
	arrive(arrivals);
	victim_wait();
	expect_judgement(JUDGED, EBADMSG);
	expect_judgement(ALSO_JUDGED, EDOM);
	expect_equal("filters of the child", 4, own_status("Seccomp_filters"));
	_exit(0);
}

/* Dies of a call. */
static void culprit(struct arrivals *arrivals)
{
	must(judge(PUNISHED, SECCOMP_RET_KILL_PROCESS, 0));
	arrive(arrivals);
	victim_wait();
	syscall(PUNISHED, 0);
	_exit(0);
}

int main(void)
{
	void (*const bodies[])(struct arrivals *) = {heir, narrow, culprit};
	pid_t children[3];
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	/* Of equal decisions the newer filter's counts. */
	must(judge(JUDGED, SECCOMP_RET_ERRNO | EXFULL, 0));
	must(judge(JUDGED, SECCOMP_RET_ERRNO | EBADMSG, SECCOMP_FILTER_FLAG_LOG));
	must(judge(SYS_getpriority, SECCOMP_RET_TRAP, SECCOMP_FILTER_FLAG_SPEC_ALLOW));
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	must(sigaction(SIGSYS, &action, NULL));
	struct arrivals arrivals = arrivals_open();
	for (int child = 0; child < 3; child++) {
		children[child] = must(fork());
		if (children[child] == 0)
			bodies[child](&arrivals);
	}
	await_arrivals(&arrivals, 3);
	while (task_state(children[1], children[1]) != 'S')
		victim_nap(1000);
	victim_ready();
	victim_wait();
	expect_judgement(JUDGED, EBADMSG);
	expect_judgement(ALSO_JUDGED, 0);
	syscall(SYS_getpriority, PRIO_PROCESS, 0);
	expect_equal("call that was trapped", SYS_getpriority, trapped);
	expect_equal("mode", SECCOMP_MODE_FILTER, own_status("Seccomp"));
	expect_equal("filters", 3, own_status("Seccomp_filters"));
	expect_equal("no_new_privs", 1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	join_child(children[0]);
	join_child(children[1]);
	int status;
	expect_equal("child that is punished", children[2], waitpid(children[2], &status, 0));
	expect_true(WIFSIGNALED(status));
	expect_equal("signal of its end", SIGSYS, WTERMSIG(status));
	victim_ok();
}
