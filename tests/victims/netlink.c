/* Netlink sockets: ports, groups, options, filters, and what is asked and told over them. Groups are such as nothing is told to. */
#include "inet.h"
#include <linux/filter.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

enum { WORDS = 8 };

static int netlink_socket(int kind, int protocol, uint32_t port)
{
	struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = port};
	int made = must(socket(AF_NETLINK, kind, protocol));
	must(bind(made, (struct sockaddr *)&name, sizeof name));
	return made;
}

static uint32_t port_of(int socket)
{
	struct sockaddr_nl name = {0};
	socklen_t length = sizeof name;
	expect_success(getsockname(socket, (struct sockaddr *)&name, &length));
	return name.nl_pid;
}

static void read_groups(int socket, uint32_t groups[WORDS])
{
	socklen_t length = WORDS * sizeof groups[0];
	memset(groups, 0, length);
	expect_success(getsockopt(socket, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &length));
}

static void expect_links(int socket)
{
	struct {
		struct nlmsghdr header;
		struct rtgenmsg body;
	} request = {
	    .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 7},
	};
	static char room[65536] __attribute__((aligned(8)));
	expect_equal("asking", sizeof request, send(socket, &request, sizeof request, 0));
	expect_true(recv(socket, room, sizeof room, 0) > (ssize_t)sizeof(struct nlmsghdr));
	struct nlmsghdr *answer = (struct nlmsghdr *)room;
	expect_equal("answer", RTM_NEWLINK, answer->nlmsg_type);
	expect_equal("to", port_of(socket), answer->nlmsg_pid);
}

static void send_to_port(int socket, uint32_t port, const char *text)
{
	struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = port};
	ssize_t length = (ssize_t)strlen(text);
	expect_equal(text, length, sendto(socket, text, strlen(text), 0, (struct sockaddr *)&name, sizeof name));
}

int main(void)
{
	enum { ROUTE, UEVENT, GENERIC, FRESH, ONE, OTHER, COUNT };
	/* Neither this machine nor another copy of this program has such ports. */
	uint32_t base = 0x40000000u + (uint32_t)getpid() * 4;
	int sockets[COUNT] = {
	    [ROUTE] = netlink_socket(SOCK_RAW, NETLINK_ROUTE, 0),
	    [UEVENT] = netlink_socket(SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT, base),
	    [GENERIC] = netlink_socket(SOCK_RAW, NETLINK_GENERIC, base + 1),
	    [FRESH] = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)),
	    [ONE] = netlink_socket(SOCK_DGRAM, NETLINK_USERSOCK, base + 2),
	    [OTHER] = netlink_socket(SOCK_DGRAM, NETLINK_USERSOCK, base + 3),
	};
	set_option_at(sockets[ROUTE], SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_DCB);
	set_option_at(sockets[ROUTE], SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 35);
	set_option_at(sockets[ROUTE], SOL_NETLINK, NETLINK_EXT_ACK, 1);
	set_option_at(sockets[ROUTE], SOL_SOCKET, SO_RCVBUF, 50000);
	set_option_at(sockets[UEVENT], SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 9);
	set_option_at(sockets[UEVENT], SOL_SOCKET, SO_PASSCRED, 1);
	set_option_at(sockets[UEVENT], SOL_NETLINK, NETLINK_NO_ENOBUFS, 1);
	set_option_at(sockets[GENERIC], SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GENL_ID_CTRL);
	set_option_at(sockets[FRESH], SOL_NETLINK, NETLINK_CAP_ACK, 1);
	/* What has fewer than eight bytes is dropped. */
	struct sock_filter steps[] = {
	    BPF_STMT(BPF_LD | BPF_LEN, 0),
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 8, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, 0xffff),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = {sizeof steps / sizeof steps[0], steps};
	must(setsockopt(sockets[OTHER], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter));
	struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = base + 3};
	must(connect(sockets[ONE], (struct sockaddr *)&to, sizeof to));
	uint32_t ports[COUNT], before[COUNT][WORDS], after[WORDS];
	for (int index = 0; index < COUNT; index++) {
		ports[index] = port_of(sockets[index]);
		read_groups(sockets[index], before[index]);
	}
	int room = option_of(sockets[ROUTE], SOL_SOCKET, SO_RCVBUF);

	victim_ready();
	victim_wait();

	for (int index = 0; index < COUNT; index++) {
		expect_equal("port", ports[index], port_of(sockets[index]));
		read_groups(sockets[index], after);
		for (int word = 0; word < WORDS; word++)
			expect_equal("groups", before[index][word], after[word]);
	}
	expect_equal("extended answers", 1, option_of(sockets[ROUTE], SOL_NETLINK, NETLINK_EXT_ACK));
	expect_equal("buffer", room, option_of(sockets[ROUTE], SOL_SOCKET, SO_RCVBUF));
	expect_equal("credentials", 1, option_of(sockets[UEVENT], SOL_SOCKET, SO_PASSCRED));
	expect_equal("losses", 1, option_of(sockets[UEVENT], SOL_NETLINK, NETLINK_NO_ENOBUFS));
	expect_equal("flags", O_RDWR | O_NONBLOCK, fcntl(sockets[UEVENT], F_GETFL));
	expect_equal("short answers", 1, option_of(sockets[FRESH], SOL_NETLINK, NETLINK_CAP_ACK));
	expect_links(sockets[ROUTE]);
	expect_links(sockets[FRESH]);
	send_to_port(sockets[OTHER], base + 2, "to the one");
	expect_get("to the one", sockets[ONE], "to the one");
	put(sockets[ONE], "short");
	put(sockets[ONE], "to the other");
	expect_get("through the filter", sockets[OTHER], "to the other");
	expect_nothing("nothing more", sockets[OTHER]);
	victim_ok();
}
