/* The main stack keeps its frames and grows on; a MAP_GROWSDOWN mapping does too. */
#include "victim.h"

/* Fills a frame of 4 KiB per level, lets the innermost one wait, and checks each frame on the way back. */
__attribute__((noinline)) static uint64_t descend(int levels, int wait_at)
{
	volatile uint64_t frame[512];
	for (uint64_t place = 0; place < 512; place++)
		frame[place] = pattern_word((uint64_t)levels, place);
	if (levels == wait_at) {
		victim_ready();
		victim_wait();
	}
	uint64_t below = levels > 0 ? descend(levels - 1, wait_at) : 0;
	for (uint64_t place = 0; place < 512; place++)
		if (frame[place] != pattern_word((uint64_t)levels, place))
			wrong("stack frame of level %d changed", levels);
	return below + 1;
}

int main(void)
{
	char *area = map_anonymous(64 * 4096, PROT_NONE, MAP_PRIVATE);
	must(munmap(area, 64 * 4096));
	char *top = mmap(area + 60 * 4096, 4 * 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	if (top == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	fill_pattern(top, 4 * 4096, 1);

	expect_equal("levels of the stack", 1001, descend(1000, 700));

	check_pattern("mapping that grows down", top, 4 * 4096, 1);
	char flags[256] = " ";
	expect_true(smaps_field(top, "VmFlags", flags + 1, sizeof flags - 2));
	expect_true(strstr(flags, " gd") != NULL);
	top[-8] = 1;
	expect_equal("byte below the mapping's old start", 1, top[-8]);
	victim_ok();
}
