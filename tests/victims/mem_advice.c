/* Advice belongs to a mapping: the flags that /proc/self/smaps shows are the same afterwards, and still work. */
#include "victim.h"

static const struct {
	const char *name;
	int advice;
	const char *flag;
	int more_flags;
} advices[] = {
	{"DONTFORK", MADV_DONTFORK, "dc", 0},	  {"WIPEONFORK", MADV_WIPEONFORK, "wf", 0},
	{"DONTDUMP", MADV_DONTDUMP, "dd", 0},	  {"HUGEPAGE", MADV_HUGEPAGE, "hg", 0},
	{"NOHUGEPAGE", MADV_NOHUGEPAGE, "nh", 0}, {"SEQUENTIAL", MADV_SEQUENTIAL, "sr", 0},
	{"RANDOM", MADV_RANDOM, "rr", 0},	  {"NORESERVE", MADV_NORMAL, "nr", MAP_NORESERVE},
	{"MERGEABLE", MADV_MERGEABLE, "mg", 0},
};
enum { COUNT = sizeof advices / sizeof advices[0], LENGTH = 4 * 4096 };

/* The flags of interest among VmFlags, in the order of the table. */
static void flags_of(const char *start, char *flags, size_t size)
{
	char all[256] = " ";
	flags[0] = '\0';
	if (!smaps_field(start, "VmFlags", all + 1, sizeof all - 2))
		wrong("no VmFlags for %p", start);
	for (int index = 0; index < COUNT; index++) {
		char word[8];
		snprintf(word, sizeof word, " %s", advices[index].flag);
		if (strstr(all, word) != NULL && strlen(flags) + 3 < size)
			strcat(flags, word);
	}
}

int main(void)
{
	char *areas[COUNT], before[COUNT][64], after[64];
	bool usable[COUNT];
	for (int index = 0; index < COUNT; index++) {
		char *start = map_anonymous(LENGTH + 8192, PROT_NONE, MAP_PRIVATE);
		/* Inaccessible neighbours keep the area from being merged. */
		areas[index] = mmap(start + 4096, LENGTH, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | advices[index].more_flags, -1, 0);
		if (areas[index] == MAP_FAILED)
			broken("mmap: %s", strerror(errno));
		usable[index] = madvise(areas[index], LENGTH, advices[index].advice) == 0;
		if (!usable[index] && errno != EINVAL)
			broken("madvise %s: %s", advices[index].name, strerror(errno));
		fill_pattern(areas[index], LENGTH, (uint64_t)index);
		flags_of(areas[index], before[index], sizeof before[index]);
		if (usable[index] && strstr(before[index], advices[index].flag) == NULL)
			broken("no flag %s after madvise %s", advices[index].flag, advices[index].name);
	}
	victim_ready();
	victim_wait();
	for (int index = 0; index < COUNT; index++) {
		flags_of(areas[index], after, sizeof after);
		expect_text(advices[index].name, before[index], after);
		check_pattern(advices[index].name, areas[index], LENGTH, (uint64_t)index);
	}
	pid_t child = must(fork());
	if (child == 0) {
		check_zeros("WIPEONFORK memory in a child", areas[1], LENGTH);
		check_pattern("DONTDUMP memory in a child", areas[2], LENGTH, 2);
		unsigned char residency;
		expect_equal("DONTFORK memory in a child", -1, mincore(areas[0], 4096, &residency));
		_exit(0);
	}
	join_child(child);
	victim_ok();
}
