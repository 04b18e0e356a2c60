/* POSIX named semaphores and shared memory objects (/dev/shm): values, names, and processes that wait in sem_wait. */
#include "victim.h"
#include <semaphore.h>

static char gate_name[64], memory_name[64], gone_name[64];

struct shared {
	_Atomic int passed;
	char text[4000];
};

static struct shared *map(int file)
{
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (shared == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	return shared;
}

/* Knows nothing but names, and opens what they name when the others wait already. */
static void open_the_gate(void)
{
	victim_wait();
	sem_t *gate = sem_open(gate_name, 0);
	if (gate == SEM_FAILED)
		wrong("sem_open: expected success, found: %s", strerror(errno));
	int value;
	expect_success(sem_getvalue(gate, &value));
	expect_equal("value of the gate", 0, value);
	struct shared *shared = map(expect_success(shm_open(memory_name, O_RDWR, 0)));
	check_pattern("the shared memory", shared->text, sizeof shared->text, 5);
	expect_equal("passed before", 0, shared->passed);
	expect_success(sem_post(gate));
	expect_success(sem_post(gate));
}

int main(void)
{
	snprintf(gate_name, sizeof gate_name, "/victim-gate-%d", getpid());
	snprintf(memory_name, sizeof memory_name, "/victim-memory-%d", getpid());
	snprintf(gone_name, sizeof gone_name, "/victim-gone-%d", getpid());
	pid_t opener = must(fork());
	if (opener == 0) {
		open_the_gate();
		_exit(0);
	}
	int file = must(shm_open(memory_name, O_RDWR | O_CREAT | O_EXCL, 0600));
	must(ftruncate(file, sizeof(struct shared)));
	struct shared *shared = map(file);
	fill_pattern(shared->text, sizeof shared->text, 5);
	sem_t *gate = sem_open(gate_name, O_CREAT | O_EXCL, 0600, 0), *gone = sem_open(gone_name, O_CREAT | O_EXCL, 0600, 3);
	if (gate == SEM_FAILED || gone == SEM_FAILED)
		broken("sem_open: %s", strerror(errno));
	must(sem_unlink(gone_name));
	must(sem_trywait(gone));
	struct arrivals arrivals = arrivals_open();
	pid_t waiting[2];
	for (int index = 0; index < 2; index++) {
		waiting[index] = must(fork());
		if (waiting[index] == 0) {
			arrive(&arrivals);
			while (sem_wait(gate) != 0)
				expect_equal("error of sem_wait", EINTR, errno);
			expect_success(sem_wait(gone));
			shared->passed++;
			_exit(0);
		}
	}
	await_arrivals(&arrivals, 2);
	for (int index = 0; index < 2; index++)
		await_state(waiting[index], waiting[index], 'S');
	victim_ready();
	victim_wait();
	join_child(opener);
	join_child(waiting[0]);
	join_child(waiting[1]);
	int value;
	expect_success(sem_getvalue(gone, &value));
	expect_equal("value of the one without a name", 0, value);
	expect_equal("passed", 2, shared->passed);
	expect_success(sem_unlink(gate_name));
	expect_success(shm_unlink(memory_name));
	victim_ok();
}
