/* Connections whose buffers are full in both directions: with buffers that the kernel sizes, and with small ones of the program's. */
#include "inet.h"

enum { PAIRS = 4 };

/* Sends until there is no room, and for a while after: what was sent. */
static uint64_t fill(int socket, uint64_t seed)
{
	uint64_t sent = 0, words[512];
	for (int still = 0; still < 20;) {
		for (size_t word = 0; word < 512; word++)
			words[word] = pattern_word(seed, sent / 8 + word);
		/* A write that was cut short goes on in the middle of a word. */
		size_t skip_bytes = sent % 8;
		ssize_t count = send(socket, (char *)words + skip_bytes, sizeof words - skip_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (count > 0) {
			sent += (uint64_t)count;
			still = 0;
		} else {
			still++;
			victim_nap(5000);
		}
	}
	return sent;
}

static void expect_filled(const char *what, int socket, uint64_t sent, uint64_t seed)
{
	static unsigned char bytes[1 << 16];
	uint64_t place = 0;
	while (place < sent) {
		size_t room = sent - place < sizeof bytes ? sent - place : sizeof bytes;
		ssize_t got = recv(socket, bytes, room, 0);
		if (got <= 0)
			wrong("%s: byte %llu of %llu: %s", what, (unsigned long long)place, (unsigned long long)sent,
			      got == 0 ? "the end" : strerror(errno));
		for (ssize_t index = 0; index < got; index++, place++) {
			uint64_t word = pattern_word(seed, place / 8);
			if (bytes[index] != ((unsigned char *)&word)[place % 8])
				wrong("%s: byte %llu of %llu differs", what, (unsigned long long)place,
				      (unsigned long long)sent);
		}
	}
	expect_nothing(what, socket);
}

int main(void)
{
	int ends[PAIRS][2];
	uint64_t sent[PAIRS][2];
	for (int pair = 0; pair < PAIRS; pair++) {
		connected_ends(pair % 2 ? "::1" : "127.0.0.1", ends[pair]);
		for (int end = 0; end < 2; end++) {
			if (pair >= 2) {
				set_option_at(ends[pair][end], SOL_SOCKET, SO_RCVBUF, 9000);
				set_option_at(ends[pair][end], SOL_SOCKET, SO_SNDBUF, 30000);
			}
		}
		for (int end = 0; end < 2; end++)
			sent[pair][end] = pair == 1 && end == 1 ? 0 : fill(ends[pair][end], (uint64_t)(pair * 2 + end + 1));
	}
	/* What was sent to a socket that is then closed is under way all the same. */
	close(ends[1][0]);
	int size = option_of(ends[2][0], SOL_SOCKET, SO_RCVBUF);

	victim_ready();
	victim_wait();

	expect_equal("receive buffer", size, option_of(ends[2][0], SOL_SOCKET, SO_RCVBUF));
	for (int pair = 0; pair < PAIRS; pair++) {
		for (int end = 0; end < 2; end++) {
			char what[32];
			snprintf(what, sizeof what, "pair %d end %d", pair, end);
			if (pair == 1 && end == 1)
				continue;
			if (pair != 1)
				expect_filled(what, ends[pair][1 - end], sent[pair][end], (uint64_t)(pair * 2 + end + 1));
		}
	}
	uint64_t got = 0;
	static unsigned char bytes[1 << 16];
	for (ssize_t count; (count = recv(ends[1][1], bytes, sizeof bytes, 0)) != 0; got += (uint64_t)count)
		if (count < 0)
			wrong("from one that has gone: %s", strerror(errno));
	expect_equal("from one that has gone", sent[1][0], got);
	victim_ok();
}
