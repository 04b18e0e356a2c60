/* A shared file mapping of two processes: one object, the file's own pages. */
#include "victim.h"

int main(void)
{
	const size_t length = 16 * 4096;
	struct arrivals arrivals = arrivals_open();
	int file = must(open("shared.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(ftruncate(file, (off_t)length));
	char *body = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (body == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	fill_pattern(body, length, 1);
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		check_pattern("mapping in the child", body, length / 2, 1);
		fill_pattern(body + length / 2, length / 2, 2);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);
	check_pattern("first half", body, length / 2, 1);
	check_pattern("half written by the child", body + length / 2, length / 2, 2);
	char *copy = malloc(length);
	expect_equal("bytes in the file", length, pread(file, copy, length, 0));
	expect_equal("file against mapping", 0, memcmp(copy, body, length));
	expect_success(pwrite(file, "Q", 1, 5));
	expect_equal("write to the file seen in the mapping", 'Q', body[5]);
	victim_ok();
}
