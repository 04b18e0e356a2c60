/*
 * A process with a second thread, a child and a zombie: pipe with bytes in it, shared anonymous memory, eventfd in an
 * epoll, signals (pending, with a handler, read from a descriptor, an alternate stack), timers of three kinds, and
 * descriptors of a file, a directory and a place. All of it is looked at again once the file "go" is there.
 */
#include "bare.h"

enum { WORDS = 1024, HOUR = 3600, USR1 = 10, USR2 = 12, BLOCK = 0, SHARED_ANONYMOUS = 0x21 };

struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};
struct stack {
	void *start;
	int flags;
	unsigned long size;
};
struct timespec_pair {
	long interval[2], value[2];
};
struct __attribute__((packed)) event {
	unsigned int events;
	unsigned long data;
};

static unsigned long own[WORDS];
static char alternate[8192], second_stack[8192] __attribute__((aligned(16)));
static volatile int turn, handled;

void restore(void);
__asm__(".globl restore\nrestore: movl $15, %eax\n syscall\n");

static void handle(int number)
{
	handled = number;
}

__attribute__((noreturn, used)) static void second(void)
{
	while (turn == 0)
		nap();
	turn = 2;
	for (;;)
		call(EXIT, 0, 0, 0, 0, 0);
}

/* A thread of this process on a stack of its own. */
static void start_second(void)
{
	long flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000, value;
	register long r10 __asm__("r10") = 0;
	__asm__ volatile("syscall\n testq %%rax, %%rax\n jnz 1f\n call second\n1:"
			 : "=a"(value)
			 : "a"(56L), "D"(flags), "S"(second_stack + sizeof(second_stack)), "d"(0L), "r"(r10)
			 : "rcx", "r11", "memory");
	expect(value > 0, "no thread");
}

__attribute__((noreturn)) static void child(long parent, volatile unsigned long *shared, int counter, int report)
{
	await_go();
	expect(is_filled(own, WORDS, 5), "the child's memory changed");
	expect(is_filled((unsigned long *)shared + 1, WORDS - 1, 10), "the child's shared memory changed");
	expect(call(GETPPID, 0, 0, 0, 0, 0) == parent, "the child's parent changed");
	unsigned long one = 1;
	shared[0] = 77;
	expect(call(WRITE, counter, (long)&one, 8, 0, 0) == 8, "the child cannot count");
	expect(call(WRITE, report, (long)"k", 1, 0, 0) == 1, "the child cannot report");
	for (;;)
		call(EXIT_GROUP, 3, 0, 0, 0, 0);
}

static long fork_child(void)
{
	long pid = call(FORK, 0, 0, 0, 0, 0);
	expect(pid >= 0, "no child");
	return pid;
}

static int is_running(const struct timespec_pair *timer)
{
	return timer->value[0] > 0 && timer->value[0] < HOUR && timer->interval[0] == 0;
}

static struct timespec_pair timers[3];

static void look_at_timers(int timer, int timer_descriptor)
{
	expect(call(TIMER_GETTIME, timer, (long)&timers[0], 0, 0, 0) == 0 && is_running(&timers[0]), "POSIX timer");
	expect(call(GETITIMER, 0, (long)&timers[1], 0, 0, 0) == 0 && is_running(&timers[1]), "interval timer");
	expect(call(TIMERFD_GETTIME, timer_descriptor, (long)&timers[2], 0, 0, 0) == 0 && is_running(&timers[2]),
	       "timer descriptor");
}

static void look_at_signals(int signals)
{
	unsigned int information[32];
	struct stack stack;
	expect(call(READ, signals, (long)information, 128, 0, 0) == 128 && information[0] == USR1, "pending signal");
	expect(call(KILL, call(GETPID, 0, 0, 0, 0, 0), USR2, 0, 0, 0) == 0, "no signal");
	for (int naps = 0; handled == 0 && naps < 10000; naps++)
		nap();
	expect(handled == USR2, "signal handler");
	expect(call(SIGALTSTACK, 0, (long)&stack, 0, 0, 0) == 0 && stack.start == alternate &&
		       stack.size == sizeof(alternate),
	       "alternate stack");
}

static void begin(void)
{
	long parent = call(GETPID, 0, 0, 0, 0, 0);
	unsigned long message[32], received[32], count, pending = 1UL << (USR1 - 1);
	int pipe[2], report[2], status = 0, timer = -1;
	struct action action = {handle, 0x04000000 | 0x08000000, restore, 0};
	struct stack stack = {alternate, 0, sizeof(alternate)};
	struct event event = {1, 5};
	struct timespec_pair hour = {{0, 0}, {HOUR, 0}};
	/* SIGEV_NONE */
	int nothing[16] = {0, 0, 0, 1};
	char letter = 0;

	fill(own, WORDS, 5);
	unsigned long *shared = (unsigned long *)call(MMAP, 0, sizeof(long) * WORDS, 3, SHARED_ANONYMOUS, -1);
	expect((long)shared > 0, "no shared memory");
	fill(shared, WORDS, 9);
	int counter = call(EVENTFD, 41, 0, 0, 0, 0);
	expect(call(PIPE, (long)pipe, 0, 0, 0, 0) == 0 && call(PIPE, (long)report, 0, 0, 0, 0) == 0, "no pipe");
	long ended = fork_child();
	if (ended == 0)
		call(EXIT_GROUP, 7, 0, 0, 0, 0);
	long other = fork_child();
	if (other == 0)
		child(parent, shared, counter, report[1]);
	start_second();
	fill(message, 32, 3);
	expect(call(WRITE, pipe[1], (long)message, sizeof(message), 0, 0) == sizeof(message), "no bytes in the pipe");
	int epoll = call(EPOLL_CREATE, 0, 0, 0, 0, 0);
	expect(call(EPOLL_CTL, epoll, 1, counter, (long)&event, 0) == 0, "no epoll entry");
	expect(call(SIGACTION, USR2, (long)&action, 0, 8, 0) == 0, "no handler");
	expect(call(SIGALTSTACK, (long)&stack, 0, 0, 0, 0) == 0, "no alternate stack");
	expect(call(SIGPROCMASK, BLOCK, (long)&pending, 0, 8, 0) == 0, "no mask");
	int signals = call(SIGNALFD, -1, (long)&pending, 8, 0, 0);
	/* To this thread: the other does not block it. */
	expect(call(TGKILL, parent, call(GETTID, 0, 0, 0, 0, 0), USR1, 0, 0) == 0, "no pending signal");
	expect(call(TIMER_CREATE, 1, (long)nothing, (long)&timer, 0, 0) == 0, "no timer");
	expect(call(TIMER_SETTIME, timer, 0, (long)&hour, 0, 0) == 0, "no time");
	expect(call(SETITIMER, 0, (long)&hour, 0, 0, 0) == 0, "no interval timer");
	int timer_descriptor = call(TIMERFD_CREATE, 1, 0, 0, 0, 0);
	expect(call(TIMERFD_SETTIME, timer_descriptor, 0, (long)&hour, 0, 0) == 0, "no timer descriptor");
	int file = call(OPEN, (long)"pair", 0, 0, 0, 0), directory = call(OPEN, (long)".", 0x10000, 0, 0, 0);
	int place = call(OPEN, (long)"pair", 0x200000, 0, 0, 0);
	expect(call(LSEEK, file, 16, 0, 0, 0) == 16 && directory > 0 && place > 0, "no file");
	say("READY\n");

	await_go();
	expect(is_filled(own, WORDS, 5) && is_filled(shared + 1, WORDS - 1, 10), "memory changed");
	expect(call(READ, report[0], (long)&letter, 1, 0, 0) == 1 && letter == 'k', "the child's report");
	expect(*(volatile unsigned long *)shared == 77, "memory is not shared");
	expect(call(EPOLL_WAIT, epoll, (long)&event, 1, 0, 0) == 1 && event.data == 5, "epoll");
	expect(call(READ, counter, (long)&count, 8, 0, 0) == 8 && count == 42, "eventfd");
	expect(call(READ, pipe[0], (long)received, sizeof(received), 0, 0) == sizeof(received) &&
		       is_filled(received, 32, 3),
	       "bytes in the pipe");
	look_at_timers(timer, timer_descriptor);
	look_at_signals(signals);
	expect(call(LSEEK, file, 0, 1, 0, 0) == 16, "position in the file");
	expect(call(OPENAT, directory, (long)"pair", 0, 0, 0) > 0, "directory");
	expect((call(FCNTL, place, 3, 0, 0, 0) & 0x200000) != 0, "place");
	turn = 1;
	while (turn != 2)
		nap();
	expect(call(WAIT4, ended, (long)&status, 0, 0, 0) == ended && status == 7 << 8, "the zombie");
	expect(call(WAIT4, other, (long)&status, 0, 0, 0) == other && status == 3 << 8, "the child's end");
	say("OK\n");
	for (;;)
		call(EXIT_GROUP, 0, 0, 0, 0, 0);
}
