/* Leases: one to read, one to write, and two that are being broken; nobody is told twice. */
#include "victim.h"

static volatile sig_atomic_t told;

static volatile int told_descriptor = -1;

static void note(int signal, siginfo_t *information, void *context)
{
	(void)context;
	if (signal != SIGIO)
		told_descriptor = information->si_fd;
	told++;
}

static int leased(const char *path, int access, int type)
{
	int file = must(open(path, access | O_CREAT | O_CLOEXEC, 0600));
	if (access != O_RDONLY)
		must(write(file, "content\n", 8));
	must(fcntl(file, F_SETLEASE, type));
	return file;
}

static void expect_break(const char *path, int access)
{
	int before = told;
	expect_equal("opening a leased file", -1, open(path, access | O_NONBLOCK | O_CLOEXEC));
	expect_equal("its error", EWOULDBLOCK, errno);
	expect_equal("signals of a break", before + 1, told);
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
	must(sigaction(SIGIO, &action, NULL));
	must(sigaction(SIGRTMIN, &action, NULL));
	int reading = leased("reading", O_RDONLY, F_RDLCK);
	int writing = leased("writing", O_RDWR | O_APPEND, F_WRLCK);
	int silent = leased("silent", O_WRONLY, F_WRLCK);
	must(fcntl(silent, F_SETSIG, SIGRTMIN));
	int given_up = leased("given-up", O_RDWR, F_WRLCK);
	/* Only what nobody writes can be reduced to reading. */
	int reduced = leased("reduced", O_RDONLY, F_WRLCK);
	expect_break("given-up", O_WRONLY);
	expect_break("reduced", O_RDONLY);
	/* Set by a process that has ended; the lease lives on in the description. */
	int orphan = must(open("orphan", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	pid_t setter = must(fork());
	if (setter == 0)
		_exit(fcntl(orphan, F_SETLEASE, F_WRLCK) == 0 ? 0 : 1);
	join_child(setter);

	victim_ready();
	victim_wait_with_signals();

	expect_equal("signals", 2, told);
	expect_equal("the lease to read", F_RDLCK, fcntl(reading, F_GETLEASE));
	expect_equal("the lease to write", F_WRLCK, fcntl(writing, F_GETLEASE));
	expect_equal("the lease of a file that is only written", F_WRLCK, fcntl(silent, F_GETLEASE));
	expect_equal("the lease to be given up", F_UNLCK, fcntl(given_up, F_GETLEASE));
	expect_equal("the lease to be reduced", F_RDLCK, fcntl(reduced, F_GETLEASE));
	expect_equal("the lease of one who has ended", F_WRLCK, fcntl(orphan, F_GETLEASE));
	/* A lease that is being broken is not broken once more. */
	expect_equal("opening a file again", -1, open("given-up", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
	expect_equal("signals", 2, told);
	expect_success(fcntl(given_up, F_SETLEASE, F_UNLCK));
	close(expect_success(open("given-up", O_WRONLY | O_NONBLOCK | O_CLOEXEC)));
	expect_success(fcntl(reduced, F_SETLEASE, F_RDLCK));
	close(expect_success(open("reduced", O_RDONLY | O_NONBLOCK | O_CLOEXEC)));
	close(expect_success(open("reading", O_RDONLY | O_NONBLOCK | O_CLOEXEC)));
	expect_break("reading", O_WRONLY);
	expect_break("writing", O_RDONLY);
	expect_break("silent", O_RDONLY);
	expect_equal("the descriptor that is told", silent, told_descriptor);
	victim_ok();
}
