/* Connections that nobody has accepted: their number, their order, the limit; half-closed ones; a child that waits. */
#include "unix.h"

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	struct name server = path_name("server"), packets = abstract_name("packets");
	int listener = listening_socket(SOCK_STREAM, server, 3), sequence = listening_socket(SOCK_SEQPACKET, packets, 0);
	int early = connected_socket(SOCK_STREAM, server), served = must(accept(listener, NULL, NULL));
	int clients[4];
	for (int index = 0; index < 3; index++) {
		clients[index] = must(socket(AF_UNIX, SOCK_STREAM, 0));
		char own[16];
		snprintf(own, sizeof own, "client%d", index);
		struct name name = path_name(own);
		must(bind(clients[index], (struct sockaddr *)&name.address, name.length));
		must(connect(clients[index], (struct sockaddr *)&server.address, server.length));
	}
	pid_t child = must(fork());
	if (child == 0) {
		int client = connected_socket(SOCK_STREAM, server);
		arrive(&arrivals);
		victim_wait();
		expect_put("the child's request", client, "from the child");
		char answer[16] = "";
		expect_equal("the answer to the child", 6, read(client, answer, sizeof answer));
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	must(shutdown(clients[1], SHUT_WR));
	int packet = connected_socket(SOCK_SEQPACKET, packets);
	put(early, "early");

	victim_ready();
	victim_wait();

	int more = expect_success(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	expect_error("connecting to a full backlog", EAGAIN,
		     connect(more, (struct sockaddr *)&server.address, server.length));
	expect_get("what was accepted before", served, "early");
	int accepted[4];
	for (int index = 0; index < 4; index++) {
		struct sockaddr_un from;
		socklen_t length = sizeof from;
		char own[16];
		accepted[index] = expect_success(accept(listener, (struct sockaddr *)&from, &length));
		if (index < 3) {
			snprintf(own, sizeof own, "client%d", index);
			expect_name("whose turn it is", path_name(own), &from, length);
		}
	}
	expect_put("sent by the first", clients[0], "first");
	expect_get("received from the first", accepted[0], "first");
	expect_get("end of the second", accepted[1], "");
	expect_put("sent to the second", accepted[1], "second");
	expect_get("received by the second", clients[1], "second");
	char request[32] = "";
	expect_equal("bytes from the child", 14, read(accepted[3], request, sizeof request));
	expect_text("from the child", "from the child", request);
	expect_put("to the child", accepted[3], "answer");
	join_child(child);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	expect_error("empty backlog", EAGAIN, accept(listener, NULL, NULL));
	int last = expect_success(accept(sequence, NULL, NULL));
	expect_put("message", packet, "packet");
	expect_get("message", last, "packet");
	victim_ok();
}
