/*
 * Processes in sessions that their parent was never in, since it has adopted them: two whose sessions have lost their leader
 * (daemons), one whose leader is a zombie, and one whose leader lives, as the child of another process.
 */
#include "victim.h"

enum { COUNT = 5 };

struct member {
	pid_t process, session, group;
};

static struct arrivals arrivals;
static struct member *members;
static pid_t reaper;

/* A member of a session, once it has been adopted. */
static void live(int number, bool is_adopted)
{
	pid_t parent = getppid();
	while (is_adopted && (parent = getppid()) != reaper)
		victim_nap(500);
	members[number] = (struct member){getpid(), getsid(0), getpgrp()};
	arrive(&arrivals);
	victim_wait();
	expect_equal("process", members[number].process, getpid());
	expect_equal("session", members[number].session, getsid(0));
	expect_equal("process group", members[number].group, getpgrp());
	expect_equal("parent", parent, getppid());
	_exit(0);
}

/* Leads a session and leaves a child in it. */
static pid_t leave_child(int number)
{
	pid_t leader = must(fork());
	if (leader != 0)
		return leader;
	must(setsid());
	if (must(fork()) == 0) {
		if (number == 1)
			must(setpgid(0, 0));
		live(number, true);
	}
	_exit(6);
}

int main(void)
{
	pid_t zombie, other;
	int status;
	arrivals = arrivals_open();
	members = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	reaper = getpid();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(waitpid(leave_child(0), NULL, 0));
	must(waitpid(leave_child(1), NULL, 0));
	zombie = leave_child(2);
	await_state(zombie, zombie, 'Z');
	if ((other = must(fork())) == 0) {
		pid_t leader = must(fork());
		if (leader == 0) {
			pid_t between;
			must(setsid());
			if ((between = must(fork())) == 0) {
				if (must(fork()) == 0)
					live(3, true);
				_exit(0);
			}
			must(waitpid(between, NULL, 0));
			live(4, false);
		}
		for (int naps = 0; !victim_may_go(); naps++)
			victim_nap(1000);
		join_child(leader);
		_exit(0);
	}
	await_arrivals(&arrivals, COUNT);

	victim_ready();
	victim_wait();

	expect_equal("state of the zombie", 'Z', task_state(zombie, zombie));
	expect_equal("session of the zombie's child", zombie, getsid(members[2].process));
	expect_equal("the living leader's session", members[4].process, getsid(members[3].process));
	expect_equal("waiting for the zombie", zombie, waitpid(zombie, &status, 0));
	expect_equal("its status", 6, WEXITSTATUS(status));
	for (int number = 0; number < 4; number++)
		join_child(members[number].process);
	join_child(other);
	expect_equal("other children", -1, waitpid(-1, &status, 0));
	victim_ok();
}
