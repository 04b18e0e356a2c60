/*
 * Memory that is in use and memory that is not.
 *
 *     warm MEBIBYTES COLD
 *
 * So much is touched again and again, page by page, until a file "cool" appears; COLD MiB never. What they hold is looked at when
 * VICTIM_GO lets it go.
 */
#include "victim.h"
#include <sys/mman.h>

static volatile uint64_t sum;

int main(int count, char **arguments)
{
	if (count < 3)
		broken("usage: warm MEBIBYTES COLD");
	size_t size = strtoul(arguments[1], NULL, 10) << 20, more = strtoul(arguments[2], NULL, 10) << 20;
	/* Apart from each other, so that they are two mappings. */
	char *all = map_anonymous(size + more + 4096, PROT_NONE, MAP_PRIVATE);
	char *warm = all, *cold = all + size + 4096;
	must(mprotect(warm, size, PROT_READ | PROT_WRITE));
	must(mprotect(cold, more, PROT_READ | PROT_WRITE));
	must(madvise(all, size + more + 4096, MADV_NOHUGEPAGE));
	fill_pattern(warm, size, 1);
	fill_pattern(cold, more, 2);
	victim_ready();
	for (size_t place = 0; access("cool", F_OK) != 0; place = (place + 4096) % size)
		sum += *(volatile uint64_t *)(warm + place);
	victim_wait();
	check_pattern("warm memory", warm, size, 1);
	check_pattern("cold memory", cold, more, 2);
	victim_ok();
}
