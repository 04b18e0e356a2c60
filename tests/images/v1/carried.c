/* One process whose program, and a file that it has open, are in the image: they may be gone. */
#include "bare.h"

static unsigned long words[64];

static void expect_rest(long note, const char *rest)
{
	char found[16];
	long length = call(READ, note, (long)found, sizeof found, 0, 0);
	for (long place = 0; place < length; place++)
		expect(found[place] == rest[place], "the note changed");
	expect(length > 0 && rest[length] == '\0', "the note has another length");
}

static void begin(void)
{
	char first;
	fill(words, 64, 0);
	long note = call(OPEN, (long)"note", 0, 0, 0, 0);
	expect(note >= 0 && call(READ, note, (long)&first, 1, 0, 0) == 1 && first == 'c', "no note");
	say("READY\n");
	await_go();
	expect(is_filled(words, 64, 0), "memory changed");
	expect_rest(note, "arried\n");
	note = call(OPEN, (long)"note", 0, 0, 0, 0);
	expect(note >= 0, "the note cannot be opened again");
	expect_rest(note, "carried\n");
	expect(call(ACCESS, (long)"carried", 1, 0, 0, 0) == 0, "the program cannot be found");
	say("OK\n");
	for (;;)
		call(EXIT_GROUP, 0, 0, 0, 0, 0);
}
