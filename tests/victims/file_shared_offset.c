/* A file inherited by fork: parent and children share one offset; each other's openings they do not. */
#include "victim.h"

enum { CHILDREN = 3 };

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	pid_t children[CHILDREN];
	int file = must(open("inherited.data", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(write(file, "0123456789", 10));
	must(lseek(file, 3, SEEK_SET));
	for (int child = 0; child < CHILDREN; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			int own = must(open("inherited.data", O_RDWR));
			must(lseek(own, child, SEEK_SET));
			if (child == 1)
				/* The same open file under another number. */
				must(dup2(file, 50));
			arrive(&arrivals);
			victim_wait();
			expect_equal("own offset", child, lseek(own, 0, SEEK_CUR));
			expect_equal("advance of the shared offset", 10, write(child == 1 ? 50 : file, "abcdefghij", 10));
			_exit(0);
		}
	}
	await_arrivals(&arrivals, CHILDREN);
	victim_ready();
	victim_wait();
	for (int child = 0; child < CHILDREN; child++)
		join_child(children[child]);
	expect_equal("shared offset after the children", 3 + CHILDREN * 10, lseek(file, 0, SEEK_CUR));
	expect_equal("descriptor 50", -1, fcntl(50, F_GETFD));
	victim_ok();
}
