/* Files of /proc of a process and a thread that have ended: they are open, and there is nothing in them. */
#include "victim.h"

static _Atomic pid_t second_thread;
static _Atomic bool thread_may_end;

static void *rest(void *unused)
{
	second_thread = thread_id();
	while (!thread_may_end)
		victim_nap(1000);
	return unused;
}

static void expect_nothing(const char *what, int file)
{
	char byte;
	expect_equal(what, -1, pread(file, &byte, 1, 0));
	expect_equal("its error", ESRCH, errno);
}

int main(void)
{
	char path[64];
	struct stat found;
	pid_t child = must(fork());
	if (child == 0) {
		pause();
		_exit(0);
	}
	snprintf(path, sizeof path, "/proc/%d/status", child);
	int status = must(open(path, O_RDONLY));
	int twin = must(dup(status));
	snprintf(path, sizeof path, "/proc/%d/task/%d/stat", child, child);
	int stat = must(open(path, O_RDONLY));
	snprintf(path, sizeof path, "/proc/%d", child);
	int directory = must(open(path, O_RDONLY | O_DIRECTORY));
	int named = must(open(path, O_PATH));
	must(kill(child, SIGKILL));
	must(waitpid(child, NULL, 0));
	pthread_t thread;
	must_zero(pthread_create(&thread, NULL, rest, NULL));
	while (second_thread == 0)
		victim_nap(100);
	snprintf(path, sizeof path, "/proc/self/task/%d/status", second_thread);
	int of_thread = must(open(path, O_RDONLY));
	thread_may_end = true;
	must_zero(pthread_join(thread, NULL));
	while (access(path, F_OK) == 0)
		victim_nap(100);

	victim_ready();
	victim_wait();

	expect_nothing("the status of a process", status);
	expect_nothing("the same again", twin);
	expect_nothing("its statistics", stat);
	expect_nothing("the status of a thread", of_thread);
	expect_equal("a file in its directory", -1, openat(directory, "status", O_RDONLY));
	expect_true(errno == ENOENT || errno == ESRCH);
	expect_equal("a file beside it", -1, openat(named, "status", O_RDONLY));
	expect_true(errno == ENOENT || errno == ESRCH);
	expect_success(fstat(directory, &found));
	expect_true(S_ISDIR(found.st_mode));
	victim_ok();
}
