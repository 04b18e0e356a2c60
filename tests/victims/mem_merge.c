/* Merging of equal pages: of some memory (MADV_MERGEABLE), and of all that a process has or will have (PR_SET_MEMORY_MERGE). */
#include "victim.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
enum { LENGTH = 64 * 4096 };

static bool is_mergeable(const void *start)
{
	char flags[256] = " ";
	if (!smaps_field(start, "VmFlags", flags + 1, sizeof flags - 2))
		wrong("no VmFlags for %p", start);
	return strstr(flags, " mg") != NULL;
}

/* Accessible memory between inaccessible neighbours, which keep it apart. */
static char *map_apart(void)
{
	char *start = map_anonymous(LENGTH + 8192, PROT_NONE, MAP_PRIVATE);
	must(mprotect(start + 4096, LENGTH, PROT_READ | PROT_WRITE));
	return start + 4096;
}

static void fill_alike(char *start)
{
	for (size_t page = 0; page < LENGTH; page += 4096)
		fill_pattern(start + page, 4096, 7);
}

static void check_alike(const char *what, const char *start)
{
	for (size_t page = 0; page < LENGTH; page += 4096)
		check_pattern(what, start + page, 4096, 7);
}

int main(void)
{
	char *some = map_apart();
	if (madvise(some, LENGTH, MADV_MERGEABLE) != 0)
		skip("equal pages are not merged here: %s", strerror(errno));
	fill_alike(some);
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		char *all = map_apart();
		if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0) {
			arrive(&arrivals);
			skip("no PR_SET_MEMORY_MERGE: %s", strerror(errno));
		}
		fill_alike(all);
		arrive(&arrivals);
		victim_wait();
		expect_equal("merging of all", 1, prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
		expect_true(is_mergeable(all) && is_mergeable(map_apart()));
		check_alike("merged by rule", all);
		all[4096] = 'x';
		check_pattern("its neighbour", all, 4096, 7);
		pid_t grandchild = expect_success(fork());
		if (grandchild == 0)
			_exit(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 ? 0 : 1);
		join_child(grandchild);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	expect_true(is_mergeable(some) && !is_mergeable(map_apart()));
	expect_true(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 1);
	check_alike("merged on advice", some);
	int status;
	expect_equal("child", child, waitpid(child, &status, 0));
	if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != VICTIM_SKIPPED))
		wrong("child: wait status 0x%x", status);
	if (WEXITSTATUS(status) == VICTIM_SKIPPED)
		exit(VICTIM_SKIPPED);
	victim_ok();
}
