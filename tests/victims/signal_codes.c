/* Pending signals keep their whole siginfo_t, whatever they say they come from: the kernel, a timer that is gone, message
 * queues, asynchronous I/O, a child, a fault. */
#include "victim.h"

static const int codes[] = {SI_USER, SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL, SI_ASYNCNL, SI_KERNEL, 1, 6, -77};
enum { CODES = sizeof codes / sizeof codes[0] };
static const int faults[] = {SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGCHLD, SIGPOLL, SIGSYS};
enum { FAULTS = sizeof faults / sizeof faults[0] };

/* What a signal is to carry: words that the kernel has no reason to change. */
static siginfo_t carried(int signal, int code, int place)
{
	siginfo_t information;
	memset(&information, 0, sizeof information);
	information.si_signo = signal;
	information.si_errno = place;
	information.si_code = code;
	information.si_pid = 1000 + place;
	information.si_uid = (uid_t)(2000 + place);
	information.si_value.sival_ptr = (void *)(uintptr_t)(0x123456789abc + place);
	return information;
}

static void send(int signal, int code, int place)
{
	siginfo_t information = carried(signal, code, place);
	must(syscall(SYS_rt_sigqueueinfo, getpid(), signal, &information));
}

static void expect_carried(int signal, int code, int place)
{
	siginfo_t found, expected = carried(signal, code, place);
	struct timespec now = {0, 0};
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, signal);
	memset(&found, 0, sizeof found);
	if (syscall(SYS_rt_sigtimedwait, &one, &found, &now, 8) != signal)
		wrong("signal %d with code %d: expected pending, found: %s", signal, code, strerror(errno));
	expect_equal("code", code, found.si_code);
	expect_equal("errno", place, found.si_errno);
	for (size_t byte = 0; byte < sizeof found; byte++)
		if (((char *)&found)[byte] != ((char *)&expected)[byte])
			wrong("signal %d with code %d: byte %zu: expected 0x%x, found 0x%x", signal, code, byte,
			      ((unsigned char *)&expected)[byte], ((unsigned char *)&found)[byte]);
}

int main(void)
{
	sigset_t all;
	sigfillset(&all);
	must(sigprocmask(SIG_SETMASK, &all, NULL));
	for (int index = 0; index < CODES; index++)
		send(SIGRTMIN + 5, codes[index], index);
	for (int index = 0; index < FAULTS; index++)
		send(faults[index], 1, 100 + index);

	victim_ready();
	victim_wait();

	for (int index = 0; index < CODES; index++)
		expect_carried(SIGRTMIN + 5, codes[index], index);
	for (int index = 0; index < FAULTS; index++)
		expect_carried(faults[index], 1, 100 + index);
	victim_ok();
}
