/* Clocks never go back, and relative to each other stay as they were. */
#include "victim.h"

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME};
enum { CLOCKS = sizeof clocks / sizeof clocks[0] };

int main(void)
{
	long long last[CLOCKS], start = clock_now(CLOCK_MONOTONIC);
	for (int index = 0; index < CLOCKS; index++)
		last[index] = clock_now(clocks[index]);
	victim_ready();
	for (int more = 50; more > 0; more -= victim_may_go()) {
		for (int index = 0; index < CLOCKS; index++) {
			long long now = clock_now(clocks[index]);
			if (now < last[index])
				wrong("clock %d went back by %lld ns", clocks[index], last[index] - now);
			/* All this happens within the suite's time-out. */
			if (now - last[index] > 600000000000ll)
				wrong("clock %d jumped by %lld ns", clocks[index], now - last[index]);
			last[index] = now;
		}
		victim_nap(500);
	}
	expect_within("time passed, ns", 0, 600000000000ll, clock_now(CLOCK_MONOTONIC) - start);
	victim_ok();
}
