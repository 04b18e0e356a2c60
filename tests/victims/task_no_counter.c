/* The time stamp counter is off for one process and one thread of another; membarrier registrations; both inherited or not. */
#include <linux/membarrier.h>

#include "victim.h"

static atomic_bool there;

static int counter_state(void)
{
	int state = 0;
	expect_success(prctl(PR_GET_TSC, &state, 0, 0, 0));
	return state;
}

static volatile sig_atomic_t faults;

static void on_fault(int signal, siginfo_t *about, void *context)
{
	(void)signal;
	(void)about;
	/* rdtsc has two bytes. */
	((ucontext_t *)context)->uc_mcontext.gregs[16 /* REG_RIP */] += 2;
	faults++;
}

static void *without(void *argument)
{
	must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
	atomic_store(&there, true);
	/* Its clocks may be in the vDSO, which reads the counter. */
	while (access(getenv("VICTIM_GO") ? getenv("VICTIM_GO") : "/", F_OK) != 0) {
		struct timespec time = {0, 1000000};
		syscall(SYS_nanosleep, &time, NULL);
	}
	expect_equal("counter of the thread", PR_TSC_SIGSEGV, counter_state());
	__asm__ volatile("rdtsc" : : : "rax", "rdx");
	expect_equal("faults of the thread", 1, faults);
	return argument;
}

int main(void)
{
	pthread_t thread;
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	must(sigaction(SIGSEGV, &action, NULL));
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
	long before = syscall(SYS_membarrier, 1 << 9 /* GET_REGISTRATIONS */, 0, 0);
	must_zero(pthread_create(&thread, NULL, without, NULL));
	while (!atomic_load(&there))
		victim_nap(1000);
	victim_ready();
	victim_wait();
	expect_equal("counter of the first thread", PR_TSC_ENABLE, counter_state());
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	expect_success(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
	expect_equal("barrier that was not registered for", -1,
		     syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
	expect_equal("registrations", before, syscall(SYS_membarrier, 1 << 9, 0, 0));
	victim_ok();
}
