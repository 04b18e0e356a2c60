/* Checkpointed inside a signal handler, on an alternate stack: the handler returns into the interrupted code. */
#include "victim.h"

static char stack[65536];
static volatile int depth, finished;

static void inner(int signal)
{
	(void)signal;
	depth = 2;
	victim_ready();
	victim_wait();
	finished |= 1;
}

static void outer(int signal)
{
	(void)signal;
	depth = 1;
	raise(SIGUSR2);
	finished |= 2;
}

int main(void)
{
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_handler = outer, .sa_flags = SA_ONSTACK};
	sigset_t before, after;
	double number = 1.25;
	must(sigaltstack(&alternate, NULL));
	sigaddset(&action.sa_mask, SIGTERM);
	must(sigaction(SIGUSR1, &action, NULL));
	action.sa_handler = inner;
	must(sigaction(SIGUSR2, &action, NULL));
	sigemptyset(&before);
	sigaddset(&before, SIGHUP);
	must(sigprocmask(SIG_SETMASK, &before, NULL));
	__asm__ volatile("" : "+x"(number));
	raise(SIGUSR1);
	__asm__ volatile("" : "+x"(number));
	expect_equal("depth", 2, depth);
	expect_equal("handlers that returned", 3, finished);
	expect_true(number == 1.25);
	expect_success(sigprocmask(SIG_SETMASK, NULL, &after));
	for (int signal = 1; signal <= SIGRTMAX; signal++)
		expect_equal("signal blocked", sigismember(&before, signal), sigismember(&after, signal));
	expect_success(sigaltstack(NULL, &alternate));
	expect_equal("flags of the alternate stack", 0, alternate.ss_flags);
	victim_ok();
}
