/* Directories that were removed: open, one in the other, as working directory; one removed and made again; a deleted FIFO and symbolic link. */
#include "victim.h"
#include <dirent.h>

static void check_gone(const char *what, int directory)
{
	struct stat found;
	expect_success(fstat(directory, &found));
	expect_equal(what, 0, found.st_nlink);
	expect_equal("its type", S_IFDIR, found.st_mode & S_IFMT);
	expect_equal("making a file in it", -1, openat(directory, "file", O_WRONLY | O_CREAT, 0600));
	expect_equal("its error", ENOENT, errno);
}

int main(void)
{
	char go[4096], text[16];
	const char *path = getenv("VICTIM_GO");
	if (path != NULL && path[0] != '/') {
		if (realpath(".", go) == NULL)
			broken("realpath: %s", strerror(errno));
		strcat(go, "/");
		strcat(go, path);
		victim_go_path = go;
	}
	struct arrivals arrivals = arrivals_open();
	int home = must(open(".", O_RDONLY | O_DIRECTORY));
	must(mkdir("outer", 0711));
	must(mkdir("outer/inner", 0750));
	must(mkdir("outer/inner/deep", 0700));
	int outer = must(open("outer", O_RDONLY | O_DIRECTORY));
	int named = must(open("outer/inner", O_PATH | O_DIRECTORY));
	must(chdir("outer/inner/deep"));
	int deep = must(open(".", O_RDONLY | O_DIRECTORY));
	must(unlinkat(home, "outer/inner/deep", AT_REMOVEDIR));
	must(unlinkat(home, "outer/inner", AT_REMOVEDIR));
	must(unlinkat(home, "outer", AT_REMOVEDIR));
	must(mkdirat(home, "again", 0700));
	int again = must(openat(home, "again", O_RDONLY | O_DIRECTORY));
	must(unlinkat(home, "again", AT_REMOVEDIR));
	must(mkdirat(home, "again", 0700));

	must(mkfifoat(home, "fifo", 0620));
	int fifo = must(openat(home, "fifo", O_RDWR | O_NONBLOCK));
	int writer = must(openat(home, "fifo", O_WRONLY));
	must(write(writer, "in flight", 9));
	must(fchmod(fifo, 0620));
	must(unlinkat(home, "fifo", 0));
	must(mkfifoat(home, "fifo", 0600));
	int other = must(openat(home, "fifo", O_RDWR | O_NONBLOCK));
	must(write(other, "other", 5));
	must(unlinkat(home, "fifo", 0));
	must(symlinkat("where/it/leads", home, "link"));
	int link = must(openat(home, "link", O_PATH | O_NOFOLLOW));
	must(unlinkat(home, "link", 0));

	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		must(fchdir(again));
		victim_wait();
		int here = expect_success(open(".", O_RDONLY | O_DIRECTORY));
		check_gone("names of the child's working directory", here);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);

	struct stat found, here;
	check_gone("names of the outer one", outer);
	check_gone("names of the one that is named only", named);
	check_gone("names of the deepest", deep);
	check_gone("names of the one that was made again", again);
	expect_success(fstat(outer, &found));
	expect_equal("mode of the outer one", S_IFDIR | 0711, found.st_mode);
	expect_success(fstat(named, &found));
	expect_equal("mode of the inner one", S_IFDIR | 0750, found.st_mode);
	expect_success(stat(".", &here));
	expect_success(fstat(deep, &found));
	expect_equal("the working directory is the deepest", found.st_ino, here.st_ino);
	expect_success(stat("..", &here));
	expect_success(fstat(named, &found));
	expect_equal("above it is the inner one", found.st_ino, here.st_ino);
	expect_equal("path of the working directory", -1, syscall(SYS_getcwd, go, sizeof go));
	expect_equal("its error", ENOENT, errno);
	expect_success(fchdir(home));
	expect_equal("left of the outer one", -1, access("outer", F_OK));
	expect_success(rmdir("again"));
	DIR *list = opendir(".");
	for (struct dirent *entry; (entry = readdir(list)) != NULL;)
		if (strstr(entry->d_name, "cryo-") != NULL)
			wrong("left behind: %s", entry->d_name);

	expect_equal("bytes in the FIFO", 9, read(fifo, text, sizeof text));
	expect_equal("what they are", 0, memcmp(text, "in flight", 9));
	expect_equal("written to it", 2, write(writer, "on", 2));
	expect_equal("read from it", 2, read(fifo, text, sizeof text));
	expect_equal("bytes in the other FIFO", 5, read(other, text, sizeof text));
	expect_success(fstat(fifo, &found));
	expect_equal("mode of the FIFO", S_IFIFO | 0620, found.st_mode);
	expect_equal("names of the FIFO", 0, found.st_nlink);
	expect_equal("length of the link", 14, readlinkat(link, "", go, sizeof go));
	expect_equal("where it leads", 0, memcmp(go, "where/it/leads", 14));
	victim_ok();
}
