/* A process that has unmapped its vDSO, whose child, born before, has it. */
#include "victim.h"

/* Counts what the kernel provides, and unmaps it if asked to. */
static int provided(bool unmap)
{
	static char text[65536];
	int found = 0;
	read_text("/proc/self/maps", text, sizeof text);
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		unsigned long start, end;
		if (strstr(line, "[vdso]") == NULL && strstr(line, "[vvar") == NULL)
			continue;
		found++;
		if (unmap && sscanf(line, "%lx-%lx", &start, &end) == 2)
			must(syscall(SYS_munmap, start, end - start));
	}
	return found;
}

/* Without the C library's clocks, which lie in the vDSO. */
static void wait_without(void)
{
	while (!victim_may_go()) {
		struct timespec time = {0, 1000000};
		syscall(SYS_nanosleep, &time, NULL);
	}
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	if (getenv("VICTIM_GO") == NULL)
		skip("run it with VICTIM_GO");
	pid_t without = must(fork());
	if (without == 0) {
		pid_t with = must(fork());
		if (with == 0) {
			int before = provided(false);
			arrive(&arrivals);
			victim_wait();
			expect_equal("areas of the grandchild", before, provided(false));
			expect_true(clock_now(CLOCK_MONOTONIC) > 0);
			_exit(0);
		}
		provided(true);
		arrive(&arrivals);
		wait_without();
		expect_equal("areas of the child", 0, provided(false));
		join_child(with);
		_exit(0);
	}
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	expect_true(provided(false) >= 2);
	join_child(without);
	victim_ok();
}
