/* A fast timer whose signal is blocked: the pending signal is there, its overruns are counted, and it goes on. */
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

	victim_nap(10000);
	expect_equal("signal", SIGRTMIN + 4, sigtimedwait(&one, &info, &limit));
	expect_equal("value", 9, info.si_value.sival_int);
	expect_within("overruns", 5, 600000, info.si_overrun);
	expect_equal("next signal", SIGRTMIN + 4, sigtimedwait(&one, &info, &limit));
	expect_success(timer_delete(timer));
	victim_ok();
}
