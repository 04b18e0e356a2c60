/* Shared anonymous memory stays shared between parent and children: what one writes the others see. */
#include "victim.h"

enum { CHILDREN = 3, LENGTH = 1024 * 1024 };

struct board {
	atomic_int turn;
	uint64_t marks[CHILDREN];
};

static void await_turn(struct board *board, int turn)
{
	for (int naps = 0; atomic_load(&board->turn) != turn; naps++) {
		if (naps > 10000)
			wrong("process %d: turn %d never came: the memory is no longer shared", getpid(), turn);
		victim_nap(500);
	}
}

int main(void)
{
	struct board *board = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	char *body = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED);
	struct arrivals arrivals = arrivals_open();
	pid_t children[CHILDREN];
	fill_pattern(body, LENGTH, 1);
	for (int child = 0; child < CHILDREN; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			arrive(&arrivals);
			victim_wait();
			await_turn(board, child + 1);
			check_pattern("shared memory in a child", body, LENGTH, (uint64_t)child + 1);
			fill_pattern(body, LENGTH, (uint64_t)child + 2);
			board->marks[child] = pattern_word(9, (uint64_t)child);
			atomic_store(&board->turn, child + 2);
			_exit(0);
		}
	}
	await_arrivals(&arrivals, CHILDREN);
	victim_ready();
	victim_wait();
	atomic_store(&board->turn, 1);
	await_turn(board, CHILDREN + 1);
	check_pattern("shared memory in the parent", body, LENGTH, CHILDREN + 1);
	for (int child = 0; child < CHILDREN; child++) {
		expect_equal("mark of a child", pattern_word(9, (uint64_t)child), board->marks[child]);
		join_child(children[child]);
	}
	victim_ok();
}
