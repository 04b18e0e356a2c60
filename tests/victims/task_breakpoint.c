/* A hardware breakpoint that a tracer has left behind. */
#include "victim.h"

#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static volatile int watched;
static volatile sig_atomic_t traps;

static void on_trap(int signal)
{
	(void)signal;
	traps++;
}

int main(void)
{
	must(signal(SIGTRAP, on_trap) == SIG_ERR ? -1 : 0);
	int go[2];
	must(pipe(go));
	pid_t debugger = must(fork());
	if (debugger == 0) {
		char byte;
		pid_t program = getppid();
		if (read(go[0], &byte, 1) != 1 || ptrace(PTRACE_ATTACH, program, 0, 0) != 0)
			_exit(1);
		waitpid(program, NULL, 0);
		/* Writes of four bytes: RW0 = 1, LEN0 = 3, L0. */
		if (ptrace(PTRACE_POKEUSER, program, offsetof(struct user, u_debugreg[0]), &watched) != 0 ||
		    ptrace(PTRACE_POKEUSER, program, offsetof(struct user, u_debugreg[7]), 0xd0001) != 0)
			_exit(2);
		_exit(ptrace(PTRACE_DETACH, program, 0, 0) != 0);
	}
	prctl(PR_SET_PTRACER, debugger, 0, 0, 0);
	must(write(go[1], "g", 1));
	int status;
	must(waitpid(debugger, &status, 0));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		skip("no hardware breakpoints here (status 0x%x)", status);
	close(go[0]);
	close(go[1]);
	watched = 1;
	if (traps != 1)
		skip("hardware breakpoints have no effect here");
	victim_ready();
	victim_wait();
	expect_equal("traps so far", 1, traps);
	watched = 2;
	expect_equal("traps", 2, traps);
	victim_ok();
}
