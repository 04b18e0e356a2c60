/*
 * A session on a terminal of the job's own: a leader, a background and a foreground group, /dev/tty opened several times. After
 * the wait it is the controlling terminal of all of them, each open has the name that it had, keys reach the foreground group
 * alone, the background one is stopped when it reads, and the end of the master hangs all up.
 */
#include "pty.h"

static volatile sig_atomic_t interrupted, resized;

static void note(int signal)
{
	if (signal == SIGINT)
		interrupted++;
	else
		resized++;
}

static void expect_name(const char *what, const char *expected, int tty)
{
	char name[64] = "";
	expect_equal(what, 0, ttyname_r(tty, name, sizeof name));
	expect_text(what, expected, name);
}

/* Sleeps until told by a file that its parent makes; counts its signals. */
static void member(struct arrivals *arrivals, int slave, int write_end, int interrupts)
{
	struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
	must(sigaction(SIGINT, &action, NULL));
	must(sigaction(SIGWINCH, &action, NULL));
	arrive(arrivals);
	victim_wait_with_signals();
	/* Both ask for the controlling terminal of the process itself. */
	int tty = expect_success(open("/dev/tty", O_RDWR));
	expect_equal("session of /dev/tty", getppid(), tcgetsid(tty));
	expect_success(tcgetpgrp(slave));
	for (int tries = 0; tries < 20000 && interrupted < interrupts; tries++)
		usleep(1000);
	expect_equal("interrupts", interrupts, interrupted);
	expect_equal("changes of the window", 0, resized);
	if (write(write_end, "d", 1) != 1)
		wrong("write: %s", strerror(errno));
	_exit(0);
}

static void leader(const char *name, int ready, int done)
{
	struct arrivals arrivals = arrivals_open();
	must(setsid());
	int slave = must(open(name, O_RDWR));
	int first = must(open("/dev/tty", O_RDWR)), second = must(open("/dev/tty", O_RDONLY | O_NONBLOCK));
	int writing = must(open("/dev/tty", O_WRONLY | O_APPEND)), shared = must(dup(first));
	signal(SIGTTOU, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	pid_t children[2];
	for (int index = 0; index < 2; index++) {
		children[index] = must(fork());
		if (children[index] == 0) {
			signal(SIGTTOU, SIG_DFL);
			must(setpgid(0, 0));
			member(&arrivals, slave, done, index);
		}
		setpgid(children[index], children[index]);
	}
	pid_t foreground = children[1];
	must(tcsetpgrp(slave, foreground));
	await_arrivals(&arrivals, 2);
	must((int)write(ready, "r", 1));
	victim_wait();
	expect_equal("session of the terminal", getpid(), tcgetsid(slave));
	expect_equal("foreground group", foreground, tcgetpgrp(slave));
	expect_equal("foreground group by /dev/tty", foreground, tcgetpgrp(first));
	expect_equal("flags", O_NONBLOCK, fcntl(second, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_equal("flags", O_WRONLY | O_APPEND, fcntl(writing, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	expect_name("name of the terminal", name, slave);
	expect_name("name of /dev/tty", "/dev/tty", first);
	expect_name("name of /dev/tty", "/dev/tty", second);
	expect_name("name of /dev/tty", "/dev/tty", writing);
	expect_success(fcntl(shared, F_SETFL, O_NONBLOCK));
	expect_equal("shared flags", O_NONBLOCK, fcntl(first, F_GETFL) & O_NONBLOCK);
	expect_success(fcntl(shared, F_SETFL, 0));
	int now = expect_success(open("/dev/tty", O_RDWR));
	expect_equal("foreground group by a new /dev/tty", foreground, tcgetpgrp(now));
	struct stat one, two;
	expect_success(fstat(slave, &one));
	expect_success(stat(name, &two));
	expect_equal("the terminal under its name", one.st_rdev, two.st_rdev);
	expect_equal("the terminal under its name", one.st_ino, two.st_ino);
	/* A background process that reads is stopped. */
	pid_t reader = must(fork());
	if (reader == 0) {
		char byte;
		setpgid(0, 0);
		signal(SIGTTIN, SIG_DFL);
		_exit(read(slave, &byte, 1) < 0 ? 3 : 4);
	}
	int status = 0;
	expect_equal("stopped reader", reader, waitpid(reader, &status, WUNTRACED));
	expect_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
	kill(reader, SIGKILL);
	expect_equal("killed reader", reader, waitpid(reader, &status, 0));
	/* The key for interrupts, typed by the parent when it hears this. */
	if (write(ready, "k", 1) != 1)
		wrong("write: %s", strerror(errno));
	for (int index = 0; index < 2; index++)
		join_child(children[index]);
	pause();
	_exit(5);
}

int main(void)
{
	struct pty pty = pty_open();
	close(pty.slave);
	int ready[2], done[2], status = 0;
	char byte, found[64];
	must(pipe(ready));
	must(pipe(done));
	pid_t child = must(fork());
	if (child == 0) {
		close(pty.master);
		leader(pty.name, ready[1], done[1]);
	}
	if (read(ready[0], &byte, 1) != 1 || byte != 'r')
		broken("the session did not come up");

	victim_ready();
	victim_wait();

	pid_t session = 0;
	expect_success(ioctl(pty.master, TIOCGSID, &session));
	expect_equal("session", child, session);
	if (read(ready[0], &byte, 1) != 1 || byte != 'k')
		wrong("the session's leader ended early");
	pty_write(pty.master, "\003", 1);
	pty_read_all("echo", pty.master, found, 2);
	expect_equal("echo", 0, memcmp(found, "^C", 2));
	for (int count = 0; count < 2; count++)
		if (read(done[0], &byte, 1) != 1)
			wrong("%d of 2 members of the session were right", count);
	/* Nothing was lost of the tie: the end of the master is the end of the session. */
	close(pty.master);
	expect_equal("leader", child, waitpid(child, &status, 0));
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGHUP)
		wrong("the leader: expected to be hung up, found wait status 0x%x", status);
	victim_ok();
}
