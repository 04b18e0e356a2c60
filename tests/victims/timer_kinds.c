/* Timers on the less common clocks, of timer_create and of timerfd: atomic time, alarms that wake the machine where they are
 * permitted, the processor time of a thread; and ids far apart. */
#include "victim.h"
#include <sys/timerfd.h>

#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif

static const clockid_t clocks[] = {CLOCK_TAI, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, CLOCK_THREAD_CPUTIME_ID};
enum { CLOCKS = sizeof clocks / sizeof clocks[0], FAR = 3000 };

static const struct itimerspec long_time = {{7, 500}, {5000, 0}};

/* -1 where the clock is not to be had: no clock that wakes the machine, or no permission for it. */
static int create(clockid_t clock, int value)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = value};
	int id;
	return syscall(SYS_timer_create, clock, &event, &id) == 0 ? id : -1;
}

static void expect_time(const char *what, struct itimerspec found)
{
	expect_equal(what, 7, found.it_interval.tv_sec);
	expect_equal(what, 500, found.it_interval.tv_nsec);
	expect_within(what, 4500, 5000, found.it_value.tv_sec);
}

int main(void)
{
	int timers[CLOCKS], files[CLOCKS], far[2], usable = 0;
	struct itimerspec found;
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN);
	must(sigprocmask(SIG_BLOCK, &one, NULL));
	for (int index = 0; index < CLOCKS; index++) {
		timers[index] = create(clocks[index], index);
		if (timers[index] >= 0)
			must(syscall(SYS_timer_settime, timers[index], 0, &long_time, NULL));
		usable += timers[index] >= 0;
		files[index] = timerfd_create(clocks[index], TFD_CLOEXEC);
		if (files[index] >= 0)
			must(timerfd_settime(files[index], 0, &long_time, NULL));
	}
	if (usable < 2)
		broken("timers on %d clocks only", usable);
	far[0] = create(CLOCK_MONOTONIC, 100);
	for (int count = 0; count < FAR; count++)
		must(syscall(SYS_timer_delete, create(CLOCK_MONOTONIC, 0)));
	far[1] = create(CLOCK_MONOTONIC, 101);
	expect_true(far[1] > far[0] + FAR);

	victim_ready();
	victim_wait();

	for (int index = 0; index < CLOCKS; index++) {
		if (timers[index] >= 0) {
			expect_success(syscall(SYS_timer_gettime, timers[index], &found));
			expect_time("a timer", found);
		}
		if (files[index] >= 0) {
			expect_success(timerfd_gettime(files[index], &found));
			expect_time("a timerfd", found);
		}
	}
	for (int index = 0; index < 2; index++) {
		siginfo_t information;
		struct itimerspec soon = {{0, 0}, {0, 1000000}};
		struct timespec limit = {10, 0};
		expect_success(syscall(SYS_timer_settime, far[index], 0, &soon, NULL));
		expect_equal("signal", SIGRTMIN, sigtimedwait(&one, &information, &limit));
		expect_equal("id", far[index], information.si_timerid);
		expect_equal("value", 100 + index, information.si_value.sival_int);
	}
	victim_ok();
}
