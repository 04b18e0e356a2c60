/*
 * fork_tree PROCESSES ROUNDS: a tree of as many processes, at most three children each. Each works, sleeps now and then, and
 * hands the sum of its branch up a pipe; the first prints the sum after each round. The same arguments give the same output.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN 3

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void get(int from, uint64_t *value)
{
	ssize_t got;

	while ((got = read(from, value, sizeof *value)) < 0 && errno == EINTR)
		;
	if (got != sizeof *value)
		die("read");
}

static uint64_t work(uint64_t state, uint64_t id)
{
	for (int step = 0; step < 2000; step++)
		state = (state ^ id) * 6364136223846793005u + 1442695040888963407u + (state >> 29);
	return state;
}

/* The process with this number in a heap of `count`: its branch, round by round, into `up`. */
static void branch(unsigned id, unsigned count, unsigned rounds, int up)
{
	struct timespec pause = {0, 2000000 * (id % 7 + 1)};
	uint64_t state = id;
	int from[CHILDREN];
	pid_t pids[CHILDREN];
	int children = 0;

	for (unsigned child = id * CHILDREN + 1; child <= id * CHILDREN + CHILDREN && child < count; child++) {
		int ends[2];

		if (pipe(ends) < 0)
			die("pipe");
		pids[children] = fork();
		if (pids[children] < 0)
			die("fork");
		if (pids[children] == 0) {
			close(ends[0]);
			for (int other = 0; other < children; other++)
				close(from[other]);
			if (id > 0)
				close(up);
			branch(child, count, rounds, ends[1]);
			_exit(0);
		}
		close(ends[1]);
		from[children++] = ends[0];
	}
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t sum = state = work(state, id);

		nanosleep(&pause, NULL);
		for (int child = 0; child < children; child++) {
			uint64_t value;

			get(from[child], &value);
			sum = sum * 31 + value;
		}
		if (id == 0) {
			printf("%u %016llx\n", round, (unsigned long long)sum);
			fflush(stdout);
		} else if (write(up, &sum, sizeof sum) != sizeof sum) {
			die("write");
		}
	}
	for (int child = 0; child < children; child++) {
		int status;

		if (waitpid(pids[child], &status, 0) != pids[child])
			die("waitpid");
		if (status != 0) {
			fprintf(stderr, "a child of process %u ended with status %d\n", id, status);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	printf("READY\n");
	fflush(stdout);
	branch(0, (unsigned)atoi(argv[1]), (unsigned)atoi(argv[2]), -1);
	printf("FINAL\n");
	return 0;
}
