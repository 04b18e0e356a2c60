/* Protections: inaccessible pages keep their bytes, read-only pages stay so, executable pages still run. */
#include "victim.h"
#include <setjmp.h>

static sigjmp_buf escape;

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(escape, 1);
}

static bool faults(volatile char *place, bool writing)
{
	if (sigsetjmp(escape, 1) != 0)
		return true;
	if (writing)
		*place = 1;
	else
		(void)*place;
	return false;
}

int main(void)
{
	/* mov eax, 42; ret */
	static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
	char *body = map_anonymous(5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	struct sigaction action = {.sa_handler = on_fault};
	must(sigaction(SIGSEGV, &action, NULL));
	for (int page = 0; page < 5; page++)
		fill_pattern(body + page * 4096, 4096, (uint64_t)page);
	memcpy(body + 3 * 4096, code, sizeof code);
	must(mprotect(body, 4096, PROT_NONE));
	must(mprotect(body + 4096, 4096, PROT_READ));
	must(mprotect(body + 3 * 4096, 4096, PROT_READ | PROT_EXEC));
	must(mprotect(body + 4 * 4096, 4096, PROT_NONE));

	victim_ready();
	victim_wait();

	const char *expected[] = {"---p", "r--p", "rw-p", "r-xp", "---p"};
	char protection[16];
	for (int page = 0; page < 5; page++) {
		expect_true(smaps_field(body + page * 4096, "protection", protection, sizeof protection));
		expect_text("protection", expected[page], protection);
	}
	expect_true(faults(body, false));
	expect_true(faults(body + 4096, true));
	expect_true(!faults(body + 2 * 4096, false));
	int (*run)(void) = (int (*)(void))(uintptr_t)(body + 3 * 4096);
	expect_equal("code on an executable page", 42, run());
	expect_success(mprotect(body, 4096, PROT_READ));
	expect_success(mprotect(body + 4 * 4096, 4096, PROT_READ));
	for (int page = 0; page < 5; page++)
		if (page != 3)
			check_pattern("page", body + page * 4096, 4096, (uint64_t)page);
	victim_ok();
}
