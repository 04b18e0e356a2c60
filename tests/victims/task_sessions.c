/* Sessions: a child that leads its own, one inside it, and one whose leader has ended. */
#include "victim.h"

struct ids {
	pid_t leader, member, orphan, ended;
};

static void check(const char *who, pid_t process, pid_t session, pid_t group)
{
	char what[64];
	snprintf(what, sizeof what, "session of %s", who);
	expect_equal(what, session, getsid(process));
	snprintf(what, sizeof what, "group of %s", who);
	expect_equal(what, group, getpgid(process));
}

int main(void)
{
	struct ids *ids = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	struct arrivals arrivals = arrivals_open();
	pid_t leader, ended, own_session = getsid(0), own_group = getpgrp();
	/* What an ended leader leaves comes to this process. */
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if ((leader = must(fork())) == 0) {
		ids->leader = must(setsid());
		pid_t born = must(fork());
		if (born == 0) {
			must(setpgid(0, 0));
			arrive(&arrivals);
			victim_wait();
			check("a member, seen by itself", 0, getppid(), getpid());
			_exit(0);
		}
		ids->member = born;
		arrive(&arrivals);
		victim_wait();
		check("a leader, seen by itself", 0, getpid(), getpid());
		join_child(ids->member);
		_exit(0);
	}
	if ((ended = must(fork())) == 0) {
		must(setsid());
		pid_t born = must(fork());
		if (born == 0) {
			arrive(&arrivals);
			victim_wait();
			check("an orphan, seen by itself", 0, ids->ended, ids->ended);
			_exit(0);
		}
		ids->orphan = born;
		_exit(0);
	}
	ids->ended = ended;
	join_child(ended);
	await_arrivals(&arrivals, 3);
	check("the orphan before", ids->orphan, ended, ended);

	victim_ready();
	victim_wait();

	check("the first process", 0, own_session, own_group);
	expect_equal("recorded leader", leader, ids->leader);
	join_child(leader);
	join_child(ids->orphan);
	victim_ok();
}
