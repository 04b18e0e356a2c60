/* A POSIX message queue that is in use all the time: its eight messages go round, each received and sent again with the next number,
   and never may one be missing or out of turn. */
#include "victim.h"
#include <mqueue.h>

enum { MESSAGES = 8 };

int main(void)
{
	char name[64];
	snprintf(name, sizeof name, "/stream-%d", getpid());
	struct mq_attr limits = {.mq_maxmsg = MESSAGES, .mq_msgsize = 8};
	mqd_t queue = must(mq_open(name, O_RDWR | O_NONBLOCK | O_CREAT | O_EXCL, 0600, &limits));
	must(mq_unlink(name));
	uint64_t next = 0, found;
	for (; next < MESSAGES; next++)
		must(mq_send(queue, (char *)&next, sizeof next, 5));
	victim_ready();
	while (!victim_may_go()) {
		for (int round = 0; round < 100; round++) {
			unsigned priority;
			expect_equal("a message", 8, mq_receive(queue, (char *)&found, sizeof found, &priority));
			expect_equal("its number", next - MESSAGES, found);
			expect_equal("its priority", 5, priority);
			expect_equal("sending", 0, mq_send(queue, (char *)&next, sizeof next, 5));
			next++;
		}
		victim_nap(100);
	}
	struct mq_attr state;
	expect_success(mq_getattr(queue, &state));
	expect_equal("messages", MESSAGES, state.mq_curmsgs);
	victim_ok();
}
