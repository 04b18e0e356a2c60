/* Resource limits, soft and hard, of every kind, each process its own. */
#include "victim.h"

enum { KINDS = RLIMIT_RTTIME + 1 };

static void expect_limits(const struct rlimit *wanted)
{
	struct rlimit found;
	for (int kind = 0; kind < KINDS; kind++) {
		expect_success(getrlimit((__rlimit_resource_t)kind, &found));
		if (found.rlim_cur != wanted[kind].rlim_cur || found.rlim_max != wanted[kind].rlim_max)
			wrong("limit %d: expected %lu/%lu, found %lu/%lu", kind, (unsigned long)wanted[kind].rlim_cur,
			      (unsigned long)wanted[kind].rlim_max, (unsigned long)found.rlim_cur,
			      (unsigned long)found.rlim_max);
	}
}

static void lower(int kind, rlim_t soft, rlim_t hard)
{
	struct rlimit limit;
	must(getrlimit((__rlimit_resource_t)kind, &limit));
	if (limit.rlim_max > hard)
		limit.rlim_max = hard;
	limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
	must(setrlimit((__rlimit_resource_t)kind, &limit));
}

int main(void)
{
	struct rlimit limits[KINDS];
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		lower(RLIMIT_NOFILE, 64, 100);
		lower(RLIMIT_FSIZE, 1 << 20, RLIM_INFINITY);
	} else {
		lower(RLIMIT_NOFILE, 300, RLIM_INFINITY);
		lower(RLIMIT_STACK, 4 << 20, RLIM_INFINITY);
		lower(RLIMIT_CPU, 5000, 6000);
		lower(RLIMIT_CORE, 0, RLIM_INFINITY);
		lower(RLIMIT_MSGQUEUE, 400000, RLIM_INFINITY);
		lower(RLIMIT_AS, 2ul << 40, RLIM_INFINITY);
	}
	for (int kind = 0; kind < KINDS; kind++)
		must(getrlimit((__rlimit_resource_t)kind, &limits[kind]));
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		expect_limits(limits);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	expect_limits(limits);
	join_child(child);
	victim_ok();
}
