/*
 * Mount namespaces that a job has made itself, different ones in two processes, while their parent stays outside: with a file system
 * in memory and all sorts of files in it, a directory of the machine mounted to be read only, and attributes that were changed.
 */
#include "victim.h"
#include <limits.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define LARGE (3 << 20)

static char place[PATH_MAX], before[65536], after[65536];

static void write_file(const char *path, const char *text)
{
	int file = must(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
	if (write(file, text, strlen(text)) != (ssize_t)strlen(text))
		broken("%s: %s", path, strerror(errno));
	close(file);
}

/* A mount namespace: root's in the same user namespace, where others have to make one for it. */
static void leave(void)
{
	char line[64];
	unsigned user = geteuid(), group = getegid();
	if (unshare(user == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) != 0)
		skip("this user may not make mount namespaces: %s", strerror(errno));
	if (user != 0) {
		write_file("/proc/self/setgroups", "deny");
		snprintf(line, sizeof line, "0 %u 1\n", user);
		write_file("/proc/self/uid_map", line);
		snprintf(line, sizeof line, "0 %u 1\n", group);
		write_file("/proc/self/gid_map", line);
	}
	must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

/* What is mounted in this directory: attributes, place, type, size; no numbers. */
static void list_mounts(char *text, size_t size)
{
	static char all[262144];
	size_t length = 0;
	char *next = all;
	read_text("/proc/self/mountinfo", all, sizeof all);
	text[0] = 0;
	for (char *line; (line = strsep(&next, "\n")) != NULL;) {
		char point[PATH_MAX], options[256], rest[1024];
		if (sscanf(line, "%*d %*d %*s %*s %4095s %255s %1023[^\n]", point, options, rest) != 3)
			continue;
		/* Numbers of groups of mounts are not kept. */
		char *group = strstr(rest, "shared:");
		if (group != NULL)
			memmove(group + 6, strchr(group, ' '), strlen(strchr(group, ' ')) + 1);
		if (strncmp(point, place, strlen(place)) == 0 || strcmp(point, "/") == 0)
			length += (size_t)snprintf(text + length, size - length, "%s %s %s\n", point, options, rest);
	}
}

static void make_memory(const char *text)
{
	struct timespec times[2] = { { 100000, 5 }, { 200000, 7 } };
	static char content[LARGE];
	must(mkdir("memory/deep", 0700));
	must(mkdir("memory/deep/er", 0755));
	write_file("memory/deep/text", text);
	must(chmod("memory/deep/text", 0640));
	must(link("memory/deep/text", "memory/other-name"));
	must(symlink("/nowhere/at all", "memory/link"));
	must(mkfifo("memory/fifo", 0622));
	fill_pattern(content, LARGE, 11);
	int file = must(open("memory/large", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	if (pwrite(file, content, LARGE, 1 << 24) != LARGE)
		broken("large: %s", strerror(errno));
	close(file);
	write_file("memory/empty", "");
	must(mount("covering", "memory/deep/er", "tmpfs", MS_NOEXEC | MS_NODEV, "size=1m"));
	must(mkdir("memory/deep/er/above", 0711));
	must(mkdir("memory/timed", 0700));
	must(chmod("memory/timed", 01777));
	must(utimensat(AT_FDCWD, "memory/timed", times, 0));
}

static void check_memory(const char *text)
{
	struct stat found, other;
	char bytes[256];
	static char content[LARGE];
	expect_success(stat("memory/deep/er/above", &found));
	expect_equal("mode above", S_IFDIR | 0711, found.st_mode);
	expect_success(umount2("memory/deep/er", 0));
	read_text("memory/deep/text", bytes, sizeof bytes);
	expect_text("text", text, bytes);
	expect_success(stat("memory/deep/text", &found));
	expect_success(stat("memory/other-name", &other));
	expect_equal("mode", S_IFREG | 0640, found.st_mode);
	expect_equal("one file of two names", found.st_ino, other.st_ino);
	expect_equal("owner", geteuid(), found.st_uid);
	ssize_t length = expect_success(readlink("memory/link", bytes, sizeof bytes - 1));
	bytes[length] = 0;
	expect_text("link", "/nowhere/at all", bytes);
	expect_success(stat("memory/fifo", &found));
	expect_equal("mode of the FIFO", S_IFIFO, found.st_mode & S_IFMT);
	int file = expect_success(open("memory/large", O_RDONLY | O_CLOEXEC));
	expect_equal("bytes", LARGE, pread(file, content, LARGE, 1 << 24));
	check_pattern("large file", content, LARGE, 11);
	expect_success(fstat(file, &found));
	expect_equal("length", LARGE + (1 << 24), found.st_size);
	if (found.st_blocks > 3 * LARGE / 512)
		wrong("the hole of a file in memory is filled");
	close(file);
	expect_success(stat("memory/empty", &found));
	expect_equal("length of an empty file", 0, found.st_size);
	expect_success(stat("memory/timed", &found));
	expect_equal("mode", S_IFDIR | 01777, found.st_mode);
	expect_equal("time", 200000, found.st_mtim.tv_sec);
	expect_equal("its nanoseconds", 7, found.st_mtim.tv_nsec);
	write_file("memory/later", text);
}

static void live(struct arrivals *arrivals, const char *text)
{
	struct statvfs shown;
	leave();
	must(mount("some name", "memory", "tmpfs", MS_NOSUID | MS_NOATIME, "size=64m,nr_inodes=500,mode=0750"));
	make_memory(text);
	must(mount("source", "bound", NULL, MS_BIND | MS_REC, NULL));
	must(statvfs("bound", &shown));
	unsigned long kept = shown.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME | ST_NODIRATIME);
	must(mount("none", "bound", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, NULL));
	must(mount("none", "memory", NULL, MS_SHARED, NULL));
	must(chdir("memory/deep"));
	list_mounts(before, sizeof before);
	arrive(arrivals);
	victim_wait();
	list_mounts(after, sizeof after);
	expect_text("mounts", before, after);
	expect_success(access("er/above", F_OK));
	expect_success(chdir("../.."));
	read_text("bound/mark", after, sizeof after);
	expect_text("what is bound", "found outside", after);
	expect_equal("writing there", -1, open("bound/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	expect_equal("its error", EROFS, errno);
	check_memory(text);
	expect_success(umount2("bound", 0));
	expect_success(umount2("memory", MNT_DETACH));
	expect_equal("below it", -1, access("memory/empty", F_OK));
	_exit(0);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	pid_t children[2];
	if (getcwd(place, sizeof place) == NULL)
		broken("getcwd: %s", strerror(errno));
	must(mkdir("memory", 0755));
	must(mkdir("bound", 0755));
	must(mkdir("source", 0755));
	write_file("source/mark", "found outside");
	/* Says whether this user may at all. */
	children[0] = must(fork());
	if (children[0] == 0) {
		leave();
		_exit(0);
	}
	join_child(children[0]);
	for (int child = 0; child < 2; child++) {
		children[child] = must(fork());
		if (children[child] == 0)
			live(&arrivals, child == 0 ? "first" : "of the second");
	}
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	expect_equal("mounted outside", -1, access("memory/empty", F_OK));
	join_child(children[0]);
	join_child(children[1]);
	victim_ok();
}
