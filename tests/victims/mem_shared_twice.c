/* One shared anonymous object mapped twice in one process (mremap with old size 0), and /dev/zero mapped shared. */
#include "victim.h"

int main(void)
{
	const size_t length = 4 * 4096;
	char *first = map_anonymous(length, PROT_READ | PROT_WRITE, MAP_SHARED);
	fill_pattern(first, length, 1);
	char *second = mremap(first + 4096, 0, length - 4096, MREMAP_MAYMOVE);
	if (second == MAP_FAILED)
		broken("mremap: %s", strerror(errno));
	int zero = must(open("/dev/zero", O_RDWR | O_CLOEXEC));
	char *device = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0);
	if (device == MAP_FAILED)
		broken("mmap of /dev/zero: %s", strerror(errno));
	close(zero);
	fill_pattern(device, length, 2);

	victim_ready();
	victim_wait();

	check_pattern("first mapping", first, length, 1);
	expect_equal("second mapping", 0, memcmp(second, first + 4096, length - 4096));
	memset(second, 0x5a, 4096);
	expect_equal("write seen through the other mapping", 0x5a, first[4096 + 17]);
	first[2 * 4096] = 0x33;
	expect_equal("write seen through the second mapping", 0x33, second[4096]);
	check_pattern("shared /dev/zero", device, length, 2);
	victim_ok();
}
