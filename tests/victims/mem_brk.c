/* The heap: its bytes, its end, and that it still grows and shrinks where it ended. */
#include "victim.h"

int main(void)
{
	char *start = sbrk(0);
	must((long)sbrk(100 * 4096 + 123));
	fill_pattern(start, 100 * 4096, 1);
	char *end = sbrk(0);

	victim_ready();
	victim_wait();

	expect_equal("end of the heap", (long)end, (long)sbrk(0));
	check_pattern("heap", start, 100 * 4096, 1);
	expect_equal("old end while growing", (long)end, (long)sbrk(50 * 4096));
	check_zeros("new heap", end, 50 * 4096);
	fill_pattern(end + 8 - (uintptr_t)end % 8, 40 * 4096, 2);
	check_pattern("heap below the growth", start, 100 * 4096, 1);
	expect_success((long)sbrk(-50 * 4096));
	expect_equal("end after shrinking", (long)end, (long)sbrk(0));
	char *block = malloc(1000);
	expect_true(block != NULL);
	free(block);
	char text[4096];
	read_text("/proc/self/maps", text, sizeof text);
	expect_true(strstr(text, "[heap]") != NULL);
	victim_ok();
}
