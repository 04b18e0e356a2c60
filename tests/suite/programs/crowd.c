/*
 * crowd PROCESSES CONNECTIONS: one process serves so many others, which hold that many connections to it altogether, by turns over
 * TCP (IPv4) and over a unix socket, until the file $VICTIM_GO is there. Over each goes one message of some length at a time, which
 * the server, who is told by epoll(7) of each change once, sends back. Whoever gets anything else than it sent says so and fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LONGEST = 9000 };

/* What a message begins with. */
struct head {
	uint32_t connection, round, length;
};

/* One end of a connection of the server: what has come and was not sent back yet. */
struct end {
	int fd;
	uint32_t have, gone;
	char bytes[LONGEST];
};

static void fail(const char *what)
{
	fprintf(stderr, "process %d: %s: %s\n", (int)getpid(), what, strerror(errno));
	exit(1);
}

static int going(void)
{
	return access(getenv("VICTIM_GO"), F_OK) != 0;
}

static void put(int fd, const void *bytes, size_t count)
{
	for (const char *at = bytes; count;) {
		ssize_t done = send(fd, at, count, MSG_NOSIGNAL);

		if (done <= 0)
			fail("send");
		at += done;
		count -= (size_t)done;
	}
}

static void get(int fd, void *bytes, size_t count)
{
	for (char *at = bytes; count;) {
		ssize_t done = recv(fd, at, count, 0);

		if (done <= 0)
			fail(done < 0 ? "recv" : "a connection was closed");
		at += done;
		count -= (size_t)done;
	}
}

static uint32_t length_of(uint32_t connection, uint32_t round)
{
	uint32_t mixed = (connection * 2654435761u) ^ (round * 40503u + 977u);

	/* Mostly short ones; some that do not go in one piece. */
	return mixed % 16 ? mixed % 200 : mixed % (LONGEST - sizeof(struct head));
}

static void fill(char *bytes, const struct head *head)
{
	for (uint32_t at = 0; at < head->length; at++)
		bytes[at] = (char)(head->connection * 31 + head->round * 7 + at);
}

/* One message over each connection, and all their answers, again and again. */
static void talk(const int *connections, uint32_t count, uint32_t first)
{
	static char bytes[LONGEST], wanted[LONGEST];

	for (uint32_t round = 0; going(); round++) {
		for (uint32_t i = 0; i < count; i++) {
			struct head head = { first + i, round, length_of(first + i, round) };

			fill(bytes, &head);
			put(connections[i], &head, sizeof(head));
			put(connections[i], bytes, head.length);
		}
		for (uint32_t i = 0; i < count; i++) {
			struct head head = { first + i, round, length_of(first + i, round) }, got;

			get(connections[i], &got, sizeof(got));
			errno = 0;
			if (memcmp(&got, &head, sizeof(got)))
				fail("the answer is another's");
			get(connections[i], bytes, head.length);
			fill(wanted, &head);
			if (memcmp(bytes, wanted, head.length))
				fail("the answer is wrong");
		}
		if (first == 0 && round % 5 == 0)
			if (write(STDOUT_FILENO, "TRAFFIC\n", 8) != 8)
				fail("write");
		/* As most connections of a server, these are idle most of the time. */
		usleep(20000);
	}
}

static int connect_to(const void *address, socklen_t size)
{
	int fd = socket(*(const sa_family_t *)address, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, address, size))
		fail("connect");
	return fd;
}

static void be_client(const struct sockaddr_in *internet, const struct sockaddr_un *local, uint32_t count, uint32_t first)
{
	int *connections = calloc(count, sizeof(*connections));

	for (uint32_t i = 0; i < count; i++)
		connections[i] = (first + i) % 2 ? connect_to(internet, sizeof(*internet)) : connect_to(local, sizeof(*local));
	talk(connections, count, first);
	exit(0);
}

static int listener(void *address, socklen_t size)
{
	int fd = socket(*(sa_family_t *)address, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, address, size) || listen(fd, 1000) || getsockname(fd, address, &size))
		fail("listen");
	return fd;
}

/* Whether this end is still open. */
static int turn_round(struct end *end)
{
	ssize_t done = recv(end->fd, end->bytes + end->have, sizeof(end->bytes) - end->have, 0);

	if (done == 0)
		return 0;
	if (done < 0 && errno != EAGAIN)
		fail("recv of the server");
	if (done > 0)
		end->have += (uint32_t)done;
	while (end->gone < end->have) {
		done = send(end->fd, end->bytes + end->gone, end->have - end->gone, MSG_NOSIGNAL);
		if (done < 0 && errno != EAGAIN)
			fail("send of the server");
		if (done < 0)
			return 1;
		end->gone += (uint32_t)done;
	}
	end->have = end->gone = 0;
	return 1;
}

static void watch(int epoll, int fd, uint32_t events, void *what)
{
	struct epoll_event event = { .events = events, .data.ptr = what };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

/* Ends when all clients have gone. */
static void serve(int *listeners, uint32_t connections)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event events[64];
	uint32_t closed = 0;

	for (int i = 0; i < 2; i++)
		watch(epoll, listeners[i], EPOLLIN, &listeners[i]);
	while (closed < connections) {
		int count = epoll_wait(epoll, events, 64, -1);

		if (count < 0)
			fail("epoll_wait");
		for (int i = 0; i < count; i++) {
			struct end *end = events[i].data.ptr;

			if ((int *)end == &listeners[0] || (int *)end == &listeners[1]) {
				end = calloc(1, sizeof(*end));
				end->fd = accept4(*(int *)events[i].data.ptr, NULL, NULL, SOCK_NONBLOCK);
				if (end->fd < 0)
					fail("accept");
				watch(epoll, end->fd, EPOLLIN | EPOLLOUT | EPOLLET, end);
			} else if (!turn_round(end)) {
				close(end->fd);
				free(end);
				closed++;
			}
		}
	}
}

static void allow_descriptors(uint32_t connections)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail("getrlimit");
	if (limit.rlim_cur < connections + 50) {
		limit.rlim_cur = connections + 50;
		if (setrlimit(RLIMIT_NOFILE, &limit)) {
			printf("SKIP: %u descriptors are not allowed here\n", connections + 50);
			exit(77);
		}
	}
}

int main(int count, char **arguments)
{
	struct sockaddr_in internet = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un local = { .sun_family = AF_UNIX, .sun_path = "crowd.sock" };
	uint32_t processes = count == 3 ? (uint32_t)atoi(arguments[1]) : 0;
	uint32_t connections = count == 3 ? (uint32_t)atoi(arguments[2]) : 0;
	int status, failures = 0;

	if (processes < 2 || connections < processes - 1) {
		fprintf(stderr, "usage: crowd PROCESSES CONNECTIONS\n");
		return 2;
	}
	allow_descriptors(connections);
	int listeners[] = { listener(&internet, sizeof(internet)), listener(&local, sizeof(local)) };

	for (uint32_t client = 0, first = 0; client < processes - 1; client++) {
		uint32_t own = (connections - first) / (processes - 1 - client);
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (pid == 0)
			be_client(&internet, &local, own, first);
		first += own;
	}
	serve(listeners, connections);
	while (wait(&status) > 0)
		failures += status != 0;
	if (failures) {
		fprintf(stderr, "%d clients failed\n", failures);
		return 1;
	}
	printf("the answers are right\nFINAL\n");
	return 0;
}
