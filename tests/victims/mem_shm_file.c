/*
 * Files in shared memory (/dev/shm), and files mapped shared and writable, come back as they were saved: when the job has written
 * on after its checkpoint, grown them, or deleted them. With a number as argument the victim writes on while it waits.
 */
#include "victim.h"

enum { LENGTH = 8 * 4096 };

static char *names[4], *views[4];
static int files[4];

static void clean_up(void)
{
	for (int index = 0; index < 4; index++)
		unlink(names[index]);
}

int main(int count, char **arguments)
{
	bool writes_on = count > 1 && strcmp(arguments[1], "writes_on") == 0;
	struct stat memory;
	if (stat("/dev/shm", &memory) != 0 || access("/dev/shm", W_OK) != 0)
		skip("no /dev/shm");
	for (int index = 0; index < 4; index++) {
		char name[64];
		snprintf(name, sizeof name, "%s-%d-%d", index < 3 ? "/dev/shm/cryonaut-victim" : "victim", getpid(), index);
		names[index] = strdup(name);
		files[index] = must(open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
		must(ftruncate(files[index], LENGTH));
		views[index] = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, files[index], 0);
		if (views[index] == MAP_FAILED)
			broken("mmap: %s", strerror(errno));
		fill_pattern(views[index], LENGTH, (uint64_t)index);
	}
	must(munmap(views[1], LENGTH));
	must(close(files[2]));
	must(lseek(files[1], 100, SEEK_SET));
	victim_ready();
	/* What is done here is not in the image, or is in it when it is made later: either way all four files agree. */
	uint64_t round = 0;
	while (!victim_may_go()) {
		victim_nap(500);
		if (!writes_on)
			continue;
		round++;
		for (int index = 0; index < 4; index++) {
			if (index == 1)
				must(pwrite(files[1], &round, sizeof round, 0));
			else
				memcpy(views[index], &round, sizeof round);
		}
	}
	char found[LENGTH];
	uint64_t words[4];
	for (int index = 0; index < 4; index++) {
		int again = expect_success(open(names[index], O_RDWR));
		struct stat there, here;
		expect_success(fstat(again, &there));
		if (index != 2) {
			expect_success(fstat(files[index], &here));
			expect_equal("the file is that of the name", there.st_ino, here.st_ino);
		}
		expect_equal("mode", S_IFREG | 0600, there.st_mode);
		expect_equal("size", LENGTH, there.st_size);
		expect_equal("bytes", LENGTH, pread(again, found, LENGTH, 0));
		memcpy(&words[index], found, sizeof words[index]);
		uint64_t first = pattern_word((uint64_t)index, 0);
		memcpy(found, writes_on ? (const void *)&first : (const void *)found, sizeof first);
		check_pattern("content", found, LENGTH, (uint64_t)index);
		if (writes_on)
			expect_equal("round", round, words[index]);
		if (index != 1) {
			expect_success(pwrite(again, "Q", 1, 5));
			expect_equal("written to the file, seen in the mapping", 'Q', views[index][5]);
		}
		close(again);
	}
	expect_equal("offset", 100, lseek(files[1], 0, SEEK_CUR));
	clean_up();
	victim_ok();
}
