/* Reserved processor time (SCHED_DEADLINE) of one thread. */
#include "victim.h"

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static atomic_bool there;
static const struct attributes wanted = {
	.size = sizeof wanted, .policy = 6, .runtime = 2000000, .deadline = 80000000, .period = 100000000};

static void *reserved(void *argument)
{
	struct attributes found = {.size = sizeof found};
	if (syscall(SYS_sched_setattr, 0, &wanted, 0) != 0)
		skip("sched_setattr: %s", strerror(errno));
	atomic_store(&there, true);
	victim_wait();
	expect_success(syscall(SYS_sched_getattr, 0, &found, sizeof found, 0));
	expect_equal("policy", wanted.policy, found.policy);
	expect_equal("run time", wanted.runtime, found.runtime);
	expect_equal("deadline", wanted.deadline, found.deadline);
	expect_equal("period", wanted.period, found.period);
	return argument;
}

int main(void)
{
	pthread_t thread;
	must_zero(pthread_create(&thread, NULL, reserved, NULL));
	while (!atomic_load(&there))
		victim_nap(1000);
	victim_ready();
	victim_wait();
	expect_equal("policy of the first thread", SCHED_OTHER, sched_getscheduler(0));
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	victim_ok();
}
