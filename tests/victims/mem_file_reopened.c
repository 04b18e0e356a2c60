/* Shared mappings of files keep what their descriptor allowed: writing may be asked for later, or never. */
#include "victim.h"

int main(void)
{
	const size_t length = 4 * 4096;
	int file = must(open("shared.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(ftruncate(file, (off_t)length));
	char *writable = mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0);
	char *hidden = mmap(NULL, length, PROT_NONE, MAP_SHARED, file, 0);
	int reading = must(open("shared.data", O_RDONLY | O_CLOEXEC));
	char *constant = mmap(NULL, length, PROT_READ, MAP_SHARED, reading, 0);
	if (writable == MAP_FAILED || hidden == MAP_FAILED || constant == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	must(close(file));
	must(close(reading));

	victim_ready();
	victim_wait();

	expect_success(mprotect(writable, length, PROT_READ | PROT_WRITE));
	expect_success(mprotect(hidden, length, PROT_READ | PROT_WRITE));
	writable[0] = 1;
	hidden[4096] = 2;
	expect_equal("first write, seen through the third mapping", 1, constant[0]);
	expect_equal("second write, seen through the third mapping", 2, constant[4096]);
	expect_equal("mprotect of what was opened for reading", -1, mprotect(constant, length, PROT_READ | PROT_WRITE));
	expect_equal("its error", EACCES, errno);
	victim_ok();
}
