/* A large reservation of shared memory, of which hardly anything exists: what exists comes back, also what no living process has
 * in its page tables, and nothing else is stored or allocated. */
#include "victim.h"

int main(int count, char **arguments)
{
	const size_t length = (size_t)atoi(count > 1 ? arguments[1] : "4096") << 30;
	const size_t page = 4096, step = length / 8;
	char *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		skip("a reservation of shared memory is not granted here: %s", strerror(errno));
	for (size_t place = 0; place < length; place += step)
		fill_pattern(start + place, page, place);
	/* In the object, but in the page tables of nobody who lives. */
	pid_t child = must(fork());
	if (child == 0) {
		for (size_t place = step / 2; place < length; place += step)
			fill_pattern(start + place, page, place);
		_exit(0);
	}
	join_child(child);
	must(madvise(start, page, MADV_DONTNEED));
	fill_pattern(start + length - page, page, 1);

	victim_ready();
	victim_wait();

	for (size_t place = 0; place < length; place += step / 2)
		check_pattern("touched page", start + place, page, place);
	check_pattern("last page", start + length - page, page, 1);
	expect_within("kB present of the reservation", 17 * 4, 1024, smaps_kilobytes(start, "Rss"));
	check_zeros("untouched page", start + step / 4, page);
	victim_ok();
}
