/* A slice of the thread's own, utilization clamps where the kernel has them, and the reset of the policy on fork. */
#include "victim.h"

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t utilization_min, utilization_max;
};

static struct attributes read_back(void)
{
	struct attributes found = {.size = sizeof found};
	expect_success(syscall(SYS_sched_getattr, 0, &found, sizeof found, 0));
	return found;
}

int main(void)
{
	struct attributes wanted = {.size = sizeof wanted, .flags = 1 /* RESET_ON_FORK */, .runtime = 7000000};
	must(syscall(SYS_sched_setattr, 0, &wanted, 0));
	struct attributes clamped = wanted;
	clamped.flags |= 0x20 | 0x40;
	clamped.utilization_min = 100;
	clamped.utilization_max = 600;
	syscall(SYS_sched_setattr, 0, &clamped, 0);
	struct attributes before = read_back();
	victim_ready();
	victim_wait();
	struct attributes after = read_back();
	expect_equal("policy", before.policy, after.policy);
	expect_equal("flags", before.flags, after.flags);
	expect_equal("slice", before.runtime, after.runtime);
	expect_equal("least utilization", before.utilization_min, after.utilization_min);
	expect_equal("greatest utilization", before.utilization_max, after.utilization_max);
	victim_ok();
}
