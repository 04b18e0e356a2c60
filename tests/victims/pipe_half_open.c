/* Pipes of which one end is gone: what is left to read and then the end; a broken pipe. */
#include "victim.h"

int main(void)
{
	int reading[2], writing[2], drained[2];
	char found[16];
	signal(SIGPIPE, SIG_IGN);
	must(pipe(reading));
	must(pipe(writing));
	must(pipe(drained));
	must(write(reading[1], "rest", 4));
	close(reading[1]);
	must(write(writing[1], "lost", 4));
	close(writing[0]);
	close(drained[1]);
	int twin = must(dup(writing[1]));

	victim_ready();
	victim_wait();

	expect_equal("bytes without a writer", 4, read(reading[0], found, sizeof found));
	expect_equal("their value", 0, memcmp(found, "rest", 4));
	expect_equal("end of the pipe", 0, read(reading[0], found, sizeof found));
	expect_equal("end of the drained pipe", 0, read(drained[0], found, sizeof found));
	expect_equal("writing without a reader", -1, write(writing[1], "x", 1));
	expect_equal("its error", EPIPE, errno);
	expect_equal("writing to its twin", -1, write(twin, "x", 1));
	struct pollfd polled[] = {{reading[0], POLLIN, 0}, {twin, POLLOUT, 0}};
	expect_equal("descriptors ready", 2, poll(polled, 2, 0));
	expect_equal("events of the reader", POLLHUP, polled[0].revents);
	expect_equal("events of the writer", POLLOUT | POLLERR, polled[1].revents);
	victim_ok();
}
