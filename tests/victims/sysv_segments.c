/*
 * System V shared memory: attached by several processes, twice by one, for reading only, in part, marked for removal, and by
 * nobody; ids, keys, modes and counts of attachments.
 */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/shm.h>

enum { LENGTH = 40 * 4096, PAGE = 4096 };

struct board {
	atomic_int turn;
	int child_sees;
};

static struct shmid_ds state_of(int segment)
{
	struct shmid_ds state;
	expect_success(shmctl(segment, IPC_STAT, &state));
	return state;
}

static void await_turn(struct board *board, int turn)
{
	for (int naps = 0; atomic_load(&board->turn) != turn; naps++) {
		if (naps > 40000)
			wrong("process %d: turn %d never came: the segment is no longer shared", getpid(), turn);
		victim_nap(500);
	}
}

int main(void)
{
	key_t key = 0x5e610000 ^ getpid();
	/* An id that is not the first one given: some ids are used up. */
	for (int spare = 0; spare < 3; spare++)
		must(shmctl(must(shmget(IPC_PRIVATE, PAGE, 0600)), IPC_RMID, NULL));
	int named = must(shmget(key, LENGTH - 100, IPC_CREAT | IPC_EXCL | 0640));
	int marked = must(shmget(IPC_PRIVATE, PAGE, 0600));
	int left = must(shmget(key + 1, LENGTH, IPC_CREAT | IPC_EXCL | 0600));
	int parts = must(shmget(IPC_PRIVATE, 8 * PAGE, 0600));
	char *first = must(shmat(named, NULL, 0)), *reading = must(shmat(named, NULL, SHM_RDONLY));
	struct board *board = must(shmat(marked, NULL, 0));
	char *body = must(shmat(left, NULL, 0));
	char *pieces = must(shmat(parts, NULL, 0));
	must(shmctl(marked, IPC_RMID, NULL));
	must(shmctl(parts, IPC_RMID, NULL));
	fill_pattern(first, LENGTH / 2, 1);
	fill_pattern(body, LENGTH, 2);
	fill_pattern(pieces, 8 * PAGE, 3);
	must(shmdt(body));
	/* Pages 0 and 3 of 8 go; page 4 can no longer be written, and something else comes to where page 3 was. */
	must(munmap(pieces, PAGE));
	must(munmap(pieces + 3 * PAGE, PAGE));
	must(mprotect(pieces + 4 * PAGE, PAGE, PROT_READ));
	char *between = must(mmap(pieces + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	between[0] = 'b';
	struct shmid_ds settings = state_of(named);
	settings.shm_perm.mode = 0604;
	must(shmctl(named, IPC_SET, &settings));

	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		victim_wait();
		await_turn(board, 1);
		check_pattern("a segment in a child", first, LENGTH / 2, 1);
		check_pattern("a part of a segment in a child", pieces + PAGE, PAGE, 4);
		fill_pattern(first, LENGTH / 2, 5);
		board->child_sees = shmget(key, 0, 0);
		atomic_store(&board->turn, 2);
		_exit(0);
	}
	/* Parts are told apart by a pattern of their own. */
	fill_pattern(pieces + PAGE, PAGE, 4);
	await_arrivals(&arrivals, 1);
	struct shmid_ds before = state_of(named);
	victim_ready();
	victim_wait();

	struct shmid_ds now = state_of(named);
	expect_equal("attachments", before.shm_nattch, now.shm_nattch);
	expect_equal("size", LENGTH - 100, now.shm_segsz);
	expect_equal("mode", 0604, now.shm_perm.mode & 0777);
	expect_equal("owner", before.shm_perm.uid, now.shm_perm.uid);
	expect_equal("creator", before.shm_perm.cuid, now.shm_perm.cuid);
	expect_equal("key", key, now.shm_perm.__key);
	expect_equal("id of a key", named, shmget(key, 0, 0));
	expect_equal("mark of removal", SHM_DEST, state_of(marked).shm_perm.mode & SHM_DEST);
	expect_equal("attachments of the marked one", 2, state_of(marked).shm_nattch);
	expect_equal("attachments of the one in parts", 6, state_of(parts).shm_nattch);
	expect_equal("attachments of the one left alone", 0, state_of(left).shm_nattch);
	expect_equal("id of the other key", left, shmget(key + 1, 0, 0));
	check_zeros("what was never written", first + LENGTH / 2, LENGTH / 2);
	check_pattern("a part of a segment", pieces + PAGE, PAGE, 4);
	expect_equal("what lies between", 'b', between[0]);
	expect_equal("what lies between", 0, between[1]);
	expect_equal("a word of page 4", pattern_word(3, 4 * PAGE / 8), *(uint64_t *)(pieces + 4 * PAGE));
	char value[64];
	expect_true(smaps_field(pieces + 4 * PAGE, "protection", value, sizeof value));
	expect_text("protection of page 4", "r--s", value);
	expect_equal("write access to what is attached for reading", -1, mprotect(reading, PAGE, PROT_READ | PROT_WRITE));
	expect_success(mprotect(pieces + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE));
	atomic_store(&board->turn, 1);
	await_turn(board, 2);
	expect_equal("what a child finds", named, board->child_sees);
	join_child(child);
	check_pattern("what a child wrote", reading, LENGTH / 2, 5);
	/* One that is marked may still be attached by its id, as MPI libraries do. */
	struct board *again = expect_success(shmat(marked, NULL, 0));
	expect_equal("a second attachment", 2, atomic_load(&again->turn));
	expect_success(shmdt(again));
	expect_success(shmdt(board));
	/* Whoever looks at the memory of the child that ended may hold it for a moment. */
	for (int naps = 0; (again = shmat(marked, NULL, 0)) != (void *)-1; naps++) {
		if (naps > 40000)
			wrong("a marked segment stays after its last attachment");
		expect_success(shmdt(again));
		victim_nap(500);
	}
	body = expect_success(shmat(left, NULL, 0));
	check_pattern("a segment that nobody had attached", body, LENGTH, 2);
	expect_success(shmctl(left, IPC_RMID, NULL));
	expect_success(shmctl(named, IPC_RMID, NULL));
	/* Mapped twice, it goes with one call each. */
	expect_success(shmdt(first));
	expect_success(shmdt(reading));
	victim_ok();
}
