/* /dev/null, zero, full, random and urandom are still what they were. */
#include "victim.h"

int main(void)
{
	char bytes[64];
	int null = must(open("/dev/null", O_RDWR | O_APPEND)), zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	int full = must(open("/dev/full", O_RDWR)), random = must(open("/dev/random", O_RDONLY | O_NONBLOCK));
	int urandom = must(open("/dev/urandom", O_RDONLY)), twin = must(dup(null));

	victim_ready();
	victim_wait();

	expect_equal("bytes from null", 0, read(null, bytes, 8));
	expect_equal("bytes to null", 8, write(twin, bytes, 8));
	expect_equal("flags of null", O_RDWR | O_APPEND, fcntl(null, F_GETFL) & (O_ACCMODE | O_APPEND));
	memset(bytes, 1, sizeof bytes);
	expect_equal("bytes from zero", 64, read(zero, bytes, 64));
	check_zeros("byte of zero", bytes, 64);
	expect_equal("close-on-exec of zero", FD_CLOEXEC, fcntl(zero, F_GETFD));
	expect_equal("bytes to full", -1, write(full, bytes, 8));
	expect_equal("error of full", ENOSPC, errno);
	expect_equal("bytes from urandom", 64, read(urandom, bytes, 64));
	expect_true(bytes[0] != 0 || bytes[1] != 0 || bytes[2] != 0 || bytes[3] != 0 || bytes[4] != 0);
	expect_equal("bytes from random", 16, read(random, bytes, 16));
	expect_equal("flags of random", O_NONBLOCK, fcntl(random, F_GETFL) & O_NONBLOCK);
	victim_ok();
}
