/*
 * Beats: counts in a file, a thousand times a second, so that others can see whether it runs.
 *
 *     heartbeat MEBIBYTES
 *
 * It holds that much memory. The file "beats" holds the number of beats and the longest gap between two of them in
 * nanoseconds, two words of 64 bits, in the machine's byte order. Once it may go it checks its memory and ends.
 */
#include "victim.h"

int main(int count, char **arguments)
{
	size_t length = (count > 1 ? (size_t)atol(arguments[1]) : 1) << 20;
	char *body = map_anonymous(length, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	uint64_t beats[2] = {0, 0};
	fill_pattern(body, length, 1);
	int file = must(open("beats", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	victim_ready();
	long long last = clock_now(CLOCK_MONOTONIC);
	while (!victim_may_go()) {
		victim_nap(1000);
		long long now = clock_now(CLOCK_MONOTONIC);
		beats[0]++;
		if ((uint64_t)(now - last) > beats[1])
			beats[1] = (uint64_t)(now - last);
		last = now;
		expect_equal("bytes of a beat", (long)sizeof beats, pwrite(file, beats, sizeof beats, 0));
	}
	check_pattern("memory", body, length, 1);
	victim_ok();
}
