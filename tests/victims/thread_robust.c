/* Robust mutexes: a thread, and a process, that end while they hold one leave it to the next with EOWNERDEAD. */
#include "victim.h"

static pthread_mutex_t *own, *common;
static atomic_bool held;

static void make_robust(pthread_mutex_t *mutex, int sharing)
{
	pthread_mutexattr_t attributes;
	must_zero(pthread_mutexattr_init(&attributes));
	must_zero(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
	must_zero(pthread_mutexattr_setpshared(&attributes, sharing));
	must_zero(pthread_mutex_init(mutex, &attributes));
}

static void *hold(void *argument)
{
	must_zero(pthread_mutex_lock(own));
	atomic_store(&held, true);
	victim_wait();
	return argument;
}

int main(void)
{
	pthread_t holder;
	struct arrivals arrivals = arrivals_open();
	own = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	common = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	make_robust(own, PTHREAD_PROCESS_PRIVATE);
	make_robust(common, PTHREAD_PROCESS_SHARED);
	pid_t child = must(fork());
	if (child == 0) {
		must_zero(pthread_mutex_lock(common));
		arrive(&arrivals);
		for (;;)
			victim_nap(100000);
	}
	await_arrivals(&arrivals, 1);
	must_zero(pthread_create(&holder, NULL, hold, NULL));
	while (!atomic_load(&held))
		victim_nap(1000);

	victim_ready();
	victim_wait();

	expect_equal("error of pthread_join", 0, pthread_join(holder, NULL));
	expect_equal("lock of an ended thread", EOWNERDEAD, pthread_mutex_lock(own));
	expect_success(kill(child, SIGKILL));
	expect_equal("killed child", child, waitpid(child, NULL, 0));
	expect_equal("lock of a killed process", EOWNERDEAD, pthread_mutex_lock(common));
	expect_equal("made consistent", 0, pthread_mutex_consistent(common));
	victim_ok();
}
