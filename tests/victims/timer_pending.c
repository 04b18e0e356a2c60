/*
 * Timers that have expired with their signals still pending: each signal is there once more, and a periodic timer goes on.
 * Of all kinds: one-shot and periodic, for the process and for a thread, on clocks of processor time, sending SIGTRAP,
 * and that of setitimer().
 */
#include "victim.h"

enum { SINGLE, PERIODIC, DIRECTED, PROCESSOR, TRAP, TIMERS };
static const int signals[TIMERS] = {36, 37, 38, 39, SIGTRAP};
static int timers[TIMERS];

static int create(clockid_t clock, int index, int notify)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = signals[index], .sigev_value.sival_int = 100 + index};
	event._sigev_un._tid = thread_id();
	must(syscall(SYS_timer_create, clock, &event, &timers[index]));
	return timers[index];
}

static void set(int id, long first, long period)
{
	struct itimerspec value = {{0, period}, {0, first}};
	must(syscall(SYS_timer_settime, id, 0, &value, NULL));
}

static void burn(long nanoseconds)
{
	long long until = clock_now(CLOCK_PROCESS_CPUTIME_ID) + nanoseconds;
	while (clock_now(CLOCK_PROCESS_CPUTIME_ID) < until)
		;
}

static int take(int signal, siginfo_t *info, long limit)
{
	struct timespec time = {0, limit};
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, signal);
	return sigtimedwait(&one, info, &time);
}

static void expect_expiry(int index)
{
	siginfo_t info;
	if (take(signals[index], &info, 0) != signals[index])
		wrong("timer %d: expected signal %d pending, found %s", index, signals[index], strerror(errno));
	expect_equal("code", SI_TIMER, info.si_code);
	expect_equal("id", timers[index], info.si_timerid);
	expect_equal("value", 100 + index, info.si_value.sival_int);
}

int main(void)
{
	struct itimerval real = {{0, 10000}, {0, 10000}}, found;
	siginfo_t info;
	sigset_t all;
	sigfillset(&all);
	must(sigprocmask(SIG_SETMASK, &all, NULL));
	set(create(CLOCK_MONOTONIC, SINGLE, SIGEV_SIGNAL), 1000000, 0);
	set(create(CLOCK_REALTIME, PERIODIC, SIGEV_SIGNAL), 1000000, 500000000);
	set(create(CLOCK_BOOTTIME, DIRECTED, SIGEV_THREAD_ID), 1000000, 20000000);
	set(create(CLOCK_PROCESS_CPUTIME_ID, PROCESSOR, SIGEV_SIGNAL), 1000000, 100000000);
	set(create(CLOCK_MONOTONIC, TRAP, SIGEV_SIGNAL), 1000000, 0);
	must(setitimer(ITIMER_REAL, &real, NULL));
	burn(60000000);

	victim_ready();
	victim_wait();

	for (int index = 0; index < TIMERS; index++)
		expect_expiry(index);
	expect_equal("alarm", SIGALRM, take(SIGALRM, &info, 0));
	expect_success(getitimer(ITIMER_REAL, &found));
	expect_equal("period of ITIMER_REAL", 10000, found.it_interval.tv_usec);
	expect_equal("next alarm", SIGALRM, take(SIGALRM, &info, 900000000));
	expect_equal("the single one again", -1, take(signals[SINGLE], &info, 30000000));
	expect_equal("the trap again", -1, take(SIGTRAP, &info, 0));
	expect_expiry(DIRECTED);
	expect_equal("the next of the periodic one", signals[PERIODIC], take(signals[PERIODIC], &info, 900000000));
	burn(200000000);
	expect_expiry(PROCESSOR);
	victim_ok();
}
