/* Watches of deleted files that are open and mapped, and of where they and a removed working directory were: a restart, which makes all
 * of them again, is nothing to report. */
#include "victim.h"
#include <sys/inotify.h>
#include <sys/ioctl.h>

enum { MASK = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE | IN_MOVE_SELF };

static void expect_quiet(const char *what, int instance)
{
	int waiting = 0;
	expect_success(ioctl(instance, FIONREAD, &waiting));
	if (waiting == 0)
		return;
	char text[4096] __attribute__((aligned(8)));
	const struct inotify_event *event = (const void *)text;
	expect_success(read(instance, text, sizeof text));
	wrong("%s: %d bytes of events, the first of watch %d with mask %#x", what, waiting, event->wd, event->mask);
}

int main(void)
{
	char text[4096];
	must(mkdir("watched", 0700));
	int home = must(open(".", O_PATH | O_DIRECTORY));
	int file = must(open("watched/file", O_RDWR | O_CREAT, 0600));
	int mapped = must(open("watched/mapped", O_RDWR | O_CREAT, 0600));
	must(write(file, "content", 7));
	must(write(mapped, "mapped", 6));
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
	if (memory == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	must(mkdir("watched/directory", 0700));
	must(chdir("watched/directory"));
	int instance = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	must(inotify_add_watch(instance, "..", MASK));
	int own = must(inotify_add_watch(instance, "../file", MASK));
	must(inotify_add_watch(instance, "../mapped", MASK));
	must(unlink("../file"));
	must(unlink("../mapped"));
	must(rmdir("../directory"));
	while (read(instance, text, sizeof text) > 0)
		;

	victim_ready();
	victim_wait();

	expect_quiet("before anything happens", instance);
	expect_equal("content", 7, pread(file, text, sizeof text, 0));
	expect_equal("it", 0, memcmp(text, "content", 7));
	expect_equal("mapped content", 0, memcmp(memory, "mapped", 6));
	expect_equal("writing", 3, pwrite(file, "new", 3, 0));
	ssize_t length = expect_success(read(instance, text, sizeof text));
	const struct inotify_event *event = (const void *)text;
	bool found = false;
	while ((const char *)event < text + length) {
		found |= event->wd == own && event->mask == IN_MODIFY;
		event = (const void *)((const char *)(event + 1) + event->len);
	}
	expect_true(found);
	expect_quiet("afterwards", instance);
	expect_success(unlinkat(home, "watched", AT_REMOVEDIR));
	victim_ok();
}
