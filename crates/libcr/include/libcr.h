/* libcr: the interface of BLCR (Berkeley Lab Checkpoint/Restart, version 0.8.6), on Cryonaut.
 *
 * Programs written for BLCR compile and run with it unchanged. What is different in detail stands in docs/blcr.md. New programs do
 * better with libcryo (cryo.h).
 *
 * Compile and link with: cc program.c -lcr
 *
 * Functions that give an int give -1 with errno when they fail, unless something else is said. "Signal-safe" ones may be called from
 * signal handlers, and leave errno alone when they succeed.
 */
#ifndef _CRLIB_H
#define _CRLIB_H

#include <features.h>
#include <sys/select.h>
#include <errno.h>

#include "blcr_common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The release whose interface this is, and the version of the library in it. */
#define CR_RELEASE_MAJOR 0
#define CR_RELEASE_MINOR 8
#define CR_RELEASE_PATCH 6_b4
#define CR_RELEASE_VERSION "0.8.6_b4"
#define LIBCR_MAJOR 0
#define LIBCR_MINOR 5
#define LIBCR_PATCH 5
#define LIBCR_VERSION "0.5.5"
#define CR_MODULE_MAJOR 0
#define CR_MODULE_MINOR 10
#define CR_MODULE_PATCH 3
#define CR_MODULE_VERSION "0.10.3"

typedef int cr_version_t;
typedef int cr_client_id_t;
typedef int cr_callback_id_t;
typedef unsigned int cr_spinlock_t;
typedef long cr_bool_t;
typedef unsigned long cr_checkpoint_handle_t;
typedef unsigned long cr_restart_handle_t;
typedef enum { cr_format_vmadump = 0 } cr_format_t;

typedef int (*cr_callback_t)(void *);

/* ---- Beginning ---------------------------------------------------------------------------------------------------------------- */

/* To be called by each thread that calls anything else below (but for threads in callbacks): takes part in checkpoints from now on.
 * Gives 0 at the first call in a thread, then 1, 2, ... A child after fork has called nothing.
 * EAGAIN: there is no thread or signal to be had; ENOMEM. */
cr_client_id_t cr_init(void);

/* For the end of a thread: how many times it has asked that what it has told be kept. Give the count before. What was told is kept
 * until the thread is gone in any case. CR_ENOINIT; ERANGE: below zero, or too many. */
int cr_inc_persist(void);
int cr_dec_persist(void);

/* What an error number means, those of the system included. */
const char *cr_strerror(int errnum);

/* ---- Callbacks ---------------------------------------------------------------------------------------------------------------- */

#define CR_SIGNAL_CONTEXT 0x2000000 /* in the thread that registers it, maybe in a signal handler: see signal-safety(7) */
#define CR_THREAD_CONTEXT 0x4000000 /* in a thread of this library, with all signals blocked */

#define CR_MAX_CALLBACKS 0x1FFFFFF
#define CR_ID_CALLBACK (-1) /* the id of whoever is in a callback, for critical sections */

/* Registers a callback, and gives its id, which for one in signal context means something in this thread only. At a checkpoint
 * callbacks in thread context are entered first, the last one registered before all others; when all of them have reached
 * cr_checkpoint, those in signal context are, in all threads at the same time. What they do after it happens in the opposite order.
 * One that gives anything but 0 has failed, and all processes are killed. One that comes back without having called cr_checkpoint
 * is taken as having called it at its end. Without a function the callback is out of use.
 * Waits while a checkpoint is made. CR_ENOINIT; EINVAL: not one of the contexts; EBUSY: in a callback; ENOSPC, ENOMEM. */
cr_callback_id_t cr_register_callback(cr_callback_t func, void *arg, int flags);

/* Puts another function in the place of one. CR_ENOINIT; EINVAL: no such id, or another context; EBUSY: in a callback. */
int cr_replace_callback(cr_callback_id_t id, cr_callback_t func, void *arg, int flags);

/* Puts another function in the place of the callback that calls it. CR_ENOTCB: in none; EINVAL: another context. */
int cr_replace_self(cr_callback_t func, void *arg, int flags);

/* In a callback, once: has the next callback called, the last of them the checkpoint made. Gives
 *   0                     the same life goes on
 *   more than 0           a restarted life: the number of the process that restarted it
 *   -CR_ETEMPFAIL, -code  there is no checkpoint: somebody put it off, it was refused, or it failed
 *   -CR_EPERMFAIL, -code  there is none: somebody said that there can be none (this is seldom seen: all are being killed)
 *   -CR_EOMITTED          this process was left out
 *   -CR_ENOTCB            not in a callback, or for the second time in it
 * Any flag but CR_CHECKPOINT_READY keeps callbacks of this group (thread context, or this thread) that were not entered from it. */
int cr_checkpoint(int flags);

#define CR_CHECKPOINT_READY 0x0
#define CR_CHECKPOINT_TEMP_FAILURE 0x1 /* not now */
#define CR_CHECKPOINT_PERM_FAILURE 0x2 /* never */
#define CR_CHECKPOINT_OMIT 0x4         /* without this process */
#define CR_CHECKPOINT_ABORT_MASK 0x7
#define _CR_CHECKPOINT_STUB 0x4000
/* The same with an error number of the program's own, from 1 to 65535. */
#define CR_CHECKPOINT_TEMP_FAILURE_CODE(_code) (CR_CHECKPOINT_TEMP_FAILURE | ((_code) << 16))
#define CR_CHECKPOINT_PERM_FAILURE_CODE(_code) (CR_CHECKPOINT_PERM_FAILURE | ((_code) << 16))

/* In a callback before cr_checkpoint: what checkpoint this is. NULL elsewhere. */
struct cr_checkpoint_info {
    int signal;       /* what the processes get afterwards, or 0 */
    const char *dest; /* the absolute path of the context file, "" if it has none */
    pid_t requester;  /* the process that asked for it */
    pid_t target;     /* what was named */
    cr_scope_t scope;
};
const struct cr_checkpoint_info *cr_get_checkpoint_info(void);

/* In a callback after cr_checkpoint has given more than 0: what restart this is. NULL elsewhere. */
struct cr_restart_info {
    pid_t requester; /* the process that restarted it */
    const char *src; /* the absolute path of the context file, "" if it has none */
};
const struct cr_restart_info *cr_get_restart_info(void);

/* In a callback before cr_checkpoint: has other processes saved in the same context file. CR_ENOTCB: elsewhere; ESRCH: there are none;
 * EPERM; EINVAL: no such scope; EBUSY: they have part in another checkpoint; EIO: whoever makes it has gone. */
int cr_forward_checkpoint(cr_scope_t scope, pid_t target);

/* ---- Critical sections -------------------------------------------------------------------------------------------------------- */

/* No checkpoint begins while any thread of the process is in one. They nest. Entering waits while a checkpoint is made; in callbacks
 * they do nothing. cr_tryenter_cs gives more than 0 where entering would have to wait. Leaving waits for a checkpoint that has waited
 * for it. The id is not looked at. Signal-safe. CR_ENOINIT; cr_leave_cs also EPERM: this thread is in none. */
int cr_enter_cs(cr_client_id_t id);
int cr_tryenter_cs(cr_client_id_t id);
int cr_leave_cs(cr_client_id_t id);

/* How things stand: no checkpoint, one that waits or is made, or one in whose callbacks this thread is. Signal-safe. CR_ENOINIT. */
#define CR_STATE_IDLE 0
#define CR_STATE_PENDING 1
#define CR_STATE_ACTIVE 2
int cr_status(void);

/* Locks for signal handlers, too. cr_spinlock_trylock gives 0 where somebody else has it. */
#define CR_SPINLOCK_INITIALIZER 0U
void cr_spinlock_init(cr_spinlock_t *lock);
void cr_spinlock_lock(cr_spinlock_t *lock);
void cr_spinlock_unlock(cr_spinlock_t *lock);
int cr_spinlock_trylock(cr_spinlock_t *lock);

/* ---- Threads at a checkpoint -------------------------------------------------------------------------------------------------- */

/* Whether a thread whose callbacks have come back waits until those of all threads have: when the same life goes on, in a restarted
 * one, in both, in none. For this thread (CR_HOLD_DFLT: as those that have called cr_init), for all that have called cr_init, for all
 * others; for these two it is CR_HOLD_BOTH at first. Gives what it was; CR_HOLD_READ changes nothing. Signal-safe.
 * CR_ENOINIT; EINVAL. */
#define CR_HOLD_READ (-1)
#define CR_HOLD_NONE 0
#define CR_HOLD_CONT 1
#define CR_HOLD_RSTRT 2
#define CR_HOLD_BOTH 3
#define CR_HOLD_DFLT 4
#define CR_HOLD_SCOPE_THREAD 0
#define CR_HOLD_SCOPE_INIT 1
#define CR_HOLD_SCOPE_UNINIT 2
int cr_hold_ctrl(int scope, int flags);

/* Functions that each thread of a class runs after its callbacks when a checkpoint was made, maybe in a signal handler: threads that
 * have called cr_init, the library's own, all others. */
typedef enum {
    CR_HOOK_CONT_SIGNAL_CONTEXT = 0,
    CR_HOOK_CONT_THREAD_CONTEXT = 1,
    CR_HOOK_CONT_NO_CALLBACKS = 2,
    CR_HOOK_RSTRT_SIGNAL_CONTEXT = 3,
    CR_HOOK_RSTRT_THREAD_CONTEXT = 4,
    CR_HOOK_RSTRT_NO_CALLBACKS = 5,
    CR_NUM_HOOKS = 6
} cr_hook_event_t;
typedef void (*cr_hook_fn_t)(cr_hook_event_t);

/* Gives the one before. NULL: none. CR_HOOK_FN_ERROR with CR_ENOINIT, EINVAL. */
#define CR_HOOK_FN_ERROR ((cr_hook_fn_t)(~0UL))
cr_hook_fn_t cr_register_hook(cr_hook_event_t event, cr_hook_fn_t func);

/* ---- Requests ----------------------------------------------------------------------------------------------------------------- */

#define CR_CHECKPOINT_ARGS_VERSION 1
typedef struct cr_checkpoint_args {
    cr_version_t cr_version;
    cr_scope_t cr_scope;     /* to be set */
    pid_t cr_target;         /* 0: the caller, its group, or its session */
    int cr_fd;               /* to be set: where the context file goes, or CR_DEST_CWD */
    int cr_signal;           /* what the processes get afterwards, or 0 */
    unsigned int cr_timeout; /* seconds that callbacks may take; 0: an hour */
    unsigned int cr_flags;   /* CR_CHKPT_* */
} cr_checkpoint_args_t;

#define CR_RESTART_ARGS_VERSION 1
typedef struct cr_restart_args {
    cr_version_t cr_version;
    int cr_fd; /* to be set */
    int cr_signal;
    unsigned int cr_flags; /* CR_RSTRT_*; CR_RSTRT_RESTORE_PID at first */
    struct cr_rstrt_relocate *cr_relocate;
} cr_restart_args_t;

/* Fill in what is usual. EINVAL: another version. */
int cri_init_checkpoint_args_t(cr_version_t version, cr_checkpoint_args_t *args);
int cri_init_restart_args_t(cr_version_t version, cr_restart_args_t *args);
#define cr_initialize_checkpoint_args_t(_args) cri_init_checkpoint_args_t(CR_CHECKPOINT_ARGS_VERSION, (_args))
#define cr_initialize_restart_args_t(_args) cri_init_restart_args_t(CR_RESTART_ARGS_VERSION, (_args))

/* Begins a checkpoint by the command cryo, which is found on PATH, or which CRYO_COMMAND names. Its handle is a descriptor, which can
 * be read from when the request is over, and always in a restarted life. If the caller is among the processes and in no critical
 * section it comes back when it was made or has failed; in one it comes back at once, and the checkpoint is made when it is left.
 * EINVAL: another version, a flag, a scope or a signal that does not exist; EBADF, EISDIR: no such descriptor, or a directory; ESRCH:
 * no such processes; EDEADLK: CR_CHKPT_PROHIBIT_SELF; ENOSYS: there is no cryo; EBUSY: in a callback, for a checkpoint of oneself. */
int cr_request_checkpoint(cr_checkpoint_args_t *args, cr_checkpoint_handle_t *handle);

/* Waits until it is over, as select does. More than 0: it is; 0: it is not, in that time; EINTR; EINVAL: there is no such request. */
int cr_wait_checkpoint(cr_checkpoint_handle_t *handle, struct timeval *timeout);

/* What is known besides, for people: copies as much as there is room for, and gives the bytes of all of it with its final zero; 0 if
 * there is nothing. EINVAL. */
int cr_log_checkpoint(cr_checkpoint_handle_t *handle, unsigned int len, char *buf);

/* Ends a request. Gives 0 when the checkpoint was made. EAGAIN: it is not over (and goes on); CR_ERESTARTED: this is a restarted life,
 * and the checkpoint was made in the earlier one; EINVAL: there is no such request; CR_ETEMPFAIL, CR_EPERMFAIL or the program's own
 * number; ESRCH: all processes have left themselves out or ended; EPERM; EBUSY; EOPNOTSUPP: something cannot be saved; ... */
int cr_reap_checkpoint(cr_checkpoint_handle_t *handle);

/* The three in one. 1: it was made; 0: it is not over; CR_POLL_CHKPT_ERR_PRE, _POST, _LOG: waiting, reaping or logging has failed, with
 * errno. Give *msg to free(); it is left alone where there is nothing to tell. */
#define CR_POLL_CHKPT_ERR_PRE (-1)
#define CR_POLL_CHKPT_ERR_POST (-2)
#define CR_POLL_CHKPT_ERR_LOG (-3)
int cr_poll_checkpoint_msg(cr_checkpoint_handle_t *handle, struct timeval *timeout, char **msg);
int cr_poll_checkpoint(cr_checkpoint_handle_t *handle, struct timeval *timeout);

/* The same for restarts. The one that is reaped gives the pid of a child of the caller, which stands for the first of the restarted
 * processes: it ends as that does, and passes signals on. Wait for it (waitpid with __WALL). */
#define CR_POLL_RSTRT_ERR_PRE (-1)
#define CR_POLL_RSTRT_ERR_POST (-2)
#define CR_POLL_RSTRT_ERR_LOG (-3)
int cr_request_restart(cr_restart_args_t *args, cr_restart_handle_t *handle);
int cr_wait_restart(cr_restart_handle_t *handle, struct timeval *timeout);
int cr_log_restart(cr_restart_handle_t *handle, unsigned int len, char *buf);
int cr_reap_restart(cr_restart_handle_t *handle);
int cr_poll_restart_msg(cr_restart_handle_t *handle, struct timeval *timeout, char **msg);
int cr_poll_restart(cr_restart_handle_t *handle, struct timeval *timeout);

/* Of old: a checkpoint of this process alone, into context.PID, a file or a descriptor. They come back when it was made or waits for a
 * critical section, and abort the program where they fail. */
void cr_request(void);
void cr_request_file(const char *filename);
void cr_request_fd(int fd);

/* For the linker (-u), and for who looks for them. */
void cr_link_me(void);
extern const int cri_signum;

#ifdef __cplusplus
}
#endif

#endif
