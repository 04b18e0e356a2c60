/* Files of /proc and /sys: of the process itself, its child, its threads, of the machine; directories, links, positions. */
#include "victim.h"
#include <dirent.h>

static uint64_t secret = 0x123456789abcdef;
static _Atomic pid_t second_thread;
static _Atomic bool thread_may_end;

static void *rest(void *unused)
{
	second_thread = thread_id();
	while (!thread_may_end)
		victim_nap(1000);
	return unused;
}

static int open_of(pid_t process, const char *name, int flags)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/%d/%s", process, name);
	return must(open(path, flags));
}

static void expect_line(const char *what, int file, const char *key, long expected)
{
	char text[8192], *line;
	ssize_t length = expect_success(pread(file, text, sizeof text - 1, 0));
	text[length] = '\0';
	if ((line = strstr(text, key)) == NULL)
		wrong("%s: no \"%s\" in it", what, key);
	expect_equal(what, expected, atol(line + strlen(key)));
}

/* Reads up to count entries, of which the largest number is given. */
static long read_entries(int directory, int *count)
{
	char entries[512];
	long highest = -1;
	*count = 0;
	for (long got; (got = syscall(SYS_getdents64, directory, entries, *count == 0 ? 96 : sizeof entries)) != 0;) {
		if (got < 0)
			wrong("getdents: %s", strerror(errno));
		for (long at = 0; at < got; at += ((struct dirent64 *)(entries + at))->d_reclen) {
			const char *name = ((struct dirent64 *)(entries + at))->d_name;
			if (*name >= '0' && *name <= '9' && atol(name) > highest)
				highest = atol(name);
			(*count)++;
		}
		if (*count <= 4)
			break;
	}
	return highest;
}

int main(void)
{
	char text[4096], name[64];
	int count;
	pthread_t thread;
	int orders[2];
	must(pipe(orders));
	must_zero(pthread_create(&thread, NULL, rest, NULL));
	while (second_thread == 0)
		victim_nap(100);
	int status = must(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
	must(read(status, text, 7));
	int shared = must(dup(status));
	int memory = must(open("/proc/self/mem", O_RDWR));
	int own_thread = must(open("/proc/thread-self/stat", O_RDONLY));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		char order;
		close(orders[1]);
		arrive(&arrivals);
		expect_equal("an order", 1, read(orders[0], &order, 1));
		/* The parent's position is the child's. */
		expect_equal("the parent's position", 20, lseek(shared, 0, SEEK_CUR));
		uint64_t found = 0;
		expect_equal("the parent's memory", 8, pread(memory, &found, 8, (off_t)(uintptr_t)&secret));
		expect_equal("its value", secret + 1, found);
		_exit(0);
	}
	close(orders[0]);
	await_arrivals(&arrivals, 1);
	snprintf(name, sizeof name, "task/%d/comm", second_thread);
	int other_thread = open_of(getpid(), name, O_RDWR);
	int of_child = open_of(child, "status", O_RDONLY);
	int directory = open_of(child, "", O_RDONLY | O_DIRECTORY);
	snprintf(name, sizeof name, "fdinfo/%d", status);
	int description = open_of(getpid(), name, O_RDONLY);
	int descriptors = must(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));
	read_entries(descriptors, &count);
	expect_true(count > 0 && count <= 4);
	off_t place = lseek(descriptors, 0, SEEK_CUR);
	int program = must(open("/proc/self/exe", O_PATH | O_NOFOLLOW));
	int setting = must(open("/proc/sys/kernel/ostype", O_RDONLY));
	must(read(setting, text, 2));
	int machine = must(open("/proc/meminfo", O_RDONLY));
	int all = must(open("/proc", O_RDONLY | O_DIRECTORY));
	int processors = must(open("/sys/devices/system/cpu/online", O_RDONLY));
	int devices = must(open("/sys/devices/system/cpu", O_RDONLY | O_DIRECTORY));
	int named = must(open("/sys/devices", O_PATH));
	lseek(memory, 4096, SEEK_SET);

	victim_ready();
	victim_wait();

	secret++;
	expect_equal("position in its status", 7, lseek(status, 0, SEEK_CUR));
	expect_equal("reading on", 13, read(status, text, 13));
	expect_line("its own pid", status, "\nPid:\t", getpid());
	expect_line("its child's pid", of_child, "\nPid:\t", child);
	expect_line("its child's parent", of_child, "\nPPid:\t", getpid());
	expect_line("its own first thread", own_thread, "", getpid());
	expect_line("position that fdinfo tells", description, "pos:\t", 20);
	close(expect_success(openat(directory, "comm", O_RDONLY)));
	/* The child may end only now: its files were looked at. */
	expect_equal("an order", 1, write(orders[1], "x", 1));
	join_child(child);
	expect_equal("position in its memory", 4096, lseek(memory, 0, SEEK_CUR));
	uint64_t found = 0;
	expect_equal("its memory", 8, pread(memory, &found, 8, (off_t)(uintptr_t)&secret));
	expect_equal("its value", secret, found);
	found = 99;
	expect_equal("writing to it", 8, pwrite(memory, &found, 8, (off_t)(uintptr_t)&secret));
	expect_equal("what was written", 99, secret);
	expect_equal("naming a thread", 5, write(other_thread, "other", 5));
	must_zero(pthread_getname_np(thread, text, sizeof text));
	expect_text("its name", "other", text);
	expect_equal("position among descriptors", place, lseek(descriptors, 0, SEEK_CUR));
	expect_true(read_entries(descriptors, &count) >= 4 || count > 0);
	ssize_t length = expect_success(readlinkat(program, "", text, sizeof text - 1));
	text[length] = '\0';
	expect_true(strstr(text, "file_proc") != NULL);
	expect_equal("the rest of a setting", 4, read(setting, text, sizeof text));
	expect_equal("it", 0, memcmp(text, "nux\n", 4));
	expect_equal("a word of the machine's memory", 8, read(machine, text, 8));
	expect_equal("it", 0, memcmp(text, "MemTotal", 8));
	snprintf(name, sizeof name, "%d/comm", getpid());
	close(expect_success(openat(all, name, O_RDONLY)));
	expect_true(read(processors, text, sizeof text) > 0);
	close(expect_success(openat(devices, "online", O_RDONLY)));
	close(expect_success(openat(named, "system", O_RDONLY | O_DIRECTORY)));
	thread_may_end = true;
	must_zero(pthread_join(thread, NULL));
	victim_ok();
}
