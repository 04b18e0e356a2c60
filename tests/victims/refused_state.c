/* State that a checkpoint refuses, by the first argument; the refusal must not hurt it. */
#include "victim.h"

static void change(void)
{
	int file = must(open("directory/new", O_WRONLY | O_CREAT | O_TRUNC, 0600));
	close(file);
}

static volatile sig_atomic_t told;

static void note(int signal)
{
	(void)signal;
	told++;
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	int ends[2];
	must(pipe(ends));
	if (strcmp(what, "owner-outside") == 0) {
		must(fcntl(ends[0], F_SETOWN, getppid()));
	} else if (strcmp(what, "notify") == 0) {
		must((long)signal(SIGIO, note));
		must(mkdir("directory", 0700) == 0 || errno == EEXIST ? 0 : -1);
		int directory = must(open("directory", O_RDONLY | O_DIRECTORY));
		if (fcntl(directory, F_NOTIFY, DN_CREATE | DN_MODIFY | DN_DELETE | DN_MULTISHOT) != 0)
			skip("F_NOTIFY: %s", strerror(errno));
	} else if (strcmp(what, "proc-outside") == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/status", getppid());
		must(open(path, O_RDONLY));
	} else if (strcmp(what, "directory-outside") == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d", getppid());
		must(chdir(path));
	} else if (strcmp(what, "not-dumpable") == 0) {
		must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
	} else {
		broken("unknown state \"%s\"", what);
	}

	victim_ready();
	victim_wait();

	if (strcmp(what, "owner-outside") == 0) {
		expect_equal("the addressee", getppid(), fcntl(ends[0], F_GETOWN));
	} else if (strcmp(what, "notify") == 0) {
		expect_equal("signals before the change", 0, told);
		change();
		expect_true(told > 0);
	} else if (strcmp(what, "not-dumpable") == 0) {
		expect_equal("dumpable", 0, prctl(PR_GET_DUMPABLE));
	}
	victim_ok();
}
