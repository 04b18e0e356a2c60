/* What prctl and personality set: no new privileges, reaping of orphans, parent-death signal, huge pages off, scores. */
#include "victim.h"
#include <sys/personality.h>

static int score(void)
{
	char text[32];
	read_text("/proc/self/oom_score_adj", text, sizeof text);
	return atoi(text);
}

static void set_score(const char *value)
{
	int file = must(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
	must(write(file, value, strlen(value)));
	close(file);
}

int main(void)
{
	int signal = 0, reaper = 0, new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	struct arrivals arrivals = arrivals_open();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t child = must(fork());
	if (child == 0) {
		must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		must(prctl(PR_SET_PDEATHSIG, SIGUSR2));
		must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
		must(prctl(PR_SET_TIMERSLACK, 77777));
		must(personality(ADDR_NO_RANDOMIZE));
		set_score("321");
		arrive(&arrivals);
		victim_wait();
		expect_equal("no new privileges", 1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
		expect_success(prctl(PR_GET_PDEATHSIG, &signal));
		expect_equal("parent-death signal", SIGUSR2, signal);
		expect_equal("huge pages off", 1, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
		expect_equal("timer slack", 77777, prctl(PR_GET_TIMERSLACK));
		expect_equal("personality", ADDR_NO_RANDOMIZE, personality(0xffffffff));
		expect_success(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
		expect_equal("reaping orphans, in the child", 0, reaper);
		expect_equal("oom score", 321, score());
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	expect_equal("no new privileges, in the parent", new_privileges, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	expect_success(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
	expect_equal("reaping orphans", 1, reaper);
	expect_success(prctl(PR_GET_PDEATHSIG, &signal));
	expect_equal("parent-death signal of the parent", 0, signal);
	expect_equal("huge pages off, in the parent", 0, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	expect_equal("dumpable", 1, prctl(PR_GET_DUMPABLE));
	join_child(child);
	victim_ok();
}
