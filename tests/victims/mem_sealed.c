/* Sealed memory (mseal(2)) keeps its content and its seal, in a child as in its parent; its neighbours stay free. */
#include "victim.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { LENGTH = 4 * 4096 };

static void expect_sealed(char *start)
{
	errno = 0;
	expect_equal("mprotect of sealed memory", -1, mprotect(start, LENGTH, PROT_READ));
	expect_equal("its error", EPERM, errno);
	expect_equal("munmap of sealed memory", -1, munmap(start + 4096, 4096));
	expect_equal("mapping over sealed memory", 1,
		     mmap(start, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	char *area = map_anonymous(3 * LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *sealed = area + LENGTH;
	char *constant = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(area, 3 * LENGTH, 1);
	fill_pattern(constant, LENGTH, 2);
	must(mprotect(constant, LENGTH, PROT_READ));
	if (syscall(SYS_mseal, sealed, (size_t)LENGTH, 0UL) != 0)
		skip("mseal: %s", strerror(errno));
	must(syscall(SYS_mseal, constant, (size_t)LENGTH, 0UL));
	pid_t child = must(fork());
	if (child == 0) {
		fill_pattern(sealed, LENGTH, 3);
		arrive(&arrivals);
		victim_wait();
		check_pattern("sealed memory of the child", sealed, LENGTH, 3);
		expect_sealed(sealed);
		expect_sealed(constant);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	join_child(child);
	check_pattern("sealed memory and its neighbours", area, 3 * LENGTH, 1);
	check_pattern("sealed constants", constant, LENGTH, 2);
	expect_sealed(sealed);
	expect_sealed(constant);
	fill_pattern(sealed, LENGTH, 4);
	expect_success(munmap(area, LENGTH));
	expect_success(mprotect(area + 2 * LENGTH, LENGTH, PROT_NONE));
	check_pattern("sealed memory written afterwards", sealed, LENGTH, 4);
	victim_ok();
}
