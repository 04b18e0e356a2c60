/*
 * Blocking calls. The argument names the call in which the program waits while it is checkpointed:
 *
 * - calls with a time-out are repeated until the suite lets the victim go; each must end by its time-out, never early
 *   and never with EINTR;
 * - calls without one end through a child process (or thread) that acts once the suite lets it; they must end with what
 *   was sent, never with EINTR.
 */
#include "victim.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static const long long timeout = 150000000;
static struct timespec timeout_spec = {0, 150000000};
static int ends[2];
static int *word;

struct call {
	const char *name;
	/* Returns 0 when the call ended as it should; errno is looked at otherwise. */
	int (*run)(void);
	/* Ends an untimed call from the child; none for timed calls. */
	void (*act)(pid_t waiter);
	/* The clock by which a timed call's time-out is measured. */
	clockid_t clock;
};

/* Calls with a time-out. */

static int run_nanosleep(void)
{
	return nanosleep(&timeout_spec, NULL);
}

/* What clock_nanosleep sleeps by: the name of the call is that of the clock, with "_until" for an absolute time. */
static clockid_t sleeping_clock;
static int sleeping_flags;

static struct timespec after(clockid_t clock)
{
	long long then = clock_now(clock) + timeout;
	return (struct timespec){then / 1000000000, then % 1000000000};
}

static int run_clock_nanosleep(void)
{
	struct timespec until = after(sleeping_clock);
	errno = clock_nanosleep(sleeping_clock, sleeping_flags, sleeping_flags == 0 ? &timeout_spec : &until, NULL);
	return errno;
}

/* Uses time of the process, so that its clock goes on. */
static void *use_time(void *argument)
{
	for (;;)
		__asm__ volatile("pause");
	return argument;
}

/* Clocks that wake a machine need a capability. */
static void choose_clock(clockid_t clock, const char *name)
{
	struct timespec at_once = {0, 0};
	pthread_t thread;
	size_t length = strlen(name);
	sleeping_clock = clock;
	sleeping_flags = length > 6 && strcmp(name + length - 6, "_until") == 0 ? TIMER_ABSTIME : 0;
	int error = clock_nanosleep(clock, sleeping_flags, &at_once, NULL);
	if (error != 0)
		skip("%s: %s", name, strerror(error));
	if (clock == CLOCK_PROCESS_CPUTIME_ID)
		must_zero(pthread_create(&thread, NULL, use_time, NULL));
}

static int run_poll(void)
{
	struct pollfd one = {ends[0], POLLIN, 0};
	return poll(&one, 1, 150);
}

static int run_poll_nothing(void)
{
	return poll(NULL, 0, 150);
}

static int run_ppoll(void)
{
	struct pollfd one = {ends[0], POLLIN, 0};
	sigset_t mask;
	sigemptyset(&mask);
	return ppoll(&one, 1, &timeout_spec, &mask);
}

static int run_select(void)
{
	fd_set readable;
	struct timeval limit = {0, 150000};
	FD_ZERO(&readable);
	FD_SET(ends[0], &readable);
	return select(ends[0] + 1, &readable, NULL, NULL, &limit);
}

static int run_pselect(void)
{
	fd_set readable;
	sigset_t mask;
	sigemptyset(&mask);
	FD_ZERO(&readable);
	FD_SET(ends[0], &readable);
	return pselect(ends[0] + 1, &readable, NULL, NULL, &timeout_spec, &mask);
}

static int new_epoll(void)
{
	int epoll = must(epoll_create1(EPOLL_CLOEXEC));
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 5};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
	return epoll;
}

static int run_epoll_wait(void)
{
	static int epoll = -1;
	struct epoll_event event;
	if (epoll < 0)
		epoll = new_epoll();
	return epoll_wait(epoll, &event, 1, 150);
}

static int run_epoll_pwait(void)
{
	static int epoll = -1;
	struct epoll_event event;
	sigset_t mask;
	if (epoll < 0)
		epoll = new_epoll();
	sigemptyset(&mask);
	return epoll_pwait(epoll, &event, 1, 150, &mask);
}

static int run_futex(void)
{
	int result = (int)syscall(SYS_futex, word, FUTEX_WAIT, 0, &timeout_spec, NULL, 0);
	return result == -1 && errno == ETIMEDOUT ? 0 : -1;
}

static int run_futex_absolute(void)
{
	struct timespec then = after(CLOCK_MONOTONIC);
	int result = (int)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &then, NULL,
				  FUTEX_BITSET_MATCH_ANY);
	return result == -1 && errno == ETIMEDOUT ? 0 : -1;
}

/* Waits on two futexes at once, until this time or for ever. */
static long wait_several(const struct timespec *then)
{
	struct futex_waitv several[2];
	memset(several, 0, sizeof several);
	for (int index = 0; index < 2; index++) {
		several[index].uaddr = (uintptr_t)&word[index];
		several[index].flags = FUTEX_32;
	}
	long result = syscall(SYS_futex_waitv, several, 2, 0, then, CLOCK_MONOTONIC);
	if (result < 0 && errno == ENOSYS)
		skip("no futex_waitv");
	return result;
}

static int run_futex_several(void)
{
	struct timespec then = after(CLOCK_MONOTONIC);
	return wait_several(&then) == -1 && errno == ETIMEDOUT ? 0 : -1;
}

static int run_condition(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
	struct timespec then = after(CLOCK_REALTIME);
	pthread_mutex_lock(&lock);
	errno = pthread_cond_timedwait(&condition, &lock, &then);
	pthread_mutex_unlock(&lock);
	return errno == ETIMEDOUT ? 0 : -1;
}

static int run_sigtimedwait(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return sigtimedwait(&set, NULL, &timeout_spec) == -1 && errno == EAGAIN ? 0 : -1;
}

static int run_timerfd(void)
{
	static int timer = -1;
	struct itimerspec value = {{0, 0}, timeout_spec};
	uint64_t count;
	if (timer < 0)
		timer = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	must(timerfd_settime(timer, 0, &value, NULL));
	return read(timer, &count, 8) == 8 && count == 1 ? 0 : -1;
}

/* Calls without a time-out, and what ends each. */

static void act_write(pid_t waiter)
{
	(void)waiter;
	expect_equal("bytes written by the child", 1, write(ends[1], "x", 1));
}

static int run_read(void)
{
	char byte = 0;
	return read(ends[0], &byte, 1) == 1 && byte == 'x' ? 0 : -1;
}

static int run_poll_forever(void)
{
	struct pollfd one = {ends[0], POLLIN, 0};
	return poll(&one, 1, -1) == 1 && one.revents == POLLIN ? 0 : -1;
}

static int run_select_forever(void)
{
	fd_set readable;
	FD_ZERO(&readable);
	FD_SET(ends[0], &readable);
	return select(ends[0] + 1, &readable, NULL, NULL, NULL) == 1 ? 0 : -1;
}

static int run_epoll_forever(void)
{
	struct epoll_event event;
	return epoll_wait(new_epoll(), &event, 1, -1) == 1 && event.data.u64 == 5 ? 0 : -1;
}

static int run_write(void)
{
	char block[65536];
	memset(block, 'y', sizeof block);
	must(fcntl(ends[1], F_SETFL, O_NONBLOCK));
	while (write(ends[1], block, 4096) == 4096)
		;
	must(fcntl(ends[1], F_SETFL, 0));
	errno = 0;
	return write(ends[1], block, sizeof block) == (ssize_t)sizeof block ? 0 : -1;
}

static void act_drain(pid_t waiter)
{
	char byte;
	int capacity = fcntl(ends[0], F_GETPIPE_SZ);
	(void)waiter;
	for (int place = 0; place < capacity + 65536; place++) {
		expect_equal("bytes read by the child", 1, read(ends[0], &byte, 1));
		expect_equal("byte read by the child", 'y', byte);
	}
}

static int run_futex_forever(void)
{
	errno = 0;
	while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
		if (syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0) != 0 && errno != EAGAIN)
			return -1;
	return 0;
}

static int run_futex_several_forever(void)
{
	errno = 0;
	long woken = wait_several(NULL);
	/* Woken by the second, or come too late for that. */
	return woken == 1 || (woken == -1 && errno == EAGAIN && word[1] != 0) ? 0 : -1;
}

static void act_wake_second(pid_t waiter)
{
	(void)waiter;
	__atomic_store_n(word + 1, 1, __ATOMIC_SEQ_CST);
	expect_success(syscall(SYS_futex, word + 1, FUTEX_WAKE, INT_MAX, NULL, NULL, 0));
}

static void act_wake(pid_t waiter)
{
	(void)waiter;
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	expect_success(syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0));
}

static volatile sig_atomic_t handled;

static void on_signal(int signal)
{
	handled = signal;
}

static void act_signal(pid_t waiter)
{
	expect_success(kill(waiter, SIGUSR1));
}

/* The one call whose proper end is EINTR, after its handler has run. */
static int run_pause(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	must(sigaction(SIGUSR1, &action, NULL));
	sigset_t open;
	sigemptyset(&open);
	must(sigprocmask(SIG_SETMASK, &open, NULL));
	if (handled == 0)
		pause();
	return handled == SIGUSR1 ? 0 : -1;
}

static int run_sigsuspend(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t open, found;
	must(sigaction(SIGUSR1, &action, NULL));
	sigemptyset(&open);
	int result = sigsuspend(&open), error = errno;
	must(sigprocmask(SIG_SETMASK, NULL, &found));
	expect_equal("SIGUSR1 blocked again after sigsuspend", 1, sigismember(&found, SIGUSR1));
	expect_equal("other signals open after sigsuspend", 0, sigismember(&found, SIGUSR2));
	errno = error;
	return result == -1 && handled == SIGUSR1 ? 0 : -1;
}

static int run_sigwaitinfo(void)
{
	siginfo_t info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return sigwaitinfo(&set, &info) == SIGUSR1 && info.si_code == SI_USER ? 0 : -1;
}

static int run_signalfd(void)
{
	struct signalfd_siginfo info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	int file = must(signalfd(-1, &set, SFD_CLOEXEC));
	return read(file, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1 ? 0 : -1;
}

static int run_eventfd(void)
{
	uint64_t count;
	return read(ends[0], &count, 8) == 8 && count == 3 ? 0 : -1;
}

static void act_eventfd(pid_t waiter)
{
	uint64_t count = 3;
	(void)waiter;
	expect_equal("bytes written to the eventfd", 8, write(ends[0], &count, 8));
}

static int run_open_fifo(void)
{
	char byte = 0;
	int file = open("blocking.fifo", O_RDONLY | O_CLOEXEC);
	return file >= 0 && read(file, &byte, 1) == 1 && byte == 'f' ? 0 : -1;
}

static void act_fifo(pid_t waiter)
{
	(void)waiter;
	int file = expect_success(open("blocking.fifo", O_WRONLY | O_CLOEXEC));
	expect_equal("bytes written to the fifo", 1, write(file, "f", 1));
}

/* Ended by the end of a child: the actor itself. */
static void act_nothing(pid_t waiter)
{
	(void)waiter;
}

static pid_t actor;

static int run_waitpid(void)
{
	int status;
	pid_t ended = waitpid(actor, &status, 0);
	bool right = ended == actor && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	actor = 0;
	return right ? 0 : -1;
}

static int run_waitid(void)
{
	siginfo_t info;
	int result = waitid(P_ALL, 0, &info, WEXITED);
	bool right = result == 0 && info.si_pid == actor && info.si_code == CLD_EXITED;
	actor = 0;
	return right ? 0 : -1;
}

static void *thread_act(void *argument)
{
	victim_wait();
	return argument;
}

static int run_join(void)
{
	pthread_t thread;
	must_zero(pthread_create(&thread, NULL, thread_act, NULL));
	errno = pthread_join(thread, NULL);
	return errno;
}

static const struct call calls[] = {
	{"nanosleep", run_nanosleep, NULL, CLOCK_MONOTONIC},
	{"sleep_monotonic", run_clock_nanosleep, NULL, CLOCK_MONOTONIC},
	{"sleep_monotonic_until", run_clock_nanosleep, NULL, CLOCK_MONOTONIC},
	{"sleep_boottime", run_clock_nanosleep, NULL, CLOCK_BOOTTIME},
	{"sleep_boottime_until", run_clock_nanosleep, NULL, CLOCK_BOOTTIME},
	{"sleep_boottime_alarm", run_clock_nanosleep, NULL, CLOCK_BOOTTIME_ALARM},
	{"sleep_boottime_alarm_until", run_clock_nanosleep, NULL, CLOCK_BOOTTIME_ALARM},
	{"sleep_realtime", run_clock_nanosleep, NULL, CLOCK_REALTIME},
	{"sleep_realtime_until", run_clock_nanosleep, NULL, CLOCK_REALTIME},
	{"sleep_realtime_alarm", run_clock_nanosleep, NULL, CLOCK_REALTIME_ALARM},
	{"sleep_realtime_alarm_until", run_clock_nanosleep, NULL, CLOCK_REALTIME_ALARM},
	{"sleep_tai", run_clock_nanosleep, NULL, CLOCK_TAI},
	{"sleep_tai_until", run_clock_nanosleep, NULL, CLOCK_TAI},
	{"sleep_process", run_clock_nanosleep, NULL, CLOCK_PROCESS_CPUTIME_ID},
	{"sleep_process_until", run_clock_nanosleep, NULL, CLOCK_PROCESS_CPUTIME_ID},
	{"poll", run_poll, NULL, CLOCK_MONOTONIC},
	{"poll_nothing", run_poll_nothing, NULL, CLOCK_MONOTONIC},
	{"ppoll", run_ppoll, NULL, CLOCK_MONOTONIC},
	{"select", run_select, NULL, CLOCK_MONOTONIC},
	{"pselect", run_pselect, NULL, CLOCK_MONOTONIC},
	{"epoll_wait", run_epoll_wait, NULL, CLOCK_MONOTONIC},
	{"epoll_pwait", run_epoll_pwait, NULL, CLOCK_MONOTONIC},
	{"futex", run_futex, NULL, CLOCK_MONOTONIC},
	{"futex_absolute", run_futex_absolute, NULL, CLOCK_MONOTONIC},
	{"futex_several", run_futex_several, NULL, CLOCK_MONOTONIC},
	{"condition", run_condition, NULL, CLOCK_REALTIME},
	{"sigtimedwait", run_sigtimedwait, NULL, CLOCK_MONOTONIC},
	{"timerfd", run_timerfd, NULL, CLOCK_MONOTONIC},
	{"read", run_read, act_write, CLOCK_MONOTONIC},
	{"write", run_write, act_drain, CLOCK_MONOTONIC},
	{"poll_forever", run_poll_forever, act_write, CLOCK_MONOTONIC},
	{"select_forever", run_select_forever, act_write, CLOCK_MONOTONIC},
	{"epoll_forever", run_epoll_forever, act_write, CLOCK_MONOTONIC},
	{"futex_forever", run_futex_forever, act_wake, CLOCK_MONOTONIC},
	{"futex_several_forever", run_futex_several_forever, act_wake_second, CLOCK_MONOTONIC},
	{"pause", run_pause, act_signal, CLOCK_MONOTONIC},
	{"sigsuspend", run_sigsuspend, act_signal, CLOCK_MONOTONIC},
	{"sigwaitinfo", run_sigwaitinfo, act_signal, CLOCK_MONOTONIC},
	{"signalfd", run_signalfd, act_signal, CLOCK_MONOTONIC},
	{"eventfd", run_eventfd, act_eventfd, CLOCK_MONOTONIC},
	{"open_fifo", run_open_fifo, act_fifo, CLOCK_MONOTONIC},
	{"waitpid", run_waitpid, act_nothing, CLOCK_MONOTONIC},
	{"waitid", run_waitid, act_nothing, CLOCK_MONOTONIC},
	{"join", run_join, act_nothing, CLOCK_MONOTONIC},
};

static void run_timed(const struct call *call)
{
	bool last;
	victim_ready();
	do {
		last = victim_may_go();
		long long start = clock_now(call->clock);
		errno = 0;
		if (call->run() != 0)
			wrong("%s: expected to time out, found: %s", call->name, strerror(errno));
		/* poll and its kin count in milliseconds of the tick. */
		expect_within("time spent in the call, ns", timeout - 1500000, timeout + 20000000000ll,
			      clock_now(call->clock) - start);
	} while (!last);
	victim_ok();
}

static void run_untimed(const struct call *call)
{
	pid_t waiter = getpid();
	actor = must(fork());
	if (actor == 0) {
		await_state(waiter, waiter, 'S');
		victim_ready();
		victim_wait();
		/* Time for the call to be entered anew. */
		victim_nap(5000);
		call->act(waiter);
		_exit(0);
	}
	errno = 0;
	if (call->run() != 0)
		wrong("%s: expected its proper end, found: %s", call->name, strerror(errno));
	if (actor != 0)
		join_child(actor);
	victim_ok();
}

int main(int count, char **arguments)
{
	sigset_t blocked;
	const char *name = count > 1 ? arguments[1] : "";
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	must(sigprocmask(SIG_SETMASK, &blocked, NULL));
	word = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	if (strcmp(name, "eventfd") == 0)
		ends[0] = ends[1] = must(eventfd(0, EFD_CLOEXEC));
	else
		must(pipe2(ends, O_CLOEXEC));
	if (strcmp(name, "open_fifo") == 0)
		must(mkfifo("blocking.fifo", 0600));
	for (size_t index = 0; index < sizeof calls / sizeof calls[0]; index++)
		if (strcmp(calls[index].name, name) == 0) {
			if (calls[index].run == run_clock_nanosleep)
				choose_clock(calls[index].clock, name);
			calls[index].act == NULL ? run_timed(&calls[index]) : run_untimed(&calls[index]);
		}
	broken("no such call: \"%s\"", name);
}
