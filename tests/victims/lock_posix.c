/* POSIX record locks: many ranges on one file, of two processes, seen by a third; they end when their process closes the file. */
#include "victim.h"

enum { RANGES = 40, APART = 10 };

static void lock(int file, int type, long start, long length)
{
	struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
	must(fcntl(file, F_SETLK, &lock));
}

/* What is in the way of an exclusive lock. */
static struct flock in_the_way(int file, long start, long length)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
	expect_success(fcntl(file, F_GETLK, &lock));
	return lock;
}

static void expect_held(int file, int type, long start, long length, pid_t owner)
{
	struct flock found = in_the_way(file, start, 1);
	expect_equal("type of a lock", type, found.l_type);
	expect_equal("its start", start, found.l_start);
	expect_equal("its length", length, found.l_len);
	expect_equal("its owner", owner, found.l_pid);
}

static int type_of(int range)
{
	return range % 3 == 0 ? F_RDLCK : F_WRLCK;
}

/* A process that shares the table of descriptors: its locks are those of the other one, but it is told as their owner. */
static int share(void *files)
{
	char order;
	lock(((int *)files)[0], F_WRLCK, 7, 3);
	expect_equal("an order", 1, read(((int *)files)[1], &order, 1));
	_exit(0);
}

int main(void)
{
	int file = must(open("records", O_RDWR | O_CREAT | O_TRUNC, 0600));
	int reader = must(open("records", O_RDONLY));
	int twin = must(dup(file));
	int other = must(open("other", O_RDWR | O_CREAT, 0600));
	int together = must(open("together", O_RDWR | O_CREAT, 0600));
	int orders[2], release[2];
	must(pipe(release));
	static char stack[65536] __attribute__((aligned(16)));
	pid_t sharer = must(clone(share, stack + sizeof stack, CLONE_FILES | SIGCHLD, (int[]){together, release[0]}));
	must(pipe(orders));
	for (struct flock found = {.l_type = F_UNLCK}; found.l_type == F_UNLCK; victim_nap(1000)) {
		pid_t observer = must(fork());
		if (observer == 0)
			_exit(in_the_way(together, 7, 1).l_type);
		int status;
		must(waitpid(observer, &status, 0));
		found.l_type = (short)WEXITSTATUS(status);
	}
	for (int range = 0; range < RANGES; range += 2)
		lock(range % 4 == 0 ? file : twin, type_of(range), range * APART, range % 7 + 1);
	lock(reader, F_RDLCK, 100000, 0);
	lock(other, F_WRLCK, 0, 0);
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		char order;
		/* Locks are not inherited; the child has those between. */
		for (int range = 1; range < RANGES; range += 2)
			lock(file, type_of(range), range * APART, range % 7 + 1);
		close(orders[1]);
		arrive(&arrivals);
		expect_equal("an order", 1, read(orders[0], &order, 1));
		_exit(0);
	}
	close(orders[0]);
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	pid_t parent = getpid();
	pid_t observer = expect_success(fork());
	if (observer == 0) {
		for (int range = 0; range < RANGES; range++)
			expect_held(file, type_of(range), range * APART, range % 7 + 1, range % 2 ? child : parent);
		expect_held(file, F_RDLCK, 100000, 0, parent);
		expect_equal("beside all locks", F_UNLCK, in_the_way(file, RANGES * APART, 100).l_type);
		expect_held(other, F_WRLCK, 0, 0, parent);
		expect_held(together, F_WRLCK, 7, 3, sharer);
		_exit(0);
	}
	join_child(observer);
	expect_equal("an order", 1, write(release[1], "x", 1));
	join_child(sharer);
	/* Closing any descriptor of the file ends all the locks of the process on it. */
	close(twin);
	observer = expect_success(fork());
	if (observer == 0) {
		expect_equal("the parent's first", F_UNLCK, in_the_way(file, 0, 1).l_type);
		expect_equal("the parent's last", F_UNLCK, in_the_way(file, 100000, 0).l_type);
		expect_held(file, type_of(1), APART, 2, child);
		expect_held(other, F_WRLCK, 0, 0, parent);
		_exit(0);
	}
	join_child(observer);
	expect_equal("an order", 1, write(orders[1], "x", 1));
	join_child(child);
	expect_equal("after the child", F_UNLCK, in_the_way(file, 0, 0).l_type);
	victim_ok();
}
