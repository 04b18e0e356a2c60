/* Connections with both ends here: names, what is under way both ways, options, closed directions, in several processes. */
#include "inet.h"

static void pair_over(const char *address, const char *mapped)
{
	int ends[2], listener = listening_at(address, 8);
	union place at = own_place(listener);
	ends[0] = connected_to(mapped ? place_at(mapped, place_port(at)) : at);
	ends[1] = must(accept(listener, NULL, NULL));
	set_option_at(ends[0], IPPROTO_TCP, TCP_NODELAY, 1);
	set_option_at(ends[1], SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option_at(ends[1], IPPROTO_TCP, TCP_KEEPINTVL, 33);
	set_option_at(ends[1], IPPROTO_TCP, TCP_KEEPCNT, 3);
	set_option_at(ends[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 98765);
	set_option_at(ends[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT, 12345);
	set_option_at(ends[0], SOL_SOCKET, SO_SNDBUF, 50000);
	set_option_at(ends[0], IPPROTO_TCP, TCP_CORK, 1);
	fcntl(ends[1], F_SETFL, O_NONBLOCK);
	union place own[2] = {own_place(ends[0]), own_place(ends[1])}, peer[2] = {peer_place(ends[0]), peer_place(ends[1])};
	int size = option_of(ends[0], SOL_SOCKET, SO_SNDBUF);
	put(ends[0], "corked, there");
	put(ends[1], "and back");

	pid_t child = must(fork());
	if (child != 0) {
		close(ends[1]);
		close(listener);
		put(ends[0], ", more");
	} else {
		close(ends[0]);
	}
	if (child != 0)
		victim_ready();
	victim_wait();
	if (child == 0) {
		expect_place("the server's name", own[1], own_place(ends[1]));
		expect_place("the client's name there", peer[1], peer_place(ends[1]));
		expect_equal("flags", O_RDWR | O_NONBLOCK, fcntl(ends[1], F_GETFL));
		expect_equal("keepalive", 1, option_of(ends[1], SOL_SOCKET, SO_KEEPALIVE));
		expect_equal("interval", 33, option_of(ends[1], IPPROTO_TCP, TCP_KEEPINTVL));
		expect_equal("count", 3, option_of(ends[1], IPPROTO_TCP, TCP_KEEPCNT));
		fcntl(ends[1], F_SETFL, 0);
		expect_get("there", ends[1], "corked, there, more");
		expect_put("again back", ends[1], ", again");
		expect_get("later", ends[1], "later");
		expect_end("the end", ends[1]);
		/* The port is the listener's still. */
		int other = connected_to(mapped ? place_at(mapped, place_port(at)) : at);
		int served = expect_success(accept(listener, NULL, NULL));
		expect_put("new", other, "new");
		expect_get("new", served, "new");
		_exit(0);
	}
	expect_place("the client's name", own[0], own_place(ends[0]));
	expect_place("the server's name there", peer[0], peer_place(ends[0]));
	expect_equal("no delay", 1, option_of(ends[0], IPPROTO_TCP, TCP_NODELAY));
	expect_equal("user time-out", 98765, option_of(ends[0], IPPROTO_TCP, TCP_USER_TIMEOUT));
	expect_equal("not sent", 12345, option_of(ends[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT));
	expect_equal("send buffer", size, option_of(ends[0], SOL_SOCKET, SO_SNDBUF));
	expect_equal("cork", 1, option_of(ends[0], IPPROTO_TCP, TCP_CORK));
	set_option_at(ends[0], IPPROTO_TCP, TCP_CORK, 0);
	expect_get("back", ends[0], "and back, again");
	expect_put("later", ends[0], "later");
	close(ends[0]);
	join_child(child);
}

int main(int count, char **arguments)
{
	const char *how = count > 1 ? arguments[1] : "127.0.0.1";
	/* Mapped: a server of IPv6 with a client of IPv4. */
	if (strcmp(how, "mapped") == 0)
		pair_over("::", "127.0.0.1");
	else
		pair_over(how, NULL);
	victim_ok();
}
