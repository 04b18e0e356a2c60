/* Memory given back reads as zeros (anonymous) or as the file (private file mapping), never as something older. */
#include "victim.h"

enum { LENGTH = 64 * 4096, HUGE = 4 * 1024 * 1024 };

static bool is_present(const char *page)
{
	uint64_t entry;
	int pagemap = must(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	if (pread(pagemap, &entry, 8, (off_t)((uintptr_t)page / 4096 * 8)) != 8)
		broken("/proc/self/pagemap: %s", strerror(errno));
	close(pagemap);
	return entry >> 62 != 0;
}

int main(void)
{
	char *anonymous = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *huge = map_anonymous(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *freed = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *untouched = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
	char *dropped = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char content[4096];
	int file = must(open("dontneed.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	fill_pattern(content, sizeof content, 7);
	must(write(file, content, sizeof content));
	char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	if (mapped == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	madvise(huge, HUGE, MADV_HUGEPAGE);
	fill_pattern(anonymous, LENGTH, 1);
	fill_pattern(huge, HUGE, 2);
	fill_pattern(freed, LENGTH, 3);
	fill_pattern(dropped, LENGTH, 4);
	memset(mapped, 1, 4096);
	must(madvise(dropped, LENGTH, MADV_DONTNEED));
	must(madvise(freed, LENGTH / 2, MADV_FREE));

	victim_ready();
	victim_wait();

	expect_true(!is_present(untouched + 4096));
	check_pattern("memory before giving it back", anonymous, LENGTH, 1);
	check_pattern("huge memory before giving it back", huge, HUGE, 2);
	check_zeros("memory given back before", dropped, LENGTH);
	/* Lazily freed pages read as they were or as zeros, each page as a whole. */
	for (size_t page = 0; page < LENGTH / 2; page += 4096)
		if (freed[page] != 0 || freed[page + 1] != 0 || freed[page + 2] != 0)
			for (size_t place = page; place < page + 4096; place += 8)
				expect_equal("lazily freed page", pattern_word(3, place / 8), *(uint64_t *)(freed + place));
	for (size_t place = LENGTH / 2; place < LENGTH; place += 8)
		expect_equal("page beside the freed ones", pattern_word(3, place / 8), *(uint64_t *)(freed + place));
	expect_success(madvise(anonymous, LENGTH, MADV_DONTNEED));
	check_zeros("anonymous memory given back", anonymous, LENGTH);
	expect_success(madvise(huge + 1024 * 1024, 2 * 1024 * 1024, MADV_DONTNEED));
	check_zeros("part of huge memory given back", huge + 1024 * 1024, 2 * 1024 * 1024);
	expect_success(madvise(mapped, 4096, MADV_DONTNEED));
	expect_equal("file page after giving the changes back", 0, memcmp(mapped, content, 4096));
	victim_ok();
}
