/*
 * Modes of pseudo-terminals: packet mode, lock, exclusive mode, output that the stop key or a call holds back, a slave that was
 * never opened.
 */
#include "pty.h"

#ifndef TIOCGPKT
#define TIOCGPKT _IOR('T', 0x38, int)
#define TIOCGPTLCK _IOR('T', 0x39, int)
#define TIOCGEXCL _IOR('T', 0x40, int)
#endif

static bool holds(int side)
{
	struct pollfd room = {.fd = side, .events = POLLOUT};
	return poll(&room, 1, 0) == 0;
}

static void await_room(const char *what, int side)
{
	struct pollfd room = {.fd = side, .events = POLLOUT};
	if (poll(&room, 1, 10000) != 1)
		wrong("%s: output is still held back", what);
}

int main(void)
{
	int on = 1, found = 0;
	struct pty packets = pty_open(), locked = pty_open(), exclusive = pty_open(), by_key = pty_open(),
		   by_call = pty_open();
	pty_write(packets.slave, "data", 4);
	pty_await(packets.master, 4);
	must(ioctl(packets.master, TIOCPKT, &on));
	must(ioctl(locked.master, TIOCSPTLCK, &on));
	must(ioctl(exclusive.slave, TIOCEXCL, 0));
	pty_write(exclusive.master, "a line\n", 7);
	pty_await(exclusive.slave, 7);
	pty_write(by_key.master, "\023", 1);
	while (!holds(by_key.slave))
		victim_nap(1000);
	struct termios silent;
	must(tcgetattr(by_call.slave, &silent));
	silent.c_lflag &= ~(tcflag_t)ECHO;
	must(tcsetattr(by_call.slave, TCSANOW, &silent));
	must(tcflow(by_call.slave, TCOOFF));
	pty_write(by_call.master, "typed\n", 6);
	pty_await(by_call.slave, 6);
	int unopened = must(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));

	victim_ready();
	victim_wait();

	expect_success(ioctl(packets.master, TIOCGPKT, &found));
	expect_equal("packet mode", 1, found);
	pty_expect("packet", packets.master, "\0data", 5);
	expect_success(tcflush(packets.slave, TCIFLUSH));
	char byte;
	expect_equal("a message of packet mode", 1, read(packets.master, &byte, 1));
	expect_equal("a message of packet mode", TIOCPKT_FLUSHREAD, byte);

	expect_success(ioctl(locked.master, TIOCGPTLCK, &found));
	expect_equal("lock", 1, found);
	expect_equal("opening a locked terminal", -1, open(locked.name, O_RDWR | O_NOCTTY));
	expect_equal("opening a locked terminal", EIO, errno);

	expect_success(ioctl(exclusive.slave, TIOCGEXCL, &found));
	expect_equal("exclusive mode", 1, found);
	pty_expect("typed into it", exclusive.slave, "a line\n", 7);

	expect_true(holds(by_key.slave));
	pty_write(by_key.master, "\021", 1);
	await_room("the start key", by_key.slave);
	expect_true(holds(by_call.slave));
	expect_success(tcflow(by_call.slave, TCOON));
	await_room("tcflow", by_call.slave);
	pty_expect("typed meanwhile", by_call.slave, "typed\n", 6);

	/* Nobody has been there, so nobody has left. */
	expect_success(ioctl(unopened, TIOCGPTLCK, &found));
	expect_equal("lock", 1, found);
	expect_equal("reading from the unopened", -1, read(unopened, &byte, 1));
	expect_equal("reading from the unopened", EAGAIN, errno);
	struct pollfd state = {.fd = unopened, .events = POLLIN};
	expect_equal("events of the unopened", 0, poll(&state, 1, 0));
	expect_success(unlockpt(unopened));
	int slave = expect_success(ioctl(unopened, TIOCGPTPEER, O_RDWR | O_NOCTTY));
	pty_write(slave, "hello", 5);
	victim_nap(20000);
	pty_expect("opened now", unopened, "hello", 5);
	victim_ok();
}
