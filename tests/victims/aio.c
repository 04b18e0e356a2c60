/* Asynchronous I/O: contexts keep their ids, their size and position, and what has completed and was not fetched; they go on
 * working. One is idle and empty, one holds events across the end of its ring, one is waited on by a thread. */
#include "victim.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>

struct ring {
	unsigned id, capacity, head, tail, magic, features, other_features, header_length;
};

static int data;

static aio_context_t make(unsigned count)
{
	aio_context_t context = 0;
	if (syscall(SYS_io_setup, count, &context) != 0) {
		if (errno == ENOSYS || errno == EAGAIN)
			skip("io_setup: %s", strerror(errno));
		broken("io_setup: %s", strerror(errno));
	}
	return context;
}

/* Reads `length` bytes from `offset`; the event carries `mark`. */
static void submit(aio_context_t context, char *buffer, size_t length, long long offset, uint64_t mark, int notify)
{
	struct iocb request = {
		.aio_data = mark,
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)data,
		.aio_buf = (uint64_t)(uintptr_t)buffer,
		.aio_nbytes = length,
		.aio_offset = offset,
		.aio_flags = notify >= 0 ? IOCB_FLAG_RESFD : 0,
		.aio_resfd = notify >= 0 ? (uint32_t)notify : 0,
	};
	struct iocb *requests[] = {&request};
	long submitted = syscall(SYS_io_submit, context, 1L, requests);
	if (submitted != 1)
		wrong("io_submit: expected 1, found %ld: %s", submitted, strerror(errno));
}

static void fetch(aio_context_t context, uint64_t mark, long long result)
{
	struct io_event event;
	struct timespec limit = {10, 0};
	long fetched = syscall(SYS_io_getevents, context, 1L, 1L, &event, &limit);
	if (fetched != 1)
		wrong("io_getevents: expected 1, found %ld: %s", fetched, strerror(errno));
	expect_equal("mark of an event", mark, event.data);
	expect_equal("result of an event", result, event.res);
}

static aio_context_t waited;

static void *wait_for_event(void *unused)
{
	struct io_event event;
	struct timespec limit = {60, 0};
	(void)unused;
	long fetched = syscall(SYS_io_getevents, waited, 1L, 1L, &event, &limit);
	if (fetched != 1)
		wrong("waiting in io_getevents: expected 1, found %ld: %s", fetched, strerror(errno));
	expect_equal("mark of the event waited for", 4711, event.data);
	return NULL;
}

int main(void)
{
	char buffer[16];
	pthread_t thread;
	data = must(open("data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	must(write(data, "0123456789", 10));
	int notified = must(eventfd(0, EFD_CLOEXEC));
	aio_context_t idle = make(1), busy = make(20), large = make(3000);
	waited = make(8);
	const struct ring *ring = (const struct ring *)(uintptr_t)busy;
	/* Around the ring to its last event but one, then three more that are not fetched. */
	for (unsigned index = 0; index < ring->capacity - 2; index++) {
		submit(busy, buffer, 1, 0, index, -1);
		fetch(busy, index, 1);
	}
	for (unsigned index = 0; index < 3; index++)
		submit(busy, buffer, 10, index, 1000 + index, notified);
	for (unsigned index = 0; index < 2000; index++)
		submit(large, buffer, 3, 8, index, -1);
	struct ring before = *ring;
	expect_equal("head", before.capacity - 2, before.head);
	expect_equal("tail", 1, before.tail);
	must_zero(pthread_create(&thread, NULL, wait_for_event, NULL));

	victim_ready();
	victim_wait();

	expect_equal("capacity", before.capacity, ring->capacity);
	expect_equal("head", before.head, ring->head);
	expect_equal("tail", before.tail, ring->tail);
	uint64_t count;
	expect_equal("eventfd", 8, read(notified, &count, 8));
	expect_equal("notifications", 3, count);
	for (unsigned index = 0; index < 3; index++)
		fetch(busy, 1000 + index, 10 - index);
	/* Once more around, fetching late, as far as there is room. */
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned index = 0; index < before.capacity / 2; index++)
			submit(busy, buffer, 5, 3, index, -1);
		for (unsigned index = 0; index < before.capacity / 2; index++)
			fetch(busy, index, 5);
	}
	expect_equal("bytes read", 0, memcmp(buffer, "34567", 5));
	for (unsigned index = 0; index < 2000; index++)
		fetch(large, index, 2);
	struct io_event event;
	struct timespec now = {0, 0};
	expect_equal("events of the idle context", 0, syscall(SYS_io_getevents, idle, 0L, 1L, &event, &now));
	submit(idle, buffer, 4, 0, 5, -1);
	fetch(idle, 5, 4);
	submit(waited, buffer, 4, 0, 4711, -1);
	must_zero(pthread_join(thread, NULL));
	const aio_context_t all[] = {idle, busy, large, waited};
	for (int index = 0; index < 4; index++)
		expect_success(syscall(SYS_io_destroy, all[index]));
	expect_equal("events of a context that is gone", -1, syscall(SYS_io_getevents, idle, 0L, 1L, &event, &now));
	victim_ok();
}
