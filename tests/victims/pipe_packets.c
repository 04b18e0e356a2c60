/* Packets in a pipe whose writer has gone, and packets and bytes of one whose writer has changed its mind (O_DIRECT). */
#include "victim.h"

int main(void)
{
	int left[2], mixed[2], source[2];
	char found[64];
	must(pipe2(left, O_DIRECT));
	must(write(left[1], "12", 2));
	must(write(left[1], "3", 1));
	must(write(left[1], "4567", 4));
	close(left[1]);
	must(pipe2(mixed, O_DIRECT));
	must(write(mixed[1], "1", 1));
	must(fcntl(mixed[1], F_SETFL, 0));
	/* By tee(2): a packet that is written after bytes becomes a part of these. */
	must(pipe(source));
	must(write(source[1], "abc", 3));
	expect_equal("copied bytes", 3, tee(source[0], mixed[1], 3, 0));
	must(fcntl(mixed[1], F_SETFL, O_DIRECT));
	must(write(mixed[1], "234", 3));
	must(fcntl(mixed[1], F_SETFL, 0));
	must(write(mixed[1], "de", 2));

	victim_ready();
	victim_wait();

	expect_equal("first packet", 2, read(left[0], found, sizeof found));
	expect_equal("second packet", 1, read(left[0], found, sizeof found));
	expect_equal("third packet", 4, read(left[0], found, sizeof found));
	expect_equal("end of the pipe", 0, read(left[0], found, sizeof found));
	expect_equal("flags of the writer", O_WRONLY, fcntl(mixed[1], F_GETFL) & (O_ACCMODE | O_DIRECT));
	must(write(mixed[1], "f", 1));
	expect_equal("packet before bytes", 1, read(mixed[0], found, sizeof found));
	/* A read that ends in a packet drops the rest of that, and none of the bytes before it. */
	expect_equal("bytes", 2, read(mixed[0], found, 2));
	expect_equal("a byte and the start of a packet", 2, read(mixed[0], found, 2));
	expect_equal("their value", 0, memcmp(found, "c2", 2));
	expect_equal("bytes that go on", 3, read(mixed[0], found, sizeof found));
	expect_equal("their value", 0, memcmp(found, "def", 3));
	victim_ok();
}
