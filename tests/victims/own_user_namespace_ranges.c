/*
 * A user namespace into which many ids are mapped, by its parent, which takes root: a process in it with other users and groups than
 * where it comes from, supplementary groups, only some capabilities, and one process that has been mapped nowhere yet.
 */
#include "victim.h"
#include <grp.h>

static void write_map(pid_t process, const char *name, const char *map)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", process, name);
	int file = must(open(path, O_WRONLY | O_CLOEXEC));
	if (write(file, map, strlen(map)) != (ssize_t)strlen(map))
		broken("%s: %s", path, strerror(errno));
	close(file);
}

static void await_byte(int pipe)
{
	char byte;
	while (read(pipe, &byte, 1) < 0 && errno == EINTR)
		continue;
}

static void capabilities(uint32_t set[6], bool write)
{
	struct {
		uint32_t version;
		int pid;
	} header = {0x20080522, 0};
	if (syscall(write ? SYS_capset : SYS_capget, &header, set) != 0)
		wrong("capabilities: %s", strerror(errno));
}

/* Waits for the end of a pipe rather than for a file: it may not look into directories of others. */
__attribute__((noreturn)) static void mapped(int told, int ended, struct arrivals *arrivals)
{
	const gid_t groups[2] = {20, 7};
	uint32_t set[6] = {0};
	must(unshare(CLONE_NEWUSER));
	arrive(arrivals);
	await_byte(told);
	close(told);
	must(setgroups(2, groups));
	must(setresgid(12, 13, 14));
	must(prctl(PR_SET_KEEPCAPS, 1));
	must(setresuid(11, 12, 13));
	must(prctl(PR_SET_DUMPABLE, 1));
	/* CAP_SETUID and CAP_SETGID permitted, the first effective. */
	set[0] = 1 << 7;
	set[1] = 1 << 7 | 1 << 6;
	capabilities(set, true);
	victim_ready();
	await_byte(ended);
	uid_t users[3];
	gid_t own[3], more[8] = {0};
	uint32_t found[6] = {0};
	expect_success(getresuid(&users[0], &users[1], &users[2]));
	expect_success(getresgid(&own[0], &own[1], &own[2]));
	for (int which = 0; which < 3; which++) {
		expect_equal("user", 11 + which, users[which]);
		expect_equal("group", 12 + which, own[which]);
	}
	expect_equal("number of groups", 2, getgroups(8, more));
	expect_equal("first group", 7, more[0]);
	expect_equal("second group", 20, more[1]);
	capabilities(found, false);
	for (int word = 0; word < 6; word++)
		expect_equal("capabilities", set[word], found[word]);
	char text[256], expected[256];
	read_text("/proc/self/uid_map", text, sizeof text);
	snprintf(expected, sizeof expected, "%10u %10u %10u\n%10u %10u %10u\n", 0, 0, 10, 10, 100000, 1000);
	expect_text("map of users", expected, text);
	read_text("/proc/self/setgroups", text, sizeof text);
	expect_text("setgroups", "allow\n", text);
	expect_success(setresuid(500, 500, 500));
	_exit(0);
}

__attribute__((noreturn)) static void unmapped(int ended, struct arrivals *arrivals)
{
	must(unshare(CLONE_NEWUSER));
	uid_t user = geteuid();
	arrive(arrivals);
	await_byte(ended);
	char text[64];
	expect_equal("map of users", 0, read_text("/proc/self/uid_map", text, sizeof text));
	expect_equal("user without a name", user, geteuid());
	_exit(0);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	int told[2], ended[2];
	if (geteuid() != 0)
		skip("only root maps many ids");
	must(pipe2(told, O_CLOEXEC));
	must(pipe2(ended, O_CLOEXEC));
	pid_t first = must(fork());
	if (first == 0) {
		close(told[1]);
		close(ended[1]);
		mapped(told[0], ended[0], &arrivals);
	}
	pid_t second = must(fork());
	if (second == 0) {
		close(told[1]);
		close(told[0]);
		close(ended[1]);
		unmapped(ended[0], &arrivals);
	}
	await_arrivals(&arrivals, 2);
	const char *map = "0 0 10\n10 100000 1000\n";
	write_map(first, "uid_map", map);
	write_map(first, "gid_map", map);
	close(told[0]);
	close(told[1]);
	close(ended[0]);
	victim_wait();
	close(ended[1]);
	join_child(first);
	join_child(second);
	victim_ok();
}
