/*
 * Two terminals of the same number: one in /dev/pts, one in another file system of terminals, which is mounted at the path that is
 * the argument. Each keeps its name, what waits in it, and its session.
 */
#include "pty.h"

struct side {
	struct pty pty;
	const char *typed, *printed;
	pid_t leader;
};

/* A terminal of the file system that is mounted here, unlocked and open on both sides. */
static struct pty open_in(const char *place, int number)
{
	char path[80];
	struct pty pty = {.number = -1};
	int off = 0, below[256], count = 0;
	snprintf(path, sizeof path, "%s/ptmx", place);
	if (strcmp(place, "/dev/pts") == 0)
		strcpy(path, "/dev/ptmx");
	for (;;) {
		pty.master = must(open(path, O_RDWR | O_NOCTTY));
		must(ioctl(pty.master, TIOCGPTN, &pty.number));
		if (number < 0 || pty.number >= number || count == 256)
			break;
		below[count++] = pty.master;
	}
	while (count > 0)
		close(below[--count]);
	must(ioctl(pty.master, TIOCSPTLCK, &off));
	snprintf(pty.name, sizeof pty.name, "%s/%d", place, pty.number);
	pty.slave = must(open(pty.name, O_RDWR | O_NOCTTY));
	return pty;
}

/* Leads a session on a terminal until the other end of this pipe is closed. */
static pid_t lead_session(struct side *side, struct arrivals *arrivals, const int hold[2])
{
	char byte;
	pid_t child = must(fork());
	if (child != 0)
		return child;
	must(close(hold[1]));
	must(setsid());
	must(ioctl(side->pty.slave, TIOCSCTTY, 0));
	arrive(arrivals);
	victim_wait();
	expect_equal("session of the terminal", getpid(), tcgetsid(side->pty.slave));
	expect_success(open("/dev/tty", O_RDWR));
	expect_equal("the end", 0, read(hold[0], &byte, 1));
	_exit(0);
}

static void check(struct side *side)
{
	char name[80] = "";
	int number = -1;
	pid_t session = 0;
	struct stat one, two;
	expect_success(ioctl(side->pty.master, TIOCGPTN, &number));
	expect_equal("number", side->pty.number, number);
	expect_equal("ttyname", 0, ttyname_r(side->pty.slave, name, sizeof name));
	expect_text("name", side->pty.name, name);
	expect_success(fstat(side->pty.slave, &one));
	expect_success(stat(side->pty.name, &two));
	expect_true(one.st_dev == two.st_dev && one.st_ino == two.st_ino);
	expect_success(ioctl(side->pty.master, TIOCGSID, &session));
	expect_equal("session, seen by the master", side->leader, session);
	pty_expect("typed", side->pty.slave, side->typed, strlen(side->typed));
	pty_expect("printed", side->pty.master, side->printed, strlen(side->printed));
}

int main(int argc, char **argv)
{
	struct arrivals arrivals = arrivals_open();
	int hold[2];
	must(pipe(hold));
	if (argc != 2)
		broken("one argument is needed");
	struct side usual = {.typed = "typed here\n", .printed = "printed here"},
		    other = {.typed = "typed elsewhere\n", .printed = "printed elsewhere"};
	usual.pty = open_in("/dev/pts", -1);
	other.pty = open_in(argv[1], usual.pty.number);
	if (other.pty.number != usual.pty.number)
		broken("the terminals have numbers %d and %d", usual.pty.number, other.pty.number);
	struct side *sides[] = {&usual, &other};
	for (int index = 0; index < 2; index++) {
		struct side *side = sides[index];
		struct termios settings;
		must(tcgetattr(side->pty.slave, &settings));
		settings.c_lflag &= ~(tcflag_t)ECHO;
		must(tcsetattr(side->pty.slave, TCSANOW, &settings));
		side->leader = lead_session(side, &arrivals, hold);
		pty_write(side->pty.master, side->typed, strlen(side->typed));
		pty_write(side->pty.slave, side->printed, strlen(side->printed));
		pty_await(side->pty.slave, (int)strlen(side->typed));
		pty_await(side->pty.master, (int)strlen(side->printed));
	}
	await_arrivals(&arrivals, 2);

	victim_ready();
	victim_wait();

	for (int index = 0; index < 2; index++)
		check(sides[index]);
	close(hold[1]);
	for (int index = 0; index < 2; index++)
		join_child(sides[index]->leader);
	victim_ok();
}
