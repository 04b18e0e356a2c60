/* Abstract names: listening, connected, taken; names that the kernel has chosen. */
#include "unix.h"

int main(void)
{
	struct name server = abstract_name("server"), packets = abstract_name("packets");
	int listener = listening_socket(SOCK_STREAM, server, 5), sequence = listening_socket(SOCK_SEQPACKET, packets, 5);
	int client = connected_socket(SOCK_STREAM, server), served = must(accept(listener, NULL, NULL));
	int sender = connected_socket(SOCK_SEQPACKET, packets), receiver = must(accept(sequence, NULL, NULL));
	/* The one that listened is closed: its name is free, and still that of what it accepted. */
	struct name closed = abstract_name("closed");
	int closing = listening_socket(SOCK_STREAM, closed, 5), late = connected_socket(SOCK_STREAM, closed);
	int accepted = must(accept(closing, NULL, NULL));
	close(closing);
	/* Binding to no name gets any. */
	int chosen = must(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	must(bind(chosen, (struct sockaddr *)&any, sizeof(sa_family_t)));
	struct name own = {.length = sizeof own.address};
	must(getsockname(chosen, (struct sockaddr *)&own.address, &own.length));
	put(client, "hello");
	put(sender, "a");
	put(sender, "b");
	put(late, "kept");

	victim_ready();
	victim_wait();

	expect_own_name("the server's name", listener, server);
	expect_peer_name("the client's peer", client, server);
	expect_own_name("the served one's name", served, server);
	expect_get("request", served, "hello");
	expect_get("first message", receiver, "a");
	expect_get("second message", receiver, "b");
	expect_own_name("name of a closed one", accepted, closed);
	expect_peer_name("peer of a closed one's client", late, closed);
	expect_get("kept bytes", accepted, "kept");
	expect_own_name("chosen name", chosen, own);
	int other = expect_success(socket(AF_UNIX, SOCK_STREAM, 0));
	expect_error("binding to a name that is taken", EADDRINUSE,
		     bind(other, (struct sockaddr *)&server.address, server.length));
	expect_success(bind(other, (struct sockaddr *)&closed.address, closed.length));
	int next = expect_success(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	expect_connected(next, server);
	expect_success(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
	victim_ok();
}
