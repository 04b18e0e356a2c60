/* Connections over a socket file: names of both ends, bytes under way, a client that is bound, a child that serves; the file
   itself, with its mode; new connections. */
#include "unix.h"
#include <dirent.h>

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	struct name server = path_name("./server"), client = path_name("client"), sequence = path_name("sequence");
	must(mkdir("below", 0755));
	struct name absolute = absolute_name("absolute");
	int listener = listening_socket(SOCK_STREAM, server, 5);
	must(chmod("server", 0640));
	int far = listening_socket(SOCK_STREAM, absolute, 5);
	int messages = listening_socket(SOCK_SEQPACKET, sequence, 3);
	int plain = connected_socket(SOCK_STREAM, server), plain_served = must(accept(listener, NULL, NULL));
	int named = bound_socket(SOCK_STREAM, client);
	must(connect(named, (struct sockaddr *)&server.address, server.length));
	int named_served = must(accept(listener, NULL, NULL));
	int far_client = connected_socket(SOCK_STREAM, absolute), far_served = must(accept(far, NULL, NULL));
	int packets = connected_socket(SOCK_SEQPACKET, sequence), packets_served = must(accept(messages, NULL, NULL));
	/* A name that is not where it was made any more: moved, with another working directory. */
	int moved = listening_socket(SOCK_STREAM, path_name("before"), 1);
	must(rename("before", "after"));
	int unbound = must(socket(AF_UNIX, SOCK_STREAM, 0)), idle = bound_socket(SOCK_STREAM, path_name("below/idle"));
	put(plain, "to the server");
	put(plain_served, "to the client");
	put(named_served, "to the named one");
	put(far_client, "far");
	put(packets, "one");
	put(packets, "two");
	pid_t child = must(fork());
	if (child == 0) {
		close(listener);
		arrive(&arrivals);
		victim_wait();
		expect_get("the child's request", plain_served, "to the server");
		expect_put("the child's answer", plain_served, ", again");
		_exit(0);
	}
	close(plain_served);
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);

	expect_own_name("the server's name", listener, server);
	expect_peer_name("the plain client's peer", plain, server);
	expect_own_name("the named client's name", named, client);
	expect_peer_name("the named client's peer", named, server);
	expect_own_name("the served one's name", named_served, server);
	expect_peer_name("the served one's peer", named_served, client);
	expect_own_name("absolute name", far, absolute);
	expect_own_name("absolute name of the served one", far_served, absolute);
	expect_own_name("idle name", idle, path_name("below/idle"));
	expect_own_name("moved name", moved, path_name("before"));
	expect_get("answers", plain, "to the client, again");
	expect_get("answer to the named one", named, "to the named one");
	expect_put("request of the named one", named, "x");
	expect_get("request of the named one", named_served, "x");
	expect_get("far request", far_served, "far");
	expect_get("first message", packets_served, "one");
	expect_get("second message", packets_served, "two");
	expect_nothing("drained messages", packets_served);
	struct stat found;
	expect_success(lstat("server", &found));
	expect_equal("mode of the socket file", S_IFSOCK | 0640, found.st_mode);
	expect_success(lstat("below/idle", &found));
	int late = expect_success(socket(AF_UNIX, SOCK_STREAM, 0));
	expect_connected(late, server);
	int late_served = expect_success(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
	expect_put("late request", late, "late");
	expect_get("late request", late_served, "late");
	expect_connected(unbound, path_name("after"));
	expect_success(accept4(moved, NULL, NULL, SOCK_NONBLOCK));
	expect_success(listen(idle, 1));
	int other = expect_success(socket(AF_UNIX, SOCK_STREAM, 0));
	expect_connected(other, path_name("below/idle"));
	DIR *entries = opendir(".");
	for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
		if (strstr(entry->d_name, "cryo-sockets") != NULL)
			wrong("a directory of a restart was left behind: %s", entry->d_name);
	victim_ok();
}
