/*
 * Ends that are gone: slaves whose master is closed, one of them locked out of its session's terminal; a master whose slave was
 * closed with something left to read; a session's leader on a terminal that nobody has open.
 */
#include "pty.h"

int main(void)
{
	struct pty hung = pty_open(), left = pty_open(), tied = pty_open();
	char byte, found[64];
	int reader = must(open(hung.name, O_RDONLY | O_NOCTTY | O_NONBLOCK));
	close(hung.master);
	pty_write(left.slave, "last words", 10);
	pty_await(left.master, 10);
	close(left.slave);
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		must(setsid());
		must(ioctl(tied.slave, TIOCSCTTY, 0));
		close(tied.slave);
		close(tied.master);
		arrive(&arrivals);
		victim_wait();
		int terminal = expect_success(open("/dev/tty", O_RDWR));
		expect_equal("foreground group", getpid(), tcgetpgrp(terminal));
		signal(SIGHUP, SIG_DFL);
		pty_write(terminal, "here", 4);
		pause();
		_exit(5);
	}
	close(tied.slave);
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	struct pollfd state = {.fd = hung.slave, .events = POLLIN | POLLOUT};
	expect_equal("poll", 1, poll(&state, 1, 0));
	expect_true(state.revents & POLLHUP);
	expect_equal("reading from a hung-up terminal", 0, read(hung.slave, &byte, 1));
	expect_equal("reading from a hung-up terminal", 0, read(reader, &byte, 1));
	expect_equal("flags", O_RDONLY | O_NONBLOCK, fcntl(reader, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_equal("writing to a hung-up terminal", -1, write(hung.slave, "x", 1));
	expect_equal("writing to a hung-up terminal", EIO, errno);
	expect_equal("asking a hung-up terminal", 0, isatty(hung.slave));

	pty_expect("what was left", left.master, "last words", 10);
	expect_equal("after it", -1, read(left.master, &byte, 1));
	expect_equal("after it", EIO, errno);
	int again = expect_success(open(left.name, O_RDWR | O_NOCTTY));
	pty_write(again, "again", 5);
	victim_nap(20000);
	pty_expect("opened again", left.master, "again", 5);

	/* Until the leader has opened its terminal nobody has the other end, which would be an error of the read. */
	struct pollfd there = {.fd = tied.master, .events = POLLIN};
	while (poll(&there, 1, 0) >= 0 && !(there.revents & POLLIN))
		victim_nap(1000);
	pty_read_all("the tied session", tied.master, found, 4);
	expect_equal("the tied session", 0, memcmp(found, "here", 4));
	int status = 0;
	close(tied.master);
	expect_equal("leader", child, waitpid(child, &status, 0));
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGHUP)
		wrong("the leader: expected to be hung up, found wait status 0x%x", status);
	victim_ok();
}
