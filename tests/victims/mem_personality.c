/* Under READ_IMPLIES_EXEC what is mapped readable is executable; what was mapped before is not, and both stay so. */
#include "victim.h"
#include <sys/personality.h>

static void expect_protection(const char *what, const char *expected, const char *start)
{
	char protection[16];
	expect_true(smaps_field(start, "protection", protection, sizeof protection));
	expect_text(what, expected, protection);
}

int main(void)
{
	char *before = map_anonymous(4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(before, 4096, 1);
	must(mprotect(before + 4096, 4096, PROT_READ));
	must(personality(READ_IMPLIES_EXEC));
	char *between = map_anonymous(4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(between, 4096, 2);
	expect_protection("memory mapped under it", "rwxp", between);

	victim_ready();
	victim_wait();

	expect_equal("personality", READ_IMPLIES_EXEC, personality(0xffffffff));
	expect_protection("memory mapped before", "rw-p", before);
	expect_protection("constant memory mapped before", "r--p", before + 4096);
	expect_protection("memory mapped under it", "rwxp", between);
	char *later = map_anonymous(4096, PROT_READ, MAP_PRIVATE | MAP_NORESERVE);
	expect_protection("memory mapped afterwards", "r-xp", later);
	check_pattern("first", before, 4096, 1);
	check_pattern("second", between, 4096, 2);
	victim_ok();
}
