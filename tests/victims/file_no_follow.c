/* Files opened with O_NOFOLLOW: mapped and written, deleted, a FIFO, a directory; they can be used as before. */
#include "victim.h"

static int open_no_follow(const char *path, int flags)
{
	return must(open(path, flags | O_NOFOLLOW | O_CLOEXEC, 0600));
}

int main(void)
{
	char content[8] = "", through = 0;

	/* As databases do: shared memory in a file beside the data. */
	int index = open_no_follow("index", O_RDWR | O_CREAT);
	must(ftruncate(index, 4096));
	char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, index, 0);
	if (mapped == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	strcpy(mapped, "mapped");
	int other = open_no_follow("index", O_RDONLY);

	int deleted = open_no_follow("deleted", O_RDWR | O_CREAT);
	must(write(deleted, "deleted", 7));
	must(unlink("deleted"));
	must_zero(mkfifo("fifo", 0600));
	int fifo = open_no_follow("fifo", O_RDWR);
	int writer = open_no_follow("fifo", O_WRONLY);
	must(write(writer, "f", 1));
	must_zero(mkdir("directory", 0700));
	int directory = open_no_follow("directory", O_RDONLY | O_DIRECTORY);

	victim_ready();
	victim_wait();

	const struct {
		const char *what;
		int fd, access;
	} named[] = {
		{"flags of the mapped file", index, O_RDWR},   {"flags of its other description", other, O_RDONLY},
		{"flags of the FIFO", fifo, O_RDWR},	       {"flags of the FIFO's writer", writer, O_WRONLY},
		{"flags of the directory", directory, O_RDONLY},
	};
	for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
		int flags = expect_success(fcntl(named[i].fd, F_GETFL));
		expect_equal(named[i].what, named[i].access | O_NOFOLLOW, flags & (O_ACCMODE | O_NOFOLLOW));
	}
	strcpy(mapped + 1, "ade");
	expect_equal("bytes of the index", 4, expect_success(pread(other, content, 4, 0)));
	expect_text("index", "made", content);
	expect_equal("bytes of the deleted file", 7, expect_success(pread(deleted, content, 7, 0)));
	expect_text("deleted file", "deleted", content);
	expect_success(read(fifo, &through, 1));
	expect_equal("byte of the FIFO", 'f', through);
	expect_success(openat(directory, ".", O_RDONLY | O_DIRECTORY));
	victim_ok();
}
