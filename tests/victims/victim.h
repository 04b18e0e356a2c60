/*
 * The protocol between a victim and the test suite.
 *
 * A victim brings one kind of kernel state about, prints READY, waits until the file named by the
 * environment variable VICTIM_GO exists, checks that its state is still right, and prints
 *
 *     OK                                   exit status 0
 *     WRONG: what: expected …, found …     exit status 1
 *     BROKEN: what                         exit status 2: the victim could not set itself up
 *     SKIP: why                            exit status 77: this machine or user cannot show the behaviour
 *
 * Between READY and the file's appearance the suite may checkpoint, kill and restart the program any number of times;
 * a victim never knows. Everything is written by single write(2) calls, so that no buffer is copied by fork.
 */
#ifndef VICTIM_H
#define VICTIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VICTIM_UNUSED __attribute__((unused))
#define VICTIM_PRINTF __attribute__((format(printf, 1, 2)))

enum { VICTIM_WRONG = 1, VICTIM_BROKEN = 2, VICTIM_SKIPPED = 77 };

/* Where the go file is; NULL stands for the environment variable. Victims that change their root set it. */
VICTIM_UNUSED static const char *victim_go_path;

/* When the program started, in nanoseconds of CLOCK_MONOTONIC. */
VICTIM_UNUSED static long long victim_start;

__attribute__((constructor)) static void victim_note_start(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	victim_start = (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

VICTIM_UNUSED static void victim_write(const char *text, size_t length)
{
	while (length > 0) {
		ssize_t written = write(STDOUT_FILENO, text, length);
		if (written < 0) {
			if (errno == EINTR)
				continue;
			_exit(VICTIM_BROKEN);
		}
		text += written;
		length -= (size_t)written;
	}
}

VICTIM_UNUSED static void victim_say(const char *word, const char *format, va_list arguments)
{
	char line[1024];
	size_t used = (size_t)snprintf(line, sizeof line, "%s", word);
	used += (size_t)vsnprintf(line + used, sizeof line - used - 1, format, arguments);
	if (used > sizeof line - 2)
		used = sizeof line - 2;
	line[used++] = '\n';
	victim_write(line, used);
}

/* The state is not what it was: says how, and ends the process. */
VICTIM_UNUSED VICTIM_PRINTF __attribute__((noreturn)) static void wrong(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	victim_say("WRONG: ", format, arguments);
	_exit(VICTIM_WRONG);
}

/* The victim itself could not do what it needs; never the fault of a checkpoint. */
VICTIM_UNUSED VICTIM_PRINTF __attribute__((noreturn)) static void broken(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	victim_say("BROKEN: ", format, arguments);
	_exit(VICTIM_BROKEN);
}

/* This machine or this user cannot show the behaviour. */
VICTIM_UNUSED VICTIM_PRINTF __attribute__((noreturn)) static void skip(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	victim_say("SKIP: ", format, arguments);
	_exit(VICTIM_SKIPPED);
}

/* A call of the set-up that must not fail; its value. */
#define must(call)                                                                                                     \
	({                                                                                                             \
		__typeof__(call) must_value = (call);                                                                  \
		if ((long)must_value == -1)                                                                            \
			broken("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno));                           \
		must_value;                                                                                            \
	})

/* A pthread call (which returns its error) that must not fail. */
#define must_zero(call)                                                                                                \
	do {                                                                                                           \
		int must_error = (call);                                                                               \
		if (must_error != 0)                                                                                   \
			broken("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(must_error));                      \
	} while (0)

/* A call after the wait that must succeed; its value. */
#define expect_success(call)                                                                                           \
	({                                                                                                             \
		__typeof__(call) expect_value = (call);                                                                \
		if ((long)expect_value == -1)                                                                          \
			wrong("line %d: %s: expected success, found: %s", __LINE__, #call, strerror(errno));           \
		expect_value;                                                                                          \
	})

#define expect_equal(what, expected, found)                                                                            \
	do {                                                                                                           \
		long long expect_expected = (long long)(expected), expect_found = (long long)(found);                  \
		if (expect_expected != expect_found)                                                                   \
			wrong("%s (line %d): expected %lld (0x%llx), found %lld (0x%llx)", what, __LINE__,             \
			      expect_expected, expect_expected, expect_found, expect_found);                           \
	} while (0)

#define expect_text(what, expected, found)                                                                             \
	do {                                                                                                           \
		const char *expect_expected = (expected), *expect_found = (found);                                     \
		if (strcmp(expect_expected, expect_found) != 0)                                                        \
			wrong("%s (line %d): expected \"%s\", found \"%s\"", what, __LINE__, expect_expected,          \
			      expect_found);                                                                           \
	} while (0)

#define expect_true(condition)                                                                                         \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			wrong("line %d: expected %s", __LINE__, #condition);                                           \
	} while (0)

#define expect_within(what, low, high, found)                                                                          \
	do {                                                                                                           \
		long long expect_low = (long long)(low), expect_high = (long long)(high),                              \
			  expect_found = (long long)(found);                                                           \
		if (expect_found < expect_low || expect_found > expect_high)                                           \
			wrong("%s (line %d): expected %lld to %lld, found %lld", what, __LINE__, expect_low,           \
			      expect_high, expect_found);                                                              \
	} while (0)

VICTIM_UNUSED static void victim_ready(void)
{
	victim_write("READY\n", 6);
}

VICTIM_UNUSED __attribute__((noreturn)) static void victim_ok(void)
{
	victim_write("OK\n", 3);
	_exit(0);
}

VICTIM_UNUSED static long long clock_now(clockid_t clock)
{
	struct timespec time;
	must(clock_gettime(clock, &time));
	return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Whether the suite has let the victim go on. Run by hand, without VICTIM_GO, it may a tenth of a second after start. */
VICTIM_UNUSED static bool victim_may_go(void)
{
	const char *path = victim_go_path ? victim_go_path : getenv("VICTIM_GO");
	if (path == NULL)
		return clock_now(CLOCK_MONOTONIC) > victim_start + 100000000;
	return access(path, F_OK) == 0;
}

/* Sleeps, and takes an interruption as a mistake: no signal handler of a victim runs during its naps. */
VICTIM_UNUSED static void victim_nap(long microseconds)
{
	struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
	if (nanosleep(&time, NULL) != 0)
		wrong("nanosleep: expected success, found: %s", strerror(errno));
}

VICTIM_UNUSED static void victim_wait(void)
{
	while (!victim_may_go())
		victim_nap(1000);
}

/* As victim_wait, for victims whose handlers do interrupt sleeps. */
VICTIM_UNUSED static void victim_wait_with_signals(void)
{
	while (!victim_may_go()) {
		struct timespec time = {0, 1000000};
		nanosleep(&time, NULL);
	}
}

/* Children announce themselves to their parent over a pipe that is closed again before READY. */
struct arrivals {
	int read_end, write_end;
};

VICTIM_UNUSED static struct arrivals arrivals_open(void)
{
	int ends[2];
	must(pipe2(ends, O_CLOEXEC));
	return (struct arrivals){ends[0], ends[1]};
}

VICTIM_UNUSED static void arrive(struct arrivals *arrivals)
{
	if (write(arrivals->write_end, "a", 1) != 1)
		broken("arrive: %s", strerror(errno));
	close(arrivals->write_end);
	close(arrivals->read_end);
}

VICTIM_UNUSED static void await_arrivals(struct arrivals *arrivals, int count)
{
	char byte;
	close(arrivals->write_end);
	for (int arrived = 0; arrived < count; arrived++)
		if (read(arrivals->read_end, &byte, 1) != 1)
			broken("%d of %d children arrived", arrived, count);
	close(arrivals->read_end);
}

/* Waits for a child that says itself what is wrong, and expects it to have ended with 0. */
VICTIM_UNUSED static void join_child(pid_t child)
{
	int status;
	pid_t ended;
	do
		ended = waitpid(child, &status, 0);
	while (ended < 0 && errno == EINTR);
	if (ended != child)
		wrong("waitpid(%d): expected the child, found %d: %s", child, ended, strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		wrong("child %d: expected to exit with 0, found wait status 0x%x", child, status);
}

VICTIM_UNUSED static pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* Reads a small file whole, as text. */
VICTIM_UNUSED static size_t read_text(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		wrong("%s: cannot be opened: %s", path, strerror(errno));
	size_t used = 0;
	for (ssize_t got; used < size - 1 && (got = read(file, text + used, size - 1 - used)) > 0;)
		used += (size_t)got;
	close(file);
	text[used] = '\0';
	return used;
}

/* The letter that /proc shows for a task's state (R, S, T, Z …). */
VICTIM_UNUSED static char task_state(pid_t process, pid_t thread)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/%d/task/%d/stat", process, thread);
	read_text(path, text, sizeof text);
	char *end = strrchr(text, ')');
	return end == NULL ? '?' : end[2];
}

VICTIM_UNUSED static void await_state(pid_t process, pid_t thread, char state)
{
	while (task_state(process, thread) != state)
		victim_nap(500);
}

/* A word that depends on seed and place, so that exchanged pages are found out. */
VICTIM_UNUSED static uint64_t pattern_word(uint64_t seed, uint64_t place)
{
	uint64_t word = (place + 1) * 0x9e3779b97f4a7c15u ^ seed * 0xbf58476d1ce4e5b9u;
	word ^= word >> 31;
	return word * 0x94d049bb133111ebu;
}

VICTIM_UNUSED static void fill_pattern(void *start, size_t length, uint64_t seed)
{
	uint64_t *words = start;
	for (size_t place = 0; place < length / 8; place++)
		words[place] = pattern_word(seed, place);
}

VICTIM_UNUSED static void check_pattern(const char *what, const void *start, size_t length, uint64_t seed)
{
	const uint64_t *words = start;
	for (size_t place = 0; place < length / 8; place++)
		if (words[place] != pattern_word(seed, place))
			wrong("%s at %p (byte %zu of %zu): expected 0x%llx, found 0x%llx", what,
			      (const void *)&words[place], place * 8, length,
			      (unsigned long long)pattern_word(seed, place), (unsigned long long)words[place]);
}

VICTIM_UNUSED static void check_zeros(const char *what, const void *start, size_t length)
{
	const unsigned char *bytes = start;
	for (size_t place = 0; place < length; place++)
		if (bytes[place] != 0)
			wrong("%s at %p: expected 0, found 0x%x", what, (const void *)&bytes[place], bytes[place]);
}

VICTIM_UNUSED static void *map_anonymous(size_t length, int protection, int more_flags)
{
	void *start = mmap(NULL, length, protection, more_flags | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED)
		broken("mmap of %zu bytes: %s", length, strerror(errno));
	return start;
}

/* The line of the first mapping that contains address in /proc/self/smaps, and the value of one of its fields. */
VICTIM_UNUSED static bool smaps_field(const void *address, const char *field, char *value, size_t size)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false, found = false;
	if (smaps == NULL)
		wrong("/proc/self/smaps: %s", strerror(errno));
	while (!found && fgets(line, sizeof line, smaps) != NULL) {
		unsigned long start, end;
		char protection[8];
		if (sscanf(line, "%lx-%lx %7s", &start, &end, protection) == 3 && strchr(line, '-') < strchr(line, ' ')) {
			inside = (unsigned long)address >= start && (unsigned long)address < end;
			if (inside && strcmp(field, "protection") == 0) {
				snprintf(value, size, "%s", protection);
				found = true;
			}
		} else if (inside && strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':') {
			char *text = line + strlen(field) + 1;
			text += strspn(text, " \t");
			text[strcspn(text, "\n")] = '\0';
			snprintf(value, size, "%s", text);
			found = true;
		}
	}
	fclose(smaps);
	return found;
}

/* A kB field of /proc/self/smaps or, without an address, of /proc/self/smaps_rollup. */
VICTIM_UNUSED static long smaps_kilobytes(const void *address, const char *field)
{
	char value[128];
	if (!smaps_field(address, field, value, sizeof value))
		wrong("no field %s for %p in /proc/self/smaps", field, address);
	return atol(value);
}

#endif
