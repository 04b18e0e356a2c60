/* mlock and mlock2(MLOCK_ONFAULT) come back with their mappings. */
#include "victim.h"

static bool has_flag(const char *start, const char *flag)
{
	char flags[256] = " ";
	if (!smaps_field(start, "VmFlags", flags + 1, sizeof flags - 2))
		wrong("no VmFlags for %p", start);
	return strstr(flags, flag) != NULL;
}

int main(void)
{
	char *locked = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *on_fault = map_anonymous(1024 * 1024, PROT_READ | PROT_WRITE, MAP_SHARED);
	char *plain = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
	fill_pattern(locked, 4 * 4096, 1);
	fill_pattern(on_fault, 4 * 4096, 2);
	fill_pattern(plain, 4 * 4096, 3);
	if (mlock(locked, 16 * 4096) != 0)
		skip("mlock: %s", strerror(errno));
	must(mlock2(on_fault, 1024 * 1024, MLOCK_ONFAULT));

	victim_ready();
	victim_wait();

	expect_true(has_flag(locked, " lo"));
	expect_true(has_flag(on_fault, " lo"));
	expect_true(!has_flag(plain, " lo"));
	expect_equal("kB of the locked mapping", 64, smaps_kilobytes(locked, "Locked"));
	check_pattern("locked", locked, 4 * 4096, 1);
	check_pattern("locked on fault", on_fault, 4 * 4096, 2);
	/* Only what has been touched, now if not before. */
	expect_within("kB present of the mapping locked on fault", 16, 512, smaps_kilobytes(on_fault, "Rss"));
	check_pattern("not locked", plain, 4 * 4096, 3);
	expect_success(munlock(locked, 16 * 4096));
	victim_ok();
}
