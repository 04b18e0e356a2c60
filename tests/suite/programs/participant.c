/* Takes part in its own checkpoints by libcryo, in the way that its first argument says. What it is told goes to standard output,
 * a line each; it says READY when all is prepared, and ends when VICTIM_GO is there. */
#define _GNU_SOURCE
#include <cryo.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const WORDS[] = {"", "checkpoint", "continue", "restart", "abandoned"};

/* One write: callbacks of several threads and processes write into one file. */
static void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

static void expect(int good, const char *what) {
    if (!good) {
        say("WRONG %s (errno %d)\n", what, errno);
        _exit(1);
    }
}

static int fails_with(int error, int result) { return result == -1 && errno == error; }

static int exists(const char *path) { return path != NULL && access(path, F_OK) == 0; }

static void wait_for_go(void) {
    while (!exists(getenv("VICTIM_GO")))
        usleep(5000);
}

static int tell(int event, void *name) {
    say("%s %s\n", (const char *)name, WORDS[event]);
    return CRYO_READY;
}

static int registered(const char *name, cryo_callback callback, int context) {
    int number = cryo_register(name, callback, (void *)name, context);
    expect(number >= 0, name);
    return number;
}

static void *other_thread(void *prepared) {
    registered("other-first", tell, CRYO_IN_SIGNAL);
    registered("other-second", tell, CRYO_IN_SIGNAL);
    sem_post(prepared);
    wait_for_go();
    return NULL;
}

/* Two callbacks in the library's thread, one in this thread, two in another. */
static void order(void) {
    pthread_t thread;
    sem_t prepared;
    registered("first", tell, CRYO_IN_THREAD);
    registered("second", tell, CRYO_IN_THREAD);
    int gone = registered("gone", tell, CRYO_IN_THREAD);
    expect(cryo_unregister(gone) == 0, "cryo_unregister");
    expect(fails_with(ENOENT, cryo_unregister(gone)), "a callback that is not there any more");
    registered("main", tell, CRYO_IN_SIGNAL);
    sem_init(&prepared, 0, 0);
    pthread_create(&thread, NULL, other_thread, &prepared);
    sem_wait(&prepared);
    say("READY\n");
    wait_for_go();
    pthread_join(thread, NULL);
}

static int answer;

static int refuse(int event, void *name) {
    say("%s %s\n", (const char *)name, WORDS[event]);
    if (event == CRYO_CHECKPOINT)
        expect(cryo_reason("a half-written\nfile") == 0, "cryo_reason");
    return answer;
}

static void refuses(int with) {
    answer = with;
    registered("never-reached", tell, CRYO_IN_THREAD);
    registered("refuser", refuse, CRYO_IN_THREAD);
    registered("told-before", tell, CRYO_IN_THREAD);
    say("READY\n");
    wait_for_go();
}

static int hang(int event, void *name) {
    say("%s %s\n", (const char *)name, WORDS[event]);
    if (event == CRYO_CHECKPOINT)
        wait_for_go();
    return CRYO_READY;
}

/* Until there is a file of the name "release". */
static int hold(int event, void *name) {
    say("%s %s\n", (const char *)name, WORDS[event]);
    while (event == CRYO_CHECKPOINT && !exists("release"))
        usleep(5000);
    return CRYO_READY;
}

static int crash(int event, void *name) {
    if (event == CRYO_CHECKPOINT)
        abort();
    return tell(event, name);
}

/* What a program had better not do in a callback. */
static int ends(int event, void *name) {
    tell(event, name);
    exit(0);
}

static int becomes_another(int event, void *name) {
    tell(event, name);
    execlp("sleep", "sleep", "1000", (char *)NULL);
    return CRYO_READY;
}

static pid_t born;

static int bears(int event, void *name) {
    tell(event, name);
    if (event == CRYO_CHECKPOINT && born == 0) {
        born = fork();
        if (born == 0) {
            /* It has no thread but this one, and takes part only if it wants to. */
            registered("born", tell, CRYO_IN_THREAD);
            say("born\n");
            wait_for_go();
            _exit(cryo_generation());
        }
        while (!exists("go-on"))
            usleep(5000);
    }
    return CRYO_READY;
}

static void bears_a_child(void) {
    int status = -1;
    registered("bears", bears, CRYO_IN_THREAD);
    say("READY\n");
    wait_for_go();
    expect(cryo_enter() == 0 && cryo_leave() == 0, "the end of callbacks");
    expect(waitpid(born, &status, 0) == born, "a child that was born in a callback");
    say("the child ended with %d\n", WEXITSTATUS(status));
}

static int count(int event, void *name) {
    if (event == CRYO_RESTART)
        say("%s %d\n", (const char *)name, cryo_generation());
    return CRYO_READY;
}

/* Two descriptors of an epoll set, of which one is opened again by the program. */
static void watched(void) {
    int kept[2], marked[2];
    expect(pipe(kept) == 0 && pipe(marked) == 0, "pipe");
    int set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    event.data.fd = kept[0];
    expect(epoll_ctl(set, EPOLL_CTL_ADD, kept[0], &event) == 0, "epoll_ctl");
    event.data.fd = marked[0];
    expect(epoll_ctl(set, EPOLL_CTL_ADD, marked[0], &event) == 0, "epoll_ctl");
    expect(cryo_reopen(marked[0]) == 0 && cryo_reopen(marked[1]) == 0, "cryo_reopen");
    expect(write(kept[1], "x", 1) == 1 && write(marked[1], "x", 1) == 1, "write");
    say("READY\n");
    wait_for_go();
    int restarted = cryo_generation() > 0;
    if (restarted) {
        expect(fcntl(marked[0], F_GETFD) < 0 && fcntl(marked[1], F_GETFD) < 0, "what was marked is closed");
        expect(pipe(marked) == 0 && epoll_ctl(set, EPOLL_CTL_ADD, marked[0], &event) == 0, "opening it again");
    }
    struct epoll_event found[4];
    int ready = epoll_wait(set, found, 4, 0);
    expect(ready == (restarted ? 1 : 2), "epoll_wait");
    say("%d watched\n", ready);
}

/* Asks for checkpoints of itself all the time. */
static void always(const char *image) {
    int made = 0, refused = 0;
    registered("first", count, CRYO_IN_THREAD);
    say("READY\n");
    while (!exists(getenv("VICTIM_GO"))) {
        int life = cryo_checkpoint(image);
        made += life >= 0;
        refused += life < 0 && errno == ECANCELED;
        expect(life >= 0 || errno == ECANCELED || errno == EIO, "cryo_checkpoint");
    }
    say("%s\n", made > 0 ? "some were made" : "none was made");
}

static int leave_out(int event, void *name) {
    tell(event, name);
    return CRYO_LEAVE_OUT;
}

static int misuse(int event, void *name) {
    expect(fails_with(EBUSY, cryo_register("x", tell, "x", CRYO_IN_THREAD)), "registering in a callback");
    expect(fails_with(EBUSY, cryo_unregister(0)), "unregistering in a callback");
    expect(fails_with(EBUSY, cryo_checkpoint("nowhere")), "a checkpoint in a callback");
    expect(cryo_enter() == 0 && cryo_try_enter() == 1 && cryo_leave() == 0 && cryo_leave() == 0, "sections in a callback");
    return tell(event, name);
}

/* Every function with what it must not be given. */
static void bad_calls(void) {
    char room[8];
    expect(fails_with(EINVAL, cryo_register(NULL, tell, NULL, CRYO_IN_THREAD)), "no name");
    expect(fails_with(EINVAL, cryo_register("x", NULL, NULL, CRYO_IN_THREAD)), "no function");
    expect(fails_with(EINVAL, cryo_register("x", tell, NULL, 0)), "context 0");
    expect(fails_with(EINVAL, cryo_register("x", tell, NULL, 3)), "context 3");
    expect(fails_with(EINVAL, cryo_unregister(-1)), "registration -1");
    expect(fails_with(ENOENT, cryo_unregister(4711)), "registration 4711");
    expect(fails_with(ENOENT, cryo_unregister(4712)), "registration 4712");
    expect(fails_with(EINVAL, cryo_reason(NULL)), "no reason");
    expect(fails_with(EPERM, cryo_reason("x")), "a reason outside of callbacks");
    expect(fails_with(EPERM, cryo_leave()), "leaving what was not entered");
    expect(cryo_enter() == 0 && cryo_try_enter() == 1, "entering twice");
    expect(fails_with(EDEADLK, cryo_checkpoint("nowhere")), "a checkpoint in a section");
    expect(cryo_leave() == 0 && cryo_leave() == 0, "leaving twice");
    expect(fails_with(EPERM, cryo_leave()), "leaving three times");
    expect(fails_with(EINVAL, cryo_exclude(NULL, 0)), "an empty range");
    expect(fails_with(EINVAL, cryo_exclude((void *)8, 4096)), "no whole page");
    expect(fails_with(EINVAL, cryo_exclude((void *)-4096, 8192)), "a range round the end");
    expect(fails_with(ENOENT, cryo_include((void *)4096, 4096)), "what was not excluded");
    static char pages[3 * 4096];
    expect(cryo_exclude(pages, sizeof pages) == 0 && cryo_exclude(pages, sizeof pages) == 0, "a range twice");
    expect(cryo_include(pages, sizeof pages) == 0, "the range taken back");
    expect(fails_with(ENOENT, cryo_include(pages, sizeof pages)), "the range taken back twice");
    expect(cryo_enter() == 0, "entering before a fork");
    pid_t child = fork();
    if (child == 0) {
        int first = cryo_leave(), second = cryo_leave();
        _exit(first == 0 && second == -1 && cryo_enter() == 0 && cryo_leave() == 0 ? 0 : 1);
    }
    int status = -1;
    expect(waitpid(child, &status, 0) == child && status == 0, "a child of a section");
    expect(cryo_leave() == 0, "leaving after a fork");
    expect(fails_with(EBADF, cryo_reopen(-1)) && fails_with(EBADF, cryo_keep(-1)), "descriptor -1");
    expect(fails_with(ENOENT, cryo_keep(5)), "what was not marked");
    expect(cryo_reopen(5) == 0 && cryo_reopen(5) == 0 && cryo_keep(5) == 0, "a mark set twice");
    expect(fails_with(ENOENT, cryo_keep(5)), "a mark taken back twice");
    expect(fails_with(EINVAL, cryo_checkpoint(NULL)) && fails_with(EINVAL, cryo_checkpoint("")), "no path");
    setenv("CRYO_COMMAND", "/nowhere/cryo", 1);
    expect(fails_with(ENOENT, cryo_checkpoint("nowhere")), "no cryo");
    unsetenv("CRYO_JOB");
    expect(cryo_job(room, sizeof room) == 0 && cryo_generation() == 0, "no job");
    setenv("CRYO_JOB", "a-long-name", 1);
    expect(cryo_job(room, sizeof room) == 11 && strcmp(room, "a-long-") == 0 && cryo_job(NULL, 0) == 11, "a job");
    int all = 0;
    for (int descriptor = 0; descriptor < 1100; descriptor++)
        all += cryo_reopen(descriptor) == 0;
    expect(all == 1024 && errno == ENOSPC, "a full table");
    say("END\n");
    _exit(0);
}

/* A child of one that takes part does not, and another that begins to itself does. */
static void forks(void) {
    registered("parent", tell, CRYO_IN_THREAD);
    pid_t silent = fork();
    if (silent == 0) {
        wait_for_go();
        _exit(0);
    }
    pid_t own = fork();
    if (own == 0) {
        registered("child", tell, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
        _exit(0);
    }
    int status;
    wait_for_go();
    expect(waitpid(silent, &status, 0) == silent && status == 0, "the silent child");
    expect(waitpid(own, &status, 0) == own && status == 0, "the other child");
}

static void leaves_out(void) {
    registered("parent", tell, CRYO_IN_THREAD);
    pid_t child = fork();
    if (child == 0) {
        registered("child", leave_out, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
        _exit(0);
    }
    wait_for_go();
    int status, gone = waitpid(child, &status, 0) == -1 && errno == ECHILD;
    say(gone ? "without child\n" : "with child\n");
}

static volatile unsigned long steps;

static int even(int event, void *name) {
    if (event == CRYO_CHECKPOINT)
        expect(steps % 2 == 0, "a checkpoint in a critical section");
    return tell(event, name);
}

/* In and out of critical sections, very often, with a number that is odd while in one. */
static void sections(void) {
    registered("first", even, CRYO_IN_THREAD);
    say("READY\n");
    while (!exists(getenv("VICTIM_GO")))
        for (int round = 0; round < 1000; round++) {
            expect(cryo_enter() == 0, "cryo_enter");
            steps++;
            steps++;
            expect(cryo_leave() == 0, "cryo_leave");
        }
    expect(steps % 2 == 0, "a number");
}

/* Writes to its own board what the library never would: whoever reads it must not be harmed. */
static void lies(void) {
    registered("first", tell, CRYO_IN_THREAD);
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096], rights[5], *board = NULL;
    unsigned long start, end;
    while (!board && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && end - start == 12288 && strcmp(rights, "rw-p") == 0 &&
            memcmp((void *)start, "CRYONAUT board 1", 16) == 0)
            board = (char *)start;
    expect(board != NULL, "a board");
    fclose(maps);
    unsigned long ranges[][2] = {
        {(unsigned long)board + 16, 0x123}, {1, -2UL}, {-4097UL, 4096}, {0x1001, 0x7fffffffffff}, {(unsigned long)board, 12288},
    };
    memcpy(board + 4096, ranges, sizeof ranges);
    say("READY\n");
    wait_for_go();
}

static void stays_in_section(void) {
    registered("first", tell, CRYO_IN_THREAD);
    cryo_enter();
    say("READY\n");
    wait_for_go();
    cryo_leave();
}

/* Descriptors that cannot be saved, one of them marked or not; and memory of which a part is left out. */
static void marks(int marked) {
    size_t page = 4096;
    int fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    expect(fault >= 0, "userfaultfd");
    int twin = fcntl(1, F_DUPFD, 50);
    unsigned char *memory = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 7, 8 * page);
    expect(cryo_exclude(memory + 2 * page - 100, 3 * page) == 0, "cryo_exclude");
    expect(cryo_exclude(memory + 6 * page, page) == 0 && cryo_include(memory + 6 * page, page) == 0, "cryo_include");
    if (marked)
        expect(cryo_reopen(fault) == 0 && cryo_reopen(twin) == 0, "cryo_reopen");
    int ready[2];
    expect(pipe(ready) == 0, "pipe");
    pid_t child = fork();
    if (child == 0) {
        /* What its parent left out is its own. */
        close(fault);
        close(ready[0]);
        close(ready[1]);
        wait_for_go();
        for (size_t at = 0; at < 8 * page; at++)
            expect(memory[at] == 7, "the child's memory");
        _exit(fcntl(twin, F_GETFD) < 0);
    }
    char none;
    close(ready[1]);
    expect(read(ready[0], &none, 1) == 0, "the child's descriptors");
    close(ready[0]);
    say("READY\n");
    wait_for_go();
    for (size_t at = 0; at < 8 * page; at++) {
        int out = cryo_generation() > 0 && at >= 2 * page && at < 4 * page;
        expect(memory[at] == (out ? 0 : 7), "memory");
    }
    int closed = cryo_generation() > 0;
    expect((fcntl(fault, F_GETFD) < 0) == closed && (fcntl(twin, F_GETFD) < 0) == closed, "descriptors");
    int status;
    expect(waitpid(child, &status, 0) == child && status == 0, "the child");
}

/* Has itself checkpointed, by the command that the environment names. */
static void by_itself(const char *image) {
    registered("first", tell, CRYO_IN_THREAD);
    int life = cryo_checkpoint(image);
    expect(life >= 0, "cryo_checkpoint");
    say("life %d generation %d\n", life, cryo_generation());
    say("READY\n");
    wait_for_go();
}

int main(int number, char **arguments) {
    const char *what = number > 1 ? arguments[1] : "";
    if (strcmp(what, "order") == 0)
        order();
    else if (strcmp(what, "hold") == 0) {
        registered("hold", hold, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "later") == 0)
        refuses(CRYO_LATER);
    else if (strcmp(what, "never") == 0)
        refuses(CRYO_NEVER);
    else if (strcmp(what, "hang") == 0 || strcmp(what, "crash") == 0 || strcmp(what, "misuse") == 0) {
        registered("first", tell, CRYO_IN_THREAD);
        registered(what, what[0] == 'h' ? hang : what[0] == 'c' ? crash : misuse, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "hang-in-signal") == 0) {
        registered("first", tell, CRYO_IN_THREAD);
        registered("hang", hang, CRYO_IN_SIGNAL);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "bad-calls") == 0)
        bad_calls();
    else if (strcmp(what, "fork") == 0)
        forks();
    else if (strcmp(what, "leave-out") == 0)
        leaves_out();
    else if (strcmp(what, "sections") == 0)
        sections();
    else if (strcmp(what, "lies") == 0)
        lies();
    else if (strcmp(what, "stay") == 0)
        stays_in_section();
    else if (strcmp(what, "marked") == 0)
        marks(1);
    else if (strcmp(what, "unmarked") == 0)
        marks(0);
    else if (strcmp(what, "exit") == 0 || strcmp(what, "exec") == 0) {
        registered("first", tell, CRYO_IN_THREAD);
        registered(what, strcmp(what, "exit") == 0 ? ends : becomes_another, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "bear") == 0)
        bears_a_child();
    else if (strcmp(what, "generations") == 0) {
        registered("life", count, CRYO_IN_THREAD);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "watched") == 0)
        watched();
    else if (strcmp(what, "always") == 0 && number > 2)
        always(arguments[2]);
    else if (strcmp(what, "itself") == 0 && number > 2)
        by_itself(arguments[2]);
    else
        return 2;
    say("END %d\n", cryo_generation());
    return 0;
}
