/* epoll: targets with data and events, used-up one-shots, edges, nesting, a target whose number now means another file. */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void watch(int epoll, int file, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event));
}

/* Expects exactly the given data, in any order, to be ready; returns nothing else. */
static void expect_ready(const char *what, int epoll, int count, const uint64_t *data)
{
	struct epoll_event events[16];
	int ready = epoll_wait(epoll, events, 16, 0);
	expect_equal(what, count, ready);
	for (int wanted = 0; wanted < count; wanted++) {
		int found = 0;
		for (int index = 0; index < ready; index++)
			found += events[index].data.u64 == data[wanted];
		if (found != 1)
			wrong("%s: expected data 0x%llx once, found it %d times", what, (unsigned long long)data[wanted],
			      found);
	}
}

int main(void)
{
	uint64_t one = 1, count;
	int outer = must(epoll_create1(EPOLL_CLOEXEC)), inner = must(epoll_create1(0));
	int ready = must(eventfd(1, EFD_NONBLOCK)), idle = must(eventfd(0, EFD_NONBLOCK));
	int once = must(eventfd(1, EFD_NONBLOCK)), edge = must(eventfd(0, EFD_NONBLOCK));
	int nested = must(eventfd(1, EFD_NONBLOCK)), gone = must(eventfd(0, EFD_NONBLOCK)), kept;
	int pipes[2];
	struct epoll_event event;
	must(pipe2(pipes, O_NONBLOCK));
	watch(outer, once, EPOLLIN | EPOLLONESHOT, 0x3333);
	expect_equal("one-shot ready", 1, epoll_wait(outer, &event, 1, 0));
	watch(outer, ready, EPOLLIN, 0x1111222233334444);
	watch(outer, idle, EPOLLIN | EPOLLPRI | EPOLLRDHUP, 0x2222);
	watch(outer, edge, EPOLLIN | EPOLLET, 0x4444);
	watch(outer, inner, EPOLLIN, 0x5555);
	watch(inner, nested, EPOLLIN, 0x6666);
	watch(inner, pipes[1], EPOLLOUT | EPOLLET, 0x7777);
	/* Still watched through its twin, although its own number is closed. */
	watch(outer, gone, EPOLLIN, 0x8888);
	kept = must(dup(gone));
	close(gone);

	victim_ready();
	victim_wait();

	const uint64_t first[] = {0x1111222233334444, 0x5555}, second[] = {0x6666, 0x7777};
	expect_ready("targets ready", outer, 2, first);
	expect_ready("nested targets ready", inner, 2, second);
	expect_equal("bytes to the edge", 8, write(edge, &one, 8));
	const uint64_t with_edge[] = {0x1111222233334444, 0x5555, 0x4444};
	expect_ready("targets ready with the edge", outer, 3, with_edge);
	expect_ready("targets ready after the edge", outer, 2, first);
	expect_equal("reading the ready one", 8, read(ready, &count, 8));
	expect_equal("reading the nested one", 8, read(nested, &count, 8));
	expect_ready("targets ready after reading", outer, 0, first);
	event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0x3333};
	expect_success(epoll_ctl(outer, EPOLL_CTL_MOD, once, &event));
	const uint64_t armed[] = {0x3333}, twin[] = {0x8888};
	expect_ready("one-shot armed again", outer, 1, armed);
	expect_equal("bytes to the twin", 8, write(kept, &one, 8));
	expect_ready("target watched through its twin", outer, 1, twin);
	expect_equal("close-on-exec", FD_CLOEXEC, fcntl(outer, F_GETFD));
	victim_ok();
}
