/* A stream of numbers through a chain of processes, always in motion: none is lost, doubled or out of order. */
#include "victim.h"

enum { STAGES = 3 };

/* Passes numbers on, each one greater, until the end. */
static void pass_on(int from, int to)
{
	uint64_t number;
	ssize_t got;
	while ((got = read(from, &number, sizeof number)) == (ssize_t)sizeof number) {
		number++;
		expect_equal("bytes passed on", (long)sizeof number, write(to, &number, sizeof number));
	}
	expect_equal("end of the stream", 0, got);
	_exit(0);
}

int main(void)
{
	int pipes[STAGES + 1][2];
	pid_t children[STAGES];
	uint64_t sent = 0, received = 0, number;
	for (int index = 0; index <= STAGES; index++)
		must(pipe2(pipes[index], O_CLOEXEC));
	for (int stage = 0; stage < STAGES; stage++) {
		children[stage] = must(fork());
		if (children[stage] == 0) {
			for (int index = 0; index <= STAGES; index++) {
				if (index != stage)
					close(pipes[index][0]);
				if (index != stage + 1)
					close(pipes[index][1]);
			}
			pass_on(pipes[stage][0], pipes[stage + 1][1]);
		}
	}
	for (int index = 0; index <= STAGES; index++) {
		if (index != 0)
			close(pipes[index][1]);
		if (index != STAGES)
			close(pipes[index][0]);
	}
	victim_ready();
	for (int more = 1000; more > 0; more -= victim_may_go()) {
		while (sent < received + 500) {
			number = 10 * sent++;
			expect_equal("bytes sent", (long)sizeof number, write(pipes[0][1], &number, sizeof number));
		}
		expect_equal("bytes received", (long)sizeof number, read(pipes[STAGES][0], &number, sizeof number));
		expect_equal("number received", 10 * received++ + STAGES, number);
	}
	close(pipes[0][1]);
	while (read(pipes[STAGES][0], &number, sizeof number) == sizeof number)
		expect_equal("number received at the end", 10 * received++ + STAGES, number);
	expect_equal("numbers received", sent, received);
	for (int stage = 0; stage < STAGES; stage++)
		join_child(children[stage]);
	victim_ok();
}
