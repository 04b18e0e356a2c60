/* The monotonic clocks neither go back nor leap ahead, and deadlines on them that a program keeps in its memory hold: of a
 * condition variable, a futex, a sleep, a timerfd and a timer. */
#include "victim.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/timerfd.h>

enum { HOUR = 3600 };

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};
enum { CLOCKS = sizeof clocks / sizeof clocks[0] };

static struct timespec deadline;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition;
static atomic_int word;
static atomic_int done;

static void *wait_for_condition(void *unused)
{
	(void)unused;
	must_zero(pthread_mutex_lock(&mutex));
	while (!atomic_load(&done)) {
		int error = pthread_cond_timedwait(&condition, &mutex, &deadline);
		if (error != 0)
			wrong("condition variable: expected to be woken, found: %s", strerror(error));
	}
	must_zero(pthread_mutex_unlock(&mutex));
	return NULL;
}

static void *wait_for_futex(void *unused)
{
	(void)unused;
	while (!atomic_load(&done))
		if (syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &deadline, NULL, FUTEX_BITSET_MATCH_ANY) != 0 &&
		    errno != EAGAIN && errno != EINTR)
			wrong("futex: expected to be woken, found: %s", strerror(errno));
	return NULL;
}

/* Cancelled at the end: nothing else ends such a sleep. */
static void *sleep_until(void *unused)
{
	(void)unused;
	int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL);
	if (!atomic_load(&done))
		wrong("sleep: expected to last an hour, found it at its end: %s", strerror(error));
	return NULL;
}

int main(void)
{
	void *(*const bodies[])(void *) = {wait_for_condition, wait_for_futex, sleep_until};
	long long before[CLOCKS];
	pthread_t threads[3];
	pthread_condattr_t attributes;
	must_zero(pthread_condattr_init(&attributes));
	must_zero(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC));
	must_zero(pthread_cond_init(&condition, &attributes));
	must(clock_gettime(CLOCK_MONOTONIC, &deadline));
	deadline.tv_sec += HOUR;
	struct itimerspec setting = {.it_value = deadline}, rest;
	int file = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	must(timerfd_settime(file, TFD_TIMER_ABSTIME, &setting, NULL));
	timer_t timer;
	struct sigevent event = {.sigev_notify = SIGEV_NONE};
	must(timer_create(CLOCK_MONOTONIC, &event, &timer));
	must(timer_settime(timer, TIMER_ABSTIME, &setting, NULL));
	for (int index = 0; index < 3; index++)
		must_zero(pthread_create(&threads[index], NULL, bodies[index], NULL));
	for (int index = 0; index < CLOCKS; index++)
		before[index] = clock_now(clocks[index]);

	victim_ready();
	victim_wait();

	for (int index = 0; index < CLOCKS; index++) {
		/* A coarse clock lags by a tick. */
		expect_within("a clock", before[index] - 20000000, before[index] + 600000000000ll,
			      clock_now(clocks[index]));
	}
	must(timerfd_gettime(file, &rest));
	expect_within("seconds left of the timerfd", HOUR - 600, HOUR, rest.it_value.tv_sec);
	must(timer_gettime(timer, &rest));
	expect_within("seconds left of the timer", HOUR - 600, HOUR, rest.it_value.tv_sec);
	atomic_store(&done, 1);
	must_zero(pthread_mutex_lock(&mutex));
	must_zero(pthread_cond_broadcast(&condition));
	must_zero(pthread_mutex_unlock(&mutex));
	/* The waiter may not be back in its call yet. */
	atomic_store(&word, 1);
	syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, FUTEX_BITSET_MATCH_ANY);
	must_zero(pthread_cancel(threads[2]));
	for (int index = 0; index < 3; index++)
		must_zero(pthread_join(threads[index], NULL));
	victim_ok();
}
