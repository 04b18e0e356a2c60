/* Sockets whose files are deleted, replaced by another socket, or moved. */
#include "unix.h"

int main(void)
{
	struct name name = absolute_name("service"), lost = absolute_name("lost"),
		    deep = absolute_name("place/inside");
	int old = listening_socket(SOCK_STREAM, name, 5);
	int old_client = connected_socket(SOCK_STREAM, name), old_served = must(accept(old, NULL, NULL));
	put(old_client, "old");
	must(unlink("service"));
	int new = listening_socket(SOCK_STREAM, name, 5);
	int new_client = connected_socket(SOCK_STREAM, name), new_served = must(accept(new, NULL, NULL));
	put(new_client, "new");
	int gone = listening_socket(SOCK_SEQPACKET, lost, 5);
	int waiting = connected_socket(SOCK_SEQPACKET, lost);
	must(unlink("lost"));
	must(mkdir("place", 0700));
	int inside = listening_socket(SOCK_STREAM, deep, 5);
	must(unlink("place/inside"));
	must(rmdir("place"));
	/* Only root is told that a relative one is deleted. */
	struct name relative = path_name("relative");
	int near = -1;
	if (geteuid() == 0) {
		near = listening_socket(SOCK_STREAM, relative, 5);
		must(unlink("relative"));
	}

	victim_ready();
	victim_wait();

	expect_get("through the deleted file", old_served, "old");
	expect_get("through the new file", new_served, "new");
	expect_own_name("deleted name", old, name);
	expect_own_name("new name", new, name);
	expect_own_name("name in a directory that is gone", inside, deep);
	int late = expect_success(socket(AF_UNIX, SOCK_STREAM, 0));
	expect_connected(late, name);
	fcntl(old, F_SETFL, O_NONBLOCK);
	expect_error("nobody comes by the deleted file", EAGAIN, accept(old, NULL, NULL));
	expect_success(accept(new, NULL, NULL));
	expect_error("the deleted file", ENOENT, access("lost", F_OK));
	if (near >= 0)
		expect_own_name("relative name", near, relative);
	int accepted = expect_success(accept(gone, NULL, NULL));
	expect_put("one that waited", waiting, "x");
	expect_get("one that waited", accepted, "x");
	victim_ok();
}
