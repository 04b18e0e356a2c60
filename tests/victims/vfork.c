/*
 * A process in vfork: its child sleeps before it goes, for a second (short), again and again for a moment (often), or until the
 * end (long). The parent cannot be stopped meanwhile.
 */
#include "victim.h"

static atomic_int done;

static void sleep_milliseconds(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	while (nanosleep(&time, &time) != 0)
		;
}

/* A thread waits in vfork, so that the first one can say that it does. */
static void *wait_for_child(void *argument)
{
	const char *how = argument;
	do {
		int status;
		/* The child uses the parent's memory, and touches nothing. */
		pid_t child = vfork();
		if (child == 0) {
			if (strcmp(how, "short") == 0)
				sleep_milliseconds(1500);
			else if (strcmp(how, "often") == 0)
				sleep_milliseconds(20);
			else
				while (!victim_may_go())
					sleep_milliseconds(10);
			if (strcmp(how, "often") == 0)
				execl("/bin/true", "true", NULL);
			_exit(9);
		}
		expect_equal("waiting for the child", child, waitpid(child, &status, 0));
		expect_equal("its status", strcmp(how, "often") == 0 ? 0 : 9, WEXITSTATUS(status));
	} while (strcmp(how, "often") == 0 && !victim_may_go());
	atomic_store(&done, 1);
	return NULL;
}

int main(int count, char **arguments)
{
	pthread_t thread;
	if (count != 2)
		broken("how long?");
	must_zero(pthread_create(&thread, NULL, wait_for_child, arguments[1]));
	victim_nap(100000);
	victim_ready();
	victim_wait();
	expect_equal("error of pthread_join", 0, pthread_join(thread, NULL));
	expect_equal("end of the thread", 1, done);
	victim_ok();
}
