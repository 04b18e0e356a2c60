/* The vDSO is where it was and its functions work: reading clocks without system calls. */
#include "victim.h"
#include <sys/auxv.h>

int main(void)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
	long long monotonic = clock_now(CLOCK_MONOTONIC), boot = clock_now(CLOCK_BOOTTIME);
	long long real = clock_now(CLOCK_REALTIME), coarse = clock_now(CLOCK_MONOTONIC_COARSE);
	if (vdso == NULL)
		skip("no vDSO");

	victim_ready();
	/* Mostly inside the vDSO, so that checkpoints find the program there. */
	while (!victim_may_go())
		for (int round = 0; round < 20000; round++) {
			long long now = clock_now(CLOCK_MONOTONIC);
			expect_true(now >= monotonic);
			monotonic = now;
		}

	expect_equal("vDSO header", 0, memcmp(vdso, "\177ELF", 4));
	expect_within("boot clock", boot, boot + 600000000000ll, clock_now(CLOCK_BOOTTIME));
	expect_within("wall clock", real, real + 600000000000ll, clock_now(CLOCK_REALTIME));
	expect_true(clock_now(CLOCK_MONOTONIC_COARSE) >= coarse);
	expect_within("seconds", real / 1000000000, real / 1000000000 + 600, time(NULL));
	struct timeval of_day;
	expect_success(gettimeofday(&of_day, NULL));
	expect_within("seconds of the day", real / 1000000000, real / 1000000000 + 600, of_day.tv_sec);
	unsigned cpu;
	expect_success(getcpu(&cpu, NULL));
	expect_within("processor", 0, sysconf(_SC_NPROCESSORS_CONF) - 1, cpu);
	struct timespec by_call;
	monotonic = clock_now(CLOCK_MONOTONIC);
	expect_success(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &by_call));
	expect_within("system call against vDSO, ns", 0, 1000000000,
		      (long long)by_call.tv_sec * 1000000000 + by_call.tv_nsec - monotonic);
	char protection[8];
	expect_true(smaps_field(vdso, "protection", protection, sizeof protection));
	expect_text("vDSO protection", "r-xp", protection);
	victim_ok();
}
