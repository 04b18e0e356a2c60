/* Device nodes and socket files that have no name any more: open ones work, named ones are what they were; nothing is left behind. */
#include "victim.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static void expect_node(const char *what, int file, mode_t mode, dev_t device)
{
	struct stat status;
	expect_success(fstat(file, &status));
	expect_equal(what, mode, status.st_mode);
	expect_equal(what, device, status.st_rdev);
	expect_equal(what, 0, status.st_nlink);
}

int main(void)
{
	char bytes[16];
	must(mkdir("nodes", 0700));
	/* The file of a socket that is gone. */
	int socket_of_it = must(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct sockaddr_un name = {AF_UNIX, "nodes/socket"};
	must(bind(socket_of_it, (struct sockaddr *)&name, sizeof name));
	must(chmod("nodes/socket", 0640));
	must(close(socket_of_it));
	int left = must(open("nodes/socket", O_PATH));
	must(unlink("nodes/socket"));
	/* Device nodes take privilege. */
	bool devices = mknod("nodes/null", S_IFCHR | 0600, makedev(1, 3)) == 0;
	int null = -1, zero = -1, again = -1, named = -1, disk = -1;
	if (devices) {
		must(chmod("nodes/null", 0604));
		null = must(open("nodes/null", O_WRONLY | O_APPEND));
		again = must(open("nodes/null", O_RDONLY | O_NONBLOCK));
		named = must(open("nodes/null", O_PATH));
		must(mknod("nodes/zero", S_IFCHR | 0600, makedev(1, 5)));
		zero = must(open("nodes/zero", O_RDWR | O_NOFOLLOW));
		must(mknod("nodes/disk", S_IFBLK | 0600, makedev(7, 250)));
		disk = must(open("nodes/disk", O_PATH));
		must(unlink("nodes/null"));
		must(unlink("nodes/zero"));
		must(unlink("nodes/disk"));
	}

	victim_ready();
	victim_wait();

	expect_node("socket file", left, S_IFSOCK | 0640, 0);
	if (devices) {
		expect_node("null", null, S_IFCHR | 0604, makedev(1, 3));
		expect_node("null that is named", named, S_IFCHR | 0604, makedev(1, 3));
		expect_node("zero", zero, S_IFCHR | 0600, makedev(1, 5));
		expect_node("disk", disk, S_IFBLK | 0600, makedev(7, 250));
		expect_equal("bytes to null", 8, write(null, bytes, 8));
		expect_equal("bytes from null", 0, read(again, bytes, 8));
		expect_equal("flags of null", O_WRONLY | O_APPEND, fcntl(null, F_GETFL) & (O_ACCMODE | O_APPEND));
		expect_equal("flags of the other", O_NONBLOCK, fcntl(again, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
		expect_equal("flags of the named one", O_PATH, fcntl(named, F_GETFL) & O_PATH);
		memset(bytes, 1, sizeof bytes);
		expect_equal("bytes from zero", 8, read(zero, bytes, 8));
		check_zeros("bytes of zero", bytes, 8);
		struct stat one, other;
		expect_success(fstat(null, &one));
		expect_success(fstat(again, &other));
		expect_equal("one node", one.st_ino, other.st_ino);
	}
	DIR *directory = opendir("nodes");
	if (directory == NULL)
		wrong("nodes: %s", strerror(errno));
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
		expect_true(entry->d_name[0] == '.');
	victim_ok();
}
