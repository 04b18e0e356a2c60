/* A process whose first thread has ended: its other threads live on under its id. */
#include "victim.h"

static pthread_t leader;
static pid_t process;

static void *live(void *argument)
{
	(void)argument;
	await_state(process, process, 'Z');
	victim_ready();
	victim_wait();
	expect_equal("process id", process, getpid());
	expect_true(thread_id() != process);
	expect_equal("state of the first thread", 'Z', task_state(process, process));
	void *value;
	expect_equal("joining the first thread", 0, pthread_join(leader, &value));
	expect_equal("its value", 5, (intptr_t)value);
	victim_ok();
}

int main(void)
{
	pthread_t other;
	leader = pthread_self();
	process = getpid();
	must_zero(pthread_create(&other, NULL, live, NULL));
	pthread_exit((void *)5);
}
