//! What `cr_run` preloads. Every program can be checkpointed as it is: all that is left of BLCR's library of this name is its names,
//! and that a program does not die of the signal that it took.

use std::ffi::{c_int, c_void};

/// CR_SIGNUM of BLCR.
const SIGNAL: c_int = 64;

/// Something to link with (`-u cr_run_link_me`).
#[unsafe(no_mangle)]
pub extern "C" fn cr_run_link_me() {}

/// What this library does about `SIGNAL`, which nothing here sends.
#[unsafe(no_mangle)]
pub extern "C" fn cri_run_sig_handler(_signal: c_int, _what: *mut c_void, _context: *mut c_void) {}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    // SAFETY: all zeros is a sigaction, and both lie on this stack; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(SIGNAL, std::ptr::null(), &raw mut action) != 0
            || action.sa_sigaction != libc::SIG_DFL;
        if known {
            return;
        }
        action.sa_sigaction =
            cri_run_sig_handler as extern "C" fn(c_int, *mut c_void, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut());
    }
}
