/* inotify: watches of directories and files with their numbers, masks and gaps; nothing reported but what really happens. */
#include "victim.h"
#include <sys/inotify.h>
#include <sys/ioctl.h>

struct seen {
	int number;
	uint32_t mask;
	char name[64];
};

/* Reads the next event; none gives the number -1. */
static struct seen next_event(int instance)
{
	static _Alignas(struct inotify_event) char buffer[4096];
	static ssize_t length, at;
	struct seen seen = {.number = -1};
	if (at == length) {
		at = 0;
		length = read(instance, buffer, sizeof buffer);
		if (length < 0) {
			length = 0;
			return seen;
		}
	}
	struct inotify_event *event = (struct inotify_event *)(buffer + at);
	at += (ssize_t)(sizeof *event + event->len);
	seen.number = event->wd;
	seen.mask = event->mask;
	snprintf(seen.name, sizeof seen.name, "%s", event->len ? event->name : "");
	return seen;
}

static void expect_event(int instance, int number, uint32_t mask, const char *name)
{
	struct seen seen = next_event(instance);
	expect_equal("number of an event", number, seen.number);
	expect_equal("its mask", mask, seen.mask);
	expect_text("its name", name, seen.name);
}

/* The masks that fdinfo shows, by number; 0 for none. */
static uint32_t shown_mask(int instance, int number)
{
	char path[64], text[8192], wanted[32];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", instance);
	read_text(path, text, sizeof text);
	snprintf(wanted, sizeof wanted, "inotify wd:%x ", number);
	char *line = strstr(text, wanted);
	if (line == NULL)
		return 0;
	return (uint32_t)strtoul(strstr(line, "mask:") + 5, NULL, 16);
}

static void make_file(const char *path)
{
	close(must(open(path, O_CREAT | O_WRONLY, 0600)));
}

int main(void)
{
	const uint32_t changes = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
	int instance = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)), other = must(inotify_init1(0)), waiting = 0;
	must(mkdir("watched", 0700));
	must(mkdir("watched/below", 0700));
	must(mkdir("everything", 0700));
	make_file("watched/file");
	make_file("watched/once");
	int first = must(inotify_add_watch(instance, "watched", changes));
	int gone = must(inotify_add_watch(instance, "everything", IN_CREATE));
	int file = must(inotify_add_watch(instance, "watched/file", IN_MODIFY | IN_ATTRIB));
	int below = must(inotify_add_watch(instance, "watched/below", changes | IN_ONLYDIR | IN_EXCL_UNLINK));
	for (int step = 0; step < 20; step++)
		must(inotify_rm_watch(instance, must(inotify_add_watch(instance, "everything", IN_CREATE))));
	int once = must(inotify_add_watch(instance, "watched/once", IN_OPEN | IN_ONESHOT));
	int all = must(inotify_add_watch(other, "everything", IN_ALL_EVENTS));
	while (next_event(instance).number != -1)
		continue;
	const uint32_t masks[] = {shown_mask(instance, first), shown_mask(instance, file), shown_mask(instance, below),
				  shown_mask(instance, once), shown_mask(other, all)};
	int twin = must(dup(instance));

	victim_ready();
	victim_wait();

	expect_success(ioctl(instance, FIONREAD, &waiting));
	expect_equal("bytes waiting", 0, waiting);
	expect_success(ioctl(other, FIONREAD, &waiting));
	expect_equal("bytes waiting in the other", 0, waiting);
	expect_equal("mask of the directory", masks[0], shown_mask(instance, first));
	expect_equal("mask of the file", masks[1], shown_mask(instance, file));
	expect_equal("mask of the directory below", masks[2], shown_mask(instance, below));
	expect_equal("mask of the one-shot", masks[3], shown_mask(instance, once));
	expect_equal("mask of the other", masks[4], shown_mask(other, all));
	expect_equal("mask of one that was removed", 0, shown_mask(instance, gone));
	expect_equal("flags", O_NONBLOCK, fcntl(instance, F_GETFL) & O_NONBLOCK);
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(instance, F_GETFD));
	make_file("watched/new");
	expect_event(twin, first, IN_CREATE, "new");
	int written = expect_success(open("watched/file", O_WRONLY));
	expect_equal("bytes written", 1, write(written, "x", 1));
	expect_event(instance, file, IN_MODIFY, "");
	expect_success(mkdir("watched/below/deep", 0700));
	expect_event(instance, below, IN_CREATE | IN_ISDIR, "deep");
	close(expect_success(open("watched/once", O_RDONLY)));
	expect_event(instance, once, IN_OPEN, "");
	expect_event(instance, once, IN_IGNORED, "");
	expect_success(rename("watched/new", "watched/below/newer"));
	expect_event(instance, first, IN_MOVED_FROM, "new");
	expect_event(instance, below, IN_MOVED_TO, "newer");
	expect_equal("watching the same again", file, inotify_add_watch(instance, "watched/file", IN_ATTRIB));
	expect_equal("event left", -1, next_event(instance).number);
	int fresh = expect_success(inotify_add_watch(instance, "everything", IN_CREATE));
	expect_true(fresh > once);
	make_file("everything/new");
	expect_event(instance, fresh, IN_CREATE, "new");
	expect_event(other, all, IN_CREATE, "new");
	expect_event(other, all, IN_OPEN, "new");
	expect_event(other, all, IN_CLOSE_WRITE, "new");
	expect_success(ioctl(other, FIONREAD, &waiting));
	expect_equal("bytes left in the other", 0, waiting);
	victim_ok();
}
