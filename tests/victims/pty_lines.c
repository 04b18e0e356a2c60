/*
 * A terminal that takes lines: whole lines, a line and an empty one that the key for the end of file handed over, characters
 * that were quoted, an unfinished line; what was printed and not read; settings, window, several opens of the slave, names.
 */
#include "pty.h"

int main(void)
{
	struct pty pty = pty_open();
	int again = must(open(pty.name, O_RDONLY | O_NOCTTY | O_NONBLOCK));
	int shared = must(dup(again));
	struct termios settings;
	struct winsize size = {.ws_row = 33, .ws_col = 101, .ws_xpixel = 7, .ws_ypixel = 9}, now_size;
	must(ioctl(pty.master, TIOCSWINSZ, &size));
	must(tcgetattr(pty.slave, &settings));
	settings.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	settings.c_cc[VERASE] = 'x';
	settings.c_cc[VMIN] = 3;
	must(tcsetattr(pty.slave, TCSANOW, &settings));
	must(tcgetattr(pty.slave, &settings));
	must(fchmod(pty.slave, 0622));

	const char typed[] = "one\ntwo\x04\x04\x16\x04" "four\x16\x16\n\nhalf a qx";
	pty_write(pty.master, typed, sizeof typed - 1);
	pty_write(pty.slave, "printed\nand not read", 20);
	pty_await(pty.slave, 15);
	pty_await(pty.master, 21);

	victim_ready();
	victim_wait();

	int number = -1;
	struct stat status;
	struct termios now;
	char name[64] = "";
	expect_success(ioctl(pty.master, TIOCGPTN, &number));
	expect_equal("number", pty.number, number);
	expect_equal("ttyname", 0, ttyname_r(pty.slave, name, sizeof name));
	expect_text("name", pty.name, name);
	expect_success(fstat(pty.slave, &status));
	expect_equal("permissions", 0622, status.st_mode & 07777);
	expect_equal("owner", getuid(), status.st_uid);
	expect_success(tcgetattr(pty.master, &now));
	expect_equal("settings", 0, memcmp(&settings, &now, sizeof now));
	expect_success(ioctl(pty.slave, TIOCGWINSZ, &now_size));
	expect_equal("window", 0, memcmp(&size, &now_size, sizeof size));
	expect_equal("flags", O_RDONLY | O_NONBLOCK, fcntl(again, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_equal("flags", O_RDWR, fcntl(pty.slave, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	expect_success(fcntl(shared, F_SETFL, 0));
	expect_equal("shared flags", 0, fcntl(again, F_GETFL) & O_NONBLOCK);
	expect_success(fcntl(shared, F_SETFL, O_NONBLOCK));

	pty_expect("first line", pty.slave, "one\n", 4);
	pty_expect("second line", again, "two", 3);
	pty_expect("end of file", pty.slave, "", 0);
	pty_expect("quoted", pty.slave, "\x04" "four\x16\n", 7);
	pty_expect("empty line", pty.slave, "\n", 1);
	pty_expect_nothing("unfinished line", pty.slave);
	/* The key that erases takes away the q. */
	pty_write(pty.master, "xline\n", 6);
	pty_await(pty.slave, 11);
	pty_expect("finished line", pty.slave, "half aline\n", 11);
	pty_expect("output", pty.master, "printed\r\nand not read", 21);

	/* A new terminal can be opened, and is another. */
	struct pty other = pty_open();
	expect_true(other.number != pty.number);
	victim_ok();
}
