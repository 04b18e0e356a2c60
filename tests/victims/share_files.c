/* Processes with one descriptor table between them (clone with CLONE_FILES), over three generations, and two brothers that share one. */
#include "victim.h"

static char stacks[4][65536] __attribute__((aligned(16)));
static struct arrivals arrivals;

static pid_t bear(int number, int (*life)(void *), void *argument, int flags)
{
	return (pid_t)must(clone(life, stacks[number] + sizeof stacks[number], flags | SIGCHLD, argument));
}

/* What is opened at a fixed number by one and used by the other. */
enum { OF_CHILD = 100, OF_PARENT, OF_GRANDCHILD, OF_BROTHER };

static void announce(void)
{
	/* The pipe is the whole table's: only bytes are told. */
	if (write(arrivals.write_end, "a", 1) != 1)
		broken("arrive: %s", strerror(errno));
}

static void await_number(int number)
{
	while (fcntl(number, F_GETFD) < 0)
		victim_nap(500);
}

static int grandchild(void *argument)
{
	(void)argument;
	must(dup3(must(open("/dev/null", O_RDWR)), OF_GRANDCHILD, O_CLOEXEC));
	announce();
	victim_wait();
	await_number(OF_PARENT + 100);
	expect_success(close(OF_PARENT + 100));
	_exit(0);
}

static int child(void *argument)
{
	pid_t next;
	must(dup2(must(open("/dev/zero", O_RDONLY)), OF_CHILD));
	next = bear(1, grandchild, argument, CLONE_FILES);
	announce();
	victim_wait();
	await_number(OF_PARENT);
	char byte = 1;
	expect_equal("bytes from the parent's new descriptor", 1, read(OF_PARENT, &byte, 1));
	expect_success(dup2(OF_PARENT, OF_PARENT + 100));
	join_child(next);
	_exit(0);
}

/* The second brother is borne by the first, as its brother. */
static int second_brother(void *argument)
{
	(void)argument;
	must(dup2(must(open("/dev/null", O_RDWR)), OF_BROTHER));
	announce();
	victim_wait();
	await_number(OF_BROTHER + 1);
	expect_success(close(OF_BROTHER));
	_exit(0);
}

static int first_brother(void *argument)
{
	bear(3, second_brother, argument, CLONE_FILES | CLONE_PARENT);
	announce();
	victim_wait();
	expect_equal("bytes from the brother's descriptor", 0, read(OF_BROTHER, &(char){0}, 1));
	expect_success(dup2(OF_BROTHER, OF_BROTHER + 1));
	while (fcntl(OF_BROTHER, F_GETFD) >= 0)
		victim_nap(500);
	_exit(0);
}

int main(void)
{
	char byte = 1;
	pid_t first;
	arrivals = arrivals_open();
	bear(2, first_brother, NULL, 0);
	first = bear(0, child, NULL, CLONE_FILES);
	for (int arrived = 0; arrived < 4; arrived++)
		if (read(arrivals.read_end, &byte, 1) != 1)
			broken("read: %s", strerror(errno));
	close(arrivals.read_end);
	close(arrivals.write_end);

	victim_ready();
	victim_wait();

	expect_equal("bytes from the child's descriptor", 1, read(OF_CHILD, &byte, 1));
	expect_equal("flags of the grandchild's descriptor", FD_CLOEXEC, fcntl(OF_GRANDCHILD, F_GETFD));
	expect_equal("the brothers' descriptor here", -1, fcntl(OF_BROTHER, F_GETFD));
	expect_success(dup2(OF_CHILD, OF_PARENT));
	join_child(first);
	expect_equal("a descriptor that the grandchild closed", -1, fcntl(OF_PARENT + 100, F_GETFD));
	for (int joined = 0; joined < 2; joined++) {
		int status;
		expect_success(wait(&status));
		expect_equal("status of a brother", 0, status);
	}
	victim_ok();
}
