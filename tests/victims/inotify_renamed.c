/* inotify: what was watched has another name by now, or lies below a directory that has. */
#include "victim.h"
#include <sys/inotify.h>

static void expect_event(int instance, int number, uint32_t mask)
{
	_Alignas(struct inotify_event) char buffer[512];
	struct inotify_event *event = (struct inotify_event *)buffer;
	expect_true(read(instance, buffer, sizeof buffer) > 0);
	expect_equal("number of the event", number, event->wd);
	expect_equal("its mask", mask, event->mask);
}

int main(void)
{
	int instance = must(inotify_init1(IN_NONBLOCK));
	must(mkdir("before", 0700));
	must(mkdir("before/inner", 0700));
	int kept = must(open("before/inner/file", O_CREAT | O_RDWR, 0600)), opened = must(dup(kept));
	close(must(open("before/inner/lone", O_CREAT | O_RDWR, 0600)));
	int directory = must(inotify_add_watch(instance, "before/inner", IN_DELETE));
	int file = must(inotify_add_watch(instance, "before/inner/file", IN_MODIFY));
	int lone = must(inotify_add_watch(instance, "before/inner/lone", IN_ATTRIB));
	must(rename("before/inner/lone", "before/alone"));
	must(rename("before", "after"));
	must(rename("after/inner/file", "after/inner/other"));
	/* A stranger now has the old name. */
	must(mkdir("before", 0700));
	must(mkdir("before/inner", 0700));
	close(must(open("before/inner/file", O_CREAT | O_RDWR, 0600)));

	victim_ready();
	victim_wait();

	expect_equal("bytes written", 1, write(opened, "x", 1));
	expect_event(instance, file, IN_MODIFY);
	expect_success(chmod("after/alone", 0640));
	expect_event(instance, lone, IN_ATTRIB);
	expect_success(unlink("after/inner/other"));
	expect_event(instance, directory, IN_DELETE);
	expect_success(unlink("before/inner/file"));
	expect_equal("events of the stranger", -1, read(instance, &(char[512]){0}, 512));
	victim_ok();
}
