/*
 * Files that travel in an image: a program, a library that is linked in, one that is loaded later, a file that is read, one that
 * is written, a directory that it works in. Between READY and the go file the test may take all of them away or put others in
 * their places; the program goes on with what it had, and in the end executes itself again by its path.
 *
 * Arguments: the directory with all of this, and one outside of it that stays.
 */
#include "victim.h"

#include <dlfcn.h>
#include <limits.h>

static int answer_of(const char *path)
{
	void *library = dlopen(path, RTLD_NOW);
	if (library == NULL)
		wrong("%s", dlerror());
	int (*answer)(void) = (int (*)(void))dlsym(library, "answer");
	expect_true(answer != NULL);
	return answer();
}

static void expect_content(const char *path, const char *content)
{
	char found[64];
	int file = must(open(path, O_RDONLY));
	ssize_t length = must(read(file, found, sizeof found));
	expect_equal("length", strlen(content), length);
	expect_true(memcmp(found, content, strlen(content)) == 0);
	close(file);
}

int main(int argc, char **argv)
{
	char program[PATH_MAX + 16], outside[PATH_MAX + 16];
	if (argc == 2 && strcmp(argv[1], "again") == 0)
		victim_ok();
	if (argc != 3)
		broken("two arguments, please");
	must(chdir(argv[1]));
	expect_equal("answer", 42, answer_of("./libpart.so"));
	snprintf(program, sizeof program, "%s/program", argv[1]);
	snprintf(outside, sizeof outside, "%s/made", argv[2]);

	int data = must(open("data", O_RDONLY));
	int note = must(open("note", O_RDWR));
	char text[64];
	expect_equal("bytes read", 3, read(data, text, 3));
	expect_equal("bytes written", 4, write(note, "new ", 4));

	victim_ready();
	victim_wait();

	/* What was open, and the same by its name. */
	expect_equal("bytes left", 7, read(data, text, sizeof text));
	expect_true(memcmp(text, "3456789", 7) == 0);
	expect_content("data", "0123456789");
	expect_content("note", "new text");
	expect_content("alias", "0123456789");
	expect_equal("answer", 42, answer_of("./libpart.so"));
	expect_equal("answer", 43, answer_of("./liblater.so"));
	/* Writing to both, and to what is beside them. */
	expect_equal("bytes written", 4, write(note, "TEXT", 4));
	expect_content("note", "new TEXT");
	int again = must(open("data", O_WRONLY | O_TRUNC));
	expect_equal("bytes written", 5, write(again, "other", 5));
	close(again);
	expect_content("data", "other");
	int made = must(open("made", O_WRONLY | O_CREAT | O_EXCL, 0644));
	close(made);
	made = must(open(outside, O_WRONLY | O_CREAT | O_APPEND, 0644));
	expect_equal("bytes written", 8, write(made, "outside\n", 8));
	close(made);
	/* /proc shows the paths that everything had. */
	char shown[PATH_MAX], link[64], wanted[PATH_MAX + 16];
	snprintf(link, sizeof link, "/proc/self/fd/%d", note);
	shown[must(readlink(link, shown, sizeof shown - 1))] = 0;
	snprintf(wanted, sizeof wanted, "%s/note", argv[1]);
	expect_true(strcmp(shown, wanted) == 0);
	expect_true(getcwd(shown, sizeof shown) != NULL && strcmp(shown, argv[1]) == 0);
	execl(program, program, "again", (char *)NULL);
	wrong("executing %s again: %s", program, strerror(errno));
}
