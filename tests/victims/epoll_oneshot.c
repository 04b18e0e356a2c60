/* epoll: one-shots that have fired say nothing, not even of hang-ups and errors, until they are armed again. */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void fire(int epoll, int file, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events | EPOLLONESHOT, .data.u64 = data};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event));
	expect_equal("events of a one-shot", 1, epoll_wait(epoll, &event, 1, 0));
}

int main(void)
{
	int epoll = must(epoll_create1(0)), dead[2], idle[2], late[2], event_file = must(eventfd(1, 0));
	char byte;
	struct epoll_event event;
	must(pipe(dead));
	must(pipe(idle));
	must(pipe2(late, O_NONBLOCK));
	close(dead[1]);
	fire(epoll, dead[0], EPOLLIN, 1);
	must(write(idle[1], "i", 1));
	fire(epoll, idle[0], EPOLLIN | EPOLLET, 2);
	must(read(idle[0], &byte, 1));
	fire(epoll, idle[1], EPOLLOUT, 3);
	fire(epoll, event_file, EPOLLIN, 4);
	event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, late[0], &event));
	int closed = must(dup(dead[0]));
	fire(epoll, closed, EPOLLIN, 6);
	close(closed);

	victim_ready();
	victim_wait();

	expect_equal("events of one-shots that have fired", 0, epoll_wait(epoll, &event, 1, 0));
	expect_equal("bytes in the idle pipe", -1, (fcntl(idle[0], F_SETFL, O_NONBLOCK), read(idle[0], &byte, 1)));
	close(idle[1]);
	expect_equal("events after a hang-up", 0, epoll_wait(epoll, &event, 1, 0));
	expect_equal("a byte written", 1, write(late[1], "l", 1));
	expect_equal("events of one that had not fired", 1, epoll_wait(epoll, &event, 1, 0));
	expect_equal("its data", 5, event.data.u64);
	event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 22};
	expect_success(epoll_ctl(epoll, EPOLL_CTL_MOD, idle[0], &event));
	expect_equal("events once armed again", 1, epoll_wait(epoll, &event, 1, 0));
	expect_equal("data of the one armed again", 22, event.data.u64);
	expect_equal("its events", EPOLLHUP, event.events);
	victim_ok();
}
