/* Memory files: name, content, several openings of one, mappings in two processes, one that is only mapped. */
#include "victim.h"

enum { LENGTH = 8 * 4096 };

int main(void)
{
	char path[64], link[256], found[16], byte;
	struct arrivals arrivals = arrivals_open();
	int file = must(memfd_create("a name", MFD_CLOEXEC));
	must(ftruncate(file, LENGTH + 100));
	char *shared = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char *second_half = mmap(NULL, LENGTH / 2, PROT_READ | PROT_WRITE, MAP_SHARED, file, LENGTH / 2);
	char *private = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	if (shared == MAP_FAILED || second_half == MAP_FAILED || private == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	fill_pattern(shared, LENGTH, 1);
	memcpy(private, "mine", 4);
	must(lseek(file, 7, SEEK_SET));
	snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	int reader = must(open(path, O_RDONLY));
	must(lseek(reader, 4096, SEEK_SET));
	int append = must(open(path, O_WRONLY | O_APPEND));
	char *readable = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0);
	char *later = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 4096);

	int closed = must(memfd_create("closed", 0));
	must(ftruncate(closed, LENGTH));
	char *only = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, closed, 0);
	if (readable == MAP_FAILED || later == MAP_FAILED || only == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	fill_pattern(only + 4096, 4096, 2);
	must(close(closed));
	int empty = must(memfd_create("", 0));

	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		check_pattern("mapping in the child", shared, LENGTH, 1);
		check_pattern("mapping without a descriptor", only + 4096, 4096, 2);
		memcpy(shared + 100, "child", 5);
		memcpy(only, "child", 5);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	int lowest = must(dup(0));
	must(close(lowest));
	victim_ready();
	victim_wait();

	join_child(child);
	expect_equal("written by the child", 0, memcmp(shared + 100, "child", 5));
	expect_equal("written by the child, no descriptor", 0, memcmp(only, "child", 5));
	check_zeros("never written", only + 2 * 4096, LENGTH - 2 * 4096);
	check_pattern("one memory", second_half, 0, 1);
	expect_equal("one memory", 0, memcmp(second_half, shared + LENGTH / 2, LENGTH / 2));
	expect_equal("private copy", 0, memcmp(private, "mine", 4));
	expect_equal("the rest of it", 0, memcmp(private + 4096, shared + 4096, LENGTH - 4096));
	expect_equal("through a descriptor", 5, pread(reader, found, 5, 100));
	expect_equal("what the child wrote", 0, memcmp(found, "child", 5));
	expect_equal("seen in the mapping that is for reading", 0, memcmp(readable + 100, "child", 5));
	expect_equal("offset", 7, lseek(file, 0, SEEK_CUR));
	expect_equal("offset of the reader", 4096, lseek(reader, 0, SEEK_CUR));
	expect_equal("read by it", 1, read(reader, &byte, 1));
	expect_equal("its value", shared[4096], byte);
	expect_equal("size", LENGTH + 100, lseek(file, 0, SEEK_END));
	expect_equal("appended", 4, write(append, "tail", 4));
	expect_equal("size after that", LENGTH + 104, lseek(reader, 0, SEEK_END));
	expect_equal("a mapping for reading stays one", -1, mprotect(readable, 4096, PROT_READ | PROT_WRITE));
	expect_success(mprotect(later, 4096, PROT_READ | PROT_WRITE));
	later[0] ^= 1;
	expect_equal("written through a mapping that was for reading", later[0], shared[4096]);
	expect_equal("no sealing", F_SEAL_SEAL, fcntl(file, F_GET_SEALS));
	ssize_t length = expect_success(readlink(path, link, sizeof link - 1));
	link[length] = '\0';
	expect_text("name", "/memfd:a name (deleted)", link);
	snprintf(path, sizeof path, "/proc/self/fd/%d", empty);
	length = expect_success(readlink(path, link, sizeof link - 1));
	link[length] = '\0';
	expect_text("no name", "/memfd: (deleted)", link);
	expect_equal("lowest free descriptor", lowest, must(dup(0)));
	victim_ok();
}
