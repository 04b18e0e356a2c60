/* A program without any C library: no thread-local storage, no rseq, no robust list. Built with -static -nostdlib. */

static long call(long number, long first, long second, long third)
{
	long value;
	__asm__ volatile("syscall" : "=a"(value) : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return value;
}

enum { WRITE = 1, ACCESS = 21, NANOSLEEP = 35, GETPID = 39, EXIT = 60 };

static void say(const char *text)
{
	long length = 0;
	while (text[length] != '\0')
		length++;
	call(WRITE, 1, (long)text, length);
}

static unsigned long words[4096] = {1};

/* The kernel's own stack layout at entry: count, arguments, 0, environment. */
__attribute__((used)) static void begin(long *stack)
{
	static const char wanted[] = "VICTIM_GO=";
	const char **environment = (const char **)stack + stack[0] + 2, *go = 0;
	long nap[2] = {0, 1000000}, process = call(GETPID, 0, 0, 0);
	for (; *environment != 0 && go == 0; environment++) {
		int place = 0;
		while (wanted[place] != '\0' && (*environment)[place] == wanted[place])
			place++;
		if (wanted[place] == '\0')
			go = *environment + place;
	}
	for (unsigned long place = 0; place < 4096; place++)
		words[place] = place * 0x9e3779b97f4a7c15u;
	say("READY\n");
	while (go != 0 && call(ACCESS, (long)go, 0, 0) != 0)
		if (call(NANOSLEEP, (long)nap, 0, 0) != 0) {
			say("WRONG: nanosleep failed\n");
			call(EXIT, 1, 0, 0);
		}
	for (unsigned long place = 0; place < 4096; place++)
		if (words[place] != place * 0x9e3779b97f4a7c15u) {
			say("WRONG: memory changed\n");
			call(EXIT, 1, 0, 0);
		}
	if (call(GETPID, 0, 0, 0) != process) {
		say("WRONG: process id changed\n");
		call(EXIT, 1, 0, 0);
	}
	say("OK\n");
	call(EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start: movq %rsp, %rdi\n andq $-16, %rsp\n call begin\n ud2\n");
