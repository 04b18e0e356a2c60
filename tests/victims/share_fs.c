/* Processes with one working directory and umask between them (clone with CLONE_FS): what one changes, the other sees. */
#include "victim.h"

static char stack[65536] __attribute__((aligned(16)));
static struct arrivals arrivals;

static int child(void *argument)
{
	must(chdir("/usr"));
	umask(0123);
	arrive(&arrivals);
	victim_wait();
	while (access("lib", F_OK) == 0)
		victim_nap(500);
	expect_equal("umask of the parent", 0136, umask(0));
	return argument != NULL;
}

int main(void)
{
	struct stat here, there;
	pid_t other;
	arrivals = arrivals_open();
	umask(022);
	other = (pid_t)must(clone(child, stack + sizeof stack, CLONE_FS | SIGCHLD, NULL));
	await_arrivals(&arrivals, 1);

	victim_ready();
	victim_wait();

	expect_success(stat(".", &here));
	expect_success(stat("/usr", &there));
	expect_equal("working directory", there.st_ino, here.st_ino);
	expect_equal("umask of the child", 0123, umask(0136));
	expect_success(chdir("/proc"));
	join_child(other);
	expect_equal("umask after the child", 0, umask(0));
	victim_ok();
}
