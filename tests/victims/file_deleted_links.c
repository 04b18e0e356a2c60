/* Files with several names: one of two deleted, all of them deleted, and files that never had one (O_TMPFILE), which may get one. */
#include "victim.h"

int main(void)
{
	char text[16], path[64];
	/* Another name is left, in the same directory. */
	int first = must(open("first", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(first, "content", 7));
	must(link("first", "second"));
	char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, first, 0);
	char *private = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, first, 0);
	must(unlink("first"));
	/* Another name is left in another directory, and open. */
	int third = must(open("third", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(third, "elsewhere", 9));
	must(mkdir("aside", 0700));
	must(link("third", "aside/fourth"));
	char *third_mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, third, 0);
	must(unlink("third"));
	int fourth = must(open("aside/fourth", O_RDONLY));
	/* All names are gone; two descriptors came by different ones. */
	int one = must(open("one", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(one, "together", 8));
	must(link("one", "two"));
	int two = must(open("two", O_RDONLY));
	must(unlink("one"));
	must(unlink("two"));
	/* The directory above was renamed. */
	must(mkdir("before", 0700));
	int below = must(open("before/file", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(below, "below", 5));
	must(unlink("before/file"));
	must(rename("before", "after"));
	/* And one that was never named. */
	int unnamed = open(".", O_TMPFILE | O_RDWR, 0640);
	if (unnamed >= 0)
		must(write(unnamed, "unnamed", 7));
	if (mapped == MAP_FAILED || third_mapped == MAP_FAILED || private == MAP_FAILED)
		broken("mmap: %s", strerror(errno));

	victim_ready();
	victim_wait();

	struct stat found, other;
	expect_success(fstat(first, &found));
	expect_success(stat("second", &other));
	expect_equal("one file", found.st_ino, other.st_ino);
	expect_equal("names left", 1, found.st_nlink);
	expect_equal("written", 4, pwrite(first, "CONT", 4, 0));
	expect_equal("seen in the mapping", 0, memcmp(mapped, "CONTENT", 4));
	expect_equal("seen in the private mapping", 0, memcmp(private, "CONTENT", 4));
	expect_equal("the name that was deleted", -1, access("first", F_OK));

	expect_success(fstat(third, &found));
	expect_success(stat("aside/fourth", &other));
	expect_equal("one file in another directory", found.st_ino, other.st_ino);
	expect_equal("names left there", 1, found.st_nlink);
	expect_equal("written there", 4, pwrite(third, "ELSE", 4, 0));
	third_mapped[4] = 'W';
	expect_equal("read there", 9, pread(fourth, text, sizeof text, 0));
	expect_equal("content there", 0, memcmp(text, "ELSEWhere", 9));

	expect_success(fstat(one, &found));
	expect_success(fstat(two, &other));
	expect_equal("one file without a name", found.st_ino, other.st_ino);
	expect_equal("no names", 0, found.st_nlink);
	expect_equal("written", 3, pwrite(one, "TOG", 3, 0));
	expect_equal("read", 8, pread(two, text, sizeof text, 0));
	expect_equal("content", 0, memcmp(text, "TOGether", 8));

	expect_equal("read from below", 5, pread(below, text, sizeof text, 0));
	expect_equal("content", 0, memcmp(text, "below", 5));
	expect_success(rmdir("after"));

	if (unnamed >= 0) {
		expect_equal("read from the one without a name", 7, pread(unnamed, text, sizeof text, 0));
		snprintf(path, sizeof path, "/proc/self/fd/%d", unnamed);
		expect_success(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
		expect_success(stat("named", &found));
		expect_equal("mode of what has a name now", S_IFREG | 0640, found.st_mode);
		expect_equal("its size", 7, found.st_size);
	}
	victim_ok();
}
