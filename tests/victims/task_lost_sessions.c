/* Members of two sessions whose leaders have ended: no tree of births makes both again. */
#include "victim.h"

struct lost {
	pid_t session, member;
};

static void lose(struct arrivals *arrivals, struct lost *lost)
{
	pid_t leader = must(fork());
	if (leader == 0) {
		must(setsid());
		pid_t member = must(fork());
		if (member == 0) {
			arrive(arrivals);
			victim_wait();
			expect_equal("an orphan's session", lost->session, getsid(0));
			_exit(0);
		}
		lost->member = member;
		_exit(0);
	}
	lost->session = leader;
	join_child(leader);
}

int main(void)
{
	struct lost *lost = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	struct arrivals arrivals = arrivals_open();
	/* What an ended leader leaves comes to this process. */
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	lose(&arrivals, &lost[0]);
	lose(&arrivals, &lost[1]);
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	join_child(lost[0].member);
	join_child(lost[1].member);
	victim_ok();
}
