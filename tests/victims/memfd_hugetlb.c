/* Huge pages: a memory file of them with a mapping, one without, and shared memory of them. */
#include "victim.h"

#define HUGE (2UL << 20)

int main(void)
{
	int file = memfd_create("huge", MFD_HUGETLB | (21 << 26));
	if (file < 0)
		skip("no huge pages of 2 MiB: %s", strerror(errno));
	must(ftruncate(file, 4 * HUGE));
	char *view = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
	char *shared = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | (21 << 26), -1, 0);
	if (view == MAP_FAILED || shared == MAP_FAILED)
		skip("too few huge pages: %s", strerror(errno));
	fill_pattern(view + HUGE, 4096, 1);
	fill_pattern(shared, 3 * 4096, 2);
	int alone = must(memfd_create("alone", MFD_HUGETLB | (21 << 26)));
	must(ftruncate(alone, HUGE));
	pid_t child = must(fork());
	if (child == 0) {
		victim_wait();
		check_pattern("huge memory in the child", shared, 3 * 4096, 2);
		memcpy(shared + HUGE, "child", 5);
		_exit(0);
	}
	victim_ready();
	victim_wait();
	join_child(child);
	struct stat status;
	check_pattern("huge file", view + HUGE, 4096, 1);
	check_zeros("hole of it", view + HUGE + 4096, HUGE - 4096);
	expect_equal("written by the child", 0, memcmp(shared + HUGE, "child", 5));
	check_pattern("shared huge memory", shared, 3 * 4096, 2);
	expect_equal("page size of the mapping", 2048, smaps_kilobytes(view, "KernelPageSize"));
	expect_equal("page size of shared memory", 2048, smaps_kilobytes(shared, "KernelPageSize"));
	expect_success(fstat(file, &status));
	expect_equal("size", 4 * (long long)HUGE, status.st_size);
	expect_equal("block size", HUGE, status.st_blksize);
	expect_success(fstat(alone, &status));
	expect_equal("size of the other", HUGE, status.st_size);
	expect_equal("its block size", HUGE, status.st_blksize);
	victim_ok();
}
