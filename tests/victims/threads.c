/* Many threads (their number is the argument), asleep, in a futex or spinning, each with its own thread-local data. */
#include "victim.h"

enum { MOST = 4096, SPINNERS = 3 };

static __thread uint64_t local[32];
static __thread int local_number = 77;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool may_go;
static atomic_bool stop_spinning, stop_sleeping;
static atomic_int running;
static pid_t ids[MOST];

static void *live(void *argument)
{
	int number = (int)(intptr_t)argument;
	pthread_t self = pthread_self();
	uint64_t on_stack[64];
	fill_pattern(local, sizeof local, (uint64_t)number);
	fill_pattern(on_stack, sizeof on_stack, (uint64_t)number + 5000);
	expect_equal("initial thread-local value", 77, local_number);
	local_number = number;
	ids[number] = thread_id();
	atomic_fetch_add(&running, 1);
	if (number < SPINNERS) {
		while (!atomic_load(&stop_spinning))
			__builtin_ia32_pause();
	} else if (number % 2 == 0) {
		while (!atomic_load(&stop_sleeping))
			victim_nap(100000);
	} else {
		pthread_mutex_lock(&lock);
		while (!may_go)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
	}
	check_pattern("thread-local data", local, sizeof local, (uint64_t)number);
	check_pattern("stack data", on_stack, sizeof on_stack, (uint64_t)number + 5000);
	expect_equal("thread-local number", number, local_number);
	expect_equal("thread id", ids[number], thread_id());
	expect_true(pthread_equal(self, pthread_self()));
	return (void *)(intptr_t)(number + 1);
}

int main(int count, char **arguments)
{
	int threads = count > 1 ? atoi(arguments[1]) : 100;
	static pthread_t handles[MOST];
	pthread_attr_t attributes;
	if (threads < 1 || threads > MOST)
		broken("between 1 and %d threads, not %d", MOST, threads);
	must_zero(pthread_attr_init(&attributes));
	must_zero(pthread_attr_setstacksize(&attributes, 64 * 1024));
	for (int number = 0; number < threads; number++)
		must_zero(pthread_create(&handles[number], &attributes, live, (void *)(intptr_t)number));
	while (atomic_load(&running) != threads)
		victim_nap(1000);

	victim_ready();
	victim_wait();

	pthread_mutex_lock(&lock);
	may_go = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	atomic_store(&stop_spinning, true);
	atomic_store(&stop_sleeping, true);
	for (int number = 0; number < threads; number++) {
		void *value;
		int error = pthread_join(handles[number], &value);
		expect_equal("error of pthread_join", 0, error);
		expect_equal("value of a thread", number + 1, (intptr_t)value);
	}
	pthread_t late;
	expect_equal("error of a new pthread_create", 0, pthread_create(&late, &attributes, live, (void *)(intptr_t)1));
	expect_equal("error of its pthread_join", 0, pthread_join(late, NULL));
	victim_ok();
}
