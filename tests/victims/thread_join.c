/* clear_child_tid: threads that end afterwards can be joined; one that ended before keeps its value; a detached one. */
#include "victim.h"

static atomic_bool detached_ended;

static void *end_at_once(void *argument)
{
	return argument;
}

static void *end_later(void *argument)
{
	victim_wait();
	return argument;
}

static void *end_detached(void *argument)
{
	victim_wait();
	atomic_store(&detached_ended, true);
	return argument;
}

int main(void)
{
	pthread_t early, late, detached, canceled;
	void *value;
	must_zero(pthread_create(&early, NULL, end_at_once, (void *)11));
	must_zero(pthread_create(&late, NULL, end_later, (void *)22));
	must_zero(pthread_create(&detached, NULL, end_detached, NULL));
	must_zero(pthread_detach(detached));
	must_zero(pthread_create(&canceled, NULL, end_later, NULL));
	victim_nap(5000);
	victim_ready();
	victim_wait();
	expect_equal("joining the one that ended before", 0, pthread_join(early, &value));
	expect_equal("its value", 11, (intptr_t)value);
	pthread_cancel(canceled);
	expect_equal("joining the canceled one", 0, pthread_join(canceled, &value));
	expect_true(value == PTHREAD_CANCELED || value == NULL);
	expect_equal("joining the one that ended after", 0, pthread_join(late, &value));
	expect_equal("its value", 22, (intptr_t)value);
	for (int naps = 0; !atomic_load(&detached_ended); naps++) {
		expect_true(naps < 5000);
		victim_nap(1000);
	}
	victim_ok();
}
