/* Seals of memory files: each of them, none, and a writable mapping from before F_SEAL_FUTURE_WRITE. */
#include "victim.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#define SEAL_EXEC 0x0020

static int make(const char *name, unsigned flags, int seals)
{
	int file = memfd_create(name, flags);
	if (file < 0 && errno == EINVAL)
		return -1;
	must(file);
	must(write(file, "content", 7));
	must(fcntl(file, F_ADD_SEALS, seals));
	return file;
}

int main(void)
{
	static const int seals[] = {0, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
				    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE};
	enum { COUNT = sizeof seals / sizeof *seals };
	int files[COUNT];
	char *views[COUNT], text[8];
	for (int index = 0; index < COUNT; index++) {
		files[index] = make("sealed", MFD_ALLOW_SEALING, seals[index]);
		views[index] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, files[index], 0);
		if (views[index] == MAP_FAILED)
			broken("mmap: %s", strerror(errno));
	}
	int future = must(memfd_create("future", MFD_ALLOW_SEALING));
	must(ftruncate(future, 4096));
	char *before = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
	must(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	char *after = mmap(NULL, 4096, PROT_READ, MAP_SHARED, future, 0);
	if (before == MAP_FAILED || after == MAP_FAILED)
		broken("mmap: %s", strerror(errno));
	int noexec = make("noexec", MFD_NOEXEC_SEAL, 0);

	victim_ready();
	victim_wait();

	for (int index = 0; index < COUNT; index++) {
		expect_equal("seals", seals[index], fcntl(files[index], F_GET_SEALS));
		expect_equal("content seen in a mapping", 0, memcmp(views[index], "content", 7));
		expect_equal("content", 7, pread(files[index], text, sizeof text, 0));
		bool writable = (seals[index] & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) == 0;
		expect_equal("writing", writable ? 1 : -1, pwrite(files[index], "C", 1, 0));
		bool grows = (seals[index] & F_SEAL_GROW) == 0;
		expect_equal("growing", grows ? 0 : -1, ftruncate(files[index], 5000));
		bool sealable = (seals[index] & F_SEAL_SEAL) == 0;
		expect_equal("sealing", sealable ? 0 : -1, fcntl(files[index], F_ADD_SEALS, F_SEAL_SHRINK));
	}
	expect_equal("seals", F_SEAL_FUTURE_WRITE, fcntl(future, F_GET_SEALS));
	memcpy(before, "written", 8);
	expect_text("seen in the later mapping", "written", after);
	expect_equal("the later mapping stays for reading", -1, mprotect(after, 4096, PROT_READ | PROT_WRITE));
	if (noexec >= 0) {
		expect_equal("seals of one that is not executable", SEAL_EXEC, fcntl(noexec, F_GET_SEALS));
		expect_equal("making it executable", -1, fchmod(noexec, 0777));
	}
	victim_ok();
}
