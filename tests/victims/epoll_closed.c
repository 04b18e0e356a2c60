/*
 * epoll: registrations whose numbers were closed, reused by dup2 or by others; one file under several numbers; one number that
 * stands for several files; exclusive ones; one in a child that closed what it watches.
 */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void watch(int epoll, int file, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event));
}

/* Makes one file ready, and expects exactly these registrations to be told of it. */
static void expect_told(const char *what, int epoll, int file, int count, uint64_t first, uint64_t second)
{
	struct epoll_event events[8];
	uint64_t one = 1, value, sum = 0;
	expect_equal(what, 8, write(file, &one, 8));
	expect_equal(what, count, epoll_wait(epoll, events, 8, 0));
	for (int index = 0; index < count; index++)
		sum += events[index].data.u64;
	expect_equal(what, first + (count > 1 ? second : 0), sum);
	expect_equal(what, 8, read(file, &value, 8));
	expect_equal(what, 0, epoll_wait(epoll, events, 8, 0));
}

int main(void)
{
	int epoll = must(epoll_create1(0)), exclusive = must(epoll_create1(EPOLL_CLOEXEC)), inner = must(epoll_create1(0));
	int closed = must(eventfd(0, EFD_NONBLOCK)), replaced = must(eventfd(0, EFD_NONBLOCK));
	int other = must(eventfd(0, EFD_NONBLOCK)), many = must(eventfd(0, EFD_NONBLOCK)), closed_twin, replaced_twin;
	watch(epoll, closed, EPOLLIN, 0x1);
	closed_twin = must(fcntl(closed, F_DUPFD, 40));
	close(closed);
	/* The number now means another file, which is watched under it, too. */
	watch(epoll, replaced, EPOLLIN, 0x20);
	replaced_twin = must(fcntl(replaced, F_DUPFD, 50));
	must(dup2(other, replaced));
	watch(epoll, replaced, EPOLLIN, 0x400);
	fcntl(replaced, F_SETFD, FD_CLOEXEC);
	/* One file under three numbers, one of which is closed. */
	int second = must(dup(many)), third = must(dup(many));
	watch(epoll, many, EPOLLIN, 0x1000);
	watch(epoll, second, EPOLLIN | EPOLLET, 0x20000);
	watch(inner, third, EPOLLIN, 0x300000);
	close(third);
	watch(exclusive, other, EPOLLIN | EPOLLEXCLUSIVE, 0x4000000);
	watch(exclusive, inner, EPOLLIN | EPOLLET, 0x5000000);
	pid_t child = must(fork());
	if (child == 0) {
		close(closed_twin);
		close(many);
		close(second);
		for (;;)
			pause();
	}

	victim_ready();
	victim_wait();

	expect_told("a closed number", epoll, closed_twin, 1, 0x1, 0);
	expect_told("a number that was reused", epoll, replaced_twin, 1, 0x20, 0);
	expect_told("what is there now", epoll, other, 1, 0x400, 0);
	expect_told("two numbers of one file", epoll, many, 2, 0x1000, 0x20000);
	expect_told("its third number, closed", inner, many, 1, 0x300000, 0);
	expect_told("an exclusive one", exclusive, other, 1, 0x4000000, 0);
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x9};
	expect_equal("registering again", -1, epoll_ctl(epoll, EPOLL_CTL_ADD, many, &event));
	expect_equal("its error", EEXIST, errno);
	expect_equal("close-on-exec of the reused number", FD_CLOEXEC, fcntl(replaced, F_GETFD));
	expect_success(epoll_ctl(epoll, EPOLL_CTL_DEL, replaced, NULL));
	expect_told("the one under the reused number", epoll, replaced_twin, 1, 0x20, 0);
	expect_success(kill(child, SIGKILL));
	expect_equal("the child's end", child, waitpid(child, NULL, 0));
	victim_ok();
}
