/* POSIX message queues: names, limits, modes, messages of several priorities in their order, flags, queues without a name, and
   processes that wait for a message and for room. */
#include "victim.h"
#include <mqueue.h>
#include <sys/epoll.h>

static char room[8192];

static mqd_t make(const char *name, int flags, mode_t mode, long capacity, long longest)
{
	struct mq_attr limits = {.mq_maxmsg = capacity, .mq_msgsize = longest};
	mqd_t queue = must(mq_open(name, flags | O_CREAT | O_EXCL, mode, &limits));
	must(fchmod(queue, mode));
	return queue;
}

static void put(mqd_t queue, unsigned priority, size_t length, uint64_t seed)
{
	char text[8192];
	fill_pattern(text, sizeof text, seed);
	must(mq_send(queue, text, length, priority));
}

static void take(mqd_t queue, unsigned priority, size_t length, uint64_t seed)
{
	unsigned found;
	ssize_t got;
	while ((got = mq_receive(queue, room, sizeof room, &found)) < 0 && errno == EINTR)
		;
	expect_equal("length of a message", length, got);
	expect_equal("priority of a message", priority, found);
	check_pattern("a message", room, length / 8 * 8, seed);
}

static void check_limits(mqd_t queue, long flags, long capacity, long longest, long messages)
{
	struct mq_attr found;
	expect_success(mq_getattr(queue, &found));
	expect_equal("flags", flags, found.mq_flags);
	expect_equal("capacity", capacity, found.mq_maxmsg);
	expect_equal("longest message", longest, found.mq_msgsize);
	expect_equal("messages", messages, found.mq_curmsgs);
}

int main(void)
{
	char name[64], gone[64];
	snprintf(name, sizeof name, "/victim-%d (deleted)", getpid());
	snprintf(gone, sizeof gone, "/gone-%d", getpid());
	mqd_t queue = make(name, O_RDWR | O_NONBLOCK, 0620, 8, 8192);
	mqd_t reader = must(mq_open(name, O_RDONLY)), writer = must(mq_open(name, O_WRONLY)), twin = must(dup(queue));
	put(writer, 3, 8192, 1);
	put(writer, 0, 0, 2);
	put(queue, 32767, 100, 3);
	put(queue, 3, 801, 4);
	put(queue, 0, 16, 5);
	put(queue, 3, 1, 6);
	/* Two without a name, the second of which has the name of one that is there. */
	mqd_t unlinked = make(gone, O_RDWR, 0600, 2, 8192), empty, full, again;
	must(mq_unlink(gone));
	put(unlinked, 9, 64, 7);
	put(unlinked, 9, 72, 8);
	empty = make(gone, O_RDWR, 0400, 3, 8192);
	must(mq_unlink(gone));
	full = make(gone, O_RDWR, 0600, 1, 8192);
	put(full, 1, 8, 9);
	int instance = must(epoll_create1(0));
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
	must(epoll_ctl(instance, EPOLL_CTL_ADD, empty, &event));
	struct arrivals arrivals = arrivals_open();
	pid_t receiver = must(fork());
	if (receiver == 0) {
		arrive(&arrivals);
		take(empty, 4, 24, 10);
		_exit(0);
	}
	pid_t sender = must(fork());
	if (sender == 0) {
		char text[40];
		fill_pattern(text, sizeof text, 11);
		arrive(&arrivals);
		while (mq_send(full, text, sizeof text, 6) != 0)
			expect_equal("error of the waiting sender", EINTR, errno);
		_exit(0);
	}
	await_arrivals(&arrivals, 2);
	await_state(receiver, receiver, 'S');
	await_state(sender, sender, 'S');
	victim_ready();
	victim_wait();
	struct stat state;
	expect_success(fstat(queue, &state));
	expect_equal("mode", 0620, state.st_mode & 07777);
	expect_equal("owner", geteuid(), state.st_uid);
	expect_equal("group", getegid(), state.st_gid);
	check_limits(queue, O_NONBLOCK, 8, 8192, 6);
	check_limits(reader, 0, 8, 8192, 6);
	expect_equal("writing to a reader", -1, mq_send(reader, "", 0, 0));
	expect_equal("its error", EBADF, errno);
	expect_equal("reading from a writer", -1, mq_receive(writer, room, sizeof room, NULL));
	expect_equal("its error", EBADF, errno);
	again = expect_success(mq_open(name, O_RDONLY));
	take(again, 32767, 100, 3);
	take(reader, 3, 8192, 1);
	take(twin, 3, 801, 4);
	take(queue, 3, 1, 6);
	take(reader, 0, 0, 2);
	take(reader, 0, 16, 5);
	/* The twin has the flags of the first. */
	struct mq_attr blocking = {.mq_flags = 0};
	expect_equal("an empty queue", -1, mq_receive(twin, room, sizeof room, NULL));
	expect_equal("its error", EAGAIN, errno);
	expect_success(mq_setattr(queue, &blocking, NULL));
	check_limits(twin, 0, 8, 8192, 0);
	check_limits(unlinked, 0, 2, 8192, 2);
	take(unlinked, 9, 64, 7);
	take(unlinked, 9, 72, 8);
	/* The sender's message came when there was room, and not before. */
	check_limits(full, 0, 1, 8192, 1);
	take(full, 1, 8, 9);
	join_child(sender);
	take(full, 6, 40, 11);
	check_limits(empty, 0, 3, 8192, 0);
	expect_equal("events of an empty queue", 0, epoll_wait(instance, &event, 1, 0));
	put(empty, 4, 24, 10);
	join_child(receiver);
	put(empty, 0, 8, 12);
	expect_equal("events of a queue", 1, epoll_wait(instance, &event, 1, 10000));
	expect_equal("their data", 77, event.data.u64);
	expect_success(mq_unlink(name));
	expect_success(mq_unlink(gone));
	expect_equal("names left", -1, mq_unlink(gone));
	expect_equal("error of the name", ENOENT, errno);
	victim_ok();
}
