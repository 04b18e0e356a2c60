/* Scheduling of each thread: policy, nice value, real-time priority (root), reset on fork, timer slack, io priority. */
#include "victim.h"

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t clamp_low, clamp_high;
};

static const struct {
	int policy, nice, priority;
	uint64_t flags;
	bool needs_root;
} wanted[] = {
	{SCHED_OTHER, 3, 0, 0, false}, {SCHED_BATCH, 5, 0, 0, false}, {SCHED_IDLE, 0, 0, 0, false},
	{SCHED_OTHER, 7, 0, 1, false}, {SCHED_FIFO, 0, 2, 0, true},   {SCHED_RR, 0, 1, 1, true},
	{SCHED_OTHER, -5, 0, 0, true},
};
enum { THREADS = sizeof wanted / sizeof wanted[0], IO_BEST_EFFORT = 2 << 13 };

static atomic_int running;

static void *live(void *argument)
{
	int number = (int)(intptr_t)argument;
	struct attributes set = {.size = 48}, found;
	set.policy = (uint32_t)wanted[number].policy;
	set.nice = wanted[number].nice;
	set.priority = (uint32_t)wanted[number].priority;
	set.flags = wanted[number].flags;
	must(syscall(SYS_sched_setattr, 0, &set, 0));
	/* Real-time threads have no timer slack of their own. */
	bool with_slack = wanted[number].priority == 0;
	if (with_slack)
		must(prctl(PR_SET_TIMERSLACK, 60000 + number));
	must(syscall(SYS_ioprio_set, 1, 0, IO_BEST_EFFORT | (number % 8)));
	atomic_fetch_add(&running, 1);
	victim_wait();
	memset(&found, 0, sizeof found);
	expect_success(syscall(SYS_sched_getattr, 0, &found, sizeof found, 0));
	expect_equal("policy", set.policy, found.policy);
	expect_equal("nice value", set.nice, found.nice);
	expect_equal("priority", set.priority, found.priority);
	expect_equal("reset on fork", set.flags & 1, found.flags & 1);
	if (with_slack)
		expect_equal("timer slack", 60000 + number, prctl(PR_GET_TIMERSLACK));
	expect_equal("io priority", IO_BEST_EFFORT | (number % 8), syscall(SYS_ioprio_get, 1, 0));
	return NULL;
}

int main(void)
{
	pthread_t handles[THREADS];
	int started = 0;
	for (int number = 1; number < THREADS; number++)
		if (!wanted[number].needs_root || geteuid() == 0)
			must_zero(pthread_create(&handles[started++], NULL, live, (void *)(intptr_t)number));
	while (atomic_load(&running) != started)
		victim_nap(1000);
	victim_ready();
	live((void *)0);
	for (int number = 0; number < started; number++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[number], NULL));
	victim_ok();
}
