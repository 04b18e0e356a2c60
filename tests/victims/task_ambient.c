/*
 * Ambient capabilities, which a program that is executed keeps, and secure bits with their locks: as root in a process that is no
 * root any more, otherwise in a user namespace of the process' own.
 */
#include "victim.h"
#include <linux/capability.h>
#include <linux/securebits.h>

enum {
	KEPT = CAP_NET_BIND_SERVICE,
	NOT_AMBIENT = CAP_NET_RAW,
	BITS = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS_LOCKED,
};

static void set_capabilities(unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{permitted, permitted, inheritable}, {0, 0, 0}};
	must(syscall(SYS_capset, &header, data));
}

static void expect_capabilities(unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	expect_success(syscall(SYS_capget, &header, data));
	expect_equal("permitted", permitted, data[0].permitted);
	expect_equal("effective", permitted, data[0].effective);
	expect_equal("inheritable", inheritable, data[0].inheritable);
	expect_equal("more of them", 0, data[1].permitted | data[1].inheritable);
	for (int capability = 0; capability <= CAP_CHECKPOINT_RESTORE; capability++)
		expect_equal("ambient", capability == KEPT,
			     prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0));
}

/* Whether a process may enter a user namespace and name itself there. */
static void enter_namespace(void)
{
	char line[64];
	uid_t user = geteuid();
	gid_t group = getegid();
	if (unshare(CLONE_NEWUSER) != 0)
		skip("no user namespace: %s", strerror(errno));
	const struct {
		const char *file;
		unsigned id;
	} maps[] = {{"/proc/self/uid_map", user}, {"/proc/self/gid_map", group}};
	int denied = must(open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC));
	must(write(denied, "deny", 4));
	close(denied);
	for (int index = 0; index < 2; index++) {
		int length = snprintf(line, sizeof line, "%u %u 1", maps[index].id, maps[index].id);
		int file = must(open(maps[index].file, O_WRONLY | O_CLOEXEC));
		must(write(file, line, (size_t)length));
		close(file);
	}
}

int main(int count, char **arguments)
{
	const unsigned kept = 1u << KEPT, both = kept | 1u << NOT_AMBIENT;
	if (count > 1 && strcmp(arguments[1], "executed") == 0) {
		/* What a program keeps that is executed now. */
		expect_capabilities(kept, both);
		expect_equal("secure bits", BITS, prctl(PR_GET_SECUREBITS));
		return 0;
	}
	if (geteuid() != 0)
		enter_namespace();
	must(prctl(PR_SET_SECUREBITS, BITS));
	if (geteuid() == 0)
		must(setresuid(2001, 2001, 2001));
	/* A change of users hides /proc/self; programs that mind say so. */
	must(prctl(PR_SET_DUMPABLE, 1));
	set_capabilities(both, both);
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, KEPT, 0, 0));

	victim_ready();
	victim_wait();

	expect_capabilities(both, both);
	expect_equal("secure bits", BITS, prctl(PR_GET_SECUREBITS));
	pid_t child = expect_success(fork());
	if (child == 0) {
		execl("/proc/self/exe", "victim", "executed", NULL);
		wrong("execl: %s", strerror(errno));
	}
	join_child(child);
	victim_ok();
}
