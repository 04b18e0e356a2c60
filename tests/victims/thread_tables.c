/* Threads that share tables among themselves but not with their process: two with one descriptor table, one of them in another directory. */
#include "victim.h"

static atomic_int running, closed;
static int common;

static void expect_reads(int bytes)
{
	char byte;
	expect_equal("bytes from the common number", bytes, read(common, &byte, 1));
}

static void *live_second(void *argument)
{
	struct stat here, there;
	must(unshare(CLONE_FS));
	must(chdir("/usr"));
	atomic_fetch_add(&running, 1);
	victim_wait();
	expect_reads(1);
	expect_success(stat(".", &here));
	expect_success(stat("/usr", &there));
	expect_equal("directory of the second thread", there.st_ino, here.st_ino);
	expect_success(close(common));
	atomic_store(&closed, 1);
	return argument;
}

static void *live_first(void *argument)
{
	pthread_t second;
	char before[4096], after[4096];
	must(unshare(CLONE_FILES));
	must(dup3(must(open("/dev/zero", O_RDONLY)), common, O_CLOEXEC));
	must_zero(pthread_create(&second, NULL, live_second, NULL));
	while (atomic_load(&running) != 1)
		victim_nap(500);
	if (getcwd(before, sizeof before) == NULL)
		broken("getcwd: %s", strerror(errno));
	atomic_fetch_add(&running, 1);
	victim_wait();
	if (getcwd(after, sizeof after) == NULL)
		wrong("getcwd: %s", strerror(errno));
	expect_text("directory of the first thread", before, after);
	while (atomic_load(&closed) == 0)
		victim_nap(500);
	expect_equal("what the other thread closed", -1, fcntl(common, F_GETFD));
	expect_equal("error of pthread_join", 0, pthread_join(second, NULL));
	return argument;
}

int main(void)
{
	pthread_t first;
	common = must(open("/dev/null", O_RDWR));
	must_zero(pthread_create(&first, NULL, live_first, NULL));
	while (atomic_load(&running) != 2)
		victim_nap(500);
	victim_ready();
	victim_wait();
	expect_equal("error of pthread_join", 0, pthread_join(first, NULL));
	expect_reads(0);
	expect_equal("flags of the common number", 0, fcntl(common, F_GETFD));
	victim_ok();
}
