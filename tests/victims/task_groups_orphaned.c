/*
 * Orphaned process groups in a session whose leader lives: their parents have ended, and who has adopted the members is in
 * another session. One member runs, one was stopped afterwards. Nobody hangs them up, and they cannot be stopped by a key. A
 * group that is not orphaned yet, and has a stopped member, is hung up when it becomes so, and only then (setpgid(2)).
 */
#include "victim.h"

enum { RUNNING, STOPPED, ALONE, COUNT };

struct member {
	pid_t process, group, session;
	atomic_int hangups;
};

static struct member *members, *self;
static struct arrivals arrivals;
static pid_t reaper;

static void on_hangup(int signal)
{
	(void)signal;
	atomic_fetch_add(&self->hangups, 1);
}

static void live(int number)
{
	self = &members[number];
	must(signal(SIGHUP, on_hangup) == SIG_ERR ? -1 : 0);
	while (getppid() != reaper)
		victim_nap(500);
	self->process = getpid();
	self->group = getpgrp();
	self->session = getsid(0);
	arrive(&arrivals);
	victim_wait_with_signals();
	expect_equal("parent", reaper, getppid());
	expect_equal("session", self->session, getsid(0));
	expect_equal("process group", self->group, getpgrp());
	expect_equal("hangups, as a member counts them", 0, self->hangups);
	_exit(0);
}

/* A task that a restart leaves stopped is let go so that it stops before it runs: that may be about to happen. */
static void expect_stopped(const char *what, pid_t process)
{
	for (int naps = 0; task_state(process, process) != 'T'; naps++) {
		if (naps == 20000)
			wrong("%s: expected it to be stopped, found state %c", what, task_state(process, process));
		victim_nap(500);
	}
}

/* Starts members in a group of their own, as a pipeline whose first process does not wait. */
static void leave_group(int first, int count)
{
	pid_t leader = must(fork());
	if (leader == 0) {
		must(setpgid(0, 0));
		for (int number = first; number < first + count; number++)
			if (must(fork()) == 0)
				live(number);
		_exit(0);
	}
	join_child(leader);
}

/* Leads the session; its last child is stopped in a group that has its parent still. */
static void lead(pid_t *held)
{
	must(setsid());
	leave_group(RUNNING, 2);
	leave_group(ALONE, 1);
	pid_t child = must(fork());
	if (child == 0) {
		must(setpgid(0, 0));
		for (;;)
			victim_nap(100000);
	}
	while (getpgid(child) != child)
		victim_nap(500);
	must(kill(child, SIGTSTP));
	await_state(child, child, 'T');
	*held = child;
	arrive(&arrivals);
	victim_wait();
	expect_stopped("the group that is not orphaned", child);
	_exit(0);
}

int main(void)
{
	pid_t *held = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	int status = 0;
	members = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	arrivals = arrivals_open();
	reaper = getpid();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t leader = must(fork());
	if (leader == 0)
		lead(held);
	await_arrivals(&arrivals, COUNT + 1);
	const int stopped[] = {STOPPED, ALONE};
	for (int index = 0; index < 2; index++) {
		pid_t member = members[stopped[index]].process;
		must(kill(member, SIGSTOP));
		await_state(member, member, 'T');
	}

	victim_ready();
	victim_wait();

	for (int index = 0; index < 2; index++)
		expect_stopped("a stopped member", members[stopped[index]].process);
	/* The end of the leader orphans the last group. */
	join_child(leader);
	expect_equal("child of the leader", *held, waitpid(*held, &status, 0));
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGHUP)
		wrong("the group that is orphaned now: expected to be hung up, found wait status 0x%x", status);
	/* What is sent to members of orphaned groups by keys does not stop them. */
	for (int index = 0; index < 2; index++)
		expect_success(kill(members[stopped[index]].process, SIGCONT));
	for (int number = 0; number < COUNT; number++)
		if (kill(members[number].process, SIGTSTP) != 0 && errno != ESRCH)
			wrong("SIGTSTP: %s", strerror(errno));
	for (int number = 0; number < COUNT; number++)
		join_child(members[number].process);
	for (int number = 0; number < COUNT; number++)
		expect_equal("hangups", 0, members[number].hangups);
	expect_equal("other children", -1, waitpid(-1, &status, WNOHANG));
	victim_ok();
}
