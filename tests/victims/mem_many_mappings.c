/* Ten thousand small mappings with inaccessible pages between them: twenty thousand areas. */
#include "victim.h"

enum { COUNT = 10000 };

int main(void)
{
	char *start = map_anonymous((size_t)COUNT * 8192, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
	for (size_t index = 0; index < COUNT; index++) {
		char *page = start + index * 8192;
		must(mprotect(page, 4096, PROT_READ | PROT_WRITE));
		((uint64_t *)page)[index % 512] = pattern_word(1, index);
	}
	victim_ready();
	victim_wait();
	for (size_t index = 0; index < COUNT; index++) {
		uint64_t *page = (uint64_t *)(start + index * 8192);
		expect_equal("word of a small mapping", pattern_word(1, index), page[index % 512]);
		page[(index + 1) % 512] = 1;
	}
	char protection[8];
	expect_true(smaps_field(start + 8192 * 5000 + 4096, "protection", protection, sizeof protection));
	expect_text("page between", "---p", protection);
	victim_ok();
}
