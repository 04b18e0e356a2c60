/* A private file mapping: unchanged pages, a changed page, a page changed to zeros, the rest of the last page. */
#include "victim.h"

int main(void)
{
	const size_t length = 5 * 4096;
	char content[5 * 4096];
	fill_pattern(content, sizeof content, 1);
	int file = must(open("private.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(write(file, content, length - 100));
	char *body = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	char *constant = mmap(NULL, length - 4096, PROT_READ, MAP_PRIVATE, file, 4096);
	if (body == MAP_FAILED || constant == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	close(file);
	fill_pattern(body + 4096, 4096, 2);
	memset(body + 2 * 4096, 0, 4096);
	memset(body + length - 100, 0x77, 100);
	expect_true(constant[0] == content[4096]);

	victim_ready();
	victim_wait();

	expect_equal("unchanged page", 0, memcmp(body, content, 4096));
	check_pattern("changed page", body + 4096, 4096, 2);
	check_zeros("page changed to zeros", body + 2 * 4096, 4096);
	expect_equal("unchanged page after them", 0, memcmp(body + 3 * 4096, content + 3 * 4096, 4096));
	expect_equal("last page", 0, memcmp(body + 4 * 4096, content + 4 * 4096, 4096 - 100));
	for (size_t place = length - 100; place < length; place++)
		expect_equal("bytes beyond the file's end", 0x77, body[place]);
	expect_equal("second mapping", 0, memcmp(constant, content + 4096, length - 4096 - 100));
	file = expect_success(open("private.data", O_RDWR | O_CLOEXEC));
	expect_success(pwrite(file, "Z", 1, 10));
	expect_equal("page still backed by the file", 'Z', body[10]);
	expect_equal("file unharmed by private writes", 1, pread(file, content, 1, 4096));
	expect_equal("byte in the file", (char)(pattern_word(1, 512) & 0xff), content[0]);
	victim_ok();
}
