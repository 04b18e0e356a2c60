/* Signals between processes by their ids: parent to child, child to parent, to the group, with handlers that count. */
#include "victim.h"

enum { CHILDREN = 3, ROUNDS = 20 };

static volatile sig_atomic_t received;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	received += info->si_value.sival_int;
}

static void await(int wanted)
{
	sigset_t none;
	sigemptyset(&none);
	while (received < wanted)
		sigsuspend(&none);
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	struct arrivals arrivals = arrivals_open();
	pid_t children[CHILDREN], parent = getpid();
	sigset_t blocked;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN);
	must(sigaction(SIGRTMIN, &action, NULL));
	must(sigprocmask(SIG_BLOCK, &blocked, NULL));
	for (int child = 0; child < CHILDREN; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			arrive(&arrivals);
			await(ROUNDS);
			expect_equal("parent", parent, getppid());
			for (int round = 0; round < ROUNDS; round++)
				expect_success(sigqueue(parent, SIGRTMIN, (union sigval){.sival_int = 1}));
			_exit(0);
		}
	}
	await_arrivals(&arrivals, CHILDREN);
	victim_ready();
	victim_wait();
	for (int round = 0; round < ROUNDS; round++)
		for (int child = 0; child < CHILDREN; child++)
			expect_success(sigqueue(children[child], SIGRTMIN, (union sigval){.sival_int = 1}));
	await(CHILDREN * ROUNDS);
	for (int child = 0; child < CHILDREN; child++)
		join_child(children[child]);
	expect_equal("signals received", CHILDREN * ROUNDS, received);
	victim_ok();
}
