/* Memory that children do not inherit (MADV_DONTFORK): they have none there, or other memory of their own, all of it or a part. */
#include "victim.h"

enum { PARTS = 3, LENGTH = 8 * 4096 };

static bool is_mapped(const char *page)
{
	unsigned char residency;
	return mincore((void *)page, 4096, &residency) == 0;
}

/* What a child has where its parent has these parts: nothing, memory of its own, some of that in the middle. */
static void check_child(const char *who, char *const *parts)
{
	char what[100];
	for (int page = 0; page < 8; page++) {
		snprintf(what, sizeof what, "page %d of the first part, in the %s", page, who);
		expect_equal(what, false, is_mapped(parts[0] + page * 4096));
		snprintf(what, sizeof what, "page %d of the last part, in the %s", page, who);
		expect_equal(what, page >= 2 && page < 6, is_mapped(parts[2] + page * 4096));
	}
	check_pattern("the second part", parts[1], LENGTH, 21);
	check_pattern("the middle of the last part", parts[2] + 2 * 4096, 4 * 4096, 22);
}

static void map_own(char *start, size_t length, uint64_t seed)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	if (mmap(start, length, PROT_READ | PROT_WRITE, flags, -1, 0) != start)
		broken("mmap in a child: %s", strerror(errno));
	fill_pattern(start, length, seed);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	char *parts[PARTS];
	for (int index = 0; index < PARTS; index++) {
		char *start = map_anonymous(LENGTH + 8192, PROT_NONE, MAP_PRIVATE);
		/* Inaccessible neighbours keep the part from being merged. */
		parts[index] = start + 4096;
		must_zero(mprotect(parts[index], LENGTH, PROT_READ | PROT_WRITE));
		must_zero(madvise(parts[index], LENGTH, MADV_DONTFORK));
		fill_pattern(parts[index], LENGTH, (uint64_t)index);
	}
	pid_t child = must(fork());
	if (child == 0) {
		map_own(parts[1], LENGTH, 21);
		map_own(parts[2] + 2 * 4096, 4 * 4096, 22);
		pid_t grandchild = must(fork());
		arrive(&arrivals);
		victim_wait();
		check_child(grandchild == 0 ? "grandchild" : "child", parts);
		if (grandchild != 0)
			join_child(grandchild);
		_exit(0);
	}
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	for (int index = 0; index < PARTS; index++)
		check_pattern("the parent's part", parts[index], LENGTH, (uint64_t)index);
	join_child(child);
	victim_ok();
}
