/* libcryo: for programs that take part in their own checkpoints by Cryonaut.
 *
 * No program needs this to be checkpointed. One that uses it is told of checkpoints, can put them off or refuse them, can leave
 * memory and descriptors out of the image, and can ask for a checkpoint of itself. Where cryo is not installed, or never comes, all
 * functions work as well, and nothing happens.
 *
 * Compile and link with: cc program.c $(pkg-config --cflags --libs libcryo)
 *
 * All functions may be called from any thread. Those that give an int give -1 with errno when they fail. A child after fork takes
 * part in nothing until it calls any of them itself: callbacks, ranges and marks are not inherited. A section that its parent's thread was in it may leave, which does nothing.
 *
 * The first call that registers a callback or enters a critical section starts one thread, named "cryonaut", which sleeps until
 * cryo wakes it, and takes the highest real-time signal that has its default action (below SIGRTMAX - 1).
 */
#ifndef CRYO_H
#define CRYO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a callback is told. */
#define CRYO_CHECKPOINT 1 /* a checkpoint is about to be made: get ready */
#define CRYO_CONTINUE 2   /* its moment is over, and the same life goes on; the image is being written still, and is there when
                             cryo says so (or cryo_checkpoint comes back): until then keep what an older one needs */
#define CRYO_RESTART 3    /* this is a new life, which begins where the checkpoint was made */
#define CRYO_ABANDONED 4  /* there is no checkpoint (refused, failed, cryo was killed); the same life goes on */

/* What a callback answers to CRYO_CHECKPOINT; after all other events its answer means nothing. Any other number is CRYO_NEVER. */
#define CRYO_READY 0     /* it may be made */
#define CRYO_LATER 1     /* not now; cryo_reason() says why */
#define CRYO_NEVER 2     /* never; cryo_reason() says why */
#define CRYO_LEAVE_OUT 3 /* without this process: it is not in the image, and goes on when the others do. Refused by cryo for one
                            that has children which are to be saved. */

/* Where a callback runs. */
#define CRYO_IN_THREAD 1 /* in the thread of this library, with all signals blocked but those that an instruction causes */
#define CRYO_IN_SIGNAL 2 /* in the thread that registered it, inside of a signal handler (see signal-safety(7)), when all callbacks
                            in threads are ready; that thread waits in the handler until the outcome is known */

typedef int (*cryo_callback)(int event, void *data);

/* Registers a callback; gives a number for cryo_unregister. For CRYO_CHECKPOINT callbacks run in the reverse order of their
 * registration, for the other events in order. One that was not told of a checkpoint, because another refused before its turn, is
 * not told of the outcome. All callbacks of all processes of the job have come back before any of them is stopped. A callback has
 * the time that `cryo checkpoint --grace` says (10 s by default); after that the checkpoint is refused, by the callback's name.
 * Waits while callbacks run. EINVAL: no name, no function, no such context; EBUSY: in a callback; EAGAIN, ENOMEM. */
int cryo_register(const char *name, cryo_callback callback, void *data, int context);

/* Takes a callback away; one in signal context only its own thread can. When the call is back it does not run any more.
 * EBUSY: in a callback; ENOENT: there is none; EINVAL. */
int cryo_unregister(int registration);

/* In a callback, before it answers CRYO_LATER or CRYO_NEVER: why, for the user, in up to 511 bytes. Async-signal-safe.
 * EPERM: not in a callback; EINVAL. */
int cryo_reason(const char *reason);

/* A critical section: no checkpoint begins until the thread has left it. Sections nest; in a callback they do nothing. Entering
 * waits while callbacks run; cryo_try_enter gives 0 where that would be so, otherwise 1. Leaving one that was never entered: EPERM. */
int cryo_enter(void);
int cryo_try_enter(void);
int cryo_leave(void);

/* Leaves whole pages inside of this range out of images: they are zero in a restarted life, and untouched in this one. For private
 * memory (malloc, private anonymous mappings); elsewhere it means nothing. Take it back, with the same numbers, before the memory
 * is freed. EINVAL: no whole page inside; ENOSPC: there are 256 already; ENOENT: cryo_include of what was never excluded. */
int cryo_exclude(const void *address, size_t length);
int cryo_include(const void *address, size_t length);

/* Says that the program opens this descriptor again itself: images are made without it, whatever it leads to, and a restarted life
 * finds the number closed. cryo_keep takes it back. EBADF; ENOSPC: there are 1024 already; ENOENT. */
int cryo_reopen(int descriptor);
int cryo_keep(int descriptor);

/* Has cryo make a checkpoint of this process and all its descendants into a file, which appears whole or not at all. Gives 0 when it
 * is back in the life that asked, and the generation (1, 2, ...) in a restarted one; callbacks have run by then. The command is
 * "cryo", found on PATH, or what CRYO_COMMAND in the environment names; what it has to say goes to standard error. Its child is of
 * the kind that wait(2) does not see and no SIGCHLD tells of.
 * EBUSY: in a callback; EDEADLK: in a critical section; ENOENT: there is no cryo; ECANCELED: it was refused; EPERM: not permitted;
 * EINVAL: bad path; EIO: it failed. */
int cryo_checkpoint(const char *path);

/* How many times this program was restarted since it first used this library: 0 in its first life. */
int cryo_generation(void);

/* The name of the job, if the program was started by `cryo run` (or is a restarted job of it): puts it into room, cut to length
 * bytes with a final zero, and gives its whole length; 0 if there is none. room may be NULL. */
int cryo_job(char *room, size_t length);

#ifdef __cplusplus
}
#endif

#endif
