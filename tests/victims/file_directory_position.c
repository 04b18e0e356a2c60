/* A directory that is being read: what comes next is what would have come, though entries have gone and come meanwhile. */
#include "victim.h"
#include <dirent.h>

enum { ENTRIES = 300, READ = 40 };

static bool seen[ENTRIES];

/* Reads a few entries; marks them as seen, each once. */
static long read_some(int directory)
{
	char entries[256];
	long got = expect_success(syscall(SYS_getdents64, directory, entries, sizeof entries));
	for (long at = 0; at < got; at += ((struct dirent64 *)(entries + at))->d_reclen) {
		int number;
		if (sscanf(((struct dirent64 *)(entries + at))->d_name, "entry-%d", &number) != 1 || number >= ENTRIES)
			continue;
		if (seen[number])
			wrong("entry %d came twice", number);
		seen[number] = true;
	}
	return got;
}

static void entry_path(char *path, size_t size, int number)
{
	snprintf(path, size, "directory/entry-%d", number);
}

int main(void)
{
	char path[64];
	must(mkdir("directory", 0700) == 0 || errno == EEXIST ? 0 : -1);
	for (int number = 0; number < ENTRIES; number++) {
		entry_path(path, sizeof path, number);
		close(must(open(path, O_WRONLY | O_CREAT, 0600)));
	}
	int directory = must(open("directory", O_RDONLY | O_DIRECTORY));
	for (int round = 0; round < READ / 8; round++)
		must(read_some(directory));
	/* One that was read already, and one that was not. */
	int gone = 0;
	while (seen[gone])
		gone++;
	entry_path(path, sizeof path, gone);
	must(unlink(path));
	int read = 0;
	while (!seen[read])
		read++;
	entry_path(path, sizeof path, read);
	must(unlink(path));

	victim_ready();
	victim_wait();

	int after = 0;
	while (seen[after] || after == gone)
		after++;
	entry_path(path, sizeof path, after);
	expect_success(unlink(path));
	while (read_some(directory) > 0)
		;
	for (int number = 0; number < ENTRIES; number++)
		if (!seen[number] && number != gone && number != after)
			wrong("entry %d never came", number);
	expect_equal("an entry that was removed before", false, seen[gone]);
	victim_ok();
}
