/* A log that is appended to from two processes: no line is lost, none is there twice. */
#include "victim.h"

static void append(int file, char who, int number)
{
	char line[32];
	int length = snprintf(line, sizeof line, "%c %06d\n", who, number);
	expect_equal("bytes appended", length, write(file, line, (size_t)length));
}

int main(void)
{
	char line[64];
	int next[2] = {0, 0}, written = 0;
	int file = must(open("log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
	struct arrivals arrivals = arrivals_open();
	pid_t child = must(fork());
	if (child == 0) {
		arrive(&arrivals);
		for (int more = 20; more > 0; more -= victim_may_go(), written++) {
			append(file, 'b', written);
			victim_nap(500);
		}
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	victim_ready();
	for (int more = 20; more > 0; more -= victim_may_go(), written++) {
		append(file, 'a', written);
		victim_nap(500);
	}
	join_child(child);
	FILE *log = fopen("log", "re");
	while (fgets(line, sizeof line, log) != NULL) {
		char who;
		int number;
		if (sscanf(line, "%c %d", &who, &number) != 2 || (who != 'a' && who != 'b'))
			wrong("line of the log: \"%s\"", line);
		expect_equal("number of the next line", next[who - 'a']++, number);
	}
	expect_equal("lines of the parent", written, next[0]);
	victim_ok();
}
