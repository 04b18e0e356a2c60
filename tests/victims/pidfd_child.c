/* Process descriptors: of the process itself, of a running child, of a zombie, of a thread; flags, polling, signals, waiting. */
#include "victim.h"
#include <linux/wait.h>

#ifndef PIDFD_NONBLOCK
#define PIDFD_NONBLOCK O_NONBLOCK
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int process_open(pid_t pid, unsigned flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

static int process_signal(int process, int signal)
{
	return (int)syscall(SYS_pidfd_send_signal, process, signal, NULL, 0);
}

static short events_of(int process)
{
	struct pollfd polled = {.fd = process, .events = POLLIN};
	expect_success(poll(&polled, 1, 0));
	return polled.revents;
}

/* What fdinfo says of whom a descriptor is. */
static int shown_pid(int process)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", process);
	read_text(path, text, sizeof text);
	char *line = strstr(text, "\nPid:");
	return line == NULL ? -2 : atoi(line + 5);
}

static atomic_int thread_number, thread_may_end;

static void *run(void *unused)
{
	(void)unused;
	thread_number = thread_id();
	while (!thread_may_end)
		victim_nap(1000);
	return NULL;
}

int main(void)
{
	pthread_t thread;
	int own = must(process_open(getpid(), 0)), of_thread = -1;
	pid_t child = must(fork());
	if (child == 0) {
		/* The descriptor of the parent, inherited. */
		for (;;) {
			if (events_of(own) != 0)
				_exit(9);
			victim_nap(1000);
		}
	}
	int nonblocking = must(process_open(child, PIDFD_NONBLOCK)), plain = must(process_open(child, 0));
	int twin = must(fcntl(plain, F_DUPFD_CLOEXEC, 100));
	pid_t dead = must(fork());
	if (dead == 0)
		_exit(5);
	int zombie = must(process_open(dead, 0));
	await_state(dead, dead, 'Z');
	must_zero(pthread_create(&thread, NULL, run, NULL));
	while (!thread_number)
		victim_nap(500);
	of_thread = process_open(thread_number, PIDFD_THREAD);
	if (of_thread < 0 && errno != EINVAL)
		broken("pidfd_open of a thread: %s", strerror(errno));

	victim_ready();
	victim_wait();

	expect_equal("own pid", getpid(), shown_pid(own));
	expect_equal("child's pid", child, shown_pid(plain));
	expect_equal("child's pid again", child, shown_pid(twin));
	expect_equal("zombie's pid", dead, shown_pid(zombie));
	expect_equal("flags of the twin", FD_CLOEXEC, fcntl(twin, F_GETFD));
	expect_equal("flags of the plain one", 0, fcntl(plain, F_GETFL) & O_NONBLOCK);
	expect_equal("flags of the other", O_NONBLOCK, fcntl(nonblocking, F_GETFL) & O_NONBLOCK);
	expect_equal("events of the child", 0, events_of(plain));
	expect_equal("events of the zombie", POLLIN, events_of(zombie) & POLLIN);
	if (of_thread >= 0) {
		expect_equal("thread's id", thread_number, shown_pid(of_thread));
		expect_equal("thread flag", PIDFD_THREAD, fcntl(of_thread, F_GETFL) & PIDFD_THREAD);
		expect_equal("events of the thread", 0, events_of(of_thread));
	}
	siginfo_t information = {0};
	errno = 0;
	expect_equal("waiting without blocking", -1, waitid(P_PIDFD, nonblocking, &information, WEXITED));
	expect_equal("its error", EAGAIN, errno);
	expect_success(waitid(P_PIDFD, zombie, &information, WEXITED));
	expect_equal("zombie waited for", dead, information.si_pid);
	expect_equal("its status", 5, information.si_status);
	expect_success(process_signal(twin, SIGKILL));
	expect_success(waitid(P_PIDFD, plain, &information, WEXITED));
	expect_equal("child waited for", child, information.si_pid);
	expect_equal("its signal", SIGKILL, information.si_status);
	expect_equal("events of the ended child", POLLIN, events_of(nonblocking) & POLLIN);
	thread_may_end = 1;
	pthread_join(thread, NULL);
	if (of_thread >= 0) {
		/* A thread is joined shortly before its end is told. */
		struct pollfd polled = {.fd = of_thread, .events = POLLIN};
		expect_equal("descriptors of ended threads", 1, poll(&polled, 1, 10000));
		expect_equal("events of the ended thread", POLLIN, polled.revents & POLLIN);
	}
	victim_ok();
}
