/* A thousand descriptors, each at its own offset, with gaps between their numbers and one very high number. */
#include "victim.h"

enum { COUNT = 1000 };

int main(void)
{
	int files[COUNT], high;
	struct rlimit limit;
	must(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max < 8192 ? limit.rlim_max : 8192;
	if (limit.rlim_cur < 2 * COUNT)
		skip("only %lu descriptors allowed", (unsigned long)limit.rlim_max);
	must(setrlimit(RLIMIT_NOFILE, &limit));
	files[0] = must(open("many.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(ftruncate(files[0], COUNT));
	for (int index = 1; index < COUNT; index++)
		files[index] = must(open("many.data", index % 2 ? O_RDONLY : O_RDWR | O_CLOEXEC));
	for (int index = 0; index < COUNT; index++)
		must(lseek(files[index], index, SEEK_SET));
	for (int index = 3; index < COUNT; index += 7)
		close(files[index]);
	high = must(dup2(files[11], (int)limit.rlim_cur - 1));

	victim_ready();
	victim_wait();

	for (int index = 0; index < COUNT; index++)
		if (index % 7 == 3)
			expect_equal("closed descriptor", -1, fcntl(files[index], F_GETFD));
		else
			expect_equal("offset of a descriptor", index, lseek(files[index], 0, SEEK_CUR));
	expect_success(lseek(high, 999, SEEK_SET));
	expect_equal("offset of the highest descriptor's twin", 999, lseek(files[11], 0, SEEK_CUR));
	expect_equal("lowest free descriptor", files[3], must(dup(0)));
	victim_ok();
}
