/* A program that was executed from memory (memfd_create, fexecve): its file has no name anywhere. */
#include "victim.h"

static int program_in_memory(void)
{
	char buffer[65536];
	int source = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	int program = must(memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	for (ssize_t got; (got = must(read(source, buffer, sizeof buffer))) > 0;)
		must(write(program, buffer, (size_t)got));
	close(source);
	must(fchmod(program, 0755));
	must(fcntl(program, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
	return program;
}

int main(int count, char **arguments)
{
	if (count > 1 && strcmp(arguments[1], "child") == 0)
		return 7;
	if (count == 1) {
		char *again[] = {"victim", "again", NULL};
		must(fexecve(program_in_memory(), again, environ));
	}
	victim_ready();
	victim_wait();

	char link[4096];
	ssize_t length = expect_success(readlink("/proc/self/exe", link, sizeof link - 1));
	link[length] = '\0';
	expect_text("link to the program", "/memfd:program (deleted)", link);
	int program = expect_success(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	expect_equal("seals", F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL, fcntl(program, F_GET_SEALS));
	struct stat found;
	expect_success(fstat(program, &found));
	expect_equal("mode", S_IFREG | 0755, found.st_mode);
	pid_t child = expect_success(fork());
	if (child == 0) {
		char *call[] = {"program", "child", NULL};
		fexecve(program, call, environ);
		_exit(99);
	}
	int status;
	expect_equal("child", child, waitpid(child, &status, 0));
	expect_equal("status of the program run from memory", 7, WEXITSTATUS(status));
	victim_ok();
}
