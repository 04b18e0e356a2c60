/*
 * Mutexes that lend their owner the priority of who waits (FUTEX_LOCK_PI): the owner, and those who wait, without a limit and with
 * one, in threads and in another process.
 */
#include "victim.h"

enum { WAITERS = 3 };

struct common {
	pthread_mutex_t mutex;
	atomic_int turns;
};

static struct common *own, *shared;
static _Atomic pid_t waiting[WAITERS];

static void make_inheriting(struct common *common, int sharing)
{
	pthread_mutexattr_t attributes;
	must_zero(pthread_mutexattr_init(&attributes));
	must_zero(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
	must_zero(pthread_mutexattr_setpshared(&attributes, sharing));
	must_zero(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK));
	must_zero(pthread_mutex_init(&common->mutex, &attributes));
}

static void take_turn(struct common *common, int error)
{
	expect_equal("error of the lock", 0, error);
	atomic_fetch_add(&common->turns, 1);
	expect_equal("error of unlocking", 0, pthread_mutex_unlock(&common->mutex));
}

static void *wait_for_it(void *argument)
{
	int number = (int)(intptr_t)argument;
	struct timespec then;
	must(clock_gettime(CLOCK_REALTIME, &then));
	then.tv_sec += 3600;
	waiting[number] = thread_id();
	take_turn(own, number == 0 ? pthread_mutex_timedlock(&own->mutex, &then) : pthread_mutex_lock(&own->mutex));
	return NULL;
}

int main(void)
{
	pthread_t threads[WAITERS];
	struct arrivals arrivals = arrivals_open();
	own = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	shared = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	make_inheriting(own, PTHREAD_PROCESS_PRIVATE);
	make_inheriting(shared, PTHREAD_PROCESS_SHARED);
	must_zero(pthread_mutex_lock(&own->mutex));
	must_zero(pthread_mutex_lock(&shared->mutex));
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		take_turn(shared, pthread_mutex_lock(&shared->mutex));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	for (intptr_t number = 0; number < WAITERS; number++)
		must_zero(pthread_create(&threads[number], NULL, wait_for_it, (void *)number));
	for (int number = 0; number < WAITERS; number++) {
		while (waiting[number] == 0)
			victim_nap(500);
		await_state(getpid(), waiting[number], 'S');
	}
	await_state(child, child, 'S');

	victim_ready();
	victim_wait();

	expect_equal("turns taken before", 0, atomic_load(&own->turns) + atomic_load(&shared->turns));
	expect_equal("lock of the owner", EDEADLK, pthread_mutex_lock(&own->mutex));
	expect_equal("unlocked by the owner", 0, pthread_mutex_unlock(&own->mutex));
	expect_equal("unlocked by the owner", 0, pthread_mutex_unlock(&shared->mutex));
	for (int number = 0; number < WAITERS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(threads[number], NULL));
	join_child(child);
	expect_equal("turns of threads", WAITERS, atomic_load(&own->turns));
	expect_equal("turns of the other process", 1, atomic_load(&shared->turns));
	expect_equal("free at the end", 0, pthread_mutex_trylock(&own->mutex));
	expect_equal("free at the end", 0, pthread_mutex_trylock(&shared->mutex));
	victim_ok();
}
