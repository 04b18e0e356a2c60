/* What /proc shows of a process: name, arguments (changed ones too), environment, executable, auxiliary vector. */
#include "victim.h"

static size_t read_file(const char *path, char *bytes, size_t size)
{
	return read_text(path, bytes, size);
}

int main(int count, char **arguments)
{
	static char arguments_before[8192], arguments_after[8192], environment_before[65536], environment_after[65536];
	static char vector_before[4096], vector_after[4096];
	char executable_before[4096], executable_after[4096];
	char *fresh[] = {arguments[0], "one", "", "with space", NULL};
	if (count == 1) {
		must(setenv("VICTIM_VALUE", "of the environment", 1));
		execv("/proc/self/exe", fresh);
		broken("execv: %s", strerror(errno));
	}
	must(prctl(PR_SET_NAME, "renamed"));
	/* As a daemon does that shows its state in ps. */
	memcpy(arguments[1], "ONE", 3);
	size_t arguments_length = read_file("/proc/self/cmdline", arguments_before, sizeof arguments_before);
	size_t environment_length = read_file("/proc/self/environ", environment_before, sizeof environment_before);
	size_t vector_length = read_file("/proc/self/auxv", vector_before, sizeof vector_before);
	ssize_t length = must(readlink("/proc/self/exe", executable_before, sizeof executable_before - 1));
	executable_before[length] = '\0';

	victim_ready();
	victim_wait();

	char name[32];
	read_text("/proc/self/comm", name, sizeof name);
	expect_text("name", "renamed\n", name);
	expect_equal("length of the arguments", arguments_length,
		     read_file("/proc/self/cmdline", arguments_after, sizeof arguments_after));
	expect_equal("arguments", 0, memcmp(arguments_before, arguments_after, arguments_length));
	expect_text("first argument", "ONE", arguments_after + strlen(arguments_after) + 1);
	expect_equal("length of the environment", environment_length,
		     read_file("/proc/self/environ", environment_after, sizeof environment_after));
	expect_equal("environment", 0, memcmp(environment_before, environment_after, environment_length));
	expect_text("variable", "of the environment", getenv("VICTIM_VALUE"));
	expect_equal("length of the auxiliary vector", vector_length,
		     read_file("/proc/self/auxv", vector_after, sizeof vector_after));
	expect_equal("auxiliary vector", 0, memcmp(vector_before, vector_after, vector_length));
	length = expect_success(readlink("/proc/self/exe", executable_after, sizeof executable_after - 1));
	executable_after[length] = '\0';
	expect_text("executable", executable_before, executable_after);
	victim_ok();
}
