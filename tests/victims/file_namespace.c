/* Descriptors of the namespaces that the process is in, and a file of whoever is process 1. */
#include "victim.h"

enum { KINDS = 8 };

static void link_of(const char *path, char *text, size_t size)
{
	ssize_t length = expect_success(readlink(path, text, size - 1));
	text[length] = '\0';
}

int main(void)
{
	static const char *kinds[KINDS] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	char path[64], own[64], held[64], text[256];
	int descriptors[KINDS];
	for (int kind = 0; kind < KINDS; kind++) {
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[kind]);
		descriptors[kind] = open(path, O_RDONLY | O_CLOEXEC);
		if (descriptors[kind] < 0 && errno != ENOENT)
			broken("%s: %s", path, strerror(errno));
	}
	int init = must(open("/proc/1/status", O_RDONLY | O_CLOEXEC));

	victim_ready();
	victim_wait();

	for (int kind = 0; kind < KINDS; kind++) {
		if (descriptors[kind] < 0)
			continue;
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[kind]);
		link_of(path, own, sizeof own);
		snprintf(path, sizeof path, "/proc/self/fd/%d", descriptors[kind]);
		link_of(path, held, sizeof held);
		expect_text(kinds[kind], own, held);
	}
	ssize_t length = expect_success(pread(init, text, sizeof text - 1, 0));
	text[length] = '\0';
	expect_true(strstr(text, "\nPid:\t1\n") != NULL);
	victim_ok();
}
