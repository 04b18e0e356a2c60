/* Moved mappings, fixed addresses high and low, memory without any neighbour, and a hole that must stay a hole. */
#include "victim.h"

int main(void)
{
	char *old = map_anonymous(8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(old, 8 * 4096, 1);
	char *moved = mremap(old, 8 * 4096, 32 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x200000000000);
	char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	char *high = mmap((void *)0x7f0000000000, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (moved == MAP_FAILED || low == MAP_FAILED || high == MAP_FAILED)
		broken("a fixed address is taken: %s", strerror(errno));
	fill_pattern(low, 4096, 2);
	fill_pattern(high, 4096, 3);
	must(munmap(moved + 4 * 4096, 4096));

	victim_ready();
	victim_wait();

	check_pattern("moved memory", moved, 4 * 4096, 1);
	for (size_t place = 5 * 4096; place < 8 * 4096; place += 8)
		expect_equal("moved memory after the hole", pattern_word(1, place / 8), *(uint64_t *)(moved + place));
	check_pattern("low memory", low, 4096, 2);
	check_pattern("high memory", high, 4096, 3);
	unsigned char residency;
	expect_equal("hole", -1, mincore(moved + 4 * 4096, 4096, &residency));
	expect_equal("old place of the moved memory", -1, mincore(old, 4096, &residency));
	victim_ok();
}
