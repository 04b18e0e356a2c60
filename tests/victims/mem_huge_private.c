/* Private mappings of huge pages, anonymous and of a file: their bytes, which pages there are, and what a fork shares. */
#include "victim.h"

enum { SIZE_BITS = 21 };

static size_t huge(size_t pages)
{
	return pages << SIZE_BITS;
}

static char *map_huge(size_t pages, int more_flags, int file)
{
	int flags = MAP_PRIVATE | more_flags;
	if (file < 0)
		flags |= MAP_ANONYMOUS | MAP_HUGETLB | SIZE_BITS << MAP_HUGE_SHIFT;
	char *start = mmap(NULL, huge(pages), PROT_READ | PROT_WRITE, flags, file, 0);
	if (start == MAP_FAILED)
		skip("too few huge pages: %s", strerror(errno));
	return start;
}

static void expect_pages(const char *what, const char *area, long own, long shared)
{
	long page = (long)(huge(1) >> 10);
	expect_equal(what, page, smaps_kilobytes(area, "KernelPageSize"));
	expect_equal(what, own, smaps_kilobytes(area, "Private_Hugetlb") / page);
	expect_equal(what, shared, smaps_kilobytes(area, "Shared_Hugetlb") / page);
}

/* One huge page in the middle of many that are not there; one of zeros; and nothing where nothing was. */
static char *area, *sparse, *view, *closed;

static void check_common(void)
{
	expect_equal("byte of a huge page", 7, area[huge(2) + 5]);
	check_zeros("after it", area + huge(2) + 6, 8192);
	expect_equal("byte of a sparse area", 3, sparse[huge(50) + 1]);
	check_pattern("page of the file", view, 4096, 3);
	check_pattern("page changed privately", view + huge(1), 4096, 4);
	check_pattern("page of the closed file", closed, 4096, 5);
}

int main(void)
{
	int file = memfd_create("huge", MFD_HUGETLB | SIZE_BITS << MAP_HUGE_SHIFT);
	if (file < 0)
		skip("no huge pages of this size: %s", strerror(errno));
	area = map_huge(4, 0, -1);
	sparse = map_huge(100, MAP_NORESERVE, -1);
	fill_pattern(area, 3 * 4096, 1);
	area[huge(2) + 5] = 7;
	sparse[huge(50) + 1] = 3;
	must(ftruncate(file, (off_t)huge(2)));
	char *shared = must(mmap(NULL, huge(2), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0));
	fill_pattern(shared, 4096, 3);
	view = map_huge(3, MAP_NORESERVE, file);
	check_pattern("page of the file", view, 4096, 3);
	fill_pattern(view + huge(1), 4096, 4);
	/* Of this one nothing but the mapping is left, and all of it is looked at. */
	int other = must(memfd_create("closed", MFD_HUGETLB | SIZE_BITS << MAP_HUGE_SHIFT));
	must(ftruncate(other, (off_t)huge(1)));
	closed = map_huge(1, MAP_NORESERVE, other);
	fill_pattern(closed, 4096, 5);
	must(close(other));

	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		fill_pattern(area, 3 * 4096, 2);
		arrive(&arrivals);
		victim_wait();
		expect_pages("pages of the child", area, 1, 1);
		check_pattern("page that the child changed", area, 3 * 4096, 2);
		check_common();
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	/* There now, but not in the child; and one of zeros. */
	fill_pattern(area + huge(1), 4096, 6);
	memset(sparse + huge(51), 0, 1);
	must(mprotect(sparse, huge(100), PROT_READ));

	victim_ready();
	victim_wait();

	join_child(child);
	expect_pages("pages of the area", area, 3, 0);
	expect_pages("pages of the sparse area", sparse, 2, 0);
	check_pattern("page of the parent", area, 3 * 4096, 1);
	check_pattern("page that the parent alone has", area + huge(1), 4096, 6);
	check_common();
	check_zeros("page of zeros", sparse + huge(51), 4096);
	view[0] = 1;
	check_pattern("page of the file itself", shared, 4096, 3);
	must(mprotect(sparse, huge(100), PROT_READ | PROT_WRITE));
	fill_pattern(area + huge(3), 4096, 8);
	check_pattern("page written for the first time", area + huge(3), 4096, 8);
	victim_ok();
}
