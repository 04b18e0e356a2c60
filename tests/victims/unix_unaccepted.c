/* Data sent on a connection that is not accepted: never, or only a while after READY. */
#include "unix.h"

int main(int count, char **arguments)
{
	bool late = count > 1 && strcmp(arguments[1], "late") == 0;
	struct name server = path_name("server");
	int listener = listening_socket(SOCK_STREAM, server, 5), client = connected_socket(SOCK_STREAM, server);
	put(client, "early");

	victim_ready();
	int accepted = -1;
	if (late) {
		victim_nap(600000);
		accepted = expect_success(accept(listener, NULL, NULL));
	}
	victim_wait();

	if (!late)
		accepted = expect_success(accept(listener, NULL, NULL));
	expect_get("sent before it was accepted", accepted, "early");
	victim_ok();
}
