/*
 * Pages of mapped files: one file that is changed, one that is only read, 8 MiB each.
 *
 *     file_pages
 */
#include "victim.h"
#include <sys/mman.h>

enum { SIZE = 8 << 20 };

static char *map_file(const char *name, int protection, int flags)
{
	int file = must(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(ftruncate(file, SIZE));
	char *start = must(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
	fill_pattern(start, SIZE, 1);
	must(fsync(file));
	must(munmap(start, SIZE));
	start = must(mmap(NULL, SIZE, protection, flags, file, 0));
	close(file);
	return start;
}

int main(void)
{
	char *changed = map_file("changed", PROT_READ | PROT_WRITE, MAP_SHARED);
	char *read_only = map_file("read", PROT_READ, MAP_PRIVATE);
	check_pattern("the file that is read", read_only, SIZE, 1);
	fill_pattern(changed, SIZE, 2);
	victim_ready();
	victim_wait();
	check_pattern("the file that is read", read_only, SIZE, 1);
	check_pattern("the file that is changed", changed, SIZE, 2);
	victim_ok();
}
