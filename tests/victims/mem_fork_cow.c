/* Copy-on-write after fork: pages still the same, pages changed by the child, pages changed by the parent. */
#include "victim.h"

enum { PART = 64 * 4096 };

int main(void)
{
	char *same = map_anonymous(3 * PART, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *childs = same + PART, *parents = same + 2 * PART;
	struct arrivals arrivals = arrivals_open();
	fill_pattern(same, PART, 1);
	fill_pattern(childs, PART, 2);
	fill_pattern(parents, PART, 3);
	pid_t child = must(fork());
	if (child == 0) {
		fill_pattern(childs, PART, 20);
		arrive(&arrivals);
		victim_wait();
		check_pattern("same part, in the child", same, PART, 1);
		check_pattern("child's part, in the child", childs, PART, 20);
		check_pattern("parent's part, in the child", parents, PART, 3);
		fill_pattern(same, PART, 11);
		victim_nap(5000);
		check_pattern("same part, changed by the child", same, PART, 11);
		_exit(0);
	}
	fill_pattern(parents, PART, 30);
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	check_pattern("same part, in the parent", same, PART, 1);
	check_pattern("child's part, in the parent", childs, PART, 2);
	check_pattern("parent's part, in the parent", parents, PART, 30);
	fill_pattern(same, PART, 12);
	join_child(child);
	check_pattern("same part, changed by the parent", same, PART, 12);
	victim_ok();
}
