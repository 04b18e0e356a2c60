/* Working directory and umask, of a parent and of a child that has its own; a file found by relative name. */
#include "victim.h"

static void expect_directory(const char *wanted)
{
	char found[4096];
	if (getcwd(found, sizeof found) == NULL)
		wrong("getcwd: expected %s, found: %s", wanted, strerror(errno));
	expect_text("working directory", wanted, found);
}

int main(void)
{
	char here[4000], inner[4096];
	struct arrivals arrivals = arrivals_open();
	if (getcwd(here, sizeof here) == NULL)
		broken("getcwd: %s", strerror(errno));
	snprintf(inner, sizeof inner, "%s/with space", here);
	must(mkdir("with space", 0700));
	close(must(open("with space/found", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
	umask(027);
	pid_t child = must(fork());
	if (child == 0) {
		must(chdir("with space"));
		umask(0);
		arrive(&arrivals);
		victim_wait();
		expect_directory(inner);
		expect_equal("umask of the child", 0, umask(0));
		expect_success(access("found", F_OK));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);
	expect_directory(here);
	expect_equal("umask", 027, umask(022));
	victim_ok();
}
