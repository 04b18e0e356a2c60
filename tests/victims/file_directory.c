/* Open directories: reading goes on where it was, names are found relative to them. */
#include "victim.h"
#include <dirent.h>

int main(void)
{
	char name[32];
	must(mkdir("dir", 0700));
	must(mkdir("dir/inner", 0700));
	for (int index = 0; index < 200; index++) {
		snprintf(name, sizeof name, "dir/entry%03d", index);
		close(must(open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
	}
	DIR *reading = opendir("dir");
	int handle = must(open("dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), path = must(open("dir/inner", O_PATH));
	if (reading == NULL)
		broken("opendir: %s", strerror(errno));
	bool seen[200] = {false};
	int found = 0, index;
	for (struct dirent *entry; found < 50 && (entry = readdir(reading)) != NULL;)
		if (sscanf(entry->d_name, "entry%d", &index) == 1) {
			seen[index] = true;
			found++;
		}

	victim_ready();
	victim_wait();

	for (struct dirent *entry; (entry = readdir(reading)) != NULL;)
		if (sscanf(entry->d_name, "entry%d", &index) == 1) {
			if (seen[index])
				wrong("entry %d was read twice", index);
			seen[index] = true;
			found++;
		}
	expect_equal("entries read", 200, found);
	close(expect_success(openat(handle, "entry007", O_RDONLY)));
	expect_success(unlinkat(handle, "entry008", 0));
	close(expect_success(openat(path, "new", O_WRONLY | O_CREAT, 0600)));
	expect_success(access("dir/inner/new", F_OK));
	expect_success(fchdir(handle));
	expect_success(access("entry009", F_OK));
	victim_ok();
}
