/*
 * Descriptors at the highest numbers that are allowed, as valgrind has its own, with few numbers free below; a file that is only
 * mapped, descriptors in flight, and an epoll that watches by numbers which are closed. With the argument "full" nearly all
 * numbers are taken.
 */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/socket.h>

enum { LIMIT = 80 };

static void send_ends(int socket, int ends[2])
{
	char byte = 'x', control[CMSG_SPACE(2 * sizeof(int))] = {0};
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(header), ends, 2 * sizeof(int));
	must(sendmsg(socket, &message, 0));
}

static void expect_ends(int socket)
{
	char byte, control[CMSG_SPACE(2 * sizeof(int))];
	int ends[2];
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	expect_equal("bytes of the message", 1, recvmsg(socket, &message, 0));
	memcpy(ends, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof ends);
	expect_equal("written to what was in flight", 5, write(ends[1], "hello", 5));
	char text[8] = "";
	expect_equal("read from it", 5, read(ends[0], text, 5));
	expect_text("what was read", "hello", text);
}

int main(int count, char **arguments)
{
	bool full = count > 1 && strcmp(arguments[1], "full") == 0;
	struct rlimit limit = {LIMIT, LIMIT};
	must(setrlimit(RLIMIT_NOFILE, &limit));
	int sockets[2], ends[2], memory = must(memfd_create("mapped", 0));
	must(ftruncate(memory, 8192));
	char *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (mapped == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	fill_pattern(mapped, 8192, 1);
	must(close(memory));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	must(pipe(ends));
	send_ends(sockets[0], ends);
	must(close(ends[0]));
	must(close(ends[1]));
	/* Watched under numbers that are closed, and one of them reused, right below the highest. */
	int set = must(epoll_create1(0)), watched = must(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
	for (int number = LIMIT - 12; number < LIMIT - 9; number++) {
		must(dup2(watched, number));
		event.data.u32 = (uint32_t)number;
		must(epoll_ctl(set, EPOLL_CTL_ADD, number, &event));
		must(close(number));
	}
	for (int number = LIMIT - 10; number < LIMIT; number++)
		must(dup2(STDIN_FILENO, number));
	if (full)
		while (dup(STDIN_FILENO) >= 0)
			continue;

	victim_ready();
	victim_wait();

	check_pattern("what is only mapped", mapped, 8192, 1);
	struct stat one, other;
	expect_success(fstat(STDIN_FILENO, &one));
	for (int number = LIMIT - 10; number < LIMIT; number++) {
		expect_success(fstat(number, &other));
		expect_equal("what is at a high number", one.st_ino, other.st_ino);
	}
	if (!full) {
		expect_equal("the lowest free number", watched + 1, must(dup(STDIN_FILENO)));
		must(close(watched + 1));
		expect_ends(sockets[1]);
	}
	struct epoll_event events[4];
	expect_equal("what is reported", 3, epoll_wait(set, events, 4, 0));
	expect_success(getrlimit(RLIMIT_NOFILE, &limit));
	expect_equal("the hard limit", LIMIT, limit.rlim_max);
	victim_ok();
}
