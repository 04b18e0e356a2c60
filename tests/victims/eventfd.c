/* eventfd: counters, semaphore behaviour, flags, sharing between processes, the greatest value. */
#include "victim.h"
#include <sys/eventfd.h>

int main(void)
{
	uint64_t count;
	struct arrivals arrivals = arrivals_open();
	int counter = must(eventfd(41, EFD_CLOEXEC)), semaphore = must(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
	int empty = must(eventfd(0, EFD_NONBLOCK)), greatest = must(eventfd(0, EFD_NONBLOCK));
	int common = must(eventfd(0, 0)), twin = must(dup(semaphore));
	count = 0xfffffffffffffffe;
	must(write(greatest, &count, 8));
	count = 1;
	must(write(counter, &count, 8));
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		count = 123;
		expect_equal("bytes written by the child", 8, write(common, &count, 8));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(counter, F_GETFD));
	expect_equal("counter", 8, read(counter, &count, 8));
	expect_equal("its value", 42, count);
	for (int round = 0; round < 3; round++) {
		expect_equal("semaphore", 8, read(round == 1 ? twin : semaphore, &count, 8));
		expect_equal("its value", 1, count);
	}
	expect_equal("semaphore used up", -1, read(twin, &count, 8));
	expect_equal("its error", EAGAIN, errno);
	expect_equal("empty counter", -1, read(empty, &count, 8));
	count = 1;
	expect_equal("beyond the greatest value", -1, write(greatest, &count, 8));
	expect_equal("the greatest", 8, read(greatest, &count, 8));
	expect_equal("its value", 0xfffffffffffffffe, count);
	expect_equal("counter in common", 8, read(common, &count, 8));
	expect_equal("its value", 123, count);
	join_child(child);
	victim_ok();
}
