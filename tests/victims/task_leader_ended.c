/*
 * A child whose first thread has ended: its other threads have its descriptors, its memory, a child of their own; and
 * when they end one by one, so does the process.
 */
#include "victim.h"

enum { STATUS = 7, DESCRIPTOR = 90 };

static struct arrivals arrivals;
static atomic_int alive, done;
static uint64_t *pages;
static pid_t grandchild;

static void *live(void *argument)
{
	pid_t process = getpid();
	uint64_t ticks;
	await_state(process, process, 'Z');
	if (argument == NULL) {
		if ((grandchild = must(fork())) == 0) {
			victim_wait();
			_exit(3);
		}
		must(setpriority(PRIO_PROCESS, 0, 7));
	}
	if (atomic_fetch_add(&alive, 1) == 1)
		arrive(&arrivals);
	victim_wait();
	expect_equal("process", process, getpid());
	expect_equal("state of the first thread", 'Z', task_state(process, process));
	check_pattern("memory", pages, 65536, 5);
	expect_equal("bytes of an eventfd", 8, read(DESCRIPTOR, &ticks, 8));
	expect_equal("count of the eventfd", 1, ticks);
	if (argument == NULL) {
		int status;
		expect_equal("waiting for the child of a thread", grandchild, waitpid(grandchild, &status, 0));
		expect_equal("its status", 3, WEXITSTATUS(status));
		expect_equal("nice value of the thread", 7, getpriority(PRIO_PROCESS, 0));
	}
	atomic_fetch_add(&done, 1);
	while (atomic_load(&done) != 2)
		victim_nap(500);
	/* Each thread ends by itself: the process ends with the last one. */
	syscall(SYS_exit, STATUS);
	return NULL;
}

int main(void)
{
	int status;
	pid_t child;
	char name[32];
	arrivals = arrivals_open();
	pages = map_anonymous(65536, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(pages, 65536, 5);
	if ((child = must(fork())) == 0) {
		pthread_t threads[2];
		uint64_t two = 2;
		int event = (int)must(syscall(SYS_eventfd2, 0, 1 /* EFD_SEMAPHORE */));
		must(dup2(event, DESCRIPTOR));
		if (write(event, &two, 8) != 8)
			broken("eventfd: %s", strerror(errno));
		must(prctl(PR_SET_NAME, "first", 0, 0, 0));
		must_zero(pthread_create(&threads[0], NULL, live, NULL));
		must_zero(pthread_create(&threads[1], NULL, live, &two));
		syscall(SYS_exit, STATUS);
	}
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	char path[64];
	snprintf(path, sizeof path, "/proc/%d/comm", child);
	read_text(path, name, sizeof name);
	expect_text("name of the process", "first\n", name);
	expect_equal("waiting for the child", child, waitpid(child, &status, 0));
	expect_equal("status of the child", STATUS << 8, status);
	victim_ok();
}
