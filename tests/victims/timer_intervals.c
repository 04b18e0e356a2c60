/* The three interval timers: one periodic, one far away, one counting processor time; periods, rests and firing. */
#include "victim.h"

static volatile sig_atomic_t alarms, virtual_alarms, profile_alarms;

static void on_alarm(int signal)
{
	if (signal == SIGALRM)
		alarms++;
	else if (signal == SIGVTALRM)
		virtual_alarms++;
	else
		profile_alarms++;
}

static void burn(volatile sig_atomic_t *count, const char *what)
{
	sig_atomic_t before = *count;
	long long until = clock_now(CLOCK_MONOTONIC) + 5000000000ll;
	while (*count == before)
		if (clock_now(CLOCK_MONOTONIC) > until)
			wrong("%s: expected to fire, found nothing in 5 s", what);
}

int main(void)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval real = {{0, 20000}, {0, 20000}}, virtual = {{0, 30000}, {0, 30000}};
	struct itimerval profile = {{0, 0}, {5000, 0}}, found;
	must(sigaction(SIGALRM, &action, NULL));
	must(sigaction(SIGVTALRM, &action, NULL));
	must(sigaction(SIGPROF, &action, NULL));
	must(setitimer(ITIMER_REAL, &real, NULL));
	must(setitimer(ITIMER_VIRTUAL, &virtual, NULL));
	must(setitimer(ITIMER_PROF, &profile, NULL));
	burn(&alarms, "ITIMER_REAL before");

	victim_ready();
	victim_wait_with_signals();

	expect_success(getitimer(ITIMER_REAL, &found));
	expect_equal("period of ITIMER_REAL", 20000, found.it_interval.tv_usec);
	burn(&alarms, "ITIMER_REAL");
	expect_success(getitimer(ITIMER_VIRTUAL, &found));
	expect_equal("period of ITIMER_VIRTUAL", 30000, found.it_interval.tv_usec);
	/* The kernel rounds up to its tick. */
	expect_within("rest of ITIMER_VIRTUAL", 1, 45000, found.it_value.tv_usec);
	burn(&virtual_alarms, "ITIMER_VIRTUAL");
	expect_success(getitimer(ITIMER_PROF, &found));
	expect_equal("period of ITIMER_PROF", 0, found.it_interval.tv_sec * 1000000 + found.it_interval.tv_usec);
	expect_within("rest of ITIMER_PROF, seconds", 4900, 5000, found.it_value.tv_sec);
	expect_equal("ITIMER_PROF fired", 0, profile_alarms);
	victim_ok();
}
