/* Takes part by libcryo, and by libcr as a program for BLCR does; what either tells goes to standard output. */
#include <cryo.h>
#include <libcr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WORDS[] = {"", "checkpoint", "continue", "restart", "abandoned"};

static void say(const char *who, const char *what) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %s\n", who, what);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

static int by_libcryo(int event, void *nothing) {
    (void)nothing;
    say("libcryo", WORDS[event]);
    return CRYO_READY;
}

static int by_libcr(void *nothing) {
    (void)nothing;
    say("libcr", "checkpoint");
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    say("libcr", result == 0 ? "continue" : result > 0 ? "restart" : "abandoned");
    return 0;
}

int main(void) {
    if (cr_init() < 0 || cr_register_callback(by_libcr, NULL, CR_THREAD_CONTEXT) < 0 ||
        cryo_register("both", by_libcryo, NULL, CRYO_IN_THREAD) < 0)
        return 1;
    puts("READY");
    fflush(stdout);
    while (access(getenv("VICTIM_GO"), F_OK) != 0)
        usleep(5000);
    return 0;
}
