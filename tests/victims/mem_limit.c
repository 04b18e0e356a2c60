/* A process at its memory limit: RLIMIT_DATA or RLIMIT_AS full, or RLIMIT_MEMLOCK with new mappings locked; the hard limit of the
 * first two is full, too. It is as full afterwards, and the limits are what they were. */
#include "victim.h"

static void expect_limit(int kind, struct rlimit wanted)
{
	struct rlimit found;
	expect_success(getrlimit((__rlimit_resource_t)kind, &found));
	expect_equal("soft limit", wanted.rlim_cur, found.rlim_cur);
	expect_equal("hard limit", wanted.rlim_max, found.rlim_max);
}

static long status_kilobytes(const char *field)
{
	char text[8192];
	read_text("/proc/self/status", text, sizeof text);
	char *line = strstr(text, field);
	if (line == NULL)
		broken("/proc/self/status has no %s", field);
	return atol(line + strlen(field));
}

int main(int count, char **arguments)
{
	const char *which = count > 1 ? arguments[1] : "as";
	const bool hard = count > 2;
	struct rlimit limit;
	int kind = RLIMIT_DATA;
	if (strcmp(which, "data") == 0) {
		limit.rlim_cur = 1 << 20;
	} else if (strcmp(which, "as") == 0) {
		kind = RLIMIT_AS;
		limit.rlim_cur = (rlim_t)status_kilobytes("VmSize:") << 10;
	} else {
		kind = RLIMIT_MEMLOCK;
		if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
			skip("memory may not be locked here: %s", strerror(errno));
		limit.rlim_cur = (rlim_t)status_kilobytes("VmLck:") << 10;
	}
	struct rlimit before;
	must(getrlimit((__rlimit_resource_t)kind, &before));
	limit.rlim_max = hard ? limit.rlim_cur : before.rlim_max;
	must(setrlimit((__rlimit_resource_t)kind, &limit));
	if (kind == RLIMIT_DATA)
		while (sbrk(4096) != (void *)-1)
			;

	victim_ready();
	victim_wait();

	expect_limit(kind, limit);
	void *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (kind != RLIMIT_MEMLOCK || geteuid() != 0)
		expect_true(more == MAP_FAILED);
	victim_ok();
}
