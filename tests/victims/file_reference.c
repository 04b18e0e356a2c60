/*
 * Files by reference: one read, one appended to, one mapped, a directory, and a library, in a directory of their own. Between
 * READY and the go file the test may change, move or replace them; the program goes on with what a restart gave it.
 *
 * Without arguments it makes the directory itself. Arguments: the directory, and a library with a function answer().
 */
#include "victim.h"

#include <dlfcn.h>

enum { DATA = 2 * 4096 };

static void write_file(const char *name, const void *content, size_t length)
{
	int file = must(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644));
	expect_equal("bytes written", length, write(file, content, length));
	close(file);
}

int main(int argc, char **argv)
{
	const char *directory = argc > 1 ? argv[1] : "place";
	char content[DATA], text[64];
	int (*answer)(void) = NULL;
	if (argc > 2) {
		void *library = dlopen(argv[2], RTLD_NOW);
		if (library == NULL)
			broken("%s", dlerror());
		answer = (int (*)(void))dlsym(library, "answer");
	}
	if (argc < 2)
		must(mkdir(directory, 0755));
	must(chdir(directory));
	fill_pattern(content, sizeof content, 3);
	write_file("input", "0123456789\n", 11);
	write_file("data", content, sizeof content);

	int input = must(open("input", O_RDONLY));
	int log = must(open("log", O_WRONLY | O_CREAT | O_APPEND, 0644));
	int place = must(open(".", O_RDONLY | O_DIRECTORY));
	int data = must(open("data", O_RDONLY));
	char *mapped = must(mmap(NULL, sizeof content, PROT_READ, MAP_PRIVATE, data, 0));
	close(data);
	expect_equal("bytes read", 3, read(input, text, 3));
	expect_equal("bytes appended", 7, write(log, "before\n", 7));

	victim_ready();
	victim_wait();

	expect_equal("bytes left", 8, read(input, text, 8));
	expect_true(memcmp(text, "3456789\n", 8) == 0);
	expect_true(memcmp(mapped, content, sizeof content) == 0);
	expect_equal("bytes appended", 6, write(log, "after\n", 6));
	if (answer != NULL)
		expect_equal("the library's answer", 42, answer());
	struct stat here, there;
	expect_success(stat(".", &here));
	expect_success(fstat(place, &there));
	expect_equal("inode of the directory", here.st_ino, there.st_ino);
	victim_ok();
}
