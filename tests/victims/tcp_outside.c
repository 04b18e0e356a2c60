/*
 * A connection whose peer is outside the job: it goes on, and the peer notices nothing.
 *   tcp_outside ROLE HOW ADDRESS PORT [AMOUNT]
 * ROLE: client connects to ADDRESS and PORT; server listens there (port 0: any, written to the file "port") and takes one
 * connection.
 * HOW, where the peer is the same program with the same HOW outside of the job, or a test that does the same:
 *   queued   before READY it sends a line, and the peer one, which nobody receives; afterwards they are received, and more is said
 *   closing  as queued, and the direction to the peer is closed before READY
 *   closed   as queued, and the peer has closed its direction before READY
 *   both     as queued, and both have
 *   options  as queued, with options set
 *   full     as stream, but nobody receives anything until all buffers are full, and the test lets them go on
 *   stream   AMOUNT bytes go both ways, each checked, from before READY on; READY comes when some have been received
 * The peer has the other role, with "peer-" before it.
 *   modest   as stream, and the job never has much under way
 */
#include "inet.h"

enum { CHUNK = 64 * 1024 };

static bool is_peer;

static unsigned char byte_at(unsigned long long at, int from)
{
	return (unsigned char)(at * 31 + (at >> 9) * 17 + (at >> 17) * 5 + (unsigned)from);
}

/* Sends what there is room for, at most up to this amount. */
static unsigned long long send_more(int socket, unsigned long long sent, unsigned long long amount)
{
	static unsigned char out[CHUNK];
	size_t length = amount - sent < CHUNK ? (size_t)(amount - sent) : CHUNK;
	for (size_t index = 0; index < length; index++)
		out[index] = byte_at(sent + index, is_peer);
	ssize_t done = send(socket, out, length, MSG_NOSIGNAL);
	if (done < 0 && errno != EAGAIN)
		wrong("sending after %llu bytes: %s", sent, strerror(errno));
	return sent + (done > 0 ? (unsigned long long)done : 0);
}

/* Sends and checks so many bytes each way, at once. */
static void stream(int socket, unsigned long long amount, bool full)
{
	static unsigned char in[CHUNK];
	unsigned long long sent = 0, got = 0;
	bool ready = is_peer || full, closed = false;
	must(fcntl(socket, F_SETFL, O_NONBLOCK));
	if (full) {
		struct pollfd room = {.fd = socket, .events = POLLOUT};
		while (sent < amount && poll(&room, 1, 300) > 0)
			sent = send_more(socket, sent, amount);
		if (!is_peer)
			victim_ready();
		victim_wait();
	}
	while (sent < amount || got < amount) {
		struct pollfd wish = {.fd = socket, .events = (short)((got < amount ? POLLIN : 0) | (sent < amount ? POLLOUT : 0))};
		if (poll(&wish, 1, -1) < 0)
			wrong("poll: %s", strerror(errno));
		if (wish.revents & POLLOUT && sent < amount)
			sent = send_more(socket, sent, amount);
		if (sent == amount && !closed) {
			closed = true;
			if (shutdown(socket, SHUT_WR) != 0)
				wrong("closing: %s", strerror(errno));
		}
		if (got < amount && wish.revents & (POLLIN | POLLHUP | POLLERR)) {
			ssize_t done = recv(socket, in, CHUNK, 0);
			if (done < 0 && errno != EAGAIN)
				wrong("receiving after %llu bytes: %s", got, strerror(errno));
			if (done == 0)
				wrong("the stream ends after %llu bytes", got);
			for (ssize_t index = 0; index < done; index++)
				if (in[index] != byte_at(got + (unsigned)index, !is_peer))
					wrong("byte %llu differs", got + (unsigned)index);
			got += done > 0 ? (unsigned long long)done : 0;
		}
		if (!ready && got > amount / 64) {
			ready = true;
			victim_ready();
		}
	}
	must(fcntl(socket, F_SETFL, 0));
	expect_end("the end of the stream", socket);
}

static void set_options(int socket)
{
	set_option_at(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option_at(socket, IPPROTO_TCP, TCP_KEEPIDLE, 777);
	set_option_at(socket, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option_at(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, 98765432);
	set_option_at(socket, SOL_SOCKET, SO_REUSEADDR, 1);
	set_option_at(socket, SOL_SOCKET, SO_RCVBUF, 70000);
}

static void expect_options(int socket)
{
	expect_equal("keepalive", 1, option_of(socket, SOL_SOCKET, SO_KEEPALIVE));
	expect_equal("keepalive time", 777, option_of(socket, IPPROTO_TCP, TCP_KEEPIDLE));
	expect_equal("no delay", 1, option_of(socket, IPPROTO_TCP, TCP_NODELAY));
	expect_equal("user time-out", 98765432, option_of(socket, IPPROTO_TCP, TCP_USER_TIMEOUT));
	expect_equal("address reuse", 1, option_of(socket, SOL_SOCKET, SO_REUSEADDR));
	expect_equal("receive buffer", 140000, option_of(socket, SOL_SOCKET, SO_RCVBUF));
	struct tcp_info info;
	socklen_t length = sizeof info;
	expect_success(getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length));
	expect_equal("timestamps, selective confirmation, scales", 7, info.tcpi_options & 7);
	expect_equal("segments are larger than the least", true, option_of(socket, IPPROTO_TCP, TCP_MAXSEG) > 536);
}

static void talk(int socket, const char *how)
{
	bool closing = strcmp(how, "closing") == 0 || strcmp(how, "both") == 0;
	bool closed = strcmp(how, "closed") == 0 || strcmp(how, "both") == 0;
	bool options = strcmp(how, "options") == 0;
	union place own = own_place(socket), peer = peer_place(socket);
	if (options && !is_peer)
		set_options(socket);
	put(socket, is_peer ? "from the peer" : "from the job");
	if (is_peer ? closed : closing)
		must(shutdown(socket, SHUT_WR));
	struct pollfd poll_for = {.fd = socket, .events = (short)((is_peer ? closing : closed) ? POLLRDHUP : POLLIN)};
	must(poll(&poll_for, 1, -1));
	if (!is_peer)
		victim_ready();
	victim_wait();
	/* Once both have closed there is no connection any more. */
	if (!closing || !closed)
		expect_place("its own name", own, own_place(socket));
	if (!closing && !closed)
		expect_place("its peer's name", peer, peer_place(socket));
	if (options && !is_peer)
		expect_options(socket);
	expect_get("what waited", socket, is_peer ? "from the job" : "from the peer");
	if (!(is_peer ? closed : closing))
		expect_put("more", socket, is_peer ? ", more of it" : ", and more");
	else
		expect_error("after the end", EPIPE, send(socket, "x", 1, MSG_NOSIGNAL));
	if (!(is_peer ? closing : closed)) {
		expect_get("more", socket, is_peer ? ", and more" : ", more of it");
	}
	if (!(is_peer ? closed : closing))
		expect_success(shutdown(socket, SHUT_WR));
	expect_end("the end", socket);
	int error = option_of(socket, SOL_SOCKET, SO_ERROR);
	expect_equal("errors", 0, error);
}

static int connection(bool client, const char *address, const char *port)
{
	if (client)
		return connected_to(place_at(address, atoi(port)));
	union place place = place_at(address, atoi(port));
	int listener = must(socket(place.any.sa_family, SOCK_STREAM, 0));
	set_option_at(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	must(bind(listener, &place.any, place_length(place)));
	must(listen(listener, 1));
	char text[16];
	int length = snprintf(text, sizeof text, "%d", place_port(own_place(listener)));
	int file = must(open("port.new", O_WRONLY | O_CREAT | O_TRUNC, 0644));
	must(write(file, text, (size_t)length));
	close(file);
	must(rename("port.new", "port"));
	int taken = must(accept(listener, NULL, NULL));
	close(listener);
	return taken;
}

int main(int count, char **arguments)
{
	if (count < 5)
		broken("usage: tcp_outside client|server|peer-client|peer-server HOW ADDRESS PORT [AMOUNT]");
	is_peer = strncmp(arguments[1], "peer-", 5) == 0;
	const char *role = arguments[1] + (is_peer ? 5 : 0);
	int socket = connection(strcmp(role, "client") == 0, arguments[3], arguments[4]);
	bool full = strcmp(arguments[2], "full") == 0;
	bool modest = strcmp(arguments[2], "modest") == 0;
	if (modest && !is_peer)
		set_option_at(socket, SOL_SOCKET, SO_SNDBUF, 60000);
	if (full || modest || strcmp(arguments[2], "stream") == 0)
		stream(socket, strtoull(arguments[5], NULL, 10), full);
	else
		talk(socket, arguments[2]);
	victim_ok();
}
