/* What it costs a program to be linked with libcryo and to use it where no cryo comes. Writes one number: nanoseconds of processor time,
 * which other work on the machine makes no longer.
 *
 *   start      until main() begins and ends, nothing being called
 *   work       a fixed computation
 *   callback   the same, with a callback registered
 *   sections   the same, each thousand of its steps in a critical section
 *   section    a critical section, of a thread that is alone
 *   mutex      a mutex of pthreads locked and unlocked by such a thread, to compare with
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef LINKED
#include <cryo.h>

static int ready(int event, void *nothing) {
    (void)event;
    (void)nothing;
    return CRYO_READY;
}
#endif

enum { ROUNDS = 100000, STEPS = 1000, PAIRS = 10000000 };

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static volatile uint64_t result;

static void steps(void) {
    uint64_t value = result;
    for (int step = 0; step < STEPS; step++)
        value = (value ^ (uint64_t)step) * 0x9e3779b97f4a7c15u;
    result = value;
}

static void work(void) {
    for (int round = 0; round < ROUNDS; round++)
        steps();
}

#ifdef LINKED
static int with_library(const char *what) {
    if (strcmp(what, "callback") == 0) {
        if (cryo_register("ready", ready, NULL, CRYO_IN_THREAD) < 0)
            return 1;
        work();
    } else if (strcmp(what, "sections") == 0) {
        for (int round = 0; round < ROUNDS; round++) {
            cryo_enter();
            steps();
            cryo_leave();
        }
    } else if (strcmp(what, "section") == 0) {
        for (int pair = 0; pair < PAIRS; pair++) {
            cryo_enter();
            cryo_leave();
        }
    } else
        return 1;
    return 0;
}
#endif

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "start";
    double parts = 1;
    if (strcmp(what, "start") == 0) {
        printf("%.3f\n", now(CLOCK_PROCESS_CPUTIME_ID));
        return 0;
    }
#ifdef LINKED
    /* The first call begins to take part. */
    if (strncmp(what, "section", 7) == 0 && (cryo_enter() != 0 || cryo_leave() != 0))
        return 1;
#endif
    double begin = now(CLOCK_THREAD_CPUTIME_ID);
    if (strcmp(what, "work") == 0)
        work();
    else if (strcmp(what, "mutex") == 0) {
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        for (int pair = 0; pair < PAIRS; pair++) {
            pthread_mutex_lock(&mutex);
            pthread_mutex_unlock(&mutex);
        }
    } else {
#ifdef LINKED
        if (with_library(what) != 0)
            return 1;
#else
        return 1;
#endif
    }
    if (strcmp(what, "section") == 0 || strcmp(what, "mutex") == 0)
        parts = PAIRS;
    printf("%.3f\n", (now(CLOCK_THREAD_CPUTIME_ID) - begin) / parts);
    return 0;
}
