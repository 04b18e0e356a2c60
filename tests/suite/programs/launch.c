/*
 * launch session|here PROGRAM [ARGUMENT…]: becomes PROGRAM, in a session of its own or in the present one, without any
 * descriptor beyond the standard ones: what test runners and shells leak into their children is none of a test's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	if (count < 3) {
		fprintf(stderr, "usage: launch session|here PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	if (strcmp(arguments[1], "session") == 0 && setsid() < 0)
		perror("setsid");
	/* Since Linux 5.9; before that descriptors stay open. */
	syscall(SYS_close_range, 3, ~0U, 0);
	execv(arguments[2], arguments + 2);
	fprintf(stderr, "launch: %s: %s\n", arguments[2], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
