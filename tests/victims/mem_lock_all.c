/* mlockall: what it says of mappings to come holds on: MCL_FUTURE, with MCL_ONFAULT, or taken back. */
#include "victim.h"

static bool has_flag(const char *start, const char *flag)
{
	char flags[256] = " ";
	if (!smaps_field(start, "VmFlags", flags + 1, sizeof flags - 2))
		wrong("no VmFlags for %p", start);
	return strstr(flags, flag) != NULL;
}

int main(int count, char **words)
{
	const char *which = count > 1 ? words[1] : "future";
	bool on_fault = strcmp(which, "on_fault") == 0, present = strcmp(which, "present") == 0;
	char *early = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(early, 4096, 1);
	int flags = present ? MCL_CURRENT : on_fault ? MCL_FUTURE | MCL_ONFAULT : MCL_FUTURE;
	if (mlockall(flags) != 0)
		skip("mlockall: %s", strerror(errno));
	char *between = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
	fill_pattern(between, 4096, 2);

	victim_ready();
	victim_wait();

	expect_equal("lock of the mapping before the call", present, has_flag(early, " lo"));
	expect_equal("lock of the mapping after it", !present, has_flag(between, " lo"));
	/* Shared, so that it is no continuation of another. */
	char *late = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	expect_equal("lock of a new mapping", !present, has_flag(late, " lo"));
	expect_equal("kB present of a new mapping", present || on_fault ? 0 : 64, smaps_kilobytes(late, "Rss"));
	check_pattern("mapping before the call", early, 4096, 1);
	check_pattern("mapping after it", between, 4096, 2);
	expect_success(munlockall());
	late = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	expect_true(!has_flag(late, " lo"));
	victim_ok();
}
