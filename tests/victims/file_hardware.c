/* A device whose state is not the program's: a checkpoint is refused, and the program still has it. */
#include "victim.h"

int main(int argc, char **argv)
{
	struct stat before, after;
	const char *path = argc > 1 ? argv[1] : "/dev/kmsg";
	int device = open(path, O_RDWR | O_NONBLOCK);
	if (device < 0)
		skip("%s: %s", path, strerror(errno));
	must(fstat(device, &before));

	victim_ready();
	victim_wait();

	expect_success(fstat(device, &after));
	expect_equal("device number", before.st_rdev, after.st_rdev);
	victim_ok();
}
