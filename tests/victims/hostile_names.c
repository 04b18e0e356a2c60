/*
 * Names that try to be something else: markup, terminal sequences, bytes that are no text; in names of processes and threads,
 * arguments, environment, and files. Three children, eight threads, a pipe with bytes in it, a FIFO.
 */
#include "victim.h"

static const char *const names[] = {"<script>a()", "\"><b onload=x", "evil\xff\x1b[2J", "&lt;&amp;'"};
static const char file_name[] = "<script>document.title='bad'<\\script>\x1b]0;bad\x07\xfe.txt";

static void *sit(void *name)
{
	must(prctl(PR_SET_NAME, name, 0, 0, 0));
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc == 1) {
		char *arguments[] = {argv[0], "</script><script>alert(1)</script>", "--\xc3\x28", NULL};
		must(setenv("EVIL", "<img src=x onerror=alert(1)>\xff", 1));
		must(execv("/proc/self/exe", arguments));
	}
	int ends[2], file = must(open(file_name, O_RDWR | O_CREAT, 0600));
	must(pipe(ends));
	expect_equal("bytes in flight", 5, write(ends[1], "hello", 5));
	must(mkfifo("fifo<&>", 0600));
	int fifo = must(open("fifo<&>", O_RDWR));
	for (int i = 0; i < 8; i++) {
		pthread_t thread;
		must_zero(pthread_create(&thread, NULL, sit, (void *)(uintptr_t)names[i % 4]));
	}
	struct arrivals arrivals = arrivals_open();
	pid_t children[3];
	for (int i = 0; i < 3; i++) {
		children[i] = must(fork());
		if (children[i] == 0) {
			must(prctl(PR_SET_NAME, names[i + 1], 0, 0, 0));
			arrive(&arrivals);
			victim_wait();
			char name[17] = "";
			expect_success(prctl(PR_GET_NAME, name, 0, 0, 0));
			expect_text("name of a child", names[i + 1], name);
			_exit(0);
		}
	}
	must(prctl(PR_SET_NAME, names[0], 0, 0, 0));
	await_arrivals(&arrivals, 3);

	victim_ready();
	victim_wait();

	char text[6] = "";
	expect_equal("bytes in the pipe", 5, read(ends[0], text, 5));
	expect_text("what is in it", "hello", text);
	expect_equal("written to the file", 2, write(file, "ok", 2));
	expect_equal("written to the FIFO", 2, write(fifo, "ok", 2));
	expect_success(access(file_name, F_OK));
	for (int i = 0; i < 3; i++)
		join_child(children[i]);
	char name[17] = "";
	expect_success(prctl(PR_GET_NAME, name, 0, 0, 0));
	expect_text("its name", names[0], name);
	victim_ok();
}
