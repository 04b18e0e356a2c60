/*
 * More is typed than a terminal has room for: into one that takes lines, with the key for interrupts behind them, and into one
 * that takes bytes. What waits in front gets its meaning only when there is room: lines are whole, the key interrupts then.
 */
#include "pty.h"

enum { LINES = 900, BYTES = 9000, ROOM = 4095 };

static volatile sig_atomic_t interrupts;

static void on_interrupt(int number)
{
	(void)number;
	interrupts++;
}

int main(void)
{
	struct pty lines = pty_open(), bytes = pty_open();
	pty_make_raw(bytes.slave);
	static unsigned char typed[BYTES];
	static char found[BYTES];
	fill_pattern(typed, BYTES, 3);
	for (int value = 0; value < 256; value++)
		typed[ROOM - 100 + value] = (unsigned char)value;
	for (size_t place = 0; place < BYTES; place += 500)
		pty_write(bytes.master, typed + place, 500);
	pty_await(bytes.slave, ROOM);

	pid_t child = must(fork());
	if (child == 0) {
		must(setsid());
		must(ioctl(lines.slave, TIOCSCTTY, 0));
		struct sigaction action = {.sa_handler = on_interrupt};
		must(sigaction(SIGINT, &action, NULL));
		/* The key throws away what has been read of lines otherwise. */
		struct termios settings;
		must(tcgetattr(lines.slave, &settings));
		settings.c_lflag |= NOFLSH;
		must(tcsetattr(lines.slave, TCSANOW, &settings));
		char expected[16], line[64];
		for (int number = 0; number < LINES; number++) {
			snprintf(line, sizeof line, "line %dx\x7f\n", number);
			pty_write(lines.master, line, strlen(line));
		}
		pty_write(lines.master, "\x03last\n", 6);
		/* "line 0\n" and so on, until no whole line has room. */
		pty_await(lines.slave, 10 * 7 + 90 * 8 + 367 * 9);
		expect_equal("interrupts before", 0, interrupts);

		victim_ready();
		victim_wait();

		expect_equal("interrupts before", 0, interrupts);
		for (int number = 0; number < LINES; number++) {
			snprintf(expected, sizeof expected, "line %d\n", number);
			pty_read_all("line", lines.slave, found, strlen(expected));
			found[strlen(expected)] = '\0';
			expect_text("line", expected, found);
		}
		pty_read_all("line", lines.slave, found, 5);
		expect_equal("last line", 0, memcmp(found, "last\n", 5));
		expect_equal("interrupts", 1, interrupts);
		_exit(0);
	}
	victim_wait();
	pty_read_all("bytes", bytes.slave, found, BYTES);
	expect_equal("bytes", 0, memcmp(found, typed, BYTES));
	pty_expect_nothing("bytes", bytes.slave);
	join_child(child);
	victim_ok();
}
