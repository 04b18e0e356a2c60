/* Working directories in /proc: of a process and of a thread that have ended, below one of them, and of a process that lives. */
#include "victim.h"

static pid_t ended;
static _Atomic pid_t apart;

static void expect_nowhere(const char *whose)
{
	char path[4096];
	expect_equal(whose, -1, readlink("status", path, sizeof path));
	expect_true(errno == ENOENT || errno == ESRCH);
	expect_equal(whose, -1, open("status", O_RDONLY));
	expect_true(errno == ENOENT || errno == ESRCH);
}

/* A thread with a directory of its own, below that of a process that has ended. */
static void *stand_below(void *unused)
{
	char path[64];
	must(unshare(CLONE_FS));
	snprintf(path, sizeof path, "/proc/%d/fdinfo", ended);
	must(chdir(path));
	apart = thread_id();
	victim_wait();
	expect_equal("a descriptor of a process that has ended", -1, open("0", O_RDONLY));
	expect_true(errno == ENOENT || errno == ESRCH);
	return unused;
}

int main(void)
{
	char path[64], text[64];
	pthread_t thread;
	must((long)signal(SIGCHLD, SIG_DFL));
	struct arrivals arrivals = arrivals_open();
	ended = must(fork());
	if (ended == 0) {
		pause();
		_exit(0);
	}
	must_zero(pthread_create(&thread, NULL, stand_below, NULL));
	while (apart == 0)
		victim_nap(100);
	snprintf(path, sizeof path, "/proc/%d", ended);
	must(chdir(path));
	must(kill(ended, SIGKILL));
	must(waitpid(ended, NULL, 0));
	umask(027);
	pid_t parent = getpid();
	pid_t beside = must(fork());
	if (beside == 0) {
		/* One that lives: its parent. Its children, of whom it has none, are reaped for it. */
		must((long)signal(SIGCHLD, SIG_IGN));
		snprintf(path, sizeof path, "/proc/%d", parent);
		must(chdir(path));
		arrive(&arrivals);
		victim_wait();
		int status = expect_success(open("comm", O_RDONLY));
		expect_true(read(status, text, sizeof text) > 10);
		expect_equal("the parent's name", 0, memcmp(text, "directory_ended", 15));
		_exit(0);
	}
	pid_t heir = must(fork());
	if (heir == 0) {
		must((long)signal(SIGCHLD, SIG_IGN));
		arrive(&arrivals);
		victim_wait();
		expect_nowhere("a child's directory");
		expect_equal("a child of none", -1, waitpid(-1, NULL, WNOHANG));
		expect_equal("its error", ECHILD, errno);
		_exit(0);
	}
	await_arrivals(&arrivals, 2);

	victim_ready();
	victim_wait();

	expect_nowhere("the directory");
	expect_equal("umask", 027, umask(0));
	join_child(beside);
	join_child(heir);
	must_zero(pthread_join(thread, NULL));
	expect_equal("children", -1, waitpid(-1, NULL, WNOHANG));
	expect_equal("its error", ECHILD, errno);
	sigset_t pending;
	must(sigpending(&pending));
	expect_equal("a child's signal", 0, sigismember(&pending, SIGCHLD));
	victim_ok();
}
