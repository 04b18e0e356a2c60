/* System V semaphores: ids, keys, modes, values, who changed them last, and processes that wait for them. */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/sem.h>

enum { COUNT = 5 };

static void change(int set, unsigned short number, short by)
{
	struct sembuf operation = {number, by, 0};
	while (semop(set, &operation, 1) != 0)
		if (errno != EINTR)
			wrong("semop of %d by %d: %s", number, by, strerror(errno));
}

int main(void)
{
	key_t key = 0x5e620000 ^ getpid();
	must(semctl(must(semget(IPC_PRIVATE, 1, 0600)), 0, IPC_RMID));
	int set = must(semget(key, COUNT, IPC_CREAT | IPC_EXCL | 0620));
	int fresh = must(semget(IPC_PRIVATE, 2, 0600));
	unsigned short values[COUNT] = {0, 7, 32767, 0, 1};
	must(semctl(set, 0, SETALL, values));
	struct arrivals arrivals = arrivals_open();
	pid_t children[2];
	for (int child = 0; child < 2; child++) {
		children[child] = must(fork());
		if (children[child] == 0) {
			arrive(&arrivals);
			if (child == 0) {
				/* Waits without an end, and with one that is far away. */
				change(set, 0, -2);
			} else {
				struct sembuf operation = {3, -1, 0};
				struct timespec limit = {600, 0};
				if (semtimedop(set, &operation, 1, &limit) != 0)
					wrong("semtimedop: %s", strerror(errno));
			}
			_exit(0);
		}
	}
	await_arrivals(&arrivals, 2);
	while (semctl(set, 0, GETNCNT) != 1 || semctl(set, 3, GETNCNT) != 1)
		victim_nap(500);
	change(set, 1, 1);
	victim_ready();
	victim_wait();
	expect_equal("id of the key", set, semget(key, 0, 0));
	expect_equal("the first set's value", 8, semctl(set, 1, GETVAL));
	expect_equal("the greatest value", 32767, semctl(set, 2, GETVAL));
	expect_equal("a value", 1, semctl(set, 4, GETVAL));
	expect_equal("who changed it last", getpid(), semctl(set, 1, GETPID));
	struct semid_ds state;
	expect_success(semctl(set, 0, IPC_STAT, &state));
	expect_equal("mode", 0620, state.sem_perm.mode & 0777);
	expect_equal("number", COUNT, state.sem_nsems);
	expect_true(state.sem_otime != 0);
	expect_success(semctl(fresh, 0, IPC_STAT, &state));
	expect_equal("time of a set that was never used", 0, state.sem_otime);
	for (int naps = 0; semctl(set, 0, GETNCNT) != 1 || semctl(set, 3, GETNCNT) != 1; naps++) {
		if (naps > 40000)
			wrong("the children no longer wait");
		victim_nap(500);
	}
	change(set, 0, 2);
	change(set, 3, 1);
	join_child(children[0]);
	join_child(children[1]);
	expect_equal("a value after the wait", 0, semctl(set, 0, GETVAL));
	expect_success(semctl(set, 0, IPC_RMID));
	expect_success(semctl(fresh, 0, IPC_RMID));
	victim_ok();
}
