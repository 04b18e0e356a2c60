/*
 * System call user dispatch: on, with its selector set to block calls but for a region; with the argument "inclusive" to block those
 * of a region only.
 */
#include <linux/prctl.h>

#include "victim.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
enum { BUT_FOR_REGION = 1, IN_REGION = 2 };

static volatile char selector;
static volatile sig_atomic_t caught;
static atomic_bool there;

static void on_call(int signal, siginfo_t *about, void *context)
{
	(void)signal;
	(void)context;
	selector = 0;
	caught = about->si_syscall;
}

/* Code whose calls are dispatched: outside of the C library. */
__attribute__((noinline)) static long blocked_call(long number)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number) : "rcx", "r11", "memory");
	return result;
}

static void turn_on(int how, unsigned long start, unsigned long length)
{
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, how, start, length, &selector) != 0)
		skip("no system call user dispatch: %s", strerror(errno));
}

static void *elsewhere(void *argument)
{
	/* Threads begin without. */
	atomic_store(&there, true);
	victim_wait();
	expect_success(blocked_call(SYS_getppid));
	return argument;
}

int main(int count, char **arguments)
{
	bool inclusive = count > 1 && strcmp(arguments[1], "inclusive") == 0;
	unsigned long inside = inclusive ? (unsigned long)&blocked_call : (unsigned long)&nanosleep;
	pthread_t thread;
	struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};
	must(sigaction(SIGSYS, &action, NULL));
	must_zero(pthread_create(&thread, NULL, elsewhere, NULL));
	while (!atomic_load(&there))
		victim_nap(1000);
	/* All of the C library may call: the region is the mapping of its text, or that of this program's. */
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], protection[8];
	unsigned long start = 0, end = 0;
	while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
		if (sscanf(line, "%lx-%lx %7s", &start, &end, protection) == 3 && protection[2] == 'x' &&
		    inside >= start && inside < end)
			break;
	if (maps != NULL)
		fclose(maps);
	turn_on(inclusive ? IN_REGION : BUT_FOR_REGION, start, end - start);
	selector = 1;
	victim_ready();
	victim_wait();
	expect_equal("selector", 1, selector);
	expect_equal("calls caught so far", 0, caught);
	blocked_call(SYS_getppid);
	expect_equal("call that was caught", SYS_getppid, caught);
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	victim_ok();
}
