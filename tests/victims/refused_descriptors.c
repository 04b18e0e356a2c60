/* Descriptors that a checkpoint refuses, by the first argument; the refusal must not hurt them. */
#include "inet.h"
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <linux/vm_sockets.h>
#include <sys/syscall.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* Some are not in this kernel, or not for this user. */
static int available(const char *what, long made)
{
	if (made < 0)
		skip("%s: %s", what, strerror(errno));
	return (int)made;
}

static int measurement(void)
{
	struct perf_event_attr event = {
	    .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1};
	return available("perf_event_open", syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

static int map_of_bpf(void)
{
	union bpf_attr wanted = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	return available("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &wanted, sizeof wanted));
}

static int ring(void)
{
	struct io_uring_params wanted = {0};
	return available("io_uring_setup", syscall(SYS_io_uring_setup, 4, &wanted));
}

/* One end of a connection over Multipath TCP; the other is kept open. */
static int several_paths(void)
{
	union place place = place_at("127.0.0.1", 0);
	int listener = available("Multipath TCP", socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
	must(bind(listener, &place.any, place_length(place)));
	must(listen(listener, 1));
	place = own_place(listener);
	int client = must(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
	must(connect(client, &place.any, place_length(place)));
	must(accept(listener, NULL, NULL));
	return client;
}

/* A netlink socket with a message that it has sent to itself. */
static int told_itself(void)
{
	int made = must(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK));
	struct sockaddr_nl name = {.nl_family = AF_NETLINK};
	must(bind(made, (struct sockaddr *)&name, sizeof name));
	socklen_t length = sizeof name;
	must(getsockname(made, (struct sockaddr *)&name, &length));
	must(sendto(made, "waiting", 7, 0, (struct sockaddr *)&name, sizeof name));
	return made;
}

static int made_of(const char *what)
{
	if (strcmp(what, "io-uring") == 0)
		return ring();
	if (strcmp(what, "perf") == 0)
		return measurement();
	if (strcmp(what, "bpf") == 0)
		return map_of_bpf();
	if (strcmp(what, "userfaultfd") == 0)
		return available("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
	if (strcmp(what, "vsock") == 0)
		return available("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	if (strcmp(what, "crypto") == 0)
		return available("AF_ALG", socket(AF_ALG, SOCK_SEQPACKET, 0));
	if (strcmp(what, "xdp") == 0)
		return available("AF_XDP", socket(AF_XDP, SOCK_RAW, 0));
	if (strcmp(what, "sctp") == 0)
		return available("SCTP", socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP));
	if (strcmp(what, "connector") == 0)
		return available("connector", socket(AF_NETLINK, SOCK_DGRAM, NETLINK_CONNECTOR));
	if (strcmp(what, "multipath") == 0)
		return several_paths();
	if (strcmp(what, "netlink-waiting") == 0)
		return told_itself();
	if (strcmp(what, "encrypted") == 0) {
		int ends[2];
		connected_ends("127.0.0.1", ends);
		available("kTLS", setsockopt(ends[0], IPPROTO_TCP, TCP_ULP, "tls", 4));
		return ends[0];
	}
	broken("unknown descriptor \"%s\"", what);
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	int made = made_of(what);
	char link[256] = "", path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", made);
	must(readlink(path, link, sizeof link - 1));

	victim_ready();
	victim_wait();

	char now[256] = "", text[16] = "";
	expect_success(readlink(path, now, sizeof now - 1));
	expect_text("the descriptor", link, now);
	if (strcmp(what, "netlink-waiting") == 0) {
		expect_equal("the message", 7, recv(made, text, sizeof text, MSG_DONTWAIT));
		expect_text("the message", "waiting", text);
	}
	if (strcmp(what, "multipath") == 0)
		expect_put("several paths", made, "on");
	victim_ok();
}
