/* Users, groups and capabilities. As root: different real, effective and saved ids, per process; otherwise as found. */
#include "victim.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>

struct identity {
	uid_t real, effective, saved, files;
	gid_t real_group, effective_group, saved_group, files_group;
	int count;
	gid_t groups[64];
	struct __user_cap_data_struct capabilities[2];
	int keep, ambient, securebits;
	char bounding[64];
};

static void read_identity(struct identity *identity)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	memset(identity, 0, sizeof *identity);
	must(getresuid(&identity->real, &identity->effective, &identity->saved));
	must(getresgid(&identity->real_group, &identity->effective_group, &identity->saved_group));
	identity->files = (uid_t)setfsuid((uid_t)-1);
	identity->files_group = (gid_t)setfsgid((gid_t)-1);
	identity->count = must(getgroups(64, identity->groups));
	must(syscall(SYS_capget, &header, identity->capabilities));
	identity->keep = prctl(PR_GET_KEEPCAPS);
	identity->securebits = prctl(PR_GET_SECUREBITS);
	for (int capability = 0; capability < 40; capability++) {
		identity->bounding[capability] = (char)prctl(PR_CAPBSET_READ, capability);
		identity->ambient += prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) > 0;
	}
}

static void expect_identity(const char *whose, const struct identity *wanted)
{
	struct identity found;
	read_identity(&found);
	expect_equal("real user", wanted->real, found.real);
	expect_equal("effective user", wanted->effective, found.effective);
	expect_equal("saved user", wanted->saved, found.saved);
	expect_equal("file system user", wanted->files, found.files);
	expect_equal("real group", wanted->real_group, found.real_group);
	expect_equal("effective group", wanted->effective_group, found.effective_group);
	expect_equal("saved group", wanted->saved_group, found.saved_group);
	expect_equal("file system group", wanted->files_group, found.files_group);
	expect_equal("number of groups", wanted->count, found.count);
	for (int index = 0; index < wanted->count; index++)
		expect_equal("supplementary group", wanted->groups[index], found.groups[index]);
	/* An ordinary user's job may live in a user namespace afterwards: what it must not have is more power. */
	for (int index = 0; index < 2; index++) {
		expect_equal("effective capabilities", wanted->capabilities[index].effective,
			     found.capabilities[index].effective);
		expect_equal("permitted capabilities", wanted->capabilities[index].permitted,
			     found.capabilities[index].permitted);
		expect_equal("inheritable capabilities", wanted->capabilities[index].inheritable,
			     found.capabilities[index].inheritable);
	}
	expect_equal("keeping capabilities", wanted->keep, found.keep);
	expect_equal("secure bits", wanted->securebits, found.securebits);
	expect_equal("ambient capabilities", wanted->ambient, found.ambient);
	if (memcmp(wanted->bounding, found.bounding, sizeof found.bounding) != 0 && wanted->real == 0)
		wrong("%s: the bounding set changed", whose);
}

int main(void)
{
	struct identity identity;
	struct arrivals arrivals = arrivals_open();
	static const gid_t groups[] = {7, 1000, 70000};
	pid_t children[3];
	for (int child = 0; child < 3; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			if (geteuid() == 0) {
				if (child != 2) {
					must(setgroups(3, groups));
					must(setresgid(1001, 1002, 1003));
				}
				if (child == 2) {
					must(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
					must(prctl(PR_SET_SECUREBITS, 1 << 2));
				}
				if (child == 1) {
					must(prctl(PR_SET_KEEPCAPS, 1));
					/* All privilege gone. */
					must(setresuid(2001, 2001, 2001));
				}
				if (child == 0)
					/* Root is kept as the saved id only. */
					must(setresuid(2001, 2002, 0));
				/* Such a change hides /proc/self; programs that mind say so. */
				must(prctl(PR_SET_DUMPABLE, 1));
			}
			read_identity(&identity);
			arrive(&arrivals);
			victim_wait();
			expect_identity("a child", &identity);
			if (identity.saved == 0 && identity.effective != 0)
				expect_success(seteuid(0));
			_exit(0);
		}
	}
	await_arrivals(&arrivals, 3);
	read_identity(&identity);
	victim_ready();
	victim_wait();
	expect_identity("the first process", &identity);
	for (int child = 0; child < 3; child++)
		join_child(children[child]);
	victim_ok();
}
