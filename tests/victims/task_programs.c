/* Children that run other programs (cat, sleep): their own executables, and a pipe that leads through them. */
#include "victim.h"

int main(void)
{
	int to[2], from[2];
	char found[64], name[64], executable[4096];
	must(pipe2(to, O_CLOEXEC));
	must(pipe2(from, O_CLOEXEC));
	pid_t cat = must(fork());
	if (cat == 0) {
		must(dup2(to[0], 0));
		must(dup2(from[1], 1));
		execlp("cat", "cat", "-", NULL);
		_exit(99);
	}
	pid_t sleeper = must(fork());
	if (sleeper == 0) {
		execlp("sleep", "sleep", "1000", NULL);
		_exit(99);
	}
	close(to[0]);
	close(from[1]);
	must(write(to[1], "first", 5));
	expect_equal("bytes through cat", 5, read(from[0], found, sizeof found));
	/* Until sleep has become itself. */
	do {
		snprintf(name, sizeof name, "/proc/%d/comm", sleeper);
		read_text(name, found, sizeof found);
	} while (strcmp(found, "sleep\n") != 0);

	victim_ready();
	victim_wait();

	expect_equal("bytes to cat", 6, write(to[1], "second", 6));
	expect_equal("bytes through cat", 6, read(from[0], found, sizeof found));
	expect_equal("their value", 0, memcmp(found, "second", 6));
	snprintf(name, sizeof name, "/proc/%d/exe", cat);
	ssize_t length = expect_success(readlink(name, executable, sizeof executable - 1));
	executable[length] = '\0';
	if (strstr(executable, "cat") == NULL && strstr(executable, "busybox") == NULL && strstr(executable, "coreutils") == NULL)
		wrong("executable of cat: expected cat, found %s", executable);
	close(to[1]);
	join_child(cat);
	expect_equal("sleep still sleeps", 0, waitpid(sleeper, NULL, WNOHANG));
	expect_success(kill(sleeper, SIGTERM));
	int status;
	expect_equal("sleep ended", sleeper, waitpid(sleeper, &status, 0));
	expect_equal("by the signal", SIGTERM, status);
	victim_ok();
}
