/* Multicast: groups that sockets are members of, sources, options for sending; filters; raw and ping sockets where permitted. */
#include "inet.h"
#include <linux/filter.h>
#include <net/if.h>

static const char *groups[] = {"239.1.2.3", "239.1.2.4"};

static struct group_req group_on_loopback(const char *group)
{
	struct group_req request = {.gr_interface = if_nametoindex("lo")};
	union place place = place_at(group, 0);
	memcpy(&request.gr_group, &place, sizeof place);
	return request;
}

static void expect_member(const char *what, int socket, const char *group, bool member)
{
	struct group_req request = group_on_loopback(group);
	int level = request.gr_group.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int joined = setsockopt(socket, level, MCAST_JOIN_GROUP, &request, sizeof request);
	if (member)
		expect_error(what, EADDRINUSE, joined);
	else
		expect_equal(what, 0, joined);
}

int main(void)
{
	int member = bound_at(SOCK_DGRAM, "0.0.0.0"), six = bound_at(SOCK_DGRAM, "::1"), picky = bound_at(SOCK_DGRAM, "0.0.0.0");
	struct group_req request = group_on_loopback(groups[0]);
	if (setsockopt(member, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request) != 0)
		skip("joining a group: %s", strerror(errno));
	request = group_on_loopback("ff02::1234");
	if (setsockopt(six, IPPROTO_IPV6, MCAST_JOIN_GROUP, &request, sizeof request) != 0)
		skip("joining a group of IPv6: %s", strerror(errno));
	struct group_source_req source = {.gsr_interface = if_nametoindex("lo")};
	union place group = place_at(groups[1], 0), from = place_at("127.0.0.5", 0);
	memcpy(&source.gsr_group, &group, sizeof group);
	memcpy(&source.gsr_source, &from, sizeof from);
	must(setsockopt(picky, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &source, sizeof source));
	set_option_at(member, IPPROTO_IP, IP_MULTICAST_TTL, 5);
	set_option_at(member, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
	/* A filter that takes nothing. */
	struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
	struct sock_fprog program = {1, nothing};
	int deaf = bound_at(SOCK_DGRAM, "127.0.0.1");
	must(setsockopt(deaf, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (raw >= 0) {
		set_option_at(raw, IPPROTO_IP, IP_TTL, 44);
		set_option_at(raw, SOL_RAW, 1, 0x7fffffff);
		must(setsockopt(raw, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
	}

	victim_ready();
	victim_wait();

	expect_member("a member", member, groups[0], true);
	expect_member("no member", member, groups[1], false);
	expect_member("a member of IPv6", six, "ff02::1234", true);
	expect_error("a source", EADDRNOTAVAIL,
		     setsockopt(picky, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &source, sizeof source));
	from = place_at("127.0.0.6", 0);
	memcpy(&source.gsr_source, &from, sizeof from);
	expect_success(setsockopt(picky, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &source, sizeof source));
	expect_equal("hops", 5, option_of(member, IPPROTO_IP, IP_MULTICAST_TTL));
	expect_equal("loop", 0, option_of(member, IPPROTO_IP, IP_MULTICAST_LOOP));
	union place to = own_place(deaf);
	expect_success(sendto(member, "x", 1, 0, &to.any, place_length(to)));
	expect_nothing("the deaf one", deaf);
	if (raw >= 0) {
		expect_equal("hops of the raw one", 44, option_of(raw, IPPROTO_IP, IP_TTL));
		expect_equal("its filter of kinds", 0x7fffffff, option_of(raw, SOL_RAW, 1));
	}
	victim_ok();
}
