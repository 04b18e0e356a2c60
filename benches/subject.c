/*
 * The subject: the program that the benchmarks checkpoint and restart.
 *
 * Its first thread does nothing but read the clock and keep every gap between two reads, so that the time it stood
 * still, and the moment it ran again, are what the job itself saw and not what a tool says about itself. Everything
 * else it holds (memory, processes, threads, mappings, descriptors) only waits.
 *
 *   subject REPORT [--resident BYTES] [--pages small|huge] [--processes N] [--threads N] [--mappings N]
 *                  [--descriptors N]
 *
 * SIGUSR1 makes it write the gaps it saw to REPORT. SIGUSR2 does the same after it has checked that all it held is
 * still there and unchanged. REPORT appears by rename, so it is always complete. In between no file is open for
 * writing: nothing about the subject depends on how a tool treats changing files.
 *
 * The clock is CLOCK_REALTIME because that one has the same value in every time namespace.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	HUGE_PAGE = 2 << 20,
	GAPS_KEPT = 1 << 16,
	OWN_BYTES_OF_A_CHILD = 64 << 10,
	THREAD_STACK = 64 << 10,
};

/* Two reads of the clock further apart than this are kept. Well above the cost of a read or a timer interrupt. */
static const uint64_t GAP_NS = 50 * 1000;
/* A subject whose benchmark has gone ends by itself. */
static const uint64_t LIFE_NS = 600ull * 1000 * 1000 * 1000;

struct gap {
	uint64_t begin, end;
};

static struct gap gaps[GAPS_KEPT];
static uint64_t gap_count;
static volatile sig_atomic_t report_wanted, check_wanted;

static const char *report_path;
static uint64_t *resident;
static size_t resident_bytes;
static char **mappings;
static size_t mapping_count;
static int *descriptors;
static size_t descriptor_count;
static pid_t *children;
static size_t child_count, thread_count;

static void fail(const char *what)
{
	fprintf(stderr, "subject: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* splitmix64: every word is different and does not compress. Never 0 for the indexes used here. */
static uint64_t word(uint64_t index)
{
	uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void *map_pages(size_t bytes, int huge)
{
	size_t room = bytes + HUGE_PAGE;
	char *at = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t aligned;

	if (at == MAP_FAILED)
		fail("mmap");
	aligned = ((uintptr_t)at + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
	if (aligned > (uintptr_t)at)
		munmap(at, aligned - (uintptr_t)at);
	munmap((char *)aligned + bytes, room - bytes - (aligned - (uintptr_t)at));
	/* Where the kernel has no huge pages at all, both pieces of advice fail and small pages are what there is. */
	(void)madvise((void *)aligned, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return (void *)aligned;
}

static void hold_memory(int huge)
{
	if (!resident_bytes)
		return;
	resident = map_pages(resident_bytes, huge);
	for (size_t i = 0; i < resident_bytes / sizeof(uint64_t); i++)
		resident[i] = word(i);
}

/* One mapping is two areas to the kernel: a page that is written and a page that may only be read. */
static void hold_mappings(void)
{
	if (!mapping_count)
		return;
	mappings = calloc(mapping_count, sizeof(*mappings));
	if (!mappings)
		fail("calloc");
	for (size_t i = 0; i < mapping_count; i++) {
		char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			fail("mmap of a small mapping");
		*(uint64_t *)at = word(i);
		if (mprotect(at + PAGE, PAGE, PROT_READ))
			fail("mprotect (is vm.max_map_count large enough?)");
		mappings[i] = at;
	}
}

/* Half are regular files, each its own and at its own offset; half are ends of pipes with bytes in flight. */
static void hold_descriptors(void)
{
	char path[PATH_MAX];
	size_t i = 0;

	if (!descriptor_count)
		return;
	descriptors = calloc(descriptor_count + 1, sizeof(*descriptors));
	if (!descriptors)
		fail("calloc");
	while (i < descriptor_count / 2) {
		int fd;

		snprintf(path, sizeof(path), "%s.file-%zu", report_path, i);
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, "0123456789", 10) != 10 || lseek(fd, (off_t)(i % 10), SEEK_SET) < 0)
			fail(path);
		descriptors[i++] = fd;
	}
	for (; i + 1 < descriptor_count; i += 2) {
		if (pipe2(&descriptors[i], O_CLOEXEC) || write(descriptors[i + 1], "in flight", 9) != 9)
			fail("pipe");
	}
	descriptor_count = i;
}

static void wait_for_ever(void)
{
	for (;;)
		pause();
}

static void hold_processes(size_t processes)
{
	child_count = processes - 1;
	children = calloc(processes, sizeof(*children));
	if (!children)
		fail("calloc");
	for (size_t i = 0; i < child_count; i++) {
		children[i] = fork();
		if (children[i] < 0)
			fail("fork");
		if (children[i] == 0) {
			uint64_t *own = map_pages(OWN_BYTES_OF_A_CHILD, 0);

			for (size_t at = 0; at < OWN_BYTES_OF_A_CHILD / sizeof(*own); at++)
				own[at] = word(at ^ (i << 32));
			wait_for_ever();
		}
	}
}

static void *thread_body(void *unused)
{
	wait_for_ever();
	return unused;
}

static void hold_threads(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	for (size_t i = 1; i < thread_count; i++) {
		errno = pthread_create(&thread, &attributes, thread_body, NULL);
		if (errno)
			fail("pthread_create");
	}
}

static const char *check_threads(void)
{
	char line[256];
	size_t threads = 0;
	FILE *status = fopen("/proc/self/status", "re");

	if (!status)
		return "/proc/self/status cannot be read";
	while (fgets(line, sizeof(line), status))
		if (sscanf(line, "Threads: %zu", &threads) == 1)
			break;
	fclose(status);
	return threads == thread_count ? NULL : "threads are missing";
}

/* NULL when everything held is as it was. */
static const char *check(void)
{
	for (size_t i = 0; i < resident_bytes / sizeof(uint64_t); i++)
		if (resident[i] != word(i))
			return "memory differs";
	for (size_t i = 0; i < mapping_count; i++)
		if (*(uint64_t *)mappings[i] != word(i) || mappings[i][PAGE] != 0)
			return "a small mapping differs";
	for (size_t i = 0; i < descriptor_count; i++) {
		struct stat about;

		if (fstat(descriptors[i], &about))
			return "a descriptor is missing";
		if (S_ISREG(about.st_mode) && lseek(descriptors[i], 0, SEEK_CUR) != (off_t)(i % 10))
			return "a file offset differs";
	}
	for (size_t i = descriptor_count / 2; i + 1 < descriptor_count; i += 2) {
		char bytes[16];

		if (read(descriptors[i], bytes, sizeof(bytes)) != 9 || memcmp(bytes, "in flight", 9))
			return "bytes in a pipe differ";
	}
	for (size_t i = 0; i < child_count; i++)
		if (kill(children[i], 0))
			return "a child process is missing";
	return check_threads();
}

static void write_report(const char *verdict)
{
	char path[PATH_MAX];
	FILE *report;

	snprintf(path, sizeof(path), "%s.new", report_path);
	report = fopen(path, "we");
	if (!report)
		fail(path);
	fprintf(report, "verdict %s\n", verdict);
	for (uint64_t i = gap_count > GAPS_KEPT ? gap_count - GAPS_KEPT : 0; i < gap_count; i++) {
		struct gap *gap = &gaps[i % GAPS_KEPT];

		fprintf(report, "gap %llu %llu\n", (unsigned long long)gap->begin, (unsigned long long)gap->end);
	}
	if (fclose(report) || rename(path, report_path))
		fail(report_path);
}

static void answer_requests(void)
{
	const char *trouble = NULL;

	if (check_wanted)
		trouble = check();
	report_wanted = check_wanted = 0;
	write_report(trouble ? trouble : "good");
}

static void on_signal(int number)
{
	if (number == SIGUSR1)
		report_wanted = 1;
	else
		check_wanted = 1;
}

/* Keeps the time since the last read if it is a gap; returns the time now. */
static uint64_t look_at_the_clock(uint64_t last)
{
	uint64_t read = now();

	if (read > last + GAP_NS)
		gaps[gap_count++ % GAPS_KEPT] = (struct gap){ last, read };
	return read;
}

static void watch_the_clock(void)
{
	uint64_t last = now(), end_of_life = last + LIFE_NS;

	while (last < end_of_life) {
		last = look_at_the_clock(last);
		if (report_wanted || check_wanted) {
			/*
			 * Once more: frozen between a read and this test, and asked before the next read, the subject
			 * would answer without the very gap it is asked for.
			 */
			look_at_the_clock(last);
			answer_requests();
			/* What the answer took is no gap. */
			last = now();
		}
	}
	for (size_t i = 0; i < child_count; i++)
		kill(children[i], SIGKILL);
}

static size_t number(const char *text)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);

	if (end == text || *end) {
		fprintf(stderr, "subject: not a number: %s\n", text);
		exit(2);
	}
	return (size_t)value;
}

static void allow_many_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		fail("setrlimit");
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	size_t processes = 1;
	int huge = 0;
	sigset_t requests;

	if (argc < 2) {
		fprintf(stderr, "usage: subject REPORT [--NAME VALUE]...\n");
		return 2;
	}
	report_path = argv[1];
	thread_count = 1;
	for (int i = 2; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--resident"))
			resident_bytes = number(argv[i + 1]);
		else if (!strcmp(argv[i], "--pages"))
			huge = !strcmp(argv[i + 1], "huge");
		else if (!strcmp(argv[i], "--processes"))
			processes = number(argv[i + 1]);
		else if (!strcmp(argv[i], "--threads"))
			thread_count = number(argv[i + 1]);
		else if (!strcmp(argv[i], "--mappings"))
			mapping_count = number(argv[i + 1]);
		else if (!strcmp(argv[i], "--descriptors"))
			descriptor_count = number(argv[i + 1]);
		else {
			fprintf(stderr, "subject: unknown argument %s\n", argv[i]);
			return 2;
		}
	}

	/* A session of its own, so that neither tool has to be told about a shell it does not save. */
	if (setsid() < 0)
		fail("setsid");
	allow_many_descriptors();
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigemptyset(&requests);
	sigaddset(&requests, SIGUSR1);
	sigaddset(&requests, SIGUSR2);
	/* Requests are for the first thread: whatever starts while they are blocked never takes one. */
	sigprocmask(SIG_BLOCK, &requests, NULL);

	/* Processes before everything else, so that each child is small and only what its case asks for is large. */
	hold_processes(processes);
	hold_memory(huge);
	hold_mappings();
	hold_descriptors();
	hold_threads();

	sigprocmask(SIG_UNBLOCK, &requests, NULL);
	/* The first report says that all is set up. */
	report_wanted = 1;
	watch_the_clock();
	return 0;
}
