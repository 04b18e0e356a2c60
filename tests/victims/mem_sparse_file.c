/* A deleted file and a memory file with holes of 1 TiB: what is in them comes back, and holes stay holes. */
#include "victim.h"

#define TERABYTE (1LL << 40)

static const long long places[] = {0, 4096 * 3, TERABYTE / 2 - 4096, TERABYTE - 100};

static void put(int file)
{
	for (unsigned index = 0; index < sizeof places / sizeof *places; index++)
		must(pwrite(file, "data", 4, (off_t)places[index]));
	must(ftruncate(file, TERABYTE));
}

static void check(const char *what, int file)
{
	struct stat status;
	expect_success(fstat(file, &status));
	expect_equal(what, TERABYTE, status.st_size);
	expect_within("bytes of it that are stored", 4 * 4096 - 1, 16 << 20, status.st_blocks * 512);
	for (unsigned index = 0; index < sizeof places / sizeof *places; index++) {
		char text[4];
		expect_equal("bytes read", 4, pread(file, text, 4, (off_t)places[index]));
		expect_equal(what, 0, memcmp(text, "data", 4));
		expect_equal("bytes read", 1, pread(file, text, 1, (off_t)places[index] + 4));
		expect_equal("behind them", 0, text[0]);
	}
}

int main(void)
{
	int file = must(open("sparse", O_RDWR | O_CREAT | O_EXCL, 0600));
	int memory = must(memfd_create("sparse", 0));
	must(unlink("sparse"));
	put(file);
	put(memory);
	char *view = mmap(NULL, TERABYTE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory, 0);
	if (view == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	victim_ready();
	victim_wait();
	expect_equal("seen in the mapping", 0, memcmp(view + TERABYTE / 2 - 4096, "data", 4));
	check("deleted file", file);
	check("memory file", memory);
	victim_ok();
}
