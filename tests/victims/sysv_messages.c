/* System V message queues: ids, keys, modes, capacity, messages of several types in their order, and a process that waits. */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/msg.h>

struct message {
	long kind;
	char text[8192];
};

static void put(int queue, long kind, size_t length)
{
	struct message message = {.kind = kind};
	fill_pattern(message.text, sizeof message.text, (uint64_t)kind);
	must(msgsnd(queue, &message, length, IPC_NOWAIT));
}

static void take(int queue, long wanted, long kind, size_t length)
{
	struct message message;
	expect_equal("length of a message", length, msgrcv(queue, &message, sizeof message.text, wanted, IPC_NOWAIT));
	expect_equal("type of a message", kind, message.kind);
	check_pattern("a message", message.text, length / 8 * 8, (uint64_t)kind);
}

int main(void)
{
	key_t key = 0x5e630000 ^ getpid();
	must(msgctl(must(msgget(IPC_PRIVATE, 0600)), IPC_RMID, NULL));
	int queue = must(msgget(key, IPC_CREAT | IPC_EXCL | 0606)), other = must(msgget(IPC_PRIVATE, 0600));
	put(queue, 3, 8192);
	put(queue, 1, 0);
	put(queue, 9, 77);
	put(queue, 1, 1000);
	struct msqid_ds state;
	must(msgctl(queue, IPC_STAT, &state));
	/* Less than is in it already. */
	state.msg_qbytes = 4000;
	must(msgctl(queue, IPC_SET, &state));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		struct message message;
		ssize_t got;
		arrive(&arrivals);
		while ((got = msgrcv(other, &message, sizeof message.text, 5, 0)) < 0 && errno == EINTR)
			;
		expect_equal("the message waited for", 16, got);
		check_pattern("the message waited for", message.text, 16, 5);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	await_state(child, child, 'S');
	put(other, 4, 8);
	victim_ready();
	victim_wait();
	expect_equal("id of the key", queue, msgget(key, 0));
	expect_success(msgctl(queue, IPC_STAT, &state));
	expect_equal("mode", 0606, state.msg_perm.mode & 0777);
	expect_equal("messages", 4, state.msg_qnum);
	expect_equal("bytes", 9269, state.__msg_cbytes);
	expect_equal("capacity", 4000, state.msg_qbytes);
	take(queue, 9, 9, 77);
	take(queue, 0, 3, 8192);
	take(queue, 1, 1, 0);
	take(queue, 0, 1, 1000);
	put(other, 5, 16);
	join_child(child);
	take(other, 0, 4, 8);
	expect_success(msgctl(queue, IPC_RMID, NULL));
	expect_success(msgctl(other, IPC_RMID, NULL));
	victim_ok();
}
