/* Threads under different filters, or under none; others that got theirs from one of them (TSYNC). */
#include "seccomp.h"

enum { OWN = 6, SHARED = 20 };

static atomic_int there;
static atomic_bool more;

static void *own_filter(void *argument)
{
	int number = (int)(intptr_t)argument;
	if (number > 0)
		must(judge(JUDGED, SECCOMP_RET_ERRNO | (100 + number), 0));
	atomic_fetch_add(&there, 1);
	victim_wait();
	expect_judgement(JUDGED, number > 0 ? 100 + number : 0);
	expect_equal("mode of a thread", number > 0 ? SECCOMP_MODE_FILTER : SECCOMP_MODE_DISABLED, own_status("Seccomp"));
	return argument;
}

static void *shared_filter(void *argument)
{
	atomic_fetch_add(&there, 1);
	victim_wait();
	expect_judgement(JUDGED, EXFULL);
	expect_judgement(ALSO_JUDGED, EDOM);
	while (!atomic_load(&more))
		victim_nap(1000);
	expect_judgement(PUNISHED, ENOTUNIQ);
	return argument;
}

static void synchronized(struct arrivals *arrivals)
{
	pthread_t threads[SHARED];
	for (int thread = 0; thread < SHARED; thread++)
		must_zero(pthread_create(&threads[thread], NULL, shared_filter, NULL));
	while (atomic_load(&there) != SHARED)
		victim_nap(1000);
	expect_equal("synchronizing", 0, judge(JUDGED, SECCOMP_RET_ERRNO | EXFULL, SECCOMP_FILTER_FLAG_TSYNC));
	expect_equal("synchronizing", 0, judge(ALSO_JUDGED, SECCOMP_RET_ERRNO | EDOM, SECCOMP_FILTER_FLAG_TSYNC));
	arrive(arrivals);
	victim_wait();
	expect_judgement(JUDGED, EXFULL);
	/* Only threads that share their filters can be synchronized. */
	expect_equal("synchronizing again", 0, judge(PUNISHED, SECCOMP_RET_ERRNO | ENOTUNIQ, SECCOMP_FILTER_FLAG_TSYNC));
	atomic_store(&more, true);
	for (int thread = 0; thread < SHARED; thread++)
		expect_equal("error of pthread_join", 0, pthread_join(threads[thread], NULL));
	_exit(0);
}

int main(void)
{
	pthread_t threads[OWN];
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0)
		synchronized(&arrivals);
	await_arrivals(&arrivals, 1);
	for (int thread = 0; thread < OWN; thread++)
		must_zero(pthread_create(&threads[thread], NULL, own_filter, (void *)(intptr_t)thread));
	while (atomic_load(&there) != OWN)
		victim_nap(1000);
	victim_ready();
	victim_wait();
	expect_judgement(JUDGED, 0);
	expect_equal("mode of the first thread", SECCOMP_MODE_DISABLED, own_status("Seccomp"));
	for (int thread = 0; thread < OWN; thread++)
		expect_equal("error of pthread_join", 0, pthread_join(threads[thread], NULL));
	join_child(child);
	victim_ok();
}
