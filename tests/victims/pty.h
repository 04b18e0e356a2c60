/* Pseudo-terminals for victims. */
#ifndef PTY_H
#define PTY_H

#include "victim.h"

#include <sys/ioctl.h>
#include <termios.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

struct pty {
	int master, slave, number;
	char name[64];
};

VICTIM_UNUSED static struct pty pty_open(void)
{
	struct pty pty;
	pty.master = must(posix_openpt(O_RDWR | O_NOCTTY));
	must(grantpt(pty.master));
	must(unlockpt(pty.master));
	must(ioctl(pty.master, TIOCGPTN, &pty.number));
	must(ptsname_r(pty.master, pty.name, sizeof pty.name));
	pty.slave = must(open(pty.name, O_RDWR | O_NOCTTY));
	return pty;
}

VICTIM_UNUSED static void pty_write(int side, const void *bytes, size_t length)
{
	if (write(side, bytes, length) != (ssize_t)length)
		broken("write to a terminal: %s", strerror(errno));
}

/* Waits until the kernel has passed on what was written to the master, which it does later. */
VICTIM_UNUSED static void pty_await(int side, int bytes)
{
	int waiting = -1;
	for (int tries = 0; tries < 5000; tries++) {
		must(ioctl(side, FIONREAD, &waiting));
		if (waiting == bytes)
			return;
		victim_nap(1000);
	}
	broken("%d bytes wait in a terminal, not %d", waiting, bytes);
}

/* Expects one read to give exactly this. */
VICTIM_UNUSED static void pty_expect(const char *what, int side, const void *expected, size_t length)
{
	char found[8192];
	struct pollfd poll_for = {.fd = side, .events = POLLIN};
	if (poll(&poll_for, 1, 0) != 1)
		wrong("%s: expected %zu bytes, found nothing to read", what, length);
	ssize_t got = read(side, found, sizeof found);
	if (got < 0)
		wrong("%s: expected %zu bytes, found %s", what, length, strerror(errno));
	if ((size_t)got != length || memcmp(found, expected, length) != 0)
		wrong("%s: expected \"%.*s\" (%zu bytes), found \"%.*s\" (%zd bytes)", what, (int)length,
		      (const char *)expected, length, (int)got, found, got);
}

VICTIM_UNUSED static void pty_expect_nothing(const char *what, int side)
{
	struct pollfd poll_for = {.fd = side, .events = POLLIN};
	if (poll(&poll_for, 1, 50) != 0 && poll_for.revents & POLLIN)
		wrong("%s: expected nothing to read, found something", what);
}

/* Reads until this many bytes have come, waiting for them. */
VICTIM_UNUSED static void pty_read_all(const char *what, int side, char *into, size_t length)
{
	for (size_t used = 0; used < length;) {
		struct pollfd poll_for = {.fd = side, .events = POLLIN};
		if (poll(&poll_for, 1, 20000) != 1)
			wrong("%s: %zu of %zu bytes came", what, used, length);
		ssize_t got = read(side, into + used, length - used);
		if (got <= 0)
			wrong("%s: expected %zu bytes, found the end after %zu (%s)", what, length, used,
			      got < 0 ? strerror(errno) : "0");
		used += (size_t)got;
	}
}

VICTIM_UNUSED static void pty_make_raw(int side)
{
	struct termios settings;
	must(tcgetattr(side, &settings));
	cfmakeraw(&settings);
	must(tcsetattr(side, TCSANOW, &settings));
}

#endif
