/*
 * A session on a terminal of the job's own, of which one member has given it up for itself (TIOCNOTTY), and has a child since;
 * another member has it still. Afterwards it is so again.
 */
#include "pty.h"

static void member(struct arrivals *arrivals, bool has_one)
{
	arrive(arrivals);
	victim_wait();
	int tty = open("/dev/tty", O_RDWR);
	expect_equal("a terminal", has_one, tty >= 0);
	if (!has_one)
		expect_equal("error", ENXIO, errno);
	_exit(0);
}

int main(void)
{
	struct pty pty = pty_open();
	struct arrivals arrivals = arrivals_open();
	pid_t leader = must(fork());
	if (leader == 0) {
		must(setsid());
		must(ioctl(pty.slave, TIOCSCTTY, 0));
		pid_t with = must(fork());
		if (with == 0)
			member(&arrivals, true);
		pid_t without = must(fork());
		if (without == 0) {
			must(ioctl(pty.slave, TIOCNOTTY));
			pid_t child = must(fork());
			if (child == 0)
				member(&arrivals, false);
			arrive(&arrivals);
			victim_wait();
			expect_equal("a terminal", -1, open("/dev/tty", O_RDWR));
			join_child(child);
			_exit(0);
		}
		await_arrivals(&arrivals, 3);
		victim_ready();
		victim_wait();
		expect_success(open("/dev/tty", O_RDWR));
		expect_equal("session of the terminal", getpid(), tcgetsid(pty.slave));
		join_child(with);
		join_child(without);
		_exit(0);
	}
	victim_wait();
	join_child(leader);
	victim_ok();
}
