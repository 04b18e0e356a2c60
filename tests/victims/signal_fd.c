/* signalfd: its mask, its flags, the signals waiting behind it, and that new ones arrive. */
#include "victim.h"
#include <sys/signalfd.h>

static void expect_read(int file, int signal, int value)
{
	struct signalfd_siginfo info;
	ssize_t got = read(file, &info, sizeof info);
	if (got != sizeof info)
		wrong("signalfd: expected signal %d, found %zd: %s", signal, got, strerror(errno));
	expect_equal("signal", signal, info.ssi_signo);
	expect_equal("value", value, info.ssi_int);
	expect_equal("sender", getpid(), info.ssi_pid);
}

int main(void)
{
	struct signalfd_siginfo info;
	sigset_t both, one;
	sigemptyset(&both);
	sigaddset(&both, SIGRTMIN + 2);
	sigaddset(&both, SIGUSR1);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR2);
	must(sigprocmask(SIG_BLOCK, &both, NULL));
	must(sigprocmask(SIG_BLOCK, &one, NULL));
	int first = must(signalfd(-1, &both, SFD_NONBLOCK | SFD_CLOEXEC)), second = must(signalfd(-1, &one, 0));
	must(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 5}));
	must(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 6}));
	must(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 8}));

	victim_ready();
	victim_wait();

	expect_equal("flags of the first", O_NONBLOCK, fcntl(first, F_GETFL) & O_NONBLOCK);
	expect_equal("flags of the second", 0, fcntl(second, F_GETFL) & O_NONBLOCK);
	expect_equal("close-on-exec of the first", FD_CLOEXEC, fcntl(first, F_GETFD));
	expect_equal("close-on-exec of the second", 0, fcntl(second, F_GETFD));
	expect_read(first, SIGRTMIN + 2, 5);
	expect_read(first, SIGRTMIN + 2, 6);
	expect_equal("nothing more", -1, read(first, &info, sizeof info));
	expect_equal("its error", EAGAIN, errno);
	expect_read(second, SIGUSR2, 8);
	expect_success(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 9}));
	expect_read(first, SIGUSR1, 9);
	victim_ok();
}
