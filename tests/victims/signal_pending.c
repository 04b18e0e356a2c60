/* Pending signals: of the process and of a thread, with their values, senders and order; real-time ones several times. */
#include "victim.h"

static sigset_t all;
static atomic_bool queued;

static void expect_signal(const char *whose, int signal, int code, pid_t sender, int value)
{
	siginfo_t info;
	struct timespec none = {0, 0};
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, signal);
	memset(&info, 0, sizeof info);
	/* Not through the C library, which turns SI_TKILL into SI_USER. */
	if (syscall(SYS_rt_sigtimedwait, &one, &info, &none, 8) != signal)
		wrong("%s: expected signal %d pending, found none", whose, signal);
	if (info.si_code != code)
		wrong("%s: signal %d: expected code %d, found %d from %d", whose, signal, code, info.si_code, info.si_pid);
	if (code == SI_USER || code == SI_QUEUE || code == SI_TKILL) {
		expect_equal("sender", sender, info.si_pid);
		expect_equal("sender's user", getuid(), info.si_uid);
	}
	if (code == SI_QUEUE)
		expect_equal("value", value, info.si_value.sival_int);
}

static void expect_nothing(const char *whose)
{
	sigset_t pending;
	sigpending(&pending);
	for (int signal = 1; signal <= SIGRTMAX; signal++)
		if (sigismember(&pending, signal) == 1)
			wrong("%s: signal %d is pending once too often", whose, signal);
}

static void *live(void *argument)
{
	pid_t self = getpid();
	for (int value = 0; value < 5; value++)
		must_zero(pthread_sigqueue(pthread_self(), SIGRTMIN + 3, (union sigval){.sival_int = 100 + value}));
	must_zero(pthread_sigqueue(pthread_self(), SIGUSR2, (union sigval){.sival_int = 7}));
	must(syscall(SYS_tgkill, self, thread_id(), SIGHUP));
	atomic_store(&queued, true);
	victim_wait();
	for (int value = 0; value < 5; value++)
		expect_signal("a thread", SIGRTMIN + 3, SI_QUEUE, self, 100 + value);
	expect_signal("a thread", SIGUSR2, SI_QUEUE, self, 7);
	expect_signal("a thread", SIGHUP, SI_TKILL, self, 0);
	return argument;
}

int main(void)
{
	pthread_t thread;
	pid_t self = getpid(), child;
	sigfillset(&all);
	must(sigprocmask(SIG_SETMASK, &all, NULL));
	for (int value = 0; value < 40; value++)
		must(sigqueue(self, SIGRTMIN + 1, (union sigval){.sival_int = value}));
	must(sigqueue(self, SIGRTMAX, (union sigval){.sival_int = -1}));
	must(kill(self, SIGUSR1));
	must(kill(self, SIGUSR1));
	child = must(fork());
	if (child == 0) {
		must(sigqueue(self, SIGTERM, (union sigval){.sival_int = 77}));
		_exit(0);
	}
	must(waitpid(child, NULL, 0));
	must(kill(self, SIGCONT));
	must(raise(SIGINT));
	must_zero(pthread_create(&thread, NULL, live, NULL));
	while (!atomic_load(&queued))
		victim_nap(1000);

	victim_ready();
	victim_wait();

	for (int value = 0; value < 40; value++)
		expect_signal("the process", SIGRTMIN + 1, SI_QUEUE, self, value);
	expect_signal("the process", SIGRTMAX, SI_QUEUE, self, -1);
	expect_signal("the process", SIGUSR1, SI_USER, self, 0);
	expect_signal("the process", SIGTERM, SI_QUEUE, child, 77);
	expect_signal("the process", SIGCHLD, CLD_EXITED, child, 0);
	expect_signal("the process", SIGCONT, SI_USER, self, 0);
	expect_signal("the first thread", SIGINT, SI_TKILL, self, 0);
	expect_nothing("the first thread");
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	victim_ok();
}
