/*
 * Unix sockets in a network namespace that the job has made itself: pairs with data in them, an abstract name that another process
 * outside has as well, connections to it, accepted and not, a connection to a path at which the process outside listens, and a pair
 * from outside. Every socket must belong to the namespace again that it was of. By an ordinary user within a user namespace.
 */
#include "victim.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static uint64_t namespace_of(int socket)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof cookie;
	if (getsockopt(socket, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0)
		wrong("SO_NETNS_COOKIE: %s", strerror(errno));
	return cookie;
}

static uint64_t namespace_now(void)
{
	int any = expect_success(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	uint64_t cookie = namespace_of(any);
	close(any);
	return cookie;
}

static socklen_t abstract_name(struct sockaddr_un *name, pid_t number)
{
	memset(name, 0, sizeof *name);
	name->sun_family = AF_UNIX;
	int length = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "cryonaut-own-network-%d", number);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int listener_at(struct sockaddr_un *name, socklen_t length)
{
	int listener = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(listener, (struct sockaddr *)name, length));
	must(listen(listener, 5));
	return listener;
}

static int connected_to(struct sockaddr_un *name, socklen_t length)
{
	int client = expect_success(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	expect_success(connect(client, (struct sockaddr *)name, length));
	return client;
}

static void put(int socket, const char *text)
{
	expect_equal("bytes sent", strlen(text), send(socket, text, strlen(text), 0));
}

static void expect_next(const char *what, const char *text, int socket)
{
	char found[64] = "";
	ssize_t length = recv(socket, found, sizeof found - 1, 0);
	if (length < 0)
		wrong("%s: %s", what, strerror(errno));
	expect_text(what, text, found);
}

__attribute__((noreturn)) static void inner(struct arrivals *arrivals, int from_outside, struct sockaddr_un *path, pid_t number)
{
	static const int kinds[3] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
	int pairs[3][2], ends[2];
	struct sockaddr_un name;
	socklen_t length = abstract_name(&name, number);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	uint64_t outside = namespace_of(from_outside);
	if (geteuid() != 0)
		must(unshare(CLONE_NEWUSER));
	must(unshare(CLONE_NEWNET));
	for (int which = 0; which < 3; which++) {
		must(socketpair(AF_UNIX, kinds[which] | SOCK_CLOEXEC, 0, pairs[which]));
		put(pairs[which][0], "waiting");
	}
	int listener = listener_at(&name, length);
	int client = connected_to(&name, length);
	int server = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	int waiting = connected_to(&name, length);
	int far = connected_to(path, sizeof *path);
	int bound = must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	must(bind(bound, (struct sockaddr *)&any, sizeof(sa_family_t)));
	put(client, "to the server");
	put(ends[0], "made outside");
	arrive(arrivals);

	victim_wait();
	uint64_t now = namespace_now();
	if (now == outside)
		wrong("the namespace is the one outside");
	for (int which = 0; which < 3; which++) {
		expect_next("a pair", "waiting", pairs[which][1]);
		put(pairs[which][1], "back");
		expect_next("a pair, the other way", "back", pairs[which][0]);
		expect_equal("namespace of a pair", now, namespace_of(pairs[which][0]));
		expect_equal("namespace of a pair", now, namespace_of(pairs[which][1]));
	}
	expect_next("an accepted connection", "to the server", server);
	int all[6] = {listener, client, server, waiting, far, bound};
	for (int which = 0; which < 6; which++)
		expect_equal("namespace of a socket", now, namespace_of(all[which]));
	int accepted = expect_success(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	put(waiting, "accepted");
	expect_next("a connection that waited", "accepted", accepted);
	/* The name leads to the socket of this namespace. */
	int late = connected_to(&name, length);
	int found = expect_success(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	put(found, "inside");
	expect_next("the abstract name", "inside", late);
	expect_next("what was made outside", "made outside", ends[1]);
	expect_equal("namespace of what was made outside", outside, namespace_of(ends[0]));
	expect_equal("namespace of a pair from outside", outside, namespace_of(from_outside));
	put(far, "from inside");
	expect_next("from the process outside", "from outside", far);
	put(from_outside, "done");
	_exit(0);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	struct sockaddr_un name, path = {.sun_family = AF_UNIX, .sun_path = "own-network"};
	int ends[2], status;
	pid_t tried = must(fork());
	if (tried == 0)
		_exit(unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNET) == 0 ? 0 : 1);
	must(waitpid(tried, &status, 0));
	if (status != 0)
		skip("this user may not make network namespaces here");
	socklen_t length = abstract_name(&name, getpid());
	int listener = listener_at(&name, length);
	unlink(path.sun_path);
	int there = listener_at(&path, sizeof path);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	pid_t number = getpid(), child = must(fork());
	if (child == 0) {
		close(ends[0]);
		close(listener);
		close(there);
		inner(&arrivals, ends[1], &path, number);
	}
	close(ends[1]);
	int far = must(accept4(there, NULL, NULL, SOCK_CLOEXEC));
	int client = connected_to(&name, length);
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	int server = expect_success(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	put(client, "outside");
	expect_next("the abstract name outside", "outside", server);
	expect_equal("namespace of the name outside", namespace_now(), namespace_of(listener));
	expect_next("from the process inside", "from inside", far);
	put(far, "from outside");
	expect_next("the pair", "done", ends[0]);
	join_child(child);
	victim_ok();
}
