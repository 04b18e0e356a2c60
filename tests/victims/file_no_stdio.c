/* Standard input and error closed, standard output moved away and another file in its place. */
#include "victim.h"

int main(void)
{
	int output = must(dup(STDOUT_FILENO));
	close(STDIN_FILENO);
	close(STDERR_FILENO);
	int other = must(open("other.data", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(dup2(other, STDOUT_FILENO));
	close(other);
	must(write(output, "READY\n", 6));
	victim_wait();
	int input_flags = fcntl(STDIN_FILENO, F_GETFD), error_flags = fcntl(STDERR_FILENO, F_GETFD);
	ssize_t written = write(STDOUT_FILENO, "other", 5);
	off_t offset = lseek(STDOUT_FILENO, 0, SEEK_CUR);
	/* Only now is there a place to complain to again. */
	must(dup2(output, STDOUT_FILENO));
	expect_equal("first free descriptor before", 0, other);
	expect_equal("descriptor 0", -1, input_flags);
	expect_equal("descriptor 2", -1, error_flags);
	expect_equal("bytes to the other file", 5, written);
	expect_equal("offset of the other file", 5, offset);
	victim_ok();
}
