/* A Landlock domain: no files may be written any more, but what is open. With an argument, of a process of that user. */
#include "victim.h"

#define LANDLOCK_WRITE 2ull /* LANDLOCK_ACCESS_FS_WRITE_FILE */

int main(int count, char **arguments)
{
	if (count > 1) {
		uid_t user = (uid_t)atoi(arguments[1]);
		must(setresgid(user, user, user));
		must(setresuid(user, user, user));
		must(prctl(PR_SET_DUMPABLE, 1));
	}
	struct {
		uint64_t files;
	} rules = {LANDLOCK_WRITE};
	long set = syscall(444 /* landlock_create_ruleset */, &rules, sizeof rules, 0);
	if (set < 0)
		skip("no Landlock: %s", strerror(errno));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(446 /* landlock_restrict_self */, set, 0));
	close((int)set);
	victim_ready();
	victim_wait();
	expect_equal("opening a file to write", -1, open("/dev/null", O_WRONLY));
	expect_equal("error", EACCES, errno);
	victim_ok();
}
