/* Every thread has its own name, odd bytes included. */
#include "victim.h"

static const char *const names[] = {"main one", "a) (b", "tab\there", "fifteen bytes!!", ""};
enum { THREADS = 5 };
static atomic_int running;

static void *live(void *argument)
{
	const char *name = argument;
	char found[17] = "";
	must(prctl(PR_SET_NAME, name));
	atomic_fetch_add(&running, 1);
	victim_wait();
	expect_success(prctl(PR_GET_NAME, found));
	expect_text("name of a thread", name, found);
	return NULL;
}

int main(void)
{
	pthread_t handles[THREADS];
	char text[64];
	for (int number = 1; number < THREADS; number++)
		must_zero(pthread_create(&handles[number], NULL, live, (void *)(uintptr_t)names[number]));
	must(prctl(PR_SET_NAME, names[0]));
	while (atomic_load(&running) != THREADS - 1)
		victim_nap(1000);
	victim_ready();
	victim_wait();
	read_text("/proc/self/comm", text, sizeof text);
	expect_text("name of the process", "main one\n", text);
	for (int number = 1; number < THREADS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[number], NULL));
	victim_ok();
}
