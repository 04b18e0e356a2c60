/* inotify: events that nobody has read yet. They come back, or the checkpoint is refused: they are never lost. */
#include "victim.h"
#include <sys/inotify.h>

int main(void)
{
	_Alignas(struct inotify_event) char buffer[512];
	struct inotify_event *event = (struct inotify_event *)buffer;
	int instance = must(inotify_init1(IN_NONBLOCK));
	must(mkdir("watched", 0700));
	int watch = must(inotify_add_watch(instance, "watched", IN_CREATE));
	must(mkdir("watched/inner", 0700));

	victim_ready();
	victim_wait();

	expect_true(read(instance, buffer, sizeof buffer) > 0);
	expect_equal("number of the event", watch, event->wd);
	expect_equal("its mask", IN_CREATE | IN_ISDIR, event->mask);
	expect_text("its name", "inner", event->name);
	victim_ok();
}
