/* State that a checkpoint refuses, by the first argument; the refusal must not hurt it. */
#include "victim.h"
#include <mqueue.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>

static void change(void)
{
	int file = must(open("directory/new", O_WRONLY | O_CREAT | O_TRUNC, 0600));
	close(file);
}

static volatile sig_atomic_t told;

static void note(int signal)
{
	(void)signal;
	told++;
}

static int tracee_of(pid_t child)
{
	char path[64], text[4096];
	snprintf(path, sizeof path, "/proc/%d/status", child);
	read_text(path, text, sizeof text);
	char *line = strstr(text, "TracerPid:");
	return line == NULL ? -1 : atoi(line + 10);
}

static _Atomic pid_t *second;

static void *wait_in_thread(void *unused)
{
	*second = thread_id();
	victim_wait();
	return unused;
}

static void *live_elsewhere(void *unused)
{
	if (unshare(CLONE_NEWUTS) != 0)
		skip("unshare: %s", strerror(errno));
	*second = thread_id();
	victim_wait();
	return unused;
}

/* A child with a second thread, of which this process traces one. */
static pid_t traced_child(const char *what)
{
	second = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	pid_t child = must(fork());
	if (child == 0) {
		pthread_t thread;
		must_zero(pthread_create(&thread, NULL, wait_in_thread, NULL));
		victim_wait();
		pthread_join(thread, NULL);
		_exit(0);
	}
	while (*second == 0)
		victim_nap(500);
	pid_t tracee = strcmp(what, "tracer-inside") == 0 ? child : *second;
	must(ptrace(PTRACE_SEIZE, tracee, NULL, NULL));
	return child;
}

/* A queue with a message, a name no more, and somebody who is to be told of the next one or has it open, too. */
static mqd_t watched_queue(const char *what)
{
	char name[64];
	snprintf(name, sizeof name, "/refused-%d", getpid());
	struct mq_attr limits = {.mq_maxmsg = 4, .mq_msgsize = 8};
	mqd_t queue = must(mq_open(name, O_RDWR | O_NONBLOCK | O_CREAT | O_EXCL, 0600, &limits));
	must(mq_unlink(name));
	must((long)signal(SIGUSR1, note));
	if (strcmp(what, "queue-left") == 0) {
		/* A name, a message, and nobody who has it open. */
		mqd_t left = must(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &limits));
		must(mq_send(left, "x", 1, 0));
		must(mq_close(left));
		return queue;
	}
	if (strcmp(what, "queue-notify") == 0) {
		struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
		must(mq_notify(queue, &event));
		return queue;
	}
	must(mq_send(queue, "x", 1, 0));
	pid_t child = must(fork());
	if (child == 0) {
		if (must(fork()) == 0)
			victim_wait();
		_exit(0);
	}
	join_child(child);
	return queue;
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	int ends[2], named = -1, bound = -1;
	pid_t child = 0;
	mqd_t queue = -1;
	pthread_t thread;
	must(pipe(ends));
	if (strcmp(what, "owner-outside") == 0) {
		must(fcntl(ends[0], F_SETOWN, getppid()));
	} else if (strcmp(what, "notify") == 0) {
		must((long)signal(SIGIO, note));
		must(mkdir("directory", 0700) == 0 || errno == EEXIST ? 0 : -1);
		int directory = must(open("directory", O_RDONLY | O_DIRECTORY));
		if (fcntl(directory, F_NOTIFY, DN_CREATE | DN_MODIFY | DN_DELETE | DN_MULTISHOT) != 0)
			skip("F_NOTIFY: %s", strerror(errno));
	} else if (strcmp(what, "proc-outside") == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/status", getppid());
		must(open(path, O_RDONLY));
	} else if (strcmp(what, "directory-outside") == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d", getppid());
		must(chdir(path));
	} else if (strcmp(what, "not-dumpable") == 0) {
		must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
	} else if (strcmp(what, "socket-named") == 0) {
		bound = must(socket(AF_UNIX, SOCK_DGRAM, 0));
		struct sockaddr_un name = {AF_UNIX, "socket"};
		must(bind(bound, (struct sockaddr *)&name, sizeof name));
		named = must(open("socket", O_PATH));
		must(unlink("socket"));
	} else if (strcmp(what, "tracer-inside") == 0 || strcmp(what, "tracer-of-thread") == 0) {
		child = traced_child(what);
	} else if (strcmp(what, "tracer") == 0) {
		/* Of another process, which is the one that is checkpointed. */
		if (ptrace(PTRACE_SEIZE, atoi(arguments[2]), NULL, NULL) != 0)
			skip("ptrace: %s", strerror(errno));
	} else if (strcmp(what, "thread-elsewhere") == 0) {
		second = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
		must_zero(pthread_create(&thread, NULL, live_elsewhere, NULL));
		while (*second == 0)
			victim_nap(500);
	} else if (strncmp(what, "queue-", 6) == 0) {
		queue = watched_queue(what);
	} else if (strcmp(what, "nothing") == 0) {
		/* Until somebody else does something to it. */
	} else {
		broken("unknown state \"%s\"", what);
	}

	victim_ready();
	victim_wait();

	if (strcmp(what, "owner-outside") == 0) {
		expect_equal("the addressee", getppid(), fcntl(ends[0], F_GETOWN));
	} else if (strcmp(what, "notify") == 0) {
		expect_equal("signals before the change", 0, told);
		change();
		expect_true(told > 0);
	} else if (strcmp(what, "not-dumpable") == 0) {
		expect_equal("dumpable", 0, prctl(PR_GET_DUMPABLE));
	} else if (strcmp(what, "thread-elsewhere") == 0) {
		must_zero(pthread_join(thread, NULL));
	} else if (strcmp(what, "queue-notify") == 0) {
		expect_equal("signals before the message", 0, told);
		expect_success(mq_send(queue, "x", 1, 0));
		expect_equal("signals after it", 1, told);
	} else if (strcmp(what, "queue-left") == 0) {
		char name[64], text[8];
		snprintf(name, sizeof name, "/refused-%d", getpid());
		queue = expect_success(mq_open(name, O_RDONLY));
		expect_equal("the message", 1, mq_receive(queue, text, sizeof text, NULL));
		expect_success(mq_unlink(name));
	} else if (strcmp(what, "queue-outside") == 0) {
		char text[8];
		expect_equal("the message", 1, mq_receive(queue, text, sizeof text, NULL));
	} else if (strcmp(what, "socket-named") == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d", named);
		struct sockaddr_un name = {AF_UNIX, ""};
		strcpy(name.sun_path, path);
		expect_equal("sent", 1, sendto(bound, "x", 1, 0, (struct sockaddr *)&name, sizeof name));
	} else if (child != 0) {
		if (strcmp(what, "tracer-inside") == 0)
			expect_equal("the tracer", getpid(), tracee_of(child));
		/* Reports of a tracee come before that of the child's end. */
		int status;
		while (waitpid(-1, &status, __WALL) != child || WIFSTOPPED(status))
			continue;
		expect_equal("status of the child", 0, status);
	}
	victim_ok();
}
