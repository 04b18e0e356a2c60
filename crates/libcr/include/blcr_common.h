/* Types and numbers of checkpoints and restarts, as programs written for BLCR know them. See libcr.h for the functions. */
#ifndef _BLCR_COMMON_H
#define _BLCR_COMMON_H

#include <sys/ioctl.h>
#include <sys/types.h>

#include "blcr_errcodes.h"
#include "blcr_ioctl.h"
#include "blcr_proc.h"

/* A signal that BLCR took. Nothing sends it here, and it is handled by doing nothing. */
#define CR_SIGNUM 64

/* Which processes: one, a process group, a session, a process with all its descendants. */
typedef enum {
    CR_SCOPE_PROC = 0,
    CR_SCOPE_PGRP = 1,
    CR_SCOPE_SESS = 2,
    CR_SCOPE_TREE = 3
} cr_scope_t;

/* In place of a descriptor: the file context.ID in the working directory. */
#define CR_DEST_CWD (-4096)

/* Flags of a checkpoint. */
#define CR_CHKPT_PROHIBIT_SELF 0x001U /* fail with EDEADLK if the caller is among the processes */
#define CR_CHKPT_PTRACED_ALLOW 0x002U /* try to save processes that are traced */
#define CR_CHKPT_PTRACED_SKIP 0x004U  /* leave out processes that are traced */
#define CR_CHKPT_PTRACER_SKIP 0x008U  /* leave out processes that trace others */
#define CR_CHKPT_ASYNC_ERR 0x010U     /* tell all errors when the request is reaped */
#define CR_CHKPT_DUMP_EXEC 0x200U     /* the content of files that are mapped goes into the context file */
#define CR_CHKPT_DUMP_PRIVATE 0x400U
#define CR_CHKPT_DUMP_SHARED 0x800U
#define CR_CHKPT_DUMP_ALL 0xE00U

/* Flags of a restart. */
#define CR_RSTRT_ASYNC_ERR 0x1U
#define CR_RSTRT_RESTORE_PID 0x2U /* without it the processes have their pids in a pid namespace of their own */
#define CR_RSTRT_RESTORE_PGID 0x4U
#define CR_RSTRT_RESTORE_SID 0x8U

/* A path prefix, and what it is now. */
struct cr_rstrt_relocate_pair {
    const char *oldpath;
    const char *newpath;
};

struct cr_rstrt_relocate {
    unsigned int count;
    struct cr_rstrt_relocate_pair path[];
};

#define CR_MAX_RSTRT_RELOC 16
#define CR_RSTRT_RELOCATE_SIZE(_count) \
    (sizeof(struct cr_rstrt_relocate) + (_count) * sizeof(struct cr_rstrt_relocate_pair))

#endif
