/*
 * The holder victim: memory of every kind that a suspension gives back, and a thread that counts.
 *
 *     holder MEBIBYTES [fork]
 *
 * Private memory of that size, half as much shared without a name, a file on tmpfs, a page that is locked. "fork" has a child
 * map the shared memory too. Every word is looked at when VICTIM_GO lets it go.
 */
#include "victim.h"
#include <sys/mman.h>
#include <sys/wait.h>

static atomic_long counted;

static void *count(void *nothing)
{
	(void)nothing;
	struct timespec moment = {.tv_nsec = 1000000};
	for (;;) {
		counted++;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
	}
	return NULL;
}

static void *map(size_t bytes, int flags, int fd)
{
	return must(mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0));
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 16) << 20;
	int file = memfd_create("holder", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, (off_t)size / 4) != 0)
		broken("memfd: %s", strerror(errno));
	uint64_t *own = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	uint64_t *shared = map(size / 2, MAP_SHARED | MAP_ANONYMOUS, -1);
	uint64_t *mapped = map(size / 4, MAP_SHARED, file);
	uint64_t *locked = map(4096, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill_pattern(shared, size / 2, 2);
	fill_pattern(mapped, size / 4, 3);
	fill_pattern(locked, 4096, 4);
	(void)mlock(locked, 4096);
	pid_t child = 0;
	if (argc > 2) {
		child = fork();
		if (child == 0) {
			check_pattern("the child's shared memory", shared, size / 2, 2);
			victim_wait();
			check_pattern("the child's shared memory", shared, size / 2, 2);
			_exit(0);
		}
	}
	fill_pattern(own, size, 1);
	pthread_t thread;
	if (pthread_create(&thread, NULL, count, NULL) != 0)
		broken("pthread_create");
	victim_ready();
	victim_wait();
	long before = counted;
	check_pattern("private memory", own, size, 1);
	check_pattern("shared memory", shared, size / 2, 2);
	check_pattern("the file", mapped, size / 4, 3);
	check_pattern("the locked page", locked, 4096, 4);
	while (counted < before + 3)
		usleep(1000);
	int status = 0;
	if (child != 0 && (waitpid(child, &status, 0) != child || status != 0))
		wrong("the child: status %d", status);
	victim_ok();
}
