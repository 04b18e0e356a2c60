//! The library of programs written for BLCR (`include/libcr.h` documents every function), over `cryonaut_participant`.
//!
//! `unsafe` is here because C hands over pointers, and because callbacks of C find their way back into what runs them.

mod client;
mod errors;
mod request;
mod section;
mod table;

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use client::{SIGNAL_CONTEXT, THREAD_CONTEXT, own_callbacks, process, require};
use cryonaut_participant::around;
use errors::{CR_ENOTCB, fail, number};
use table::{Entry, Function, MOST, replace_current};

/// The signal that BLCR took (CR_SIGNUM).
const SIGNAL: c_int = 64;

/// `cri_signum` in C.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static cri_signum: c_int = SIGNAL;

/// Something to link with (`-u cr_link_me`).
#[unsafe(no_mangle)]
pub extern "C" fn cr_link_me() {}

/// What this library does about `SIGNAL`, which nothing here sends: nothing. A program that gets it from elsewhere does not die.
#[unsafe(no_mangle)]
pub extern "C" fn cri_sig_handler(_signal: c_int, _what: *mut c_void, _context: *mut c_void) {}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// When the library is loaded: a stub that was preloaded leaves the process to it.
extern "C" fn begin() {
    // SAFETY: all zeros is a sigaction, and it lies on this stack; the handler does nothing. What dlsym finds is that function of
    // libcr_omit.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction =
            cri_sig_handler as extern "C" fn(c_int, *mut c_void, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut());
        let stub = libc::dlsym(libc::RTLD_DEFAULT, c"cri_omit_leave_to_libcr".as_ptr());
        if !stub.is_null() {
            std::mem::transmute::<*mut c_void, extern "C" fn()>(stub)();
        }
    }
}

/// The name under which the dynamic linker knows a function.
fn symbol(function: Function) -> Option<&'static CStr> {
    // SAFETY: all zeros is a Dl_info, on this stack. The name belongs to the object that the function is in, which is not unloaded
    // as long as its callback is registered.
    unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        let place = function as *const c_void;
        let known = libc::dladdr(place, &raw mut found) != 0
            && !found.dli_sname.is_null()
            && std::ptr::eq(found.dli_saddr, place);
        known.then(|| CStr::from_ptr(found.dli_sname))
    }
}

fn entry(function: Option<Function>, argument: *mut c_void) -> Entry {
    Entry {
        function,
        argument,
        symbol: function.and_then(symbol),
    }
}

/// The one context that flags name.
fn context(flags: c_int) -> Result<c_int, c_int> {
    match flags {
        SIGNAL_CONTEXT | THREAD_CONTEXT => Ok(flags),
        _ => Err(libc::EINVAL),
    }
}

fn status(result: Result<c_int, c_int>) -> c_int {
    result.unwrap_or_else(fail)
}

/// Changes a table while no callback runs.
fn change<T>(work: impl FnOnce() -> Result<T, c_int>) -> Result<T, c_int> {
    cryonaut_participant::enter().map_err(|error| number(&error))?;
    let result = work();
    // It was entered.
    let _ = cryonaut_participant::leave();
    result
}

/// `cr_register_callback` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_register_callback(
    function: Option<Function>,
    argument: *mut c_void,
    flags: c_int,
) -> c_int {
    status((|| {
        require()?;
        let context = context(flags)?;
        if around::in_callback() {
            return Err(libc::EBUSY);
        }
        let (table, process) = (own_callbacks()?, process());
        let table = match context {
            THREAD_CONTEXT => {
                process.use_thread()?;
                &process.callbacks
            }
            _ => table,
        };
        process.has_callback()?;
        let index = change(|| table.add(entry(function, argument)))?;
        Ok(index as c_int | context)
    })())
}

/// `cr_replace_callback` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_replace_callback(
    id: c_int,
    function: Option<Function>,
    argument: *mut c_void,
    flags: c_int,
) -> c_int {
    status((|| {
        require()?;
        let context = context(flags)?;
        let index = usize::try_from(id).map_err(|_| libc::EINVAL)? & MOST;
        if id & !(MOST as c_int) != context {
            return Err(libc::EINVAL);
        }
        if around::in_callback() {
            return Err(libc::EBUSY);
        }
        let table = match context {
            THREAD_CONTEXT => &process().callbacks,
            _ => own_callbacks()?,
        };
        change(|| table.replace(index, entry(function, argument)))?;
        Ok(0)
    })())
}

/// `cr_replace_self` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_replace_self(
    function: Option<Function>,
    argument: *mut c_void,
    flags: c_int,
) -> c_int {
    status((|| {
        if !around::in_callback() {
            return Err(CR_ENOTCB);
        }
        replace_current(entry(function, argument), context(flags)?)?;
        Ok(0)
    })())
}

/// `cr_forward_checkpoint` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_forward_checkpoint(scope: c_int, target: libc::pid_t) -> c_int {
    status((|| {
        if !table::is_before() {
            return Err(CR_ENOTCB);
        }
        let scope = c_uint::try_from(scope).ok().filter(|scope| *scope <= 3);
        let scope = scope.ok_or(libc::EINVAL)?;
        let target = match (target, scope) {
            // SAFETY: calls that only ask for numbers.
            (0, 1) => unsafe { libc::getpgrp() },
            // SAFETY: the same.
            (0, 2) => unsafe { libc::getsid(0) },
            (0, _) => std::process::id() as libc::pid_t,
            (target, _) => target,
        };
        around::forward(scope, target).map_err(|error| number(&error))?;
        Ok(0)
    })())
}

/// # Safety
/// `lock` is a cr_spinlock_t.
unsafe fn word<'a>(lock: *mut c_uint) -> &'a AtomicU32 {
    // SAFETY: the caller says so; an unsigned int is as large and as aligned as its atomic form.
    unsafe { AtomicU32::from_ptr(lock) }
}

/// `cr_spinlock_init` in C.
///
/// # Safety
/// `lock` is a cr_spinlock_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_spinlock_init(lock: *mut c_uint) {
    // SAFETY: the caller says so.
    unsafe { word(lock) }.store(0, Ordering::Release);
}

/// `cr_spinlock_trylock` in C.
///
/// # Safety
/// `lock` is a cr_spinlock_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_spinlock_trylock(lock: *mut c_uint) -> c_int {
    // SAFETY: the caller says so.
    let word = unsafe { word(lock) };
    let taken = word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
    c_int::from(taken.is_ok())
}

/// `cr_spinlock_lock` in C.
///
/// # Safety
/// `lock` is a cr_spinlock_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_spinlock_lock(lock: *mut c_uint) {
    // SAFETY: the caller says so.
    while unsafe { cr_spinlock_trylock(lock) } == 0 {
        std::hint::spin_loop();
    }
}

/// `cr_spinlock_unlock` in C.
///
/// # Safety
/// `lock` is a cr_spinlock_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_spinlock_unlock(lock: *mut c_uint) {
    // SAFETY: the caller says so.
    unsafe { word(lock) }.store(0, Ordering::Release);
}
