/* Deleted files that stay open: content, offsets, modes and sharing; replaced ones; ones with hundreds of holes; nothing left behind. */
#include "victim.h"
#include <dirent.h>
#include <sys/xattr.h>

enum { LENGTH = 5 * 4096 + 123 };

static int entries(const char *path)
{
	int count = 0;
	DIR *directory = opendir(path);
	if (directory == NULL)
		wrong("%s: %s", path, strerror(errno));
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

static void check_link(int file, const char *name)
{
	char path[64], link[4096], here[2048], expected[4096];
	snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	ssize_t length = expect_success(readlink(path, link, sizeof link - 1));
	link[length] = '\0';
	if (getcwd(here, sizeof here) == NULL)
		wrong("getcwd: %s", strerror(errno));
	snprintf(expected, sizeof expected, "%s/%s (deleted)", here, name);
	expect_text("link of the deleted file", expected, link);
}

int main(void)
{
	char content[LENGTH], found[LENGTH], byte;
	struct arrivals arrivals = arrivals_open();
	must(mkdir("kept", 0700));
	fill_pattern(content, sizeof content, 1);
	memcpy(content + sizeof content / 8 * 8, "end", 3);
	int file = must(open("kept/file", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
	must(write(file, content, sizeof content));
	must(lseek(file, 1000, SEEK_SET));
	int twin = must(dup(file));
	int second = must(open("kept/file", O_RDONLY | O_NONBLOCK));
	must(lseek(second, 5, SEEK_SET));
	int append = must(open("kept/file", O_WRONLY | O_APPEND));
	int named = must(open("kept/file", O_PATH));
	bool attributes = fsetxattr(file, "user.comment", "kept", 4, 0) == 0;
	must(unlink("kept/file"));

	/* Its place is taken by another file. */
	int replaced = must(open("kept/replaced", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(replaced, "old", 3));
	int fresh = must(open("kept/fresh", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(fresh, "new one", 7));
	must(rename("kept/fresh", "kept/replaced"));

	/* Not readable for its owner, and empty, and only written. */
	int secret = must(open("kept/secret", O_RDWR | O_CREAT | O_EXCL, 0));
	must(write(secret, "secret", 6));
	struct timespec times[2] = {{1000000000, 0}, {1234567890, 987654321}};
	must(futimens(secret, times));
	must(unlink("kept/secret"));
	int empty = must(open("kept/empty", O_WRONLY | O_CREAT | O_EXCL, 0400));
	must(unlink("kept/empty"));

	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		expect_equal("read by the child", 4, pread(file, found, 4, 4096));
		expect_equal("seen by the child", 0, memcmp(found, content + 4096, 4));
		expect_equal("written by the child", 5, pwrite(twin, "child", 5, 2000));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	int lowest = must(dup(0));
	must(close(lowest));
	victim_ready();
	victim_wait();

	struct stat status, other;
	expect_success(fstat(file, &status));
	expect_equal("size", (long)sizeof content, status.st_size);
	expect_equal("mode", S_IFREG | 0640, status.st_mode);
	expect_equal("names", 0, status.st_nlink);
	expect_equal("owner", geteuid(), status.st_uid);
	check_link(file, "kept/file");
	if (attributes) {
		expect_equal("attribute", 4, fgetxattr(file, "user.comment", found, 4));
		expect_equal("its value", 0, memcmp(found, "kept", 4));
	}
	join_child(child);
	expect_equal("written by the child", 5, pread(file, found, 5, 2000));
	expect_equal("its bytes", 0, memcmp(found, "child", 5));
	memcpy(content + 2000, "child", 5);
	expect_equal("offset", 1000, lseek(file, 0, SEEK_CUR));
	expect_equal("byte at the offset", 1, read(file, &byte, 1));
	expect_equal("its value", content[1000], byte);
	expect_equal("offset of the twin", 1001, lseek(twin, 0, SEEK_CUR));
	expect_equal("offset of the second opening", 5, lseek(second, 0, SEEK_CUR));
	expect_equal("flags of the second", O_RDONLY | O_NONBLOCK, fcntl(second, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_equal("flags of the appending one", O_WRONLY | O_APPEND, fcntl(append, F_GETFL) & (O_ACCMODE | O_APPEND));
	expect_equal("bytes read", (long)sizeof content, pread(second, found, sizeof found, 0));
	expect_equal("content", 0, memcmp(found, content, sizeof content));
	expect_equal("written at the end", 4, write(append, "tail", 4));
	expect_equal("size seen through the other opening", (long)sizeof content + 4, lseek(second, 0, SEEK_END));
	expect_success(fstat(second, &other));
	expect_equal("one file", status.st_ino, other.st_ino);
	expect_success(fstat(named, &other));
	expect_equal("one file that is named only", status.st_ino, other.st_ino);
	expect_equal("O_PATH", O_PATH, fcntl(named, F_GETFL) & O_PATH);
	expect_equal("reading through O_PATH", -1, read(named, &byte, 1));

	expect_equal("replaced file", 3, pread(replaced, found, 8, 0));
	expect_equal("its content", 0, memcmp(found, "old", 3));
	expect_equal("the one in its place", 7, pread(fresh, found, 8, 0));
	expect_equal("its content", 0, memcmp(found, "new one", 7));
	expect_success(fstat(fresh, &status));
	expect_success(stat("kept/replaced", &other));
	expect_equal("the one in its place is that of the name", status.st_ino, other.st_ino);

	expect_equal("unreadable file", 6, pread(secret, found, 8, 0));
	expect_equal("its content", 0, memcmp(found, "secret", 6));
	expect_success(fstat(secret, &status));
	expect_equal("mode of the unreadable file", S_IFREG, status.st_mode);
	expect_equal("seconds of last change", 1234567890, status.st_mtim.tv_sec);
	expect_equal("nanoseconds of last change", 987654321, status.st_mtim.tv_nsec);
	expect_success(fstat(empty, &status));
	expect_equal("size of the empty file", 0, status.st_size);
	expect_equal("written to the empty file", 1, write(empty, "x", 1));
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(file, F_GETFD));
	expect_equal("lowest free descriptor", lowest, must(dup(0)));
	expect_equal("files in the directory", 1, entries("kept"));
	victim_ok();
}
