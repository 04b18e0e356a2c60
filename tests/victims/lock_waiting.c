/* Tasks that wait for a lock: it stays with its holder, and they get it once it is free, none with EINTR. */
#include "victim.h"
#include <sys/file.h>

enum { WAITERS = 4 };

static int record_lock(int file, int command, int type)
{
	struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = 3, .l_len = 4};
	return fcntl(file, command, &lock);
}

static void *wait_in_thread(void *unused)
{
	int file = must(open("thread", O_RDWR | O_CREAT, 0600));
	expect_success(flock(file, LOCK_EX));
	return unused;
}

int main(void)
{
	const char *names[WAITERS] = {"flock", "posix", "description", "posix2"};
	int files[WAITERS];
	pid_t waiters[WAITERS];
	struct arrivals arrivals = arrivals_open();
	for (int waiter = 0; waiter < WAITERS; waiter++)
		files[waiter] = must(open(names[waiter], O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	must(flock(files[0], LOCK_EX));
	must(record_lock(files[1], F_SETLK, F_WRLCK));
	must(record_lock(files[2], F_OFD_SETLK, F_WRLCK));
	must(record_lock(files[3], F_SETLK, F_RDLCK));
	int held = must(open("thread", O_RDWR | O_CREAT, 0600));
	must(flock(held, LOCK_EX));
	for (int waiter = 0; waiter < WAITERS; waiter++) {
		waiters[waiter] = must(fork());
		if (waiters[waiter] != 0)
			continue;
		int own = must(open(names[waiter], O_RDWR));
		close(files[0]);
		close(files[2]);
		close(held);
		arrive(&arrivals);
		switch (waiter) {
		case 0: expect_success(flock(own, LOCK_EX)); break;
		case 2: expect_success(record_lock(own, F_OFD_SETLKW, F_WRLCK)); break;
		default: expect_success(record_lock(own, F_SETLKW, F_WRLCK));
		}
		if (!victim_may_go())
			wrong("%s: it got the lock while another held it", names[waiter]);
		_exit(0);
	}
	await_arrivals(&arrivals, WAITERS);
	pthread_t thread;
	must_zero(pthread_create(&thread, NULL, wait_in_thread, NULL));
	for (int waiter = 0; waiter < WAITERS; waiter++)
		await_state(waiters[waiter], waiters[waiter], 'S');

	victim_ready();
	victim_wait();

	for (int waiter = 0; waiter < WAITERS; waiter++)
		expect_equal("waiters that have ended", 0, waitpid(waiters[waiter], NULL, WNOHANG));
	expect_success(flock(files[0], LOCK_UN));
	expect_success(record_lock(files[1], F_SETLK, F_UNLCK));
	expect_success(record_lock(files[2], F_OFD_SETLK, F_UNLCK));
	expect_success(record_lock(files[3], F_SETLK, F_UNLCK));
	for (int waiter = 0; waiter < WAITERS; waiter++)
		join_child(waiters[waiter]);
	expect_success(flock(held, LOCK_UN));
	must_zero(pthread_join(thread, NULL));
	victim_ok();
}
