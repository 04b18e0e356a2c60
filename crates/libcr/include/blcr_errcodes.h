/* Error numbers that only checkpoints have, as programs written for BLCR know them. */
#ifndef _BLCR_ERRCODES_H
#define _BLCR_ERRCODES_H

enum {
    CR_MIN_ERRCODE = 2353, /* all are above this one */
    CR_ETEMPFAIL = 2354,   /* a callback puts the checkpoint off; everybody goes on */
    CR_EPERMFAIL = 2355,   /* a callback says that there can be none, or has failed; all are killed */
    CR_ENOSUPPORT = 2356,  /* a process has no support (no such process is known to Cryonaut) */
    CR_EVERSION = 2357,    /* library and command do not go together */
    CR_EOMITTED = 2358,    /* this process was left out at its own request */
    CR_EBADARCH = 2359,    /* the context file is of another architecture */
    CR_EPTRACED = 2360,    /* a process is being traced */
    CR_EPTRACER = 2361,    /* a process traces others */
    CR_ERSTRTABRT = 2362,  /* a callback gave the restart up; all are killed */
    CR_ERESTARTED = 2363,  /* the request was made in an earlier life, and succeeded there */
    CR_ENOTCB = 2364,      /* only for callbacks */
    CR_ENOINIT = 2365,     /* the thread has not called cr_init */
    CR_MAX_ERRCODE = 2366  /* all are below this one */
};

#endif
