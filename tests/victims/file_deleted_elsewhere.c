/* A file of which one process has a deleted name open, and another process the only name that is left. */
#include "victim.h"

int main(void)
{
	char text[16];
	struct stat found, other;
	struct arrivals arrivals = arrivals_open();
	must(mkdir("aside", 0700));
	int first = must(open("first", O_RDWR | O_CREAT | O_EXCL, 0600));
	must(write(first, "content", 7));
	must(link("first", "aside/second"));
	pid_t child = must(fork());
	if (child == 0) {
		close(first);
		int second = must(open("aside/second", O_RDWR));
		arrive(&arrivals);
		victim_wait();
		/* The parent has written before it let this process go. */
		while (pread(second, text, sizeof text, 0) != 7 || memcmp(text, "CONTENT", 7) != 0)
			victim_nap(1000);
		expect_equal("written by the child", 4, pwrite(second, "mine", 4, 7));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	must(unlink("first"));

	victim_ready();
	victim_wait();

	expect_success(fstat(first, &found));
	expect_success(stat("aside/second", &other));
	expect_equal("one file", found.st_ino, other.st_ino);
	expect_equal("names left", 1, found.st_nlink);
	expect_equal("the name that was deleted", -1, access("first", F_OK));
	expect_equal("written", 7, pwrite(first, "CONTENT", 7, 0));
	join_child(child);
	expect_equal("read", 11, pread(first, text, sizeof text, 0));
	expect_equal("content", 0, memcmp(text, "CONTENTmine", 11));
	victim_ok();
}
