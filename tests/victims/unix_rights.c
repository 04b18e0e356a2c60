/* Descriptors under way (SCM_RIGHTS): of files, pipes, sockets with queues of their own, the last copy of each; on streams at
   their very place; sockets in flight in each other and in themselves. */
#include "unix.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

int main(void)
{
	int outer[2], inner[2], packets[2], datagrams[2], pipes[2], loop[2], cross[2], deep[2], many[2], found[64];
	char text[16] = "";
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, outer));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, loop));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, cross));
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, deep));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, many));
	must(pipe(pipes));
	int file = must(open("file", O_RDWR | O_CREAT, 0644)), count = must(eventfd(7, EFD_NONBLOCK));
	must(write(file, "content", 7));
	must(lseek(file, 3, SEEK_SET));
	struct stat before;
	must(fstat(file, &before));
	/* A stream: bytes without, two with descriptors, bytes after. */
	put(outer[0], "plain");
	put_descriptors(outer[0], "with", 2, (int[]){file, pipes[0]});
	put_descriptors(outer[0], "next", 1, (int[]){file});
	put(outer[0], "after");
	must(write(pipes[1], "in the pipe", 11));
	close(file);
	close(pipes[0]);
	/* A socket with bytes of its own in flight, whose own queue has a descriptor in flight. */
	put(inner[0], "inside");
	put_descriptors(inner[0], "x", 1, (int[]){count});
	put_descriptors(packets[0], "socket", 1, (int[]){inner[1]});
	close(inner[1]);
	close(count);
	/* The sending end and the receiving end, both nowhere else. */
	put_descriptors(datagrams[0], "", 1, (int[]){deep[0]});
	put_descriptors(datagrams[0], "other", 1, (int[]){deep[1]});
	put(deep[0], "deep");
	close(deep[0]);
	close(deep[1]);
	/* In itself, and two in each other. */
	put_descriptors(loop[0], "me", 1, (int[]){loop[1]});
	put_descriptors(cross[0], "you", 1, (int[]){loop[1]});
	put_descriptors(loop[0], "and you", 1, (int[]){cross[1]});
	/* An epoll that nobody has any more, and what it watches. */
	int watchers[2], epoll = must(epoll_create1(0)), watched = must(eventfd(1, EFD_NONBLOCK));
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234};
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, watchers));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, watched, &event));
	put_descriptors(watchers[0], "epoll", 2, (int[]){epoll, watched});
	close(epoll);
	close(watched);
	int all[60];
	for (int index = 0; index < 60; index++)
		all[index] = index % 2 ? many[0] : STDOUT_FILENO;
	put_descriptors(many[0], "many", 60, all);

	victim_ready();
	victim_wait();

	expect_descriptors("before the descriptors", outer[1], 5, "plain", 0, NULL, NULL);
	expect_descriptors("with two", outer[1], 64, "with", 2, found, NULL);
	struct stat after;
	expect_success(fstat(found[0], &after));
	expect_equal("the file", before.st_ino, after.st_ino);
	expect_equal("its position", 3, lseek(found[0], 0, SEEK_CUR));
	expect_equal("bytes in the pipe", 11, read(found[1], text, sizeof text));
	int twin;
	expect_descriptors("with one", outer[1], 64, "next", 1, &twin, NULL);
	expect_equal("a shared position", 5, lseek(twin, 5, SEEK_SET));
	expect_equal("a shared position", 5, lseek(found[0], 0, SEEK_CUR));
	expect_descriptors("after the descriptors", outer[1], 64, "after", 0, NULL, NULL);
	int received, counter;
	expect_descriptors("a socket in flight", packets[1], 64, "socket", 1, &received, NULL);
	expect_descriptors("in it", received, 6, "inside", 0, NULL, NULL);
	expect_descriptors("in it", received, 64, "x", 1, &counter, NULL);
	uint64_t value;
	expect_equal("bytes of the counter", 8, read(counter, &value, 8));
	expect_equal("value of the counter", 7, value);
	expect_put("to the received socket", inner[0], "more");
	expect_get("from the received socket", received, "more");
	int ends[2];
	expect_descriptors("with an empty message", datagrams[1], 64, "", 1, &ends[0], NULL);
	expect_descriptors("with a datagram", datagrams[1], 64, "other", 1, &ends[1], NULL);
	expect_get("deep inside", ends[1], "deep");
	expect_put("through both", ends[0], "again");
	expect_get("through both", ends[1], "again");
	int self, other;
	expect_descriptors("itself", loop[1], 64, "me", 1, &self, NULL);
	expect_descriptors("the other", self, 64, "and you", 1, &other, NULL);
	expect_descriptors("and back", other, 64, "you", 1, &twin, NULL);
	expect_put("through the circle", loop[0], "round");
	expect_get("through the circle", twin, "round");
	expect_descriptors("an epoll", watchers[1], 64, "epoll", 2, found, NULL);
	event.data.u64 = 0;
	expect_equal("what it watches", 1, epoll_wait(found[0], &event, 1, 0));
	expect_equal("its data", 0x1234, event.data.u64);
	expect_descriptors("many", many[1], 64, "many", 60, found, NULL);
	expect_put("through one of many", found[59], "and on");
	expect_get("through one of many", many[1], "and on");
	victim_ok();
}
