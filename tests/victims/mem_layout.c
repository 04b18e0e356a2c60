/* What a program has told the kernel of its own memory (prctl PR_SET_MM_MAP): where its arguments and environment lie, its
 * auxiliary vector; and a heap whose end has moved. */
#include "victim.h"

static const char new_arguments[] = "another name\0and argument";
static const char new_environment[] = "PLACE=elsewhere";

static size_t read_file(const char *path, char *bytes, size_t size)
{
	int file = must(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = must(read(file, bytes, size));
	close(file);
	return (size_t)length;
}

/* The numbers of /proc/self/stat from a field on (fields are counted as in proc(5)). */
static unsigned long long field(int number)
{
	char text[2048];
	text[read_file("/proc/self/stat", text, sizeof text - 1)] = '\0';
	char *word = strrchr(text, ')') + 2;
	for (int at = 3; at < number; at++)
		word = strchr(word, ' ') + 1;
	return strtoull(word, NULL, 10);
}

int main(void)
{
	uint64_t vector[64] = {0};
	char text[4096];
	/* The kernel shows only anonymous memory. */
	char *arguments = map_anonymous(2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE), *environment = arguments + 4096;
	memcpy(arguments, new_arguments, sizeof new_arguments);
	memcpy(environment, new_environment, sizeof new_environment);
	size_t length = read_file("/proc/self/auxv", (char *)vector, sizeof vector);
	for (size_t entry = 0; entry < length / 16; entry++)
		if (vector[entry * 2] == 26) /* AT_HWCAP2 */
			vector[entry * 2 + 1] ^= 0x4000;
	struct prctl_mm_map map = {
		.start_code = field(26),
		.end_code = field(27),
		.start_data = field(45),
		.end_data = field(46),
		.start_brk = field(47),
		.brk = (uint64_t)(uintptr_t)sbrk(0),
		.start_stack = field(28),
		.arg_start = (uint64_t)(uintptr_t)arguments,
		.arg_end = (uint64_t)(uintptr_t)arguments + sizeof new_arguments,
		.env_start = (uint64_t)(uintptr_t)environment,
		.env_end = (uint64_t)(uintptr_t)environment + sizeof new_environment,
		.auxv = (void *)vector,
		.auxv_size = (uint32_t)length,
		.exe_fd = (uint32_t)-1,
	};
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) != 0)
		skip("PR_SET_MM_MAP: %s", strerror(errno));
	char *old_end = sbrk(3 * 4096 + 100);
	if (old_end == (void *)-1)
		broken("sbrk: %s", strerror(errno));
	fill_pattern(old_end + 8 - (uintptr_t)old_end % 8, 4096, 1);

	victim_ready();
	victim_wait();

	expect_equal("length of /proc/self/cmdline", sizeof new_arguments, read_file("/proc/self/cmdline", text, sizeof text));
	expect_equal("/proc/self/cmdline", 0, memcmp(text, arguments, sizeof new_arguments));
	expect_equal("length of /proc/self/environ", sizeof new_environment, read_file("/proc/self/environ", text, sizeof text));
	expect_equal("/proc/self/environ", 0, memcmp(text, environment, sizeof new_environment));
	expect_equal("length of /proc/self/auxv", length, read_file("/proc/self/auxv", text, sizeof text));
	expect_equal("/proc/self/auxv", 0, memcmp(text, vector, length));
	expect_equal("start of the heap", map.start_brk, field(47));
	expect_equal("end of the heap", (long long)(uintptr_t)old_end + 3 * 4096 + 100, (long long)(uintptr_t)sbrk(0));
	check_pattern("heap", old_end + 8 - (uintptr_t)old_end % 8, 4096, 1);
	expect_true(sbrk(1 << 20) != (void *)-1);
	expect_true(sbrk(-(1 << 20)) != (void *)-1);
	victim_ok();
}
