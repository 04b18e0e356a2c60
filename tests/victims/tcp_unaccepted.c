/*
 * Data on a connection that is not accepted, which nobody can read until then.
 *   (nothing)  it is accepted after the wait
 *   late       it is accepted once somebody has tried a checkpoint for a while
 */
#include "inet.h"

int main(int count, char **arguments)
{
	bool late = count > 1 && strcmp(arguments[1], "late") == 0;
	int listener = listening_at("127.0.0.1", 3), client = connected_to(own_place(listener)), served = -1;
	put(client, "early");
	victim_ready();
	if (late) {
		victim_nap(500000);
		served = must(accept(listener, NULL, NULL));
	}
	victim_wait();
	if (!late)
		served = expect_success(accept(listener, NULL, NULL));
	expect_get("what was sent early", served, "early");
	victim_ok();
}
