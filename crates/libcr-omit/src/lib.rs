//! What `cr_run --omit` preloads: the program, and all that has its environment, is left out of every checkpoint. Where the program
//! uses libcr itself, it is left to that.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_participant::around::{self, Wanted};
use cryonaut_participant::board::WANTS_OUT;

/// CR_SIGNUM of BLCR.
const SIGNAL: c_int = 64;

/// Something to link with (`-u cr_omit_link_me`).
#[unsafe(no_mangle)]
pub extern "C" fn cr_omit_link_me() {}

/// What this library does about `SIGNAL`, which nothing here sends.
#[unsafe(no_mangle)]
pub extern "C" fn cri_omit_sig_handler(_signal: c_int, _what: *mut c_void, _context: *mut c_void) {}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// Whether this process is left to libcr.
static IS_LEFT: AtomicBool = AtomicBool::new(false);

/// Called by libcr when it is loaded later than this.
#[unsafe(no_mangle)]
pub extern "C" fn cri_omit_leave_to_libcr() {
    if !IS_LEFT.swap(true, Ordering::AcqRel) {
        // There is a board already, or this says nothing.
        let _ = around::wish(WANTS_OUT, Wanted::No);
    }
}

extern "C" fn leave_out() {
    if !IS_LEFT.load(Ordering::Acquire) {
        // Without memory for one page nothing runs for long.
        let _ = around::leave_out();
    }
}

extern "C" fn begin() {
    // SAFETY: a name is looked up; all zeros is a sigaction, and both lie on this stack; the handler does nothing. What is registered
    // for fork stays loaded, as this library was preloaded or linked.
    unsafe {
        if !libc::dlsym(libc::RTLD_DEFAULT, c"cri_sig_handler".as_ptr()).is_null() {
            IS_LEFT.store(true, Ordering::Release);
            return;
        }
        // First of all the library below, which forgets in a child what its parent was.
        leave_out();
        libc::pthread_atfork(None, None, Some(leave_out));
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(SIGNAL, std::ptr::null(), &raw mut action) != 0
            || action.sa_sigaction != libc::SIG_DFL;
        if !known {
            action.sa_sigaction =
                cri_omit_sig_handler as extern "C" fn(c_int, *mut c_void, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigfillset(&raw mut action.sa_mask);
            libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut());
        }
    }
}
