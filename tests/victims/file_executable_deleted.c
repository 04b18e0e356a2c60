/* A program whose executable was deleted, or replaced by another, after it was started. */
#include "victim.h"

static void copy(const char *from, const char *to)
{
	char buffer[65536];
	int source = must(open(from, O_RDONLY | O_CLOEXEC)), target = must(open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
	for (ssize_t got; (got = must(read(source, buffer, sizeof buffer))) > 0;)
		must(write(target, buffer, (size_t)got));
	close(source);
	close(target);
}

int main(int count, char **arguments)
{
	if (count > 1 && strcmp(arguments[1], "child") == 0)
		return 7;
	if (count == 1 || strcmp(arguments[count - 1], "again") != 0) {
		copy("/proc/self/exe", "program");
		char *again[] = {"program", count > 1 ? arguments[1] : "again", count > 1 ? "again" : NULL, NULL};
		must(execv("program", again));
	}
	if (count > 2) {
		copy("/bin/true", "new");
		must(rename("new", "program"));
	} else
		must(unlink("program"));

	victim_ready();
	victim_wait();

	char link[4096];
	ssize_t length = expect_success(readlink("/proc/self/exe", link, sizeof link - 1));
	link[length] = '\0';
	expect_true(strstr(link, "program") != NULL && strstr(link, " (deleted)") != NULL);
	pid_t child = expect_success(fork());
	if (child == 0) {
		char *call[] = {"program", "child", NULL};
		execv("/proc/self/exe", call);
		_exit(99);
	}
	int status;
	expect_equal("child", child, waitpid(child, &status, 0));
	expect_equal("status of the program run from its executable", 7, WEXITSTATUS(status));
	struct stat found;
	expect_success(stat("/proc/self/exe", &found));
	expect_equal("mode", S_IFREG | 0755, found.st_mode);
	expect_equal("names", 0, found.st_nlink);
	if (count == 2)
		expect_equal("its name", -1, access("program", F_OK));
	victim_ok();
}
