/*
 * Memory that may not become executable any more (PR_SET_MDWE): the rule is kept, and so is what was executable, or writable and
 * executable, before. With the argument "alone" children do without the rule.
 */
#include "victim.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
enum { REFUSE_GAIN = 1, NOT_INHERITED = 2 };

/* mov $VALUE, %eax; ret */
static void write_code(unsigned char *place, unsigned value)
{
	const unsigned char code[] = {0xb8, (unsigned char)value, (unsigned char)(value >> 8), 0, 0, 0xc3};
	memcpy(place, code, sizeof code);
}

static int run_code(const void *place)
{
	int (*function)(void);
	memcpy(&function, &place, sizeof function);
	return function();
}

static void check_gain(bool refused)
{
	char *fresh = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	int changed = mprotect(fresh, 4096, PROT_READ | PROT_EXEC);
	expect_equal("made executable", refused ? -1 : 0, changed);
	if (refused)
		expect_equal("why not", EACCES, errno);
	void *both = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect_equal("mapped writable and executable", !refused, both != MAP_FAILED);
	munmap(fresh, 4096);
	if (both != MAP_FAILED)
		munmap(both, 4096);
}

int main(int count, char **arguments)
{
	bool alone = count > 1 && strcmp(arguments[1], "alone") == 0;
	int rule = REFUSE_GAIN | (alone ? NOT_INHERITED : 0);
	unsigned char *both = map_anonymous(8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE);
	unsigned char *code = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	unsigned char *shared = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	write_code(both, 1001);
	write_code(code, 2002);
	write_code(shared, 3003);
	must(mprotect(code, 4096, PROT_READ | PROT_EXEC));
	must(mprotect(shared, 4096, PROT_READ | PROT_EXEC));
	if (prctl(PR_SET_MDWE, rule, 0, 0, 0) != 0)
		skip("no PR_SET_MDWE: %s", strerror(errno));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		expect_equal("rule of the child", alone ? 0 : REFUSE_GAIN, prctl(PR_GET_MDWE, 0, 0, 0, 0));
		expect_equal("code of the child", 2002, run_code(code));
		check_gain(!alone);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	check_gain(true);

	victim_ready();
	victim_wait();

	expect_equal("rule", rule, prctl(PR_GET_MDWE, 0, 0, 0, 0));
	expect_equal("writable code", 1001, run_code(both));
	write_code(both, 1111);
	expect_equal("changed code", 1111, run_code(both));
	expect_equal("code", 2002, run_code(code));
	expect_equal("shared code", 3003, run_code(shared));
	check_gain(true);
	join_child(child);
	victim_ok();
}
