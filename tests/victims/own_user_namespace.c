/*
 * User and UTS namespaces that a job has made itself (unshare(2)), different ones in different processes: the parent stays where it
 * was, one child lives in a user namespace where it is user 0 and has threads and host names of its own, its child in another user
 * namespace below that, where the user has its own number again, and which it has given up all capabilities in.
 */
#include "victim.h"
#include <grp.h>
#include <sys/utsname.h>

static uid_t user;
static gid_t group;
static struct utsname outside;

static void write_line(const char *path, const char *format, unsigned inside, unsigned around)
{
	char line[64];
	int length = snprintf(line, sizeof line, format, inside, around), file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, line, (size_t)length) != length)
		broken("%s: %s", path, strerror(errno));
	close(file);
}

static void map(unsigned inside_user, unsigned around_user, unsigned inside_group, unsigned around_group)
{
	write_line("/proc/self/setgroups", "deny", 0, 0);
	write_line("/proc/self/uid_map", "%u %u 1\n", inside_user, around_user);
	write_line("/proc/self/gid_map", "%u %u 1\n", inside_group, around_group);
}

static void check_map(const char *name, unsigned inside, unsigned around)
{
	char path[64], text[256];
	unsigned found_inside, found_around, count;
	snprintf(path, sizeof path, "/proc/self/%s", name);
	read_text(path, text, sizeof text);
	if (sscanf(text, "%u %u %u", &found_inside, &found_around, &count) != 3)
		wrong("%s: expected one range, found \"%s\"", name, text);
	expect_equal("id inside", inside, found_inside);
	expect_equal("id around", around, found_around);
	expect_equal("number of ids", 1, count);
}

static void check_setgroups(void)
{
	char text[16];
	read_text("/proc/self/setgroups", text, sizeof text);
	expect_text("setgroups", "deny\n", text);
}

static void check_names(const char *host, const char *domain)
{
	struct utsname names;
	expect_success(uname(&names));
	expect_text("host name", host, names.nodename);
	expect_text("domain name", domain, names.domainname);
}

/* Waits until another process of the UTS namespace has named the host. */
static void await_name(const char *host)
{
	struct utsname names;
	for (int naps = 0; naps < 60000; naps++) {
		expect_success(uname(&names));
		if (strcmp(names.nodename, host) == 0)
			return;
		victim_nap(1000);
	}
	wrong("host name: expected \"%s\" in the end, found \"%s\"", host, names.nodename);
}

static bool has_capability(unsigned capability)
{
	char text[4096], *line;
	unsigned long long effective;
	read_text("/proc/self/status", text, sizeof text);
	line = strstr(text, "CapEff:");
	if (line == NULL || sscanf(line, "CapEff: %llx", &effective) != 1)
		wrong("no CapEff in /proc/self/status");
	return effective >> capability & 1;
}

static void *live(void *unused)
{
	(void)unused;
	victim_wait();
	check_names("inner", "example");
	expect_equal("user of a thread", 0, geteuid());
	return NULL;
}

/* Lives in a user namespace below that of its parent, with the ids that its user has outside, and may do nothing there. */
__attribute__((noreturn)) static void innermost(struct arrivals *arrivals)
{
	must(unshare(CLONE_NEWUSER));
	map(user, 0, group, 0);
	struct {
		uint32_t version;
		int pid;
	} header = {0x20080522, 0};
	uint32_t nothing[6] = {0};
	must(syscall(SYS_capset, &header, nothing));
	arrive(arrivals);
	victim_wait();
	expect_equal("user of the innermost", user, getuid());
	expect_equal("group of the innermost", group, getgid());
	check_map("uid_map", user, 0);
	check_map("gid_map", group, 0);
	expect_true(!has_capability(21));
	await_name("renamed");
	if (sethostname("changed", 7) == 0)
		wrong("the innermost may name the host");
	_exit(0);
}

__attribute__((noreturn)) static void inner(struct arrivals *arrivals)
{
	pthread_t threads[3];
	must(unshare(CLONE_NEWUSER | CLONE_NEWUTS));
	map(0, user, 0, group);
	must(sethostname("inner", 5));
	must(setdomainname("example", 7));
	for (int thread = 0; thread < 3; thread++)
		must_zero(pthread_create(&threads[thread], NULL, live, NULL));
	pid_t child = must(fork());
	if (child == 0)
		innermost(arrivals);
	arrive(arrivals);
	for (int thread = 0; thread < 3; thread++)
		must_zero(pthread_join(threads[thread], NULL));
	victim_wait();
	expect_equal("user", 0, getuid());
	expect_equal("effective user", 0, geteuid());
	expect_equal("group", 0, getgid());
	check_map("uid_map", 0, user);
	check_map("gid_map", 0, group);
	check_setgroups();
	check_names("inner", "example");
	expect_true(has_capability(21));
	if (setgroups(0, NULL) == 0)
		wrong("setgroups is permitted");
	/* It has all capabilities over its own namespaces. */
	expect_success(sethostname("renamed", 7));
	check_names("renamed", "example");
	join_child(child);
	expect_success(unshare(CLONE_NEWUTS));
	_exit(0);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	user = geteuid();
	group = getegid();
	must(uname(&outside));
	pid_t tried = must(fork());
	if (tried == 0)
		_exit(unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
	int status;
	must(waitpid(tried, &status, 0));
	if (status != 0)
		skip("this user may not make user namespaces here");
	pid_t child = must(fork());
	if (child == 0)
		inner(&arrivals);
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	join_child(child);
	expect_equal("user outside", user, geteuid());
	check_names(outside.nodename, outside.domainname);
	victim_ok();
}
