/* Record locks of open file descriptions (OFD): two descriptions of one process keep each other out, children share them. */
#include "victim.h"

static int set(int file, int type, long start, long length)
{
	struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
	return fcntl(file, F_OFD_SETLK, &lock);
}

static void expect_in_the_way(int file, long at, int type, long start, long length)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
	expect_success(fcntl(file, F_OFD_GETLK, &lock));
	expect_equal("type of a lock", type, lock.l_type);
	if (type == F_UNLCK)
		return;
	expect_equal("its start", start, lock.l_start);
	expect_equal("its length", length, lock.l_len);
	expect_equal("its owner, which is no process", -1, lock.l_pid);
}

int main(void)
{
	int first = must(open("records", O_RDWR | O_CREAT | O_TRUNC, 0600));
	int second = must(open("records", O_RDWR));
	must(set(first, F_WRLCK, 0, 10));
	must(set(first, F_RDLCK, 20, 10));
	must(set(second, F_RDLCK, 25, 10));
	must(set(second, F_WRLCK, 1000, 0));
	struct arrivals arrivals = arrivals_open();
	int orders[2];
	must(pipe(orders));
	pid_t child = must(fork());
	if (child == 0) {
		char order;
		close(orders[1]);
		arrive(&arrivals);
		expect_equal("an order", 1, read(orders[0], &order, 1));
		expect_equal("the same lock through the same description", 0, set(first, F_WRLCK, 0, 10));
		expect_equal("its end", 0, set(first, F_UNLCK, 0, 10));
		_exit(0);
	}
	close(orders[0]);
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	expect_in_the_way(second, 0, F_WRLCK, 0, 10);
	expect_in_the_way(second, 20, F_RDLCK, 20, 10);
	expect_in_the_way(first, 32, F_RDLCK, 25, 10);
	expect_in_the_way(first, 5000, F_WRLCK, 1000, 0);
	expect_in_the_way(first, 15, F_UNLCK, 0, 0);
	expect_equal("a lock that is had elsewhere", -1, set(second, F_WRLCK, 0, 1));
	expect_equal("its error", EAGAIN, errno);
	expect_equal("an order", 1, write(orders[1], "x", 1));
	join_child(child);
	expect_in_the_way(second, 0, F_UNLCK, 0, 0);
	close(second);
	expect_in_the_way(first, 5000, F_UNLCK, 0, 0);
	victim_ok();
}
