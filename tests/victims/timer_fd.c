/* timerfd: far, periodic, run out and unread, absolute, disarmed; clocks, flags, counts. */
#include "victim.h"
#include <sys/timerfd.h>

static int armed(clockid_t clock, int flags, int set_flags, long long first, long long period)
{
	struct itimerspec value = {{period / 1000000000, period % 1000000000}, {first / 1000000000, first % 1000000000}};
	int file = must(timerfd_create(clock, flags));
	must(timerfd_settime(file, set_flags, &value, NULL));
	return file;
}

static struct itimerspec rest_of(int file)
{
	struct itimerspec rest;
	expect_success(timerfd_gettime(file, &rest));
	return rest;
}

int main(void)
{
	const long long second = 1000000000;
	uint64_t count;
	int far = armed(CLOCK_MONOTONIC, TFD_CLOEXEC, 0, 1000 * second, 3 * second);
	int ran_out = armed(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000000, 0);
	int periodic = armed(CLOCK_BOOTTIME, 0, 0, 5000000, 5000000);
	int absolute = armed(CLOCK_REALTIME, TFD_NONBLOCK, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
			     clock_now(CLOCK_REALTIME) + 2000 * second, 0);
	int disarmed = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	int read_already = armed(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000000, 0);
	int twin = must(dup(far));
	victim_nap(40000);
	expect_equal("bytes of a timerfd", 8, read(read_already, &count, 8));

	victim_ready();
	victim_wait();

	struct itimerspec rest = rest_of(far);
	expect_within("rest of the far timer", 800, 1000, rest.it_value.tv_sec);
	expect_equal("period of the far timer", 3, rest.it_interval.tv_sec);
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(far, F_GETFD));
	expect_equal("run out", 8, read(ran_out, &count, 8));
	expect_equal("count of the one that ran out", 1, count);
	expect_equal("run out, read again", -1, read(ran_out, &count, 8));
	expect_equal("its error", EAGAIN, errno);
	expect_equal("periodic", 8, read(periodic, &count, 8));
	expect_within("count of the periodic one", 7, 200000, count);
	expect_equal("periodic, read again", 8, read(periodic, &count, 8));
	expect_within("count of the second reading", 1, 1000, count);
	expect_equal("period of the periodic one", 5000000, rest_of(periodic).it_interval.tv_nsec);
	expect_within("rest of the absolute one", 1800, 2000, rest_of(absolute).it_value.tv_sec);
	expect_equal("absolute, not yet due", -1, read(absolute, &count, 8));
	expect_equal("rest of the disarmed one", 0, rest_of(disarmed).it_value.tv_sec);
	expect_equal("disarmed", -1, read(disarmed, &count, 8));
	expect_equal("read before, read again", -1, read(read_already, &count, 8));
	expect_equal("its error", EAGAIN, errno);
	struct itimerspec soon = {{0, 0}, {0, 1000000}};
	expect_success(timerfd_settime(twin, 0, &soon, NULL));
	expect_equal("set through the twin, read", 8, read(far, &count, 8));
	expect_equal("its count", 1, count);
	victim_ok();
}
