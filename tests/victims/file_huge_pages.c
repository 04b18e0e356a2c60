/* A file on hugetlbfs, by its name in the directory "huge": mapped, by two processes, and another one that was deleted. */
#include "victim.h"
#include <sys/vfs.h>

#define HUGE (2UL << 20)
#define MAGIC_HUGETLBFS 0x958458f6

static int make(const char *path, size_t pages)
{
	int file = must(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
	must(ftruncate(file, (off_t)(pages * HUGE)));
	return file;
}

static char *map(int file, size_t pages)
{
	char *start = mmap(NULL, pages * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (start == MAP_FAILED)
		skip("too few huge pages: %s", strerror(errno));
	return start;
}

int main(void)
{
	struct statfs about;
	struct stat status;
	if (statfs("huge", &about) != 0 || about.f_type != MAGIC_HUGETLBFS)
		skip("no file system of huge pages");
	int named = make("huge/named", 3), deleted = make("huge/deleted", 1);
	char *view = map(named, 3), *rest = map(deleted, 1);
	fill_pattern(view + HUGE, 8192, 1);
	fill_pattern(rest, 8192, 2);
	must(unlink("huge/deleted"));
	pid_t child = must(fork());
	if (child == 0) {
		victim_wait();
		check_pattern("seen by the child", view + HUGE, 8192, 1);
		memcpy(view, "child", 5);
		_exit(0);
	}

	victim_ready();
	victim_wait();

	join_child(child);
	expect_equal("written by the child", 0, memcmp(view, "child", 5));
	check_pattern("file with a name", view + HUGE, 8192, 1);
	check_pattern("file without one", rest, 8192, 2);
	check_zeros("hole", view + HUGE + 8192, HUGE - 8192);
	expect_equal("page size", 2048, smaps_kilobytes(view, "KernelPageSize"));
	expect_success(fstat(named, &status));
	expect_equal("names", 1, status.st_nlink);
	int again = expect_success(open("huge/named", O_RDWR | O_CLOEXEC));
	char *other = mmap(NULL, 3 * HUGE, PROT_READ, MAP_SHARED, again, 0);
	expect_true(other != MAP_FAILED);
	check_pattern("opened anew", other + HUGE, 8192, 1);
	expect_success(fstat(deleted, &status));
	expect_equal("names of the other", 0, status.st_nlink);
	expect_success(unlink("huge/named"));
	victim_ok();
}
