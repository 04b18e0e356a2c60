/* Segments of the program's own: local descriptor table, also of a child, and an entry of the global table. */
#include <asm/ldt.h>

#include "victim.h"

static int value = 0x5eed;

static void set(unsigned entry, unsigned base, unsigned limit, unsigned contents, bool read_only)
{
	struct user_desc segment = {.entry_number = entry,
				    .base_addr = base,
				    .limit = limit,
				    .seg_32bit = 1,
				    .contents = contents,
				    .read_exec_only = read_only,
				    .useable = 1};
	must(syscall(SYS_modify_ldt, 0x11, &segment, sizeof segment));
}

/* Reads the word at offset 0 of a segment. */
static int through(unsigned selector)
{
	int word;
	unsigned before;
	__asm__ volatile("mov %%gs, %1\n\tmov %2, %%gs\n\tmovl %%gs:0, %0\n\tmov %1, %%gs"
			 : "=&r"(word), "=&r"(before)
			 : "r"(selector)
			 : "memory");
	return word;
}

static void check(const unsigned char *before, long length)
{
	unsigned char *after = malloc(65536);
	expect_equal("length of the table", length, syscall(SYS_modify_ldt, 0, after, 65536));
	expect_equal("table changed", 0, memcmp(before, after, 65536));
}

int main(void)
{
	int *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (low == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	*low = value;
	set(0, 0x10000000, 4095, 0, false);
	set(5, 0x10000000, 3, 0, true);
	set(700, 0, 0xfffff, 2, true);
	struct user_desc gone = {.entry_number = 9, .base_addr = 0x1234, .limit = 7, .contents = 1, .seg_not_present = 1, .seg_32bit = 1};
	must(syscall(SYS_modify_ldt, 0x11, &gone, sizeof gone));
	unsigned char *table = calloc(1, 65536);
	long length = must(syscall(SYS_modify_ldt, 0, table, 65536));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		set(1, 0x10000000, 4095, 0, false);
		unsigned char *own = calloc(1, 65536);
		long own_length = must(syscall(SYS_modify_ldt, 0, own, 65536));
		arrive(&arrivals);
		victim_wait();
		check(own, own_length);
		expect_equal("word of the child's segment", value, through(1 << 3 | 7));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	check(table, length);
	expect_equal("word of segment 0", value, through(0 << 3 | 7));
	expect_equal("word of segment 5", value, through(5 << 3 | 7));
	join_child(child);
	victim_ok();
}
