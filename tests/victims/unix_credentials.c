/* Who a peer is (SO_PEERCRED), and who sent a message (SCM_CREDENTIALS): the process itself, its child, another user. */
#include "unix.h"

static void expect_peer(const char *what, int socket, pid_t pid, uid_t user, gid_t group)
{
	struct ucred found;
	socklen_t length = sizeof found;
	expect_success(getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &found, &length));
	expect_equal(what, pid, found.pid);
	expect_equal(what, user, found.uid);
	expect_equal(what, group, found.gid);
}

static void put_as(int socket, const char *text, struct ucred who)
{
	union {
		char room[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr header;
	} control = {{0}};
	struct iovec vector = {(void *)text, strlen(text)};
	struct msghdr message = {
	    .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_CREDENTIALS;
	control.header.cmsg_len = CMSG_LEN(sizeof who);
	memcpy(CMSG_DATA(&control.header), &who, sizeof who);
	must(sendmsg(socket, &message, MSG_DONTWAIT));
}

static void expect_sender(const char *what, int socket, const char *text, pid_t pid, uid_t user)
{
	struct ucred found = {-1, 12345, 12345};
	expect_descriptors(what, socket, 64, text, 0, NULL, &found);
	expect_equal(what, pid, found.pid);
	expect_equal(what, user, found.uid);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	pid_t own = getpid();
	uid_t user = geteuid();
	gid_t group = getegid();
	struct name server = path_name("server"), hidden = abstract_name("server");
	int pair[2], stream[2], datagrams[2], late[2];
	int listener = listening_socket(SOCK_STREAM, server, 5);
	int hidden_listener = listening_socket(SOCK_STREAM, hidden, 5);
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, late));
	set_option(stream[1], SO_PASSCRED, 1);
	set_option(datagrams[1], SO_PASSCRED, 1);
	put(stream[0], "parent");
	put(datagrams[0], "parent");
	put(late[0], "nobody noted");
	/* One that is gone: it sent messages, and made a pair. */
	int ended[2], passed[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, passed));
	pid_t gone = must(fork());
	if (gone == 0) {
		put(datagrams[0], "last words");
		must(socketpair(AF_UNIX, SOCK_STREAM, 0, ended));
		put_descriptors(passed[0], "ends", 2, ended);
		_exit(0);
	}
	must(waitpid(gone, NULL, 0));
	expect_descriptors("the pair of one that is gone", passed[1], 64, "ends", 2, ended, NULL);
	pid_t child = must(fork());
	if (child == 0) {
		int client = connected_socket(SOCK_STREAM, server), other[2];
		must(socketpair(AF_UNIX, SOCK_STREAM, 0, other));
		put(stream[0], "child");
		put(datagrams[0], "child");
		if (user == 0) {
			/* As another user, who is noted. */
			must(setresgid(-1, 4321, -1));
			must(setresuid(-1, 1234, -1));
			int strange = connected_socket(SOCK_STREAM, hidden);
			must(setresuid(-1, 0, -1));
			must(setresgid(-1, 0, -1));
			must(dup2(strange, 100));
			put_as(datagrams[0], "as somebody", (struct ucred){own, 77, 78});
		}
		arrive(&arrivals);
		victim_wait();
		expect_peer("the server", client, own, user, group);
		expect_peer("the child's own pair", other[0], getpid(), user, group);
		_exit(0);
	}
	int served = must(accept(listener, NULL, NULL)), strange = -1;
	await_arrivals(&arrivals, 1);
	if (user == 0)
		strange = must(accept(hidden_listener, NULL, NULL));
	put(stream[0], "parent again");
	set_option(late[1], SO_PASSCRED, 1);

	victim_ready();
	victim_wait();

	expect_peer("own pair", pair[0], own, user, group);
	expect_peer("the client", served, child, user, group);
	if (user == 0)
		expect_peer("the strange client", strange, child, 1234, 4321);
	expect_sender("parent's bytes", stream[1], "parent", own, user);
	expect_sender("child's bytes", stream[1], "child", child, user);
	expect_sender("parent's bytes again", stream[1], "parent again", own, user);
	expect_sender("parent's datagram", datagrams[1], "parent", own, user);
	struct ucred last = {-1, 12345, 12345};
	expect_descriptors("last datagram of one that is gone", datagrams[1], 64, "last words", 0, NULL, &last);
	expect_equal("its sender's user", user, last.uid);
	/* The number of one that is gone is not to be had from outside its pid namespace, which ordinary users are given. */
	if (user == 0) {
		expect_equal("its sender", gone, last.pid);
		expect_peer("the pair of one that is gone", ended[0], gone, user, group);
	}
	expect_sender("child's datagram", datagrams[1], "child", child, user);
	if (user == 0)
		expect_sender("somebody's datagram", datagrams[1], "as somebody", own, 77);
	struct ucred nobody = {1, 1, 1};
	expect_descriptors("without a sender", late[1], 64, "nobody noted", 0, NULL, &nobody);
	expect_equal("the pid of no sender", 0, nobody.pid);
	expect_put("later bytes", stream[0], "later");
	expect_sender("later bytes", stream[1], "later", own, user);
	join_child(child);
	victim_ok();
}
