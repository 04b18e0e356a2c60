/*
 * Memory that a suspension cannot give back.
 *
 *     stays locked     4 MiB that are locked (mlock)
 *     stays outside    8 MiB that a child shares with its parent since the fork; the child is the one to be suspended
 *     stays inside     the same, for both to be suspended
 */
#include "victim.h"
#include <sys/mman.h>

int main(int count, char **arguments)
{
	bool locks = count > 1 && strcmp(arguments[1], "locked") == 0;
	size_t size = locks ? 4 << 20 : 8 << 20;
	void *memory = map_anonymous(size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	pid_t child = 0;
	must(madvise(memory, size, MADV_NOHUGEPAGE));
	fill_pattern(memory, size, 1);
	if (locks) {
		if (mlock(memory, size) != 0)
			skip("mlock: %s", strerror(errno));
	} else {
		child = must(fork());
		if (child == 0) {
			victim_wait();
			check_pattern("the child's memory", memory, size, 1);
			_exit(0);
		}
	}
	victim_ready();
	victim_wait();
	check_pattern("memory", memory, size, 1);
	if (child != 0)
		join_child(child);
	victim_ok();
}
