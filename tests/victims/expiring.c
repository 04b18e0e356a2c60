/*
 * An alarm and a timer that expire once, while the victim stands still if it is held in time: each arrives once, not before its time.
 *
 *     expiring SECONDS
 */
#include "victim.h"
#include <signal.h>

static volatile sig_atomic_t alarms, expirations;

static void count(int signal)
{
	if (signal == SIGALRM)
		alarms++;
	else
		expirations++;
}

int main(int arguments_count, char **arguments)
{
	unsigned seconds = arguments_count > 1 ? (unsigned)atoi(arguments[1]) : 1;
	struct sigaction action = {.sa_handler = count};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct itimerspec once = {.it_value.tv_sec = seconds};
	timer_t timer;
	must(sigaction(SIGALRM, &action, NULL));
	must(sigaction(SIGRTMIN, &action, NULL));
	must(timer_create(CLOCK_MONOTONIC, &event, &timer));
	long long start = clock_now(CLOCK_MONOTONIC);
	must(timer_settime(timer, 0, &once, NULL));
	alarm(seconds);
	victim_ready();
	while (alarms == 0 || expirations == 0) {
		struct timespec moment = {0, 1000000};
		nanosleep(&moment, NULL);
	}
	expect_true(clock_now(CLOCK_MONOTONIC) - start >= (long long)seconds * 1000000000 - 10000000);
	victim_wait_with_signals();
	expect_equal("alarms", 1, alarms);
	expect_equal("expirations", 1, expirations);
	expect_equal("rest of the alarm", 0, alarm(0));
	expect_success(timer_gettime(timer, &once));
	expect_equal("rest of the timer", 0, once.it_value.tv_sec + once.it_value.tv_nsec);
	victim_ok();
}
