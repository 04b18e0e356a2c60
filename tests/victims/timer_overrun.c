/*
 * A fast timer whose signal is blocked: the pending signal is there, and the timer goes on and counts its overruns. How
 * many the signals had that were pending before cannot be read from outside, so only what all of them tell is checked.
 */
#include "victim.h"

int main(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4, .sigev_value.sival_int = 9};
	struct itimerspec value = {{0, 1000000}, {0, 1000000}};
	struct timespec limit = {5, 0};
	siginfo_t info;
	sigset_t one;
	timer_t timer;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 4);
	must(sigprocmask(SIG_BLOCK, &one, NULL));
	must(timer_create(CLOCK_MONOTONIC, &event, &timer));
	must(timer_settime(timer, 0, &value, NULL));
	victim_nap(40000);

	victim_ready();
	victim_wait();

	int told = 0;
	for (int signals = 0; told < 40; signals++) {
		expect_true(signals < 40);
		expect_equal("signal", SIGRTMIN + 4, sigtimedwait(&one, &info, &limit));
		expect_equal("its code", SI_TIMER, info.si_code);
		expect_equal("its value", 9, info.si_value.sival_int);
		expect_within("its overruns", 0, 600000, info.si_overrun);
		told += 1 + info.si_overrun;
		victim_nap(10000);
	}
	expect_success(timer_delete(timer));
	victim_ok();
}
