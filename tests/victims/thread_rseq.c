/* Restartable sequences stay registered: each thread's area follows the processor it runs on. */
#include "victim.h"
#include <sys/rseq.h>

enum { THREADS = 3 };
static atomic_int running;

static void follow(const char *when)
{
	volatile struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t all, one;
	expect_success(sched_getaffinity(0, sizeof all, &all));
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		expect_success(sched_setaffinity(0, sizeof one, &one));
		if (area->cpu_id != cpu || area->cpu_id_start != cpu)
			wrong("rseq %s: expected processor %u, found %u and %u", when, cpu, area->cpu_id,
			      area->cpu_id_start);
	}
	expect_success(sched_setaffinity(0, sizeof all, &all));
}

static void *live(void *argument)
{
	follow("before");
	atomic_fetch_add(&running, 1);
	victim_wait();
	follow("after");
	return argument;
}

int main(void)
{
	pthread_t handles[THREADS];
	if (__rseq_size == 0)
		skip("the C library has not registered rseq here");
	for (int number = 0; number < THREADS; number++)
		must_zero(pthread_create(&handles[number], NULL, live, NULL));
	while (atomic_load(&running) != THREADS)
		victim_nap(1000);
	follow("before");
	victim_ready();
	victim_wait();
	follow("after");
	for (int number = 0; number < THREADS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[number], NULL));
	victim_ok();
}
