/* Timer slack and what it goes back to: what the creator had at a task's birth. */
#include "victim.h"

enum { OF_PARENT = 111111, OF_CHILD = 222222, OF_THREAD = 333333 };

static int slack(void)
{
	return prctl(PR_GET_TIMERSLACK);
}

static void set_slack(unsigned long slack)
{
	must(prctl(PR_SET_TIMERSLACK, slack));
}

static void check(const char *what, int own, int usual)
{
	victim_wait();
	expect_equal(what, own, slack());
	set_slack(0);
	expect_equal(what, usual, slack());
}

static atomic_bool started;

static void *thread(void *argument)
{
	set_slack(OF_THREAD);
	started = true;
	check("timer slack of a thread", OF_THREAD, OF_CHILD);
	return argument;
}

int main(void)
{
	int usual = slack();
	struct arrivals arrivals = arrivals_open();
	set_slack(OF_PARENT);
	pid_t child = must(fork());
	if (child == 0) {
		set_slack(OF_CHILD);
		pthread_t other;
		if (pthread_create(&other, NULL, thread, NULL) != 0)
			broken("pthread_create");
		while (!started)
			victim_nap(500);
		arrive(&arrivals);
		check("timer slack of a child", OF_CHILD, OF_PARENT);
		pthread_join(other, NULL);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	check("timer slack of the parent", OF_PARENT, usual);
	join_child(child);
	victim_ok();
}
