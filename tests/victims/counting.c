/*
 * Counts without a pause, in memory that others can see: a single instruction that it executes shows.
 *
 *     counting
 *
 * The file "count", mapped shared, holds four numbers of 64 bits in the machine's byte order, one for each of two threads of two
 * processes. Beside them each process holds memory of its own, which is checked at the end.
 */
#include "victim.h"

enum { OWN = 4 << 20 };

static volatile uint64_t *counts;

static void *count(void *place)
{
	volatile uint64_t *own = place;
	do
		for (int turn = 0; turn < 1 << 16; turn++)
			++*own;
	while (!victim_may_go());
	return NULL;
}

static void run_process(int number)
{
	pthread_t thread;
	char *own = map_anonymous(OWN, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(own, OWN, (uint64_t)number);
	must_zero(pthread_create(&thread, NULL, count, (void *)(uintptr_t)&counts[2 * number + 1]));
	if (number == 0)
		victim_ready();
	count((void *)(uintptr_t)&counts[2 * number]);
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	check_pattern("memory", own, OWN, (uint64_t)number);
}

int main(void)
{
	int file = must(open("count", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(ftruncate(file, 4096));
	counts = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
	pid_t child = must(fork());
	run_process(child == 0);
	if (child == 0)
		_exit(0);
	join_child(child);
	victim_ok();
}
