/*
 * Processes with one memory between them (clone with CLONE_VM and not CLONE_THREAD): a child that shares it, one that shares
 * signal actions and tables as well, a grandchild, and a child that the sharing child has forked.
 */
#include "victim.h"

enum { WORDS = 1 << 15 };

static char stacks[3][65536] __attribute__((aligned(16)));
static volatile int word[4];
static volatile sig_atomic_t hits;
static struct arrivals arrivals;
static uint64_t *pages;

static void on_signal(int signal)
{
	hits += signal;
}

static void await_word(int place, int value)
{
	while (word[place] != value)
		victim_nap(500);
}

static pid_t bear(int number, int (*life)(void *), int flags)
{
	return (pid_t)must(clone(life, stacks[number] + sizeof stacks[number], flags | SIGCHLD, NULL));
}

static void announce(void)
{
	if (write(arrivals.write_end, "a", 1) != 1)
		broken("arrive: %s", strerror(errno));
}

/* Shares memory alone: its signal actions are its own. */
static int plain(void *argument)
{
	struct sigaction action;
	(void)argument;
	signal(SIGUSR1, SIG_IGN);
	announce();
	victim_wait();
	expect_success(sigaction(SIGUSR1, NULL, &action));
	expect_true(action.sa_handler == SIG_IGN);
	await_word(0, 1);
	word[1] = 2;
	fill_pattern(pages, WORDS * 8, 9);
	return 0;
}

static int grandchild(void *argument)
{
	(void)argument;
	announce();
	victim_wait();
	await_word(0, 1);
	word[2] = 3;
	return 0;
}

/* Shares everything that processes can share. */
static int close_relative(void *argument)
{
	struct sigaction action;
	pid_t shares, copy;
	(void)argument;
	shares = bear(2, grandchild, CLONE_VM);
	if ((copy = must(fork())) == 0) {
		announce();
		victim_wait();
		check_pattern("the forked child's copy", pages, WORDS * 8, 7);
		expect_equal("a word of the forked child's", 0, word[1]);
		_exit(0);
	}
	announce();
	victim_wait();
	expect_success(sigaction(SIGUSR2, NULL, &action));
	expect_true(action.sa_handler == on_signal);
	expect_success(kill(getpid(), SIGUSR2));
	expect_success(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
	join_child(copy);
	/* Only when all have looked may others write. */
	await_word(3, 4);
	word[0] = 1;
	join_child(shares);
	return 0;
}

int main(void)
{
	struct sigaction action;
	pid_t first, second;
	char byte;
	arrivals = arrivals_open();
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, on_signal);
	pages = map_anonymous(WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(pages, WORDS * 8, 7);
	first = bear(0, plain, CLONE_VM);
	second = bear(1, close_relative, CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS);
	for (int arrived = 0; arrived < 4; arrived++)
		if (read(arrivals.read_end, &byte, 1) != 1)
			broken("read: %s", strerror(errno));

	victim_ready();
	victim_wait();

	check_pattern("memory", pages, WORDS * 8, 7);
	word[3] = 4;
	await_word(1, 2);
	await_word(2, 3);
	join_child(first);
	join_child(second);
	check_pattern("memory that the child wrote", pages, WORDS * 8, 9);
	expect_equal("signals handled by the child", SIGUSR2, hits);
	expect_success(sigaction(SIGUSR2, NULL, &action));
	expect_true(action.sa_handler == SIG_IGN);
	expect_success(sigaction(SIGUSR1, NULL, &action));
	expect_true(action.sa_handler == SIG_DFL);
	victim_ok();
}
