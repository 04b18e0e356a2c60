/* Process groups: an own one, a foreign one, one whose leader has ended; signals to a whole group. */
#include "victim.h"

static volatile sig_atomic_t hit;

static void on_signal(int signal)
{
	hit = signal;
}

static void member(struct arrivals *arrivals, pid_t group, bool is_hit)
{
	struct timespec limit = {is_hit ? 5 : 0, 0};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (group >= 0)
		must(setpgid(0, group));
	group = getpgrp();
	arrive(arrivals);
	victim_wait();
	expect_equal("process group", group, getpgrp());
	/* The group is signalled by the first process. */
	if (is_hit)
		expect_equal("signal to the group", SIGUSR1, sigtimedwait(&set, NULL, &limit));
	_exit(0);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	sigset_t set;
	pid_t own, joined, left, leader, session = getsid(0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	signal(SIGUSR1, on_signal);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	if ((own = must(fork())) == 0)
		member(&arrivals, 0, true);
	while (getpgid(own) != own)
		victim_nap(500);
	if ((joined = must(fork())) == 0)
		member(&arrivals, own, true);
	/* A group whose leader has ended and been waited for: its id belongs to nobody. */
	if ((leader = must(fork())) == 0) {
		must(setpgid(0, 0));
		for (;;)
			victim_nap(1000);
	}
	while (getpgid(leader) != leader)
		victim_nap(500);
	if ((left = must(fork())) == 0)
		member(&arrivals, leader, true);
	while (getpgid(left) != leader)
		victim_nap(500);
	must(kill(leader, SIGKILL));
	must(waitpid(leader, NULL, 0));
	await_arrivals(&arrivals, 3);

	victim_ready();
	victim_wait();

	expect_equal("session", session, getsid(0));
	expect_equal("group of the first child", own, getpgid(own));
	expect_equal("group of the second child", own, getpgid(joined));
	expect_equal("group of the third child", leader, getpgid(left));
	expect_success(kill(-own, SIGUSR1));
	expect_success(kill(-leader, SIGUSR1));
	join_child(own);
	join_child(joined);
	join_child(left);
	expect_equal("signal to the own group", 0, hit);
	victim_ok();
}
