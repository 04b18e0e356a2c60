/* fanotify: a group with marks on a directory, a file, a mount and a file system, ignored events, flags. */
#include "victim.h"
#include <sys/fanotify.h>
#include <sys/ioctl.h>

/* The lines of fdinfo about marks, without ids of mounts. */
static void shown_marks(int group, char *text, size_t size)
{
	char path[64], whole[8192], *line, *rest = whole;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", group);
	read_text(path, whole, sizeof whole);
	text[0] = '\0';
	while ((line = strsep(&rest, "\n")) != NULL)
		if (strncmp(line, "fanotify", 8) == 0) {
			char *mount = strstr(line, "mnt_id:");
			for (mount = mount ? mount + 7 : NULL; mount != NULL && *mount != ' '; mount++)
				*mount = '?';
			strncat(text, line, size - strlen(text) - 1);
			strncat(text, "\n", size - strlen(text) - 1);
		}
}

/* How often each line of one text is in the other: the kernel shows marks in no order that matters. */
static void expect_same_lines(const char *before, const char *after)
{
	char copy[8192], *line, *rest = copy;
	expect_equal("length of what is shown", strlen(before), strlen(after));
	snprintf(copy, sizeof copy, "%s", before);
	while ((line = strsep(&rest, "\n")) != NULL)
		if (strstr(after, line) == NULL)
			wrong("fdinfo: expected \"%s\", found:\n%s", line, after);
}

/* The id of a mount as this process sees it. */
static long mount_id(const char *mount_point)
{
	static char text[65536];
	char *line, *rest = text, found[256];
	int id, last = -1;
	read_text("/proc/self/mountinfo", text, sizeof text);
	while ((line = strsep(&rest, "\n")) != NULL)
		if (sscanf(line, "%d %*d %*s %*s %255s", &id, found) == 2 && strcmp(found, mount_point) == 0)
			last = id;
	return last;
}

static int take_event(int group, uint64_t *mask)
{
	struct fanotify_event_metadata events[16];
	ssize_t length = read(group, events, sizeof events);
	if (length <= 0)
		return -1;
	*mask = events[0].mask;
	for (struct fanotify_event_metadata *event = events; FAN_EVENT_OK(event, length);
	     event = FAN_EVENT_NEXT(event, length))
		if (event->fd >= 0)
			close(event->fd);
	return 0;
}

int main(void)
{
	static char before[8192], after[8192];
	uint64_t mask;
	int waiting, group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY | O_LARGEFILE);
	if (group < 0)
		skip("fanotify_init: %s", strerror(errno));
	int unlimited = must(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_REPORT_FID, 0));
	must(mkdir("marked", 0700));
	must(mkdir("marked/kept", 0700));
	int file = must(open("marked/file", O_CREAT | O_RDWR, 0600));
	must(fanotify_mark(group, FAN_MARK_ADD, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, AT_FDCWD, "marked"));
	must(fanotify_mark(group, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "marked/file"));
	must(fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_ACCESS, AT_FDCWD,
			   "marked/file"));
	must(fanotify_mark(unlimited, FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_CREATE | FAN_ONDIR, AT_FDCWD, "marked/kept"));
	/* What nobody does there meanwhile. */
	must(fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN_EXEC, AT_FDCWD, "/dev/shm"));
	must(fanotify_mark(unlimited, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN_EXEC, AT_FDCWD, "/dev/shm"));
	must(rename("marked/file", "marked/renamed"));
	shown_marks(group, before, sizeof before);
	size_t used = strlen(before);
	shown_marks(unlimited, before + used, sizeof before - used);

	victim_ready();
	victim_wait();

	shown_marks(group, after, sizeof after);
	used = strlen(after);
	shown_marks(unlimited, after + used, sizeof after - used);
	expect_same_lines(before, after);
	expect_success(ioctl(group, FIONREAD, &waiting));
	expect_equal("bytes waiting", 0, waiting);
	expect_equal("flags", O_NONBLOCK, fcntl(group, F_GETFL) & O_NONBLOCK);
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(group, F_GETFD));
	expect_equal("close-on-exec of the other", 0, fcntl(unlimited, F_GETFD));
	expect_equal("bytes written", 1, write(file, "x", 1));
	expect_success(take_event(group, &mask));
	expect_equal("event of the file", FAN_MODIFY, mask);
	close(file);
	expect_success(take_event(group, &mask));
	expect_equal("event of the directory's child", FAN_CLOSE_WRITE, mask);
	expect_success(mkdir("marked/kept/new", 0700));
	expect_success(take_event(unlimited, &mask));
	expect_equal("event of the other group", FAN_CREATE | FAN_ONDIR, mask);
	char text[8192], path[64], *line;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", group);
	read_text(path, text, sizeof text);
	expect_true((line = strstr(text, "fanotify mnt_id:")) != NULL);
	expect_equal("the marked mount", mount_id("/dev/shm"), strtol(line + strlen("fanotify mnt_id:"), NULL, 16));
	victim_ok();
}
