/* A one-shot alarm in the future keeps what remains of it, and an alarm in a child is the child's own. */
#include "victim.h"

static volatile sig_atomic_t alarms;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

int main(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct arrivals arrivals = arrivals_open();
	struct itimerval none;
	must(sigaction(SIGALRM, &action, NULL));
	alarm(1000);
	pid_t child = must(fork());
	if (child == 0) {
		expect_equal("alarm inherited", 0, alarm(500));
		arrive(&arrivals);
		victim_wait();
		expect_within("rest of the child's alarm", 300, 500, alarm(0));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);
	expect_within("rest of the alarm", 800, 1000, alarm(0));
	struct itimerval soon = {{0, 0}, {0, 10000}};
	sigset_t empty, blocked;
	sigemptyset(&empty);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	expect_success(sigprocmask(SIG_BLOCK, &blocked, NULL));
	expect_success(setitimer(ITIMER_REAL, &soon, NULL));
	while (alarms == 0)
		sigsuspend(&empty);
	expect_equal("alarms", 1, alarms);
	expect_success(getitimer(ITIMER_VIRTUAL, &none));
	expect_equal("ITIMER_VIRTUAL was never set", 0, none.it_value.tv_sec + none.it_value.tv_usec);
	victim_ok();
}
