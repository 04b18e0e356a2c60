/* Threads that do not share everything: own working directory and descriptors after unshare(CLONE_FS | CLONE_FILES). */
#include "victim.h"

static atomic_int running;
static int common;

static void *live(void *argument)
{
	struct stat own, root;
	must(unshare(CLONE_FS | CLONE_FILES));
	must(chdir("/"));
	must(dup2(must(open("/dev/zero", O_RDONLY)), common));
	umask(0123);
	atomic_fetch_add(&running, 1);
	victim_wait();
	expect_success(stat(".", &own));
	expect_success(stat("/", &root));
	expect_equal("own working directory", root.st_ino, own.st_ino);
	char byte = 1;
	expect_equal("own descriptor", 1, read(common, &byte, 1));
	expect_equal("own descriptor's byte", 0, byte);
	expect_equal("own umask", 0123, umask(0));
	return argument;
}

int main(void)
{
	pthread_t other;
	char before[4096], after[4096], byte;
	common = must(open("/dev/null", O_RDWR));
	umask(022);
	if (getcwd(before, sizeof before) == NULL)
		broken("getcwd: %s", strerror(errno));
	must_zero(pthread_create(&other, NULL, live, NULL));
	while (atomic_load(&running) != 1)
		victim_nap(1000);
	victim_ready();
	victim_wait();
	if (getcwd(after, sizeof after) == NULL)
		wrong("getcwd: %s", strerror(errno));
	expect_text("working directory", before, after);
	expect_equal("bytes from /dev/null", 0, read(common, &byte, 1));
	expect_equal("error of pthread_join", 0, pthread_join(other, NULL));
	expect_equal("umask", 022, umask(0));
	victim_ok();
}
