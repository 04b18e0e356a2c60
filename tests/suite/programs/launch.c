/*
 * launch session|terminal|here PROGRAM [ARGUMENT…]: becomes PROGRAM, in a session of its own (with "terminal", standard input is
 * its controlling terminal) or in the present one, without any descriptor beyond the standard ones: what test runners and shells
 * leak into their children is none of a test's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	if (count < 3) {
		fprintf(stderr, "usage: launch session|terminal|here PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	int on_terminal = strcmp(arguments[1], "terminal") == 0;
	if ((on_terminal || strcmp(arguments[1], "session") == 0) && setsid() < 0)
		perror("setsid");
	if (on_terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		perror("TIOCSCTTY");
	/* Since Linux 5.9; before that descriptors stay open. */
	syscall(SYS_close_range, 3, ~0U, 0);
	execv(arguments[2], arguments + 2);
	fprintf(stderr, "launch: %s: %s\n", arguments[2], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
