/* Regular files: offsets, access modes and flags, duplicates that share, second openings that do not, close-on-exec. */
#include "victim.h"

int main(void)
{
	char content[3 * 4096], byte;
	fill_pattern(content, sizeof content, 1);
	int file = must(open("offsets.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
	must(write(file, content, sizeof content));
	must(lseek(file, 1000, SEEK_SET));
	int twin = must(dup(file));
	int placed = must(dup3(file, 200, O_CLOEXEC));
	int second = must(open("offsets.data", O_RDONLY | O_NONBLOCK));
	must(lseek(second, 5, SEEK_SET));
	int append = must(open("offsets.data", O_WRONLY | O_APPEND | O_SYNC));
	int path = must(open("offsets.data", O_PATH));
	int beyond = must(open("offsets.data", O_RDWR | O_NOATIME));
	must(lseek(beyond, 1 << 30, SEEK_SET));

	victim_ready();
	victim_wait();

	expect_equal("offset", 1000, lseek(file, 0, SEEK_CUR));
	expect_equal("byte at the offset", 1, read(file, &byte, 1));
	expect_equal("its value", content[1000], byte);
	expect_equal("offset of the twin", 1001, lseek(twin, 0, SEEK_CUR));
	expect_success(lseek(placed, 2000, SEEK_SET));
	expect_equal("offset set through descriptor 200", 2000, lseek(file, 0, SEEK_CUR));
	expect_equal("offset of the second opening", 5, lseek(second, 0, SEEK_CUR));
	expect_equal("offset beyond the end", 1 << 30, lseek(beyond, 0, SEEK_CUR));
	expect_equal("flags", O_RDWR, fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	expect_equal("flags of the second", O_RDONLY | O_NONBLOCK, fcntl(second, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_equal("flags of the appending one", O_WRONLY | O_APPEND | O_SYNC,
		     fcntl(append, F_GETFL) & (O_ACCMODE | O_APPEND | O_SYNC));
	expect_equal("O_PATH", O_PATH, fcntl(path, F_GETFL) & O_PATH);
	expect_equal("O_NOATIME", O_NOATIME, fcntl(beyond, F_GETFL) & O_NOATIME);
	expect_equal("reading through O_PATH", -1, read(path, &byte, 1));
	expect_equal("close-on-exec of the first", FD_CLOEXEC, fcntl(file, F_GETFD));
	expect_equal("close-on-exec of the twin", 0, fcntl(twin, F_GETFD));
	expect_equal("close-on-exec of 200", FD_CLOEXEC, fcntl(placed, F_GETFD));
	expect_equal("written at the end", 4, write(append, "tail", 4));
	expect_equal("size", (long)sizeof content + 4, lseek(second, 0, SEEK_END));
	struct stat status;
	expect_success(fstat(path, &status));
	expect_equal("mode", 0640, status.st_mode & 0777);
	expect_equal("lowest free descriptor", path + 2, must(dup(0)));
	victim_ok();
}
