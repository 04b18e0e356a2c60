/* Pipes with bytes in flight: order, capacity, flags, packets; full, empty, and large ones. */
#include "victim.h"

struct channel {
	int ends[2];
};

static struct channel channel(int flags, int capacity)
{
	struct channel made;
	must(pipe2(made.ends, flags));
	if (capacity > 0)
		must(fcntl(made.ends[1], F_SETPIPE_SZ, capacity));
	return made;
}

int main(void)
{
	static char block[256 * 1024], found[256 * 1024];
	struct channel small = channel(0, 0), large = channel(O_CLOEXEC, 512 * 1024), full = channel(O_NONBLOCK, 4096);
	struct channel empty = channel(O_NONBLOCK, 0), packets = channel(O_DIRECT, 0);
	fill_pattern(block, sizeof block, 1);
	must(write(small.ends[1], "hello ", 6));
	must(write(small.ends[1], "world", 5));
	must(write(large.ends[1], block, sizeof block));
	while (write(full.ends[1], block, 512) == 512)
		;
	must(write(packets.ends[1], "one", 3));
	must(write(packets.ends[1], "three", 5));
	must(write(packets.ends[1], "x", 1));
	must(read(small.ends[0], found, 2));

	victim_ready();
	victim_wait();

	expect_equal("capacity of the large pipe", 512 * 1024, fcntl(large.ends[0], F_GETPIPE_SZ));
	expect_equal("capacity of the full pipe", 4096, fcntl(full.ends[0], F_GETPIPE_SZ));
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(large.ends[0], F_GETFD));
	expect_equal("flags of the full pipe", O_WRONLY | O_NONBLOCK, fcntl(full.ends[1], F_GETFL));
	expect_equal("flags of the packet pipe", O_WRONLY | O_DIRECT, fcntl(packets.ends[1], F_GETFL));
	expect_equal("writing to the full pipe", -1, write(full.ends[1], block, 1));
	expect_equal("its error", EAGAIN, errno);
	expect_equal("reading from the empty pipe", -1, read(empty.ends[0], found, 1));
	expect_equal("its error", EAGAIN, errno);
	expect_equal("bytes in the small pipe", 9, read(small.ends[0], found, 100));
	expect_equal("the small pipe's bytes", 0, memcmp(found, "llo world", 9));
	size_t got = 0;
	while (got < sizeof found) {
		ssize_t more = read(large.ends[0], found + got, sizeof found - got);
		if (more <= 0)
			wrong("large pipe: expected %zu bytes, found %zu", sizeof found, got);
		got += (size_t)more;
	}
	check_pattern("bytes of the large pipe", found, sizeof found, 1);
	expect_equal("bytes in the full pipe", 4096, read(full.ends[0], found, 10000));
	for (int place = 0; place < 4096; place += 512)
		expect_equal("the full pipe's bytes", 0, memcmp(found + place, block, 512));
	expect_equal("first packet", 3, read(packets.ends[0], found, 100));
	expect_equal("second packet", 5, read(packets.ends[0], found, 100));
	expect_equal("second packet's bytes", 0, memcmp(found, "three", 5));
	expect_equal("third packet", 1, read(packets.ends[0], found, 100));
	expect_equal("bytes through the small pipe", 4, write(small.ends[1], "more", 4));
	expect_equal("bytes from the small pipe", 4, read(small.ends[0], found, 100));
	victim_ok();
}
