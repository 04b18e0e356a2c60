/* A changed root directory (root only): names still start there, and the working directory is inside it. */
#include "victim.h"

int main(void)
{
	char directory[64];
	if (geteuid() != 0)
		skip("chroot needs root");
	must(mkdir("root", 0755));
	must(mkdir("root/deep", 0755));
	close(must(open("root/mark", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
	/* The go file is made visible inside: the suite creates it beside the new root, a child carries it over. */
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		close(expect_success(open("root/go", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	must(chroot("root"));
	must(chdir("/deep"));
	int mark = must(open("/mark", O_RDONLY));
	victim_go_path = "/go";
	victim_ready();
	victim_wait();
	expect_success(access("/mark", F_OK));
	expect_success(access("../mark", F_OK));
	expect_equal("/etc", -1, access("/etc/passwd", F_OK));
	struct stat open_mark, named_mark;
	expect_success(fstat(mark, &open_mark));
	expect_success(stat("/mark", &named_mark));
	expect_equal("file opened before", named_mark.st_ino, open_mark.st_ino);
	if (getcwd(directory, sizeof directory) == NULL)
		wrong("getcwd: %s", strerror(errno));
	expect_text("working directory", "/deep", directory);
	join_child(child);
	victim_ok();
}
