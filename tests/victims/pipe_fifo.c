/* Named FIFOs: bytes in flight, both ends in one process or in two, one end only, and found again by name. */
#include "victim.h"

int main(void)
{
	char found[64];
	struct arrivals arrivals = arrivals_open();
	must(mkfifo("both.fifo", 0600));
	must(mkfifo("between.fifo", 0600));
	must(mkfifo("reader.fifo", 0600));
	int both = must(open("both.fifo", O_RDWR | O_CLOEXEC));
	must(write(both, "in flight", 9));
	must(fcntl(both, F_SETPIPE_SZ, 16384));
	int reader = must(open("reader.fifo", O_RDONLY | O_NONBLOCK));
	pid_t child = must(fork());
	if (child == 0) {
		int writer = must(open("between.fifo", O_WRONLY | O_CLOEXEC));
		must(write(writer, "before ", 7));
		arrive(&arrivals);
		victim_wait();
		expect_equal("bytes written by the child", 5, write(writer, "after", 5));
		_exit(0);
	}
	int between = must(open("between.fifo", O_RDONLY | O_CLOEXEC));
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);
	expect_equal("bytes in the FIFO of one process", 9, read(both, found, sizeof found));
	expect_equal("their value", 0, memcmp(found, "in flight", 9));
	expect_equal("its capacity", 16384, fcntl(both, F_GETPIPE_SZ));
	expect_equal("bytes between two processes", 12, read(between, found, sizeof found));
	expect_equal("their value", 0, memcmp(found, "before after", 12));
	expect_equal("end of the FIFO", 0, read(between, found, sizeof found));
	expect_equal("FIFO without a writer", 0, read(reader, found, sizeof found));
	int late = expect_success(open("reader.fifo", O_WRONLY | O_NONBLOCK));
	expect_equal("bytes through its name", 4, write(late, "name", 4));
	expect_equal("bytes that came by name", 4, read(reader, found, sizeof found));
	victim_ok();
}
