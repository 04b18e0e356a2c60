/* Children whose end is told by another signal than SIGCHLD, or by none (clone): alive, and ended and not yet waited for. */
#include "victim.h"

static char stack[65536] __attribute__((aligned(16)));

static int live(void *argument)
{
	victim_wait();
	return (int)(intptr_t)argument;
}

static int end(void *argument)
{
	return (int)(intptr_t)argument;
}

static pid_t bear(int (*life)(void *), int signal, int status)
{
	return (pid_t)must(clone(life, stack + sizeof stack, signal, (void *)(intptr_t)status));
}

/* The 38th field of /proc/PID/stat; the second one, a name, may have anything in it. */
static int exit_signal(pid_t process)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", process);
	read_text(path, text, sizeof text);
	char *field = strrchr(text, ')') + 1;
	for (int number = 3; number < 38; number++)
		field = strchr(field + 1, ' ');
	return atoi(field);
}

int main(void)
{
	sigset_t set, pending;
	siginfo_t information;
	pid_t user, none, ended, ended_silently;
	int status;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGCHLD);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	user = bear(live, SIGUSR1, 3);
	none = bear(live, 0, 4);
	ended = bear(end, SIGUSR2, 5);
	ended_silently = bear(end, 0, 6);
	await_state(ended, ended, 'Z');
	await_state(ended_silently, ended_silently, 'Z');
	expect_equal("signal of the end", SIGUSR2, sigwaitinfo(&set, &information));

	victim_ready();
	victim_wait();

	expect_equal("exit signal of the first", SIGUSR1, exit_signal(user));
	expect_equal("exit signal of the second", 0, exit_signal(none));
	expect_equal("signal of the first one's end", SIGUSR1, sigwaitinfo(&set, &information));
	expect_equal("its process", user, information.si_pid);
	expect_equal("its status", 3, information.si_status);
	/* Only for those who ask for such children are they there. */
	expect_equal("waiting for the first", -1, waitpid(user, &status, WNOHANG));
	expect_equal("waiting for the first", user, waitpid(user, &status, __WCLONE));
	expect_equal("waiting for the second", none, waitpid(none, &status, __WALL));
	expect_equal("status of the second", 4, WEXITSTATUS(status));
	expect_equal("waiting for one that had ended", ended, waitpid(ended, &status, __WCLONE | WNOHANG));
	expect_equal("its status", 5, WEXITSTATUS(status));
	expect_equal("waiting for one that had ended silently", ended_silently,
		     waitpid(ended_silently, &status, __WCLONE | WNOHANG));
	expect_equal("its status", 6, WEXITSTATUS(status));
	expect_success(sigpending(&pending));
	for (int signal = 1; signal < 32; signal++)
		expect_equal("a pending signal", 0, sigismember(&pending, signal));
	victim_ok();
}
