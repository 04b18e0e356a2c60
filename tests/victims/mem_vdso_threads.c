/* Several threads that are mostly inside the vDSO, reading a clock that never goes back. */
#include "victim.h"

enum { THREADS = 4 };

static atomic_bool stop;

static void *read_clock(void *unused)
{
	long long last = 0;
	while (!atomic_load(&stop))
		for (int round = 0; round < 1000; round++) {
			long long now = clock_now(CLOCK_MONOTONIC);
			expect_true(now >= last);
			last = now;
		}
	return unused;
}

int main(void)
{
	pthread_t threads[THREADS];
	for (int number = 0; number < THREADS; number++)
		must_zero(pthread_create(&threads[number], NULL, read_clock, NULL));

	victim_ready();
	victim_wait();

	atomic_store(&stop, true);
	for (int number = 0; number < THREADS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(threads[number], NULL));
	victim_ok();
}
