/* flock(2): locks belong to open file descriptions, however many slots and processes share them. */
#include "victim.h"
#include <sys/file.h>

/* What somebody with a description of their own gets. */
static void expect_lock(const char *what, const char *path, int operation, bool free)
{
	int file = expect_success(open(path, O_RDONLY | O_CLOEXEC));
	int result = flock(file, operation | LOCK_NB);
	if (free)
		expect_equal(what, 0, result);
	else {
		expect_equal(what, -1, result);
		expect_equal(what, EWOULDBLOCK, errno);
	}
	close(file);
}

int main(void)
{
	int exclusive = must(open("exclusive", O_RDWR | O_CREAT | O_TRUNC, 0600));
	int twin = must(dup(exclusive));
	int shared = must(open("shared", O_RDONLY | O_CREAT, 0600));
	must(mkdir("directory", 0700) == 0 || errno == EEXIST ? 0 : -1);
	int directory = must(open("directory", O_RDONLY | O_DIRECTORY));
	must(flock(exclusive, LOCK_EX));
	must(flock(shared, LOCK_SH));
	must(flock(directory, LOCK_EX));
	int orders[2];
	must(pipe(orders));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		char order;
		int second = must(open("shared", O_RDONLY));
		must(flock(second, LOCK_SH));
		close(exclusive);
		close(orders[1]);
		arrive(&arrivals);
		expect_equal("an order", 1, read(orders[0], &order, 1));
		/* The same description: a lock that is held already is had again. */
		expect_equal("its own lock again", 0, flock(twin, LOCK_EX | LOCK_NB));
		close(shared);
		_exit(0);
	}
	close(orders[0]);
	await_arrivals(&arrivals, 1);
	close(twin);
	/* One that was set by a process that has ended and left it behind. */
	int left = must(open("left", O_RDWR | O_CREAT, 0600));
	pid_t setter = must(fork());
	if (setter == 0)
		_exit(flock(left, LOCK_EX) == 0 ? 0 : 1);
	join_child(setter);

	victim_ready();
	victim_wait();

	expect_lock("the exclusive lock", "exclusive", LOCK_SH, false);
	expect_lock("the lock of one who has ended", "left", LOCK_SH, false);
	expect_lock("the directory's lock", "directory", LOCK_SH, false);
	expect_lock("a shared lock beside shared ones", "shared", LOCK_SH, true);
	expect_lock("an exclusive lock beside shared ones", "shared", LOCK_EX, false);
	expect_equal("unlocking one of two shared locks", 0, flock(shared, LOCK_UN));
	expect_lock("an exclusive lock beside a shared one", "shared", LOCK_EX, false);
	expect_equal("an order", 1, write(orders[1], "x", 1));
	join_child(child);
	expect_lock("nobody holds the shared lock any more", "shared", LOCK_EX, true);
	expect_lock("the exclusive lock, after one of its holders", "exclusive", LOCK_SH, false);
	close(exclusive);
	expect_lock("the exclusive lock, after its holders", "exclusive", LOCK_EX, true);
	close(left);
	expect_lock("after its last holder", "left", LOCK_EX, true);
	victim_ok();
}
