/* POSIX timers: their ids (with gaps), clocks, ways to notify, values, periods, rests, absolute and disarmed ones. */
#include "victim.h"

/* The kernel's own ids; the C library's handles hide them. */
static int create(clockid_t clock, struct sigevent *event)
{
	int id;
	must(syscall(SYS_timer_create, clock, event, &id));
	return id;
}

static struct itimerspec rest_of(int id)
{
	struct itimerspec rest;
	if (syscall(SYS_timer_gettime, id, &rest) != 0)
		wrong("timer %d: expected to exist, found: %s", id, strerror(errno));
	return rest;
}

static void set(int id, int flags, long long first, long long period)
{
	struct itimerspec value = {{period / 1000000000, period % 1000000000}, {first / 1000000000, first % 1000000000}};
	must(syscall(SYS_timer_settime, id, flags, &value, NULL));
}

static void expect_fires(int signal, int id, int value)
{
	sigset_t one;
	siginfo_t info;
	struct timespec limit = {5, 0};
	sigemptyset(&one);
	sigaddset(&one, signal);
	if (sigtimedwait(&one, &info, &limit) != signal)
		wrong("timer %d: expected signal %d, found %s", id, signal, strerror(errno));
	expect_equal("code of a timer's signal", SI_TIMER, info.si_code);
	expect_equal("id in the signal", id, info.si_timerid);
	expect_equal("value in the signal", value, info.si_value.sival_int);
}

int main(void)
{
	const long long second = 1000000000;
	struct sigevent by_signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 11};
	struct sigevent none = {.sigev_notify = SIGEV_NONE};
	struct sigevent to_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1,
				     .sigev_value.sival_int = 22};
	struct sigevent other = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2, .sigev_value.sival_int = 33};
	sigset_t blocked;
	to_thread._sigev_un._tid = thread_id();
	sigemptyset(&blocked);
	for (int signal = SIGRTMIN; signal <= SIGRTMIN + 2; signal++)
		sigaddset(&blocked, signal);
	must(sigprocmask(SIG_BLOCK, &blocked, NULL));

	int dropped[3], far, quiet, directed, processor, absolute, disarmed;
	dropped[0] = create(CLOCK_MONOTONIC, &none);
	far = create(CLOCK_MONOTONIC, &by_signal);
	dropped[1] = create(CLOCK_MONOTONIC, &none);
	quiet = create(CLOCK_BOOTTIME, &none);
	directed = create(CLOCK_REALTIME, &to_thread);
	dropped[2] = create(CLOCK_MONOTONIC, &none);
	processor = create(CLOCK_PROCESS_CPUTIME_ID, &other);
	absolute = create(CLOCK_REALTIME, &none);
	disarmed = create(CLOCK_MONOTONIC, &none);
	for (int index = 0; index < 3; index++)
		must(syscall(SYS_timer_delete, dropped[index]));
	set(far, 0, 1000 * second, 7 * second);
	set(quiet, 0, 500 * second, 0);
	set(directed, 0, 30000000, 30000000);
	set(processor, 0, 30 * second, 10000000);
	set(absolute, TIMER_ABSTIME, clock_now(CLOCK_REALTIME) + 2000 * second, 0);

	victim_ready();
	victim_wait();

	struct itimerspec rest = rest_of(far);
	expect_within("rest of the far timer", 800, 1000, rest.it_value.tv_sec);
	expect_equal("period of the far timer", 7, rest.it_interval.tv_sec);
	rest = rest_of(quiet);
	expect_within("rest of the quiet timer", 300, 500, rest.it_value.tv_sec);
	expect_equal("period of the quiet timer", 0, rest.it_interval.tv_sec + rest.it_interval.tv_nsec);
	rest = rest_of(absolute);
	expect_within("rest of the absolute timer", 1800, 2000, rest.it_value.tv_sec);
	rest = rest_of(disarmed);
	expect_equal("rest of the disarmed timer", 0, rest.it_value.tv_sec + rest.it_value.tv_nsec);
	rest = rest_of(directed);
	expect_equal("period of the directed timer", 30000000, rest.it_interval.tv_nsec);
	rest = rest_of(processor);
	expect_within("rest of the processor timer", 20, 30, rest.it_value.tv_sec);
	expect_equal("period of the processor timer", 10000000, rest.it_interval.tv_nsec);
	for (int index = 0; index < 3; index++)
		expect_equal("deleted timer", -1, syscall(SYS_timer_gettime, dropped[index], &rest));
	expect_fires(SIGRTMIN + 1, directed, 22);
	expect_fires(SIGRTMIN + 1, directed, 22);
	set(far, 0, 1000000, 0);
	expect_fires(SIGRTMIN, far, 11);
	set(processor, 0, 1000000, 0);
	/* The kernel looks at such a timer at its ticks only: until several have passed. */
	long long until = clock_now(CLOCK_PROCESS_CPUTIME_ID) + second / 10;
	while (clock_now(CLOCK_PROCESS_CPUTIME_ID) < until)
		;
	expect_fires(SIGRTMIN + 2, processor, 33);
	int fresh = create(CLOCK_MONOTONIC, &none);
	expect_true(fresh != far && fresh != quiet && fresh != directed && fresh != processor);
	victim_ok();
}
