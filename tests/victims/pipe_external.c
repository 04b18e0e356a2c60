/*
 * Pipes whose other end is outside: what was in flight is read first, then what the new source has, then the end.
 * With the argument "moved" they are at other numbers than those of standard streams.
 */
#include "victim.h"

int main(int argc, char **argv)
{
	int source = STDIN_FILENO, sink = STDERR_FILENO;
	char found[64];
	size_t used = 0;
	if (argc > 1 && strcmp(argv[1], "moved") == 0) {
		int null = must(open("/dev/null", O_RDWR));
		source = must(dup2(STDIN_FILENO, 70));
		sink = must(dup2(STDERR_FILENO, 80));
		must(dup2(null, STDIN_FILENO));
		must(dup2(null, STDERR_FILENO));
		close(null);
	}
	must(read(source, found, 4));

	victim_ready();
	victim_wait();

	for (ssize_t got; (got = expect_success(read(source, found + used, sizeof found - 1 - used))) > 0;)
		used += (size_t)got;
	found[used] = '\0';
	expect_text("what came in", "before, after", found);
	expect_equal("bytes that go out", 6, write(sink, "heard\n", 6));
	victim_ok();
}
