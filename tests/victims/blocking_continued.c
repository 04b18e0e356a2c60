/*
 * Threads that wait for a few seconds in the calls which the kernel continues by restart_syscall(2) when they are interrupted.
 * None of them has a handler for a signal: none may see EINTR, however often it was interrupted.
 */
#include "victim.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>

static const struct timespec seconds = {4, 0};

static void *sleeps(void *unused)
{
	(void)unused;
	must_zero(nanosleep(&seconds, NULL));
	return NULL;
}

static void *sleeps_by_clock(void *unused)
{
	(void)unused;
	must_zero(clock_nanosleep(CLOCK_MONOTONIC, 0, &seconds, NULL));
	return NULL;
}

static void *polls(void *unused)
{
	(void)unused;
	expect_equal("poll", 0, poll(NULL, 0, 4000));
	return NULL;
}

static void *waits(void *unused)
{
	static int word;
	(void)unused;
	expect_equal("futex", -1, syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &seconds, NULL, 0));
	expect_equal("its error", ETIMEDOUT, errno);
	return NULL;
}

int main(void)
{
	void *(*const bodies[])(void *) = {sleeps, sleeps_by_clock, polls, waits};
	pthread_t threads[4];
	for (int index = 0; index < 4; index++)
		must_zero(pthread_create(&threads[index], NULL, bodies[index], NULL));
	victim_nap(200000);
	victim_ready();
	for (int index = 0; index < 4; index++)
		must_zero(pthread_join(threads[index], NULL));
	victim_ok();
}
