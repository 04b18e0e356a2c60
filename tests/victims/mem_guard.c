/* Guard pages set by madvise(MADV_GUARD_INSTALL) still guard. */
#include "victim.h"
#include <setjmp.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

static sigjmp_buf escape;

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(escape, 1);
}

static bool faults(volatile char *place)
{
	if (sigsetjmp(escape, 1) != 0)
		return true;
	(void)*place;
	return false;
}

int main(void)
{
	char *area = map_anonymous(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	struct sigaction action = {.sa_handler = on_fault};
	must(sigaction(SIGSEGV, &action, NULL));
	fill_pattern(area, 16 * 4096, 1);
	if (madvise(area + 4 * 4096, 2 * 4096, MADV_GUARD_INSTALL) != 0)
		skip("this kernel has no guard pages in mappings");

	victim_ready();
	victim_wait();

	for (int page = 0; page < 16; page++)
		expect_equal("guarded", page == 4 || page == 5, faults(area + page * 4096));
	check_pattern("pages before the guard", area, 4 * 4096, 1);
	expect_success(madvise(area + 4 * 4096, 2 * 4096, MADV_GUARD_REMOVE));
	check_zeros("pages that were guarded", area + 4 * 4096, 2 * 4096);
	victim_ok();
}
