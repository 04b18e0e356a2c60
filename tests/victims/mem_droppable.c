/* Droppable memory stays droppable; each of its pages is as it was, or zero. */
#include "victim.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif

enum { PAGES = 4 };

static void expect_old_or_zero(const char *what, const char *start)
{
	for (int page = 0; page < PAGES; page++) {
		const uint64_t *words = (const uint64_t *)(start + page * 4096);
		bool old = words[0] == pattern_word(1, (uint64_t)page * 512);
		for (int place = 0; place < 512; place++)
			expect_equal(what, old ? pattern_word(1, (uint64_t)page * 512 + place) : 0, words[place]);
	}
}

int main(void)
{
	char before[256] = "", after[256] = "";
	struct arrivals arrivals = arrivals_open();
	char *start = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED)
		skip("MAP_DROPPABLE: %s", strerror(errno));
	fill_pattern(start, PAGES * 4096, 1);
	expect_true(smaps_field(start, "VmFlags", before, sizeof before));
	if (strstr(before, "dp") == NULL)
		broken("no flag dp among %s", before);
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		check_zeros("droppable memory in a child", start, PAGES * 4096);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	join_child(child);
	expect_true(smaps_field(start, "VmFlags", after, sizeof after));
	expect_text("flags", before, after);
	expect_old_or_zero("droppable memory", start);
	fill_pattern(start, PAGES * 4096, 1);
	expect_old_or_zero("droppable memory written afterwards", start);
	victim_ok();
}
