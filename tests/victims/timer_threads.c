/* Timers on CLOCK_THREAD_CPUTIME_ID measure the thread that created them, whichever thread they notify. */
#include "victim.h"

enum { CREATOR, OTHER, THREADS };
enum { MS = 1000000 };

static pthread_barrier_t created;
static pid_t tids[THREADS];
/* Of each thread one that notifies the other thread and is set, one that notifies it and is not, one that notifies nobody. */
static timer_t set[THREADS], unset[THREADS], quiet[THREADS];

static timer_t create(int notify, int thread)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = SIGRTMIN};
	event._sigev_un._tid = tids[thread];
	timer_t timer;
	must(timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer));
	return timer;
}

static void arm(timer_t timer, long long left)
{
	struct itimerspec spec = {{0, 0}, {left / 1000000000, left % 1000000000}};
	must(timer_settime(timer, 0, &spec, NULL));
}

static long long left(timer_t timer)
{
	struct itimerspec spec;
	must(timer_gettime(timer, &spec));
	return spec.it_value.tv_sec * 1000000000ll + spec.it_value.tv_nsec;
}

static void use_time(long long time)
{
	long long start = clock_now(CLOCK_THREAD_CPUTIME_ID);
	while (clock_now(CLOCK_THREAD_CPUTIME_ID) - start < time)
		;
}

static void *work(void *argument)
{
	int own = argument != NULL, other = !own;
	tids[own] = thread_id();
	pthread_barrier_wait(&created);
	set[own] = create(SIGEV_THREAD_ID, other);
	unset[own] = create(SIGEV_THREAD_ID, other);
	quiet[own] = create(SIGEV_NONE, other);
	arm(set[own], 1000ll * MS);
	arm(quiet[own], 2000ll * MS);
	pthread_barrier_wait(&created);
	victim_wait();
	/* One after the other: only the creator uses time. */
	if (own == OTHER)
		pthread_barrier_wait(&created);
	expect_equal("what the timer that is not set has left", 0, left(unset[own]));
	arm(unset[own], 3000ll * MS);
	use_time(100 * MS);
	timer_t timers[] = {set[own], quiet[own], unset[own]};
	for (int index = 0; index < 3; index++)
		expect_within("what a timer has left after 100 ms of its thread, ns", 1, (1000ll * (index + 1) - 100) * MS,
			      left(timers[index]));
	if (own == CREATOR) {
		/* The other's timers have not moved. */
		expect_within("what is left of the other's, ns", 950ll * MS, 1000ll * MS, left(set[OTHER]));
		pthread_barrier_wait(&created);
	}
	return NULL;
}

int main(void)
{
	must(signal(SIGRTMIN, SIG_IGN) == SIG_ERR ? -1 : 0);
	pthread_barrier_init(&created, NULL, THREADS);
	pthread_t threads[THREADS];
	for (long thread = 0; thread < THREADS; thread++)
		if (pthread_create(&threads[thread], NULL, work, thread == OTHER ? &created : NULL) != 0)
			broken("pthread_create");
	while (!quiet[OTHER] || !quiet[CREATOR])
		victim_nap(1);
	victim_ready();
	for (int thread = 0; thread < THREADS; thread++)
		pthread_join(threads[thread], NULL);
	victim_ok();
}
