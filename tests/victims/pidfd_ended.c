/* Descriptors of processes that have ended and been waited for: still readable, no signal reaches anybody, the exit status. */
#include "victim.h"
#include <sys/ioctl.h>

struct report {
	uint64_t mask, cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};
#define GET_REPORT _IOWR(0xff, 11, struct report)
#define REPORT_EXIT 8ull

static int process_open(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void check(const char *what, int process, int status, bool told)
{
	struct pollfd polled = {.fd = process, .events = POLLIN};
	struct report report = {.mask = REPORT_EXIT};
	expect_success(poll(&polled, 1, 0));
	expect_equal(what, POLLIN, polled.revents & POLLIN);
	expect_equal(what, -1, syscall(SYS_pidfd_send_signal, process, 0, NULL, 0));
	expect_equal(what, ESRCH, errno);
	if (told) {
		expect_success(ioctl(process, GET_REPORT, &report));
		expect_equal(what, REPORT_EXIT, report.mask & REPORT_EXIT);
		expect_equal(what, status, report.exit_code);
	}
}

static ino_t inode(int process)
{
	struct stat file;
	expect_success(fstat(process, &file));
	return file.st_ino;
}

int main(void)
{
	int status, files[4];
	pid_t first = must(fork());
	if (first == 0)
		_exit(3);
	files[0] = must(process_open(first));
	files[1] = must(process_open(first));
	pid_t second = must(fork());
	if (second == 0)
		for (;;)
			pause();
	files[2] = must(process_open(second));
	files[3] = must(dup(files[2]));
	must(waitpid(first, &status, 0));
	must(kill(second, SIGTERM));
	must(waitpid(second, &status, 0));
	struct report report = {.mask = REPORT_EXIT};
	bool told = ioctl(files[0], GET_REPORT, &report) == 0 && (report.mask & REPORT_EXIT);
	bool distinct = inode(files[0]) != inode(files[2]);

	victim_ready();
	victim_wait();

	check("first of the exited", files[0], 3 << 8, told);
	check("second of the exited", files[1], 3 << 8, told);
	check("first of the killed", files[2], SIGTERM, told);
	check("its twin", files[3], SIGTERM, told);
	expect_equal("one process", inode(files[0]), inode(files[1]));
	if (distinct)
		expect_true(inode(files[0]) != inode(files[2]));
	victim_ok();
}
