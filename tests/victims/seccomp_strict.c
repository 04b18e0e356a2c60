/* Strict mode: a child that may only read, write and exit, in a read; another that dies of any other call. */
#include "seccomp.h"

static void obey(int orders, int answers)
{
	char order;
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	if (write(answers, "r", 1) != 1)
		syscall(SYS_exit, VICTIM_BROKEN);
	while (read(orders, &order, 1) == 1) {
		if (order == 'k')
			syscall(SYS_getpid);
		if (order == 'e')
			syscall(SYS_exit, 7);
		order++;
		if (write(answers, &order, 1) != 1)
			syscall(SYS_exit, VICTIM_WRONG);
	}
	syscall(SYS_exit, VICTIM_WRONG);
}

struct servant {
	pid_t pid;
	int orders, answers;
};

static struct servant start(void)
{
	int orders[2], answers[2];
	must(pipe(orders));
	must(pipe(answers));
	struct servant servant = {must(fork()), orders[1], answers[0]};
	if (servant.pid == 0)
		obey(orders[0], answers[1]);
	close(orders[0]);
	close(answers[1]);
	char ready;
	expect_equal("bytes from a child", 1, read(servant.answers, &ready, 1));
	return servant;
}

static void ask(struct servant *servant, char order, char answer)
{
	char found;
	expect_equal("bytes to a child", 1, write(servant->orders, &order, 1));
	expect_equal("bytes from a child", 1, read(servant->answers, &found, 1));
	expect_equal("answer", answer, found);
}

static int end(struct servant *servant, char order)
{
	int status;
	expect_equal("bytes to a child", 1, write(servant->orders, &order, 1));
	expect_equal("child that ended", servant->pid, waitpid(servant->pid, &status, 0));
	return status;
}

int main(void)
{
	struct servant good = start(), bad = start();
	ask(&good, 'a', 'b');
	victim_ready();
	victim_wait();
	ask(&good, 'c', 'd');
	ask(&bad, 'f', 'g');
	int status = end(&bad, 'k');
	expect_true(WIFSIGNALED(status));
	expect_equal("signal that ended the one that got up", SIGKILL, WTERMSIG(status));
	ask(&good, 'x', 'y');
	status = end(&good, 'e');
	expect_true(WIFEXITED(status));
	expect_equal("status of the one that obeyed", 7, WEXITSTATUS(status));
	victim_ok();
}
