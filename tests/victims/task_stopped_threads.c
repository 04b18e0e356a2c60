/* A stopped process of many threads: all of them stand still until SIGCONT, and all go on then. */
#include "victim.h"

enum { THREADS = 8 };

static atomic_ulong *counts;

static void *count_on(void *argument)
{
	for (intptr_t number = (intptr_t)argument;;) {
		atomic_fetch_add(&counts[number], 1);
		victim_nap(200);
	}
	return NULL;
}

int main(void)
{
	unsigned long seen[THREADS];
	counts = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	pid_t child = must(fork());
	if (child == 0) {
		pthread_t handle;
		for (intptr_t number = 1; number < THREADS; number++)
			must_zero(pthread_create(&handle, NULL, count_on, (void *)number));
		count_on((void *)0);
	}
	for (int number = 0; number < THREADS; number++)
		while (atomic_load(&counts[number]) < 2)
			victim_nap(500);
	must(kill(child, SIGSTOP));
	must(waitpid(child, NULL, WUNTRACED));
	for (int number = 0; number < THREADS; number++)
		seen[number] = atomic_load(&counts[number]);

	victim_ready();
	victim_wait();
	victim_nap(10000);

	for (int number = 0; number < THREADS; number++)
		expect_equal("count of a stopped thread", seen[number], atomic_load(&counts[number]));
	expect_success(kill(child, SIGCONT));
	for (int number = 0; number < THREADS; number++)
		for (int naps = 0; atomic_load(&counts[number]) == seen[number]; naps++) {
			expect_true(naps < 10000);
			victim_nap(500);
		}
	expect_success(kill(child, SIGKILL));
	expect_equal("killed child", child, waitpid(child, NULL, 0));
	victim_ok();
}
