/* Threads of one process that are not the same: each by the kernel's own calls, which, unlike the C library's, are about one thread. */
#include "victim.h"

#include <linux/capability.h>

static atomic_int running, checked;

struct identity {
	uid_t users[3], file_user;
	gid_t groups[3], supplementary[2];
	int count, no_new_privs, securebits;
	uint32_t capabilities[6];
};

static struct identity identity(void)
{
	struct identity found = {0};
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	must(syscall(SYS_getresuid, &found.users[0], &found.users[1], &found.users[2]));
	must(syscall(SYS_getresgid, &found.groups[0], &found.groups[1], &found.groups[2]));
	found.file_user = (uid_t)syscall(SYS_setfsuid, -1);
	found.count = (int)syscall(SYS_getgroups, 0, NULL);
	if (found.count == 2)
		must(syscall(SYS_getgroups, 2, found.supplementary));
	found.no_new_privs = must(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	found.securebits = must(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	must(syscall(SYS_capget, &header, found.capabilities));
	return found;
}

static void check(const char *who, const struct identity *before)
{
	struct identity now = identity();
	const unsigned char *expected = (const unsigned char *)before, *found = (const unsigned char *)&now;
	for (size_t place = 0; place < sizeof now; place++)
		if (expected[place] != found[place])
			wrong("%s: byte %zu of what it is: expected %d, found %d", who, place, expected[place], found[place]);
	atomic_fetch_add(&checked, 1);
}

/* Runs one of the threads: becomes what `become` makes of it, and is expected to stay so. */
static void live(const char *who)
{
	struct identity before = identity();
	atomic_fetch_add(&running, 1);
	victim_wait();
	check(who, &before);
}

static void *without_privileges(void *argument)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	live("the thread without new privileges");
	return argument;
}

static void *another_user(void *argument)
{
	gid_t groups[2] = {4711, 4712};
	must(syscall(SYS_setgroups, 2, groups));
	must(syscall(SYS_setresgid, 1001, 1002, 1003));
	must(syscall(SYS_setresuid, 1001, 1002, 1003));
	live("the thread of another user");
	return argument;
}

static void *fewer_capabilities(void *argument)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{1 << CAP_CHOWN, 1 << CAP_CHOWN | 1 << CAP_KILL, 1 << CAP_KILL}};
	must(prctl(PR_SET_SECUREBITS, 1 << 2, 0, 0, 0));
	must(syscall(SYS_capset, &header, data));
	must(syscall(SYS_setfsuid, 0));
	live("the thread with fewer capabilities");
	return argument;
}

int main(void)
{
	struct identity before = identity();
	pthread_t threads[3];
	int count = 1;
	must_zero(pthread_create(&threads[0], NULL, without_privileges, NULL));
	if (geteuid() == 0) {
		must_zero(pthread_create(&threads[1], NULL, another_user, NULL));
		must_zero(pthread_create(&threads[2], NULL, fewer_capabilities, NULL));
		count = 3;
	}
	while (atomic_load(&running) != count)
		victim_nap(500);
	victim_ready();
	victim_wait();
	check("the first thread", &before);
	for (int thread = 0; thread < count; thread++)
		expect_equal("error of pthread_join", 0, pthread_join(threads[thread], NULL));
	expect_equal("threads that are as they were", count + 1, checked);
	victim_ok();
}
