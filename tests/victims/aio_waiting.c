/* A request that waits for something to come, with a thread that waits for it without a limit: it cannot be saved, which is
 * noticed; the program is unharmed. */
#include "victim.h"
#include <linux/aio_abi.h>

static aio_context_t context;
static _Atomic pid_t waiter;

/* Until a task is in a system call. */
static void await_call(pid_t task, long number)
{
	char path[64], text[256];
	snprintf(path, sizeof path, "/proc/self/task/%d/syscall", task);
	do {
		victim_nap(500);
		read_text(path, text, sizeof text);
	} while (atol(text) != number);
}

static void *wait_for_event(void *unused)
{
	struct io_event event;
	(void)unused;
	waiter = gettid();
	long fetched = syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL);
	if (fetched != 1)
		wrong("io_getevents: expected 1, found %ld: %s", fetched, strerror(errno));
	expect_equal("result of a poll", POLLIN, event.res & POLLIN);
	return NULL;
}

int main(void)
{
	int ends[2];
	pthread_t thread;
	must(pipe2(ends, O_CLOEXEC));
	if (syscall(SYS_io_setup, 4, &context) != 0)
		skip("io_setup: %s", strerror(errno));
	struct iocb request = {
		.aio_lio_opcode = IOCB_CMD_POLL,
		.aio_fildes = (uint32_t)ends[0],
		.aio_buf = POLLIN,
	};
	struct iocb *requests[] = {&request};
	if (syscall(SYS_io_submit, context, 1L, requests) != 1)
		skip("IOCB_CMD_POLL: %s", strerror(errno));
	must_zero(pthread_create(&thread, NULL, wait_for_event, NULL));
	while (waiter == 0)
		victim_nap(500);
	await_call(waiter, SYS_io_getevents);

	victim_ready();
	victim_wait();

	expect_success(write(ends[1], "x", 1));
	must_zero(pthread_join(thread, NULL));
	victim_ok();
}
