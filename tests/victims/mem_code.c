/* Code that changes: the program's own text patched in place and write-protected again, and code made at run time on pages
 * that are writable or executable but never both. */
#include "victim.h"

/* On a page of its own, so that the patch makes no other code writable. */
__attribute__((noinline, aligned(4096))) static int constant(void)
{
	return 17;
}
__attribute__((noinline, aligned(4096), used)) static int after(void)
{
	return 18;
}

/* mov eax, NUMBER; ret */
static void write_code(unsigned char *place, unsigned char number)
{
	const unsigned char code[] = {0xb8, number, 0, 0, 0, 0xc3};
	memcpy(place, code, sizeof code);
}

static int run(const void *place)
{
	int (*function)(void) = (int (*)(void))(uintptr_t)place;
	return function();
}

int main(void)
{
	unsigned char *text = (unsigned char *)(uintptr_t)constant;
	int (*volatile called)(void) = constant;
	expect_equal("function before the patch", 17, called());
	must(mprotect(text, 4096, PROT_READ | PROT_WRITE));
	write_code(text, 71);
	must(mprotect(text, 4096, PROT_READ | PROT_EXEC));
	expect_equal("patched function", 71, called());

	unsigned char *made = (unsigned char *)map_anonymous(8 * 4096, PROT_NONE, MAP_PRIVATE);
	must(mprotect(made, 2 * 4096, PROT_READ | PROT_WRITE));
	write_code(made, 1);
	write_code(made + 4096, 2);
	must(mprotect(made, 2 * 4096, PROT_READ | PROT_EXEC));
	must(mprotect(made + 4096, 4096, PROT_EXEC));

	victim_ready();
	victim_wait();

	expect_equal("patched function", 71, called());
	expect_equal("function on the next page", 18, run((const void *)(uintptr_t)after));
	expect_equal("made code", 1, run(made));
	expect_equal("made code that cannot be read", 2, run(made + 4096));
	char protection[16];
	expect_true(smaps_field(text, "protection", protection, sizeof protection));
	expect_text("protection of the patched text", "r-xp", protection);
	must(mprotect(made, 4096, PROT_READ | PROT_WRITE));
	write_code(made, 3);
	must(mprotect(made, 4096, PROT_READ | PROT_EXEC));
	expect_equal("code made anew", 3, run(made));
	must(mprotect(made + 2 * 4096, 4096, PROT_READ | PROT_WRITE));
	write_code(made + 2 * 4096, 4);
	must(mprotect(made + 2 * 4096, 4096, PROT_READ | PROT_EXEC));
	expect_equal("code on reserved pages", 4, run(made + 2 * 4096));
	victim_ok();
}
