/* The user who logged in, as audit has it: one whom the process cannot name otherwise, set where nobody has logged in yet. */
#include "victim.h"

static const char nobody[] = "4294967295";

static const char *login(void)
{
	static char text[32];
	read_text("/proc/self/loginuid", text, sizeof text);
	return text;
}

int main(void)
{
	char before[32];
	if (access("/proc/self/loginuid", F_OK) != 0)
		skip("this kernel has no audit");
	if (strcmp(login(), nobody) == 0) {
		int file = must(open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC));
		/* In a user namespace there may be nobody but oneself. */
		if (write(file, "54321", 5) != 5)
			must(dprintf(file, "%u", geteuid()));
		close(file);
	}
	strcpy(before, login());
	if (strcmp(before, nobody) == 0)
		broken("nobody has logged in");

	victim_ready();
	victim_wait();

	/* In a user namespace of its own a restarted job may not name others: then it is that of the restart. */
	if (geteuid() == 0 || strcmp(login(), nobody) != 0)
		expect_text("login user", before, login());
	victim_ok();
}
