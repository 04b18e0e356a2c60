/* Mappings of deleted files whose descriptors are closed: shared between processes, private with and without changes, a part only. */
#include "victim.h"

enum { LENGTH = 16 * 4096 };

static char *map_deleted(const char *name, int protection, int flags, uint64_t seed, size_t from, size_t length)
{
	char *content = malloc(LENGTH);
	int file = must(open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
	fill_pattern(content, LENGTH, seed);
	must(write(file, content, LENGTH));
	char *start = mmap(NULL, length, protection, flags, file, (off_t)from);
	if (start == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	must(unlink(name));
	must(close(file));
	free(content);
	return start;
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	char *shared = map_deleted("shared", PROT_READ | PROT_WRITE, MAP_SHARED, 1, 0, LENGTH);
	char *private = map_deleted("private", PROT_READ | PROT_WRITE, MAP_PRIVATE, 2, 0, LENGTH);
	char *code = map_deleted("code", PROT_READ | PROT_EXEC, MAP_PRIVATE, 3, 4096, 2 * 4096);
	char *beyond = map_deleted("beyond", PROT_READ, MAP_SHARED, 4, LENGTH - 4096, 3 * 4096);
	memcpy(private + 5 * 4096, "mine", 4);
	memcpy(shared + 4096, "ours", 4);
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		expect_equal("shared with the parent", 0, memcmp(shared + 4096, "ours", 4));
		memcpy(shared + 8192, "child", 5);
		check_pattern("private", private, 5 * 4096, 2);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();

	join_child(child);
	check_pattern("shared", shared, 4096, 1);
	expect_equal("written by the child", 0, memcmp(shared + 8192, "child", 5));
	check_pattern("private", private, 5 * 4096, 2);
	expect_equal("changed privately", 0, memcmp(private + 5 * 4096, "mine", 4));
	uint64_t *words = (uint64_t *)private;
	for (size_t place = 6 * 4096 / 8; place < LENGTH / 8; place++)
		expect_equal("private, later part", pattern_word(2, place), words[place]);
	words = (uint64_t *)code;
	for (size_t place = 0; place < 2 * 4096 / 8; place++)
		expect_equal("a part of the file", pattern_word(3, place + 512), words[place]);
	words = (uint64_t *)beyond;
	expect_equal("the last page", pattern_word(4, (LENGTH - 4096) / 8), words[0]);
	/* Behind the end of the file nothing can be read. */
	int null[2];
	must(pipe(null));
	expect_equal("writing from behind the end", -1, write(null[1], beyond + 2 * 4096, 1));
	expect_equal("its error", EFAULT, errno);
	expect_equal("names left", -1, access("shared", F_OK));
	victim_ok();
}
