/* All signal actions as the kernel keeps them: handler, flags, restorer and mask of each of the 64 signals. */
#include "victim.h"

struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

static const uint64_t flag_sets[] = {
	SA_RESTART, SA_SIGINFO | SA_ONSTACK, SA_NODEFER, SA_RESETHAND | SA_SIGINFO, SA_NOCLDSTOP | SA_RESTART, 0, SA_NOCLDWAIT,
};
enum { RESTORER = 0x04000000, FLAG_SETS = sizeof flag_sets / sizeof flag_sets[0], SIGNALS = 64 };

static volatile int handled;

static void on_signal(int signal)
{
	handled = signal;
}

static struct kernel_action action_of(int signal)
{
	struct kernel_action action;
	must(syscall(SYS_rt_sigaction, signal, NULL, &action, 8));
	return action;
}

int main(void)
{
	struct kernel_action usual, before[SIGNALS + 1], after;
	struct sigaction plain = {.sa_handler = on_signal};
	must(sigaction(SIGUSR1, &plain, NULL));
	usual = action_of(SIGUSR1);
	for (int signal = 1; signal <= SIGNALS; signal++) {
		struct kernel_action set = usual;
		if (signal == SIGKILL || signal == SIGSTOP)
			continue;
		set.flags = RESTORER | flag_sets[signal % FLAG_SETS];
		set.mask = pattern_word(1, (uint64_t)signal);
		if (signal % 5 == 0)
			set.handler = (uint64_t)(uintptr_t)SIG_IGN;
		if (signal % 5 == 1)
			set.handler = (uint64_t)(uintptr_t)SIG_DFL;
		must(syscall(SYS_rt_sigaction, signal, &set, NULL, 8));
	}
	for (int signal = 1; signal <= SIGNALS; signal++)
		before[signal] = action_of(signal);

	victim_ready();
	victim_wait();

	for (int signal = 1; signal <= SIGNALS; signal++) {
		after = action_of(signal);
		if (memcmp(&after, &before[signal], sizeof after) != 0)
			wrong("action of signal %d: expected handler 0x%llx flags 0x%llx restorer 0x%llx mask 0x%llx, "
			      "found 0x%llx 0x%llx 0x%llx 0x%llx",
			      signal, (unsigned long long)before[signal].handler,
			      (unsigned long long)before[signal].flags, (unsigned long long)before[signal].restorer,
			      (unsigned long long)before[signal].mask, (unsigned long long)after.handler,
			      (unsigned long long)after.flags, (unsigned long long)after.restorer,
			      (unsigned long long)after.mask);
	}
	expect_success(kill(getpid(), SIGUSR2));
	expect_equal("handler of SIGUSR2", SIGUSR2, handled);
	expect_success(kill(getpid(), SIGALRM + 1));
	expect_equal("ignored signal changes nothing", SIGUSR2, handled);
	victim_ok();
}
