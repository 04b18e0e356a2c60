/*
 * What lies so deep that no path leads to it: the kernel takes, and shows, paths of less than 4096 bytes. By the argument: a working
 * directory, an open file, an open directory, a mapped file.
 */
#include "victim.h"

enum { LEVELS = 25, LENGTH = 200 };

static void go_down(void)
{
	char name[LENGTH + 1];
	memset(name, 'd', LENGTH);
	name[LENGTH] = '\0';
	for (int level = 0; level < LEVELS; level++) {
		must(mkdir(name, 0700));
		must(chdir(name));
	}
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	int home = must(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	int file = -1;
	char text[16], *memory = NULL;
	go_down();
	if (strcmp(what, "directory") == 0)
		file = must(open(".", O_RDONLY | O_DIRECTORY));
	else if (strcmp(what, "working") != 0) {
		file = must(open("file", O_RDWR | O_CREAT | O_EXCL, 0600));
		must(write(file, "content", 7));
	}
	if (strcmp(what, "mapped") == 0) {
		memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (memory == MAP_FAILED)
			broken("mmap: %s", strerror(errno));
		close(file);
	}
	if (strcmp(what, "working") != 0)
		must(fchdir(home));
	close(home);

	victim_ready();
	victim_wait();

	if (strcmp(what, "working") == 0) {
		expect_success(chdir(".."));
		for (int level = 1; level < LEVELS; level++)
			expect_success(chdir(".."));
	} else if (strcmp(what, "directory") == 0) {
		struct stat found;
		expect_success(fstat(file, &found));
		expect_equal("type", S_IFDIR, found.st_mode & S_IFMT);
	} else if (memory != NULL)
		expect_equal("mapped content", 0, memcmp(memory, "content", 7));
	else {
		expect_equal("read", 7, pread(file, text, sizeof text, 0));
		expect_equal("content", 0, memcmp(text, "content", 7));
	}
	victim_ok();
}
