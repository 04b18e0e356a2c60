/* UDP sockets: names, connections, options, datagrams that wait with their borders and senders, ports that are shared. */
#include "inet.h"

#define UDPLITE 136

static void send_to(int socket, const char *text, union place to)
{
	if (sendto(socket, text, strlen(text), 0, &to.any, place_length(to)) != (ssize_t)strlen(text))
		broken("sending \"%s\": %s", text, strerror(errno));
}

static void expect_from(const char *what, int socket, const char *text, union place from)
{
	char found[256] = "";
	union place sender;
	memset(&sender, 0, sizeof sender);
	socklen_t length = sizeof sender;
	ssize_t got = recvfrom(socket, found, sizeof found - 1, MSG_DONTWAIT, &sender.any, &length);
	if (got < 0)
		wrong("%s: expected \"%s\", found: %s", what, text, strerror(errno));
	found[got] = '\0';
	expect_text(what, text, found);
	expect_place(what, from, sender);
}

/* Datagrams of two senders in turn, one of which has gone, and an empty one. */
static void over(const char *address, int protocol)
{
	union place any = place_at(address, 0);
	int receiver = must(socket(any.any.sa_family, SOCK_DGRAM, protocol)), one, other;
	must(bind(receiver, &any.any, place_length(any)));
	one = must(socket(any.any.sa_family, SOCK_DGRAM, protocol));
	must(bind(one, &any.any, place_length(any)));
	other = must(socket(any.any.sa_family, SOCK_DGRAM, protocol));
	must(bind(other, &any.any, place_length(any)));
	union place to = own_place(receiver), first = own_place(one), second = own_place(other);
	must(connect(one, &to.any, place_length(to)));
	set_option_at(one, SOL_SOCKET, SO_BROADCAST, 1);
	set_option_at(one, IPPROTO_IP, IP_TTL, 33);
	set_option_at(receiver, SOL_SOCKET, SO_RCVBUF, 40000);
	int size = option_of(receiver, SOL_SOCKET, SO_RCVBUF);
	put(one, "one");
	send_to(other, "two", to);
	put(one, "");
	put(one, "three");
	close(other);

	pid_t child = must(fork());
	if (child == 0) {
		victim_wait();
		expect_place("the receiver's name", to, own_place(receiver));
		expect_equal("buffer", size, option_of(receiver, SOL_SOCKET, SO_RCVBUF));
		expect_equal("sharing", 0, option_of(receiver, SOL_SOCKET, SO_REUSEADDR));
		expect_from("first", receiver, "one", first);
		expect_from("second", receiver, "two", second);
		/* Another checkpoint may have looked at the empty one: it is shown once. */
		char byte;
		ssize_t next = recv(receiver, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
		if (next == 0)
			expect_from("third", receiver, "", first);
		expect_from("last", receiver, "three", first);
		expect_nothing("nothing more", receiver);
		expect_error("not connected", ENOTCONN, getpeername(receiver, &any.any, &(socklen_t){sizeof any}));
		_exit(0);
	}
	close(receiver);
	victim_wait();
	expect_place("the sender's name", first, own_place(one));
	expect_place("its peer", to, peer_place(one));
	expect_equal("broadcast", 1, option_of(one, SOL_SOCKET, SO_BROADCAST));
	expect_equal("hops", 33, option_of(one, IPPROTO_IP, IP_TTL));
	join_child(child);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	const char *addresses[] = {"127.0.0.1", "::1", "127.0.0.1"};
	pid_t children[3];
	for (int index = 0; index < 3; index++) {
		children[index] = must(fork());
		if (children[index] == 0) {
			arrive(&arrivals);
			over(addresses[index], index == 2 ? UDPLITE : 0);
			_exit(0);
		}
	}
	await_arrivals(&arrivals, 3);
	/* Two share a port; what waits in each stays there. */
	int shared[2], client = must(socket(AF_INET, SOCK_DGRAM, 0));
	union place at = place_at("127.0.0.1", 0);
	for (int index = 0; index < 2; index++) {
		shared[index] = must(socket(AF_INET, SOCK_DGRAM, 0));
		set_option_at(shared[index], SOL_SOCKET, SO_REUSEPORT, 1);
		must(bind(shared[index], &at.any, place_length(at)));
		at = own_place(shared[0]);
	}
	union place own = place_at("127.0.0.1", 0);
	must(bind(client, &own.any, place_length(own)));
	own = own_place(client);
	send_to(client, "shared", at);
	char byte;
	int whose = recv(shared[1], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
	int fresh = must(socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	set_option_at(fresh, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	int wild = bound_at(SOCK_DGRAM, "0.0.0.0");
	union place wild_place = own_place(wild);
	set_option_at(wild, IPPROTO_IP, IP_PKTINFO, 1);
	send_to(client, "to all", place_at("127.0.0.1", place_port(wild_place)));
	/* One that sends no more, and one with an address that the machine does not have. */
	int silent = bound_at(SOCK_DGRAM, "127.0.0.1"), abroad = must(socket(AF_INET6, SOCK_DGRAM, 0));
	must(connect(silent, &own.any, place_length(own)));
	must(shutdown(silent, SHUT_WR));
	union place far = place_at("2001:db8::77", 0);
	set_option_at(abroad, IPPROTO_IPV6, IPV6_FREEBIND, 1);
	must(bind(abroad, &far.any, place_length(far)));
	set_option_at(abroad, IPPROTO_IPV6, IPV6_FREEBIND, 0);
	far = own_place(abroad);

	victim_ready();
	victim_wait();

	for (int index = 0; index < 3; index++)
		join_child(children[index]);
	expect_from("shared", shared[whose], "shared", own);
	expect_nothing("the other", shared[1 - whose]);
	expect_place("shared name", at, own_place(shared[1]));
	expect_equal("sharing", 1, option_of(shared[0], SOL_SOCKET, SO_REUSEPORT));
	expect_equal("only six", 1, option_of(fresh, IPPROTO_IPV6, IPV6_V6ONLY));
	expect_equal("flags", O_RDWR | O_NONBLOCK, fcntl(fresh, F_GETFL));
	expect_place("to all", wild_place, own_place(wild));
	expect_error("sending no more", EPIPE, send(silent, "x", 1, MSG_NOSIGNAL));
	expect_error("still receiving", EAGAIN, recv(silent, &(char){0}, 1, MSG_DONTWAIT));
	expect_place("abroad", far, own_place(abroad));
	expect_equal("names of others", 0, option_of(abroad, IPPROTO_IPV6, IPV6_FREEBIND));
	char control[256], text[16] = "";
	struct iovec vector = {text, sizeof text};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	expect_equal("to all", 6, recvmsg(wild, &message, MSG_DONTWAIT));
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	expect_true(header != NULL && header->cmsg_type == IP_PKTINFO);
	expect_equal("its address", htonl(INADDR_LOOPBACK), ((struct in_pktinfo *)CMSG_DATA(header))->ipi_addr.s_addr);
	victim_ok();
}
