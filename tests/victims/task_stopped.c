/* Stopped children stay stopped, their stop is told exactly once, and SIGCONT lets them go on. */
#include "victim.h"

static void child_body(void)
{
	for (;;)
		if (victim_may_go())
			_exit(0);
		else
			victim_nap(1000);
}

static void expect_stopped(const char *what, pid_t child)
{
	char state = task_state(child, child);
	if (state != 'T')
		wrong("%s: expected state T, found %c", what, state);
}

int main(void)
{
	int status;
	pid_t told, untold, by_terminal_signal;
	if ((told = must(fork())) == 0)
		child_body();
	if ((untold = must(fork())) == 0)
		child_body();
	if ((by_terminal_signal = must(fork())) == 0) {
		must(setpgid(0, 0));
		child_body();
	}
	must(kill(told, SIGSTOP));
	must(waitpid(told, &status, WUNTRACED));
	must(kill(untold, SIGSTOP));
	while (getpgid(by_terminal_signal) != by_terminal_signal)
		victim_nap(500);
	must(kill(by_terminal_signal, SIGTSTP));
	await_state(untold, untold, 'T');
	await_state(by_terminal_signal, by_terminal_signal, 'T');

	victim_ready();
	victim_wait();
	victim_nap(10000);

	expect_stopped("child whose stop was told", told);
	expect_stopped("child whose stop was not told", untold);
	expect_stopped("child stopped by SIGTSTP", by_terminal_signal);
	expect_equal("stop told twice", 0, waitpid(told, &status, WUNTRACED | WNOHANG));
	expect_equal("stop told at last", untold, waitpid(untold, &status, WUNTRACED | WNOHANG));
	expect_equal("its status", SIGSTOP << 8 | 0x7f, status);
	expect_equal("stop by SIGTSTP told", by_terminal_signal, waitpid(by_terminal_signal, &status, WUNTRACED | WNOHANG));
	expect_equal("its status", SIGTSTP << 8 | 0x7f, status);
	expect_success(kill(told, SIGCONT));
	expect_success(kill(untold, SIGCONT));
	expect_success(kill(by_terminal_signal, SIGCONT));
	join_child(told);
	join_child(untold);
	join_child(by_terminal_signal);
	victim_ok();
}
