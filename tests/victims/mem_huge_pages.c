/* Transparent huge pages: the bytes of fully and partly filled ones, and of one that was split. */
#include "victim.h"

enum { HUGE = 2 * 1024 * 1024 };

int main(void)
{
	char *area = map_anonymous(6 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *start = (char *)(((uintptr_t)area + HUGE - 1) / HUGE * HUGE);
	if (madvise(start, 4 * HUGE, MADV_HUGEPAGE) != 0)
		skip("this kernel has no transparent huge pages");
	fill_pattern(start, HUGE, 1);
	start[HUGE + 12345] = 42;
	fill_pattern(start + 2 * HUGE, HUGE, 2);
	must(mprotect(start + 2 * HUGE + 4096, 4096, PROT_READ));
	fill_pattern(start + 3 * HUGE, HUGE / 2, 3);

	victim_ready();
	victim_wait();

	check_pattern("full huge page", start, HUGE, 1);
	expect_equal("byte of a huge page", 42, start[HUGE + 12345]);
	check_zeros("huge page before its byte", start + HUGE, 12345);
	check_zeros("huge page after its byte", start + HUGE + 12346, HUGE - 12346);
	check_pattern("split huge page", start + 2 * HUGE, HUGE, 2);
	check_pattern("half of a huge page", start + 3 * HUGE, HUGE / 2, 3);
	fill_pattern(start, HUGE, 4);
	check_pattern("huge page written again", start, HUGE, 4);
	victim_ok();
}
