/* An MPI program that quiesces its communication for checkpoints: in each step every rank has a message on its way to the next one,
 * and whenever one of them is made, all ranks stand at the same step with nothing on its way.
 *
 *   mpicc -O2 -pthread ring.c -o ring $(pkg-config --cflags --libs libcryo)
 *   cryo run --name ring -- mpirun -np 4 ./ring 100000 &
 *   cryo checkpoint ring -o ring.cryo --grace 1m
 *
 * MPI is called by the main thread alone. The callback, in the library's thread, only says that a checkpoint is wanted, and waits. The
 * ranks are not told at the same instant, so that in each step they ask each other, by one small reduction, whether all of them were:
 * then all receive what is under way, give up the communicator that they talk over, meet, and let their callbacks answer. Afterwards,
 * in whichever life that is, they make a new one and go on.
 */
#include <cryo.h>
#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { LENGTH = 4096, PATIENCE = 60 /* seconds */ };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static enum { RUNNING, WANTED, QUIET, ENDED } state;
static int last_event;
static const char *const EVENTS[] = {"none", "checkpoint", "continue", "restart", "abandoned"};

static void enter(int next) {
    state = next;
    pthread_cond_broadcast(&changed);
}

/* In the library's thread: no MPI here. */
static int around_checkpoint(int event, void *nothing) {
    (void)nothing;
    int answer = CRYO_READY;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += PATIENCE;
    pthread_mutex_lock(&lock);
    if (event == CRYO_CHECKPOINT) {
        if (state != ENDED)
            enter(WANTED);
        int error = 0;
        while (state == WANTED && error != ETIMEDOUT)
            error = pthread_cond_timedwait(&changed, &lock, &limit);
        if (state != QUIET) {
            /* Another rank was not told, or is busy with something else: this one goes on. */
            cryo_reason(state == ENDED ? "it comes to its end" : "the ranks have not come to a step at which all are quiet");
            answer = CRYO_LATER;
            if (state == WANTED)
                enter(RUNNING);
        }
    } else if (state != ENDED) {
        last_event = event;
        enter(RUNNING);
    }
    pthread_mutex_unlock(&lock);
    return answer;
}

/* ---- The main thread ---------------------------------------------------------------------------------------------------------- */

static int rank, ranks;
static long sent, received;
static uint64_t digest;
static MPI_Comm talk;
static MPI_Request incoming, outgoing;
static uint64_t given[LENGTH], got[LENGTH];

static void send_on(long step) {
    int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
    for (int place = 0; place < LENGTH; place++)
        given[place] = (uint64_t)(rank + 1) * 0x9e3779b97f4a7c15u + (uint64_t)(step * LENGTH + place);
    MPI_Irecv(got, LENGTH, MPI_UINT64_T, before, 1, talk, &incoming);
    MPI_Isend(given, LENGTH, MPI_UINT64_T, next, 1, talk, &outgoing);
    sent++;
}

/* What came in this step becomes part of the result. */
static void receive(void) {
    MPI_Wait(&incoming, MPI_STATUS_IGNORE);
    MPI_Wait(&outgoing, MPI_STATUS_IGNORE);
    received++;
    for (int place = 0; place < LENGTH; place++)
        digest = (digest ^ got[place]) * 0x100000001b3u;
}

/* Whether all ranks were told of a checkpoint: the same answer for all of them. */
static int all_are_told(void) {
    pthread_mutex_lock(&lock);
    int own = state == WANTED, all = 0;
    pthread_mutex_unlock(&lock);
    MPI_Allreduce(&own, &all, 1, MPI_INT, MPI_MIN, talk);
    return all;
}

/* All messages have been received. Nothing is on its way until the outcome is known. */
static void stand_still(long step) {
    long own[2] = {sent, received}, all[2];
    MPI_Allreduce(own, all, 2, MPI_LONG, MPI_SUM, talk);
    if (all[0] != all[1]) {
        fprintf(stderr, "ring: %ld messages are missing\n", all[0] - all[1]);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Comm_free(&talk);
    MPI_Barrier(MPI_COMM_WORLD);
    pthread_mutex_lock(&lock);
    int event = 0;
    if (state == WANTED) { /* otherwise the callback did not wait so long */
        enter(QUIET);
        while (state == QUIET)
            pthread_cond_wait(&changed, &lock);
        event = last_event;
    }
    pthread_mutex_unlock(&lock);
    MPI_Comm_dup(MPI_COMM_WORLD, &talk);
    if (rank == 0) {
        printf("quiet at step %ld after %ld messages: %s in life %d\n", step, all[0], EVENTS[event], cryo_generation());
        fflush(stdout);
    }
}

int main(int count, char **arguments) {
    long steps = count > 1 ? atol(arguments[1]) : 1000;
    useconds_t pause = count > 2 ? (useconds_t)atol(arguments[2]) : 0;
    int given_level;
    MPI_Init_thread(&count, &arguments, MPI_THREAD_FUNNELED, &given_level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_dup(MPI_COMM_WORLD, &talk);
    if (given_level < MPI_THREAD_FUNNELED || cryo_register("ring", around_checkpoint, NULL, CRYO_IN_THREAD) < 0) {
        perror("ring");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (long step = 0; step < steps; step++) {
        send_on(step);
        int all = all_are_told();
        receive();
        if (all)
            stand_still(step);
        if (rank == 0 && step % 10 == 0) {
            printf("step %ld\n", step);
            fflush(stdout);
        }
        if (pause > 0)
            usleep(pause);
    }
    pthread_mutex_lock(&lock);
    enter(ENDED);
    pthread_mutex_unlock(&lock);
    uint64_t total = 0;
    MPI_Reduce(&digest, &total, 1, MPI_UINT64_T, MPI_BXOR, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("result %016llx\n", (unsigned long long)total);
    MPI_Comm_free(&talk);
    MPI_Finalize();
    return 0;
}
