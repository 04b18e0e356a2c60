/* SIGTRAP, the signal of breakpoints: ignored, and pending for the process and for a thread. */
#include "victim.h"

static atomic_bool queued;

static void expect_pending(const char *whose, int value)
{
	struct timespec none = {0, 0};
	siginfo_t info;
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGTRAP);
	if (sigtimedwait(&one, &info, &none) != SIGTRAP)
		wrong("%s: expected SIGTRAP pending, found none", whose);
	expect_equal("its code", SI_QUEUE, info.si_code);
	expect_equal("its value", value, info.si_value.sival_int);
}

static void *live(void *argument)
{
	must_zero(pthread_sigqueue(pthread_self(), SIGTRAP, (union sigval){.sival_int = 2}));
	atomic_store(&queued, true);
	victim_wait();
	expect_pending("a thread", 2);
	return argument;
}

int main(void)
{
	struct sigaction ignored = {.sa_handler = SIG_IGN, .sa_flags = SA_RESTART}, found;
	pthread_t thread;
	sigset_t all;
	sigfillset(&all);
	must(sigprocmask(SIG_SETMASK, &all, NULL));
	must(sigaction(SIGTRAP, &ignored, NULL));
	must_zero(pthread_create(&thread, NULL, live, NULL));
	while (!atomic_load(&queued))
		victim_nap(1000);
	must(sigqueue(getpid(), SIGTRAP, (union sigval){.sival_int = 1}));

	victim_ready();
	victim_wait();

	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	expect_pending("the process", 1);
	expect_success(sigaction(SIGTRAP, NULL, &found));
	expect_true(found.sa_handler == SIG_IGN);
	sigemptyset(&all);
	expect_success(sigprocmask(SIG_SETMASK, &all, NULL));
	expect_success(raise(SIGTRAP));
	victim_ok();
}
