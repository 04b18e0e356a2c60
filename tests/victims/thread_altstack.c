/* Alternate signal stacks: each thread's own, with its flags; handlers still run on them. */
#include "victim.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
enum { THREADS = 4, SIZE = 32768 };

static char stacks[THREADS][SIZE];
static __thread uintptr_t handled_at;
static atomic_int running;

static void on_signal(int signal)
{
	char here;
	(void)signal;
	handled_at = (uintptr_t)&here;
}

static void *live(void *argument)
{
	int number = (int)(intptr_t)argument;
	/* Thread 3 has none. */
	stack_t set = {.ss_sp = stacks[number], .ss_size = SIZE, .ss_flags = number == 2 ? (int)SS_AUTODISARM : 0};
	stack_t found;
	if (number != 3)
		must(sigaltstack(&set, NULL));
	atomic_fetch_add(&running, 1);
	victim_wait_with_signals();
	expect_success(sigaltstack(NULL, &found));
	if (number == 3) {
		expect_equal("flags without a stack", SS_DISABLE, found.ss_flags);
		return NULL;
	}
	expect_equal("start of the stack", (intptr_t)stacks[number], (intptr_t)found.ss_sp);
	expect_equal("size of the stack", SIZE, found.ss_size);
	expect_equal("flags of the stack", set.ss_flags, found.ss_flags);
	expect_equal("error of pthread_kill", 0, pthread_kill(pthread_self(), SIGUSR1));
	if (handled_at - (uintptr_t)stacks[number] >= SIZE)
		wrong("handler of thread %d ran at %p, not on its stack %p", number, (void *)handled_at,
		      (void *)stacks[number]);
	return NULL;
}

int main(void)
{
	pthread_t handles[THREADS];
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
	must(sigaction(SIGUSR1, &action, NULL));
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
