/* Every thread's own signal mask, the two signals of the C library included. */
#include "victim.h"

enum { THREADS = 6 };

static atomic_int running;

static uint64_t wanted(int number)
{
	/* SIGKILL (9) and SIGSTOP (19) cannot be blocked. */
	return (pattern_word(3, (uint64_t)number) | 1ull << 31 | 1ull << 32) & ~(1ull << 8 | 1ull << 18);
}

static void *live(void *argument)
{
	int number = (int)(intptr_t)argument;
	uint64_t mask = wanted(number), found = 0;
	must(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8));
	atomic_fetch_add(&running, 1);
	victim_wait();
	expect_success(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &found, 8));
	expect_equal("signal mask", wanted(number), found);
	return NULL;
}

int main(void)
{
	pthread_t handles[THREADS];
	for (int number = 1; number < THREADS; number++)
		must_zero(pthread_create(&handles[number], NULL, live, (void *)(intptr_t)number));
	while (atomic_load(&running) != THREADS - 1)
		victim_nap(1000);
	victim_ready();
	live((void *)0);
	for (int number = 1; number < THREADS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[number], NULL));
	victim_ok();
}
