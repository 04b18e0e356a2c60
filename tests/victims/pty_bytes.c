/*
 * A terminal that takes bytes, filled in both directions: all values of a byte typed, and so much printed that its writer is
 * blocked. A message queue of its own for each side, and nothing is echoed, translated or lost.
 */
#include "pty.h"

enum { TYPED = 3000, PRINTED = 40000 };

int main(void)
{
	struct pty pty = pty_open();
	static unsigned char typed[TYPED], printed[PRINTED];
	static char found[PRINTED];
	pty_make_raw(pty.slave);
	fill_pattern(typed, TYPED, 1);
	fill_pattern(printed, PRINTED, 2);
	for (int value = 0; value < 256; value++)
		typed[value] = (unsigned char)value;
	pty_write(pty.master, typed, TYPED);
	pty_await(pty.slave, TYPED);
	pid_t child = must(fork());
	if (child == 0) {
		for (size_t written = 0; written < PRINTED;) {
			ssize_t got = write(pty.slave, printed + written, PRINTED - written);
			if (got <= 0)
				wrong("write to the slave: %s", strerror(errno));
			written += (size_t)got;
		}
		_exit(0);
	}
	/* Until it has no room, and that for a while. */
	struct pollfd room = {.fd = pty.slave, .events = POLLOUT};
	for (int full = 0; full < 20; full = poll(&room, 1, 0) == 0 ? full + 1 : 0)
		victim_nap(1000);
	await_state(child, child, 'S');

	victim_ready();
	victim_wait();

	pty_read_all("typed", pty.slave, found, TYPED);
	expect_equal("typed", 0, memcmp(found, typed, TYPED));
	pty_read_all("printed", pty.master, found, PRINTED);
	for (size_t place = 0; place < PRINTED; place++)
		if ((unsigned char)found[place] != printed[place])
			wrong("printed, byte %zu: expected 0x%x, found 0x%x", place, printed[place],
			      (unsigned char)found[place]);
	pty_expect_nothing("typed", pty.slave);
	pty_expect_nothing("printed", pty.master);
	join_child(child);
	victim_ok();
}
