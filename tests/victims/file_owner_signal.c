/*
 * Whom descriptors send signals to: F_SETOWN, F_SETOWN_EX to a thread, a process, a group; F_SETSIG; O_ASYNC. None is sent on
 * the way, and every one afterwards.
 */
#include "victim.h"
#include <sys/eventfd.h>

enum { F_GET_USERS = 17 };

static _Atomic int told, told_descriptor, told_thread, told_plain;

static void note(int signal, siginfo_t *information, void *context)
{
	(void)signal, (void)context;
	told_descriptor = information->si_fd;
	told_thread = (int)syscall(SYS_gettid);
	told++;
}

static void note_plain(int signal)
{
	(void)signal;
	told_plain++;
}

static _Atomic pid_t second_thread;

static void *wait_for_signals(void *unused)
{
	second_thread = thread_id();
	victim_wait_with_signals();
	while (told < 1)
		usleep(1000);
	return unused;
}

static void owner_of(int file, int type, pid_t id)
{
	struct f_owner_ex owner = {type, id};
	must(fcntl(file, F_SETOWN_EX, &owner));
}

static void expect_owner(const char *what, int file, int type, pid_t id)
{
	struct f_owner_ex owner = {-1, -1};
	expect_success(fcntl(file, F_GETOWN_EX, &owner));
	if (id != 0)
		expect_equal(what, type, owner.type);
	expect_equal(what, id, owner.pid);
}

static void expect_users(const char *what, int file, uid_t real, uid_t effective)
{
	uid_t users[2];
	if (fcntl(file, F_GET_USERS, users) != 0)
		return;
	expect_equal(what, real, users[0]);
	expect_equal(what, effective, users[1]);
}

static void await(const char *what, _Atomic int *count, int wanted)
{
	for (int tries = 0; *count < wanted && tries < 5000; tries++)
		usleep(1000);
	expect_equal(what, wanted, *count);
}

static void asynchronous(int file)
{
	must(fcntl(file, F_SETFL, must(fcntl(file, F_GETFL)) | O_ASYNC));
}

int main(void)
{
	int real_time = SIGRTMIN + 3;
	int to_thread[2], to_process[2], to_group[2], to_child[2], to_nobody[2], as_other[2], full[2];
	struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
	must(sigaction(real_time, &action, NULL));
	must((long)signal(SIGIO, note_plain));
	must(pipe(to_thread));
	must(pipe2(to_process, O_NONBLOCK));
	must(pipe(to_group));
	must(pipe(to_child));
	must(pipe(to_nobody));
	must(pipe(as_other));
	must(pipe(full));
	int counter = must(eventfd(0, 0)), file = must(open("file", O_RDWR | O_CREAT | O_APPEND, 0600));
	pthread_t thread;
	must_zero(pthread_create(&thread, NULL, wait_for_signals, NULL));
	while (second_thread == 0)
		usleep(100);

	owner_of(to_thread[0], F_OWNER_TID, second_thread);
	must(fcntl(to_thread[0], F_SETSIG, real_time));
	asynchronous(to_thread[0]);
	must(fcntl(to_process[0], F_SETOWN, getpid()));
	asynchronous(to_process[0]);
	must(fcntl(to_group[0], F_SETOWN, -getpgrp()));
	must(fcntl(counter, F_SETOWN, getpid()));
	must(fcntl(counter, F_SETSIG, SIGUSR1));
	must(fcntl(file, F_SETSIG, real_time));
	/* Something to read already: to restore it is no news. */
	must(write(full[1], "full", 4));
	must(fcntl(full[0], F_SETOWN, getpid()));
	must(fcntl(full[0], F_SETSIG, real_time));
	asynchronous(full[0]);
	bool root = geteuid() == 0;
	if (root)
		must(setresuid(-1, 1, -1));
	must(fcntl(as_other[1], F_SETOWN, getpid()));
	if (root)
		must(setresuid(-1, 0, -1));
	pid_t gone = must(fork());
	if (gone == 0)
		_exit(fcntl(to_nobody[0], F_SETOWN, getpid()) == 0 && fcntl(to_nobody[0], F_SETSIG, SIGUSR2) == 0 ? 0 : 1);
	join_child(gone);
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		told = 0;
		must(fcntl(to_child[0], F_SETOWN, getpid()));
		must(fcntl(to_child[0], F_SETSIG, real_time));
		asynchronous(to_child[0]);
		arrive(&arrivals);
		while (told < 1)
			usleep(1000);
		expect_equal("the descriptor that the child is told of", to_child[0], told_descriptor);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait_with_signals();

	expect_equal("signals on the way", 0, told);
	expect_equal("plain signals on the way", 0, told_plain);
	expect_owner("a thread", to_thread[0], F_OWNER_TID, second_thread);
	expect_owner("a process", to_process[0], F_OWNER_PID, getpid());
	expect_owner("a group", to_group[0], F_OWNER_PGRP, getpgrp());
	expect_owner("a child", to_child[0], F_OWNER_PID, child);
	expect_owner("one who has ended", to_nobody[0], 0, 0);
	expect_owner("of an eventfd", counter, F_OWNER_PID, getpid());
	expect_owner("as another user", as_other[1], F_OWNER_PID, getpid());
	expect_owner("nobody", file, 0, 0);
	expect_owner("never said", to_thread[1], 0, 0);
	expect_users("users that set it", to_process[0], getuid(), geteuid());
	expect_users("another user that set it", as_other[1], getuid(), root ? 1 : geteuid());
	expect_equal("a real-time signal", real_time, fcntl(to_thread[0], F_GETSIG));
	expect_equal("no signal", 0, fcntl(to_process[0], F_GETSIG));
	expect_equal("the signal of an eventfd", SIGUSR1, fcntl(counter, F_GETSIG));
	expect_equal("the signal of a file", real_time, fcntl(file, F_GETSIG));
	expect_equal("the signal to nobody", SIGUSR2, fcntl(to_nobody[0], F_GETSIG));
	expect_equal("flags", O_RDONLY | O_ASYNC | O_NONBLOCK, fcntl(to_process[0], F_GETFL));
	expect_equal("flags of what sends nothing", O_RDONLY, fcntl(to_group[0], F_GETFL));

	expect_success(write(to_thread[1], "x", 1));
	await("the thread's signal", &told, 1);
	expect_equal("the thread that is told", second_thread, told_thread);
	expect_equal("the descriptor that it is told of", to_thread[0], told_descriptor);
	expect_success(write(full[1], "x", 1));
	await("a signal of the full pipe", &told, 2);
	expect_equal("its descriptor", full[0], told_descriptor);
	expect_success(write(to_process[1], "x", 1));
	await("the process' signal", &told_plain, 1);
	expect_success(write(to_child[1], "x", 1));
	join_child(child);
	must_zero(pthread_join(thread, NULL));
	victim_ok();
}
