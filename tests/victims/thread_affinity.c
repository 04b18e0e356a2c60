/* The processors a thread may run on. */
#include "victim.h"

enum { THREADS = 3 };

static cpu_set_t wanted[THREADS];
static atomic_int running;

static void *live(void *argument)
{
	int number = (int)(intptr_t)argument;
	cpu_set_t found;
	must(sched_setaffinity(0, sizeof(cpu_set_t), &wanted[number]));
	atomic_fetch_add(&running, 1);
	victim_wait();
	expect_success(sched_getaffinity(0, sizeof found, &found));
	if (!CPU_EQUAL(&found, &wanted[number]))
		wrong("affinity of thread %d: expected %d processors, found %d or others", number,
		      CPU_COUNT(&wanted[number]), CPU_COUNT(&found));
	expect_true(CPU_ISSET(sched_getcpu(), &wanted[number]));
	return NULL;
}

int main(void)
{
	cpu_set_t all;
	pthread_t handles[THREADS];
	must(sched_getaffinity(0, sizeof all, &all));
	if (CPU_COUNT(&all) < 2)
		skip("only one processor");
	/* The first, the second, and all. */
	int seen = 0;
	for (int cpu = 0; cpu < CPU_SETSIZE && seen < 2; cpu++)
		if (CPU_ISSET(cpu, &all))
			CPU_SET(cpu, &wanted[seen++]);
	wanted[2] = all;
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
