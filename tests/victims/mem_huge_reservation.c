/* A terabyte reserved and hardly touched: nothing but the touched pages is stored or allocated. */
#include "victim.h"

int main(void)
{
	const size_t length = (size_t)1 << 40, step = length / 64;
	char *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		skip("a reservation of 1 TiB is not granted here: %s", strerror(errno));
	char *unreadable = map_anonymous(length, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
	for (size_t place = 0; place < length; place += step)
		fill_pattern(start + place, 4096, place);
	long before = smaps_kilobytes(start, "Rss");

	victim_ready();
	victim_wait();

	expect_within("kB present of the reservation", 64 * 4, before + 1024, smaps_kilobytes(start, "Rss"));
	for (size_t place = 0; place < length; place += step)
		check_pattern("touched page", start + place, 4096, place);
	check_zeros("untouched page", start + step / 2, 4096);
	char protection[8];
	expect_true(smaps_field(unreadable + length / 2, "protection", protection, sizeof protection));
	expect_text("the inaccessible reservation", "---p", protection);
	victim_ok();
}
