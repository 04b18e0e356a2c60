//! The C interface (`include/cryo.h` documents every function): pointers and numbers become what `cryonaut_participant` takes.
//!
//! `unsafe` is here because C hands over pointers. Nothing happens here but that they are turned into Rust's types.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io::Result;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryonaut_participant::{self as participant, Answer, Context, Event, Registration, Return};

/// `cryo_callback` in C.
type Callback = extern "C" fn(event: c_int, data: *mut c_void) -> c_int;

/// What the program gave for its callback, which may be told from another thread: the program says that it may.
struct Data(*mut c_void);

// SAFETY: the pointer is never followed here. Whoever registers it knows that the callback runs in the library's thread (cryo.h).
unsafe impl Send for Data {}
// SAFETY: the same.
unsafe impl Sync for Data {}

impl Data {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

/// 0, or -1 with errno.
fn status(result: Result<()>) -> c_int {
    number(result.map(|()| 0))
}

fn number(result: Result<c_int>) -> c_int {
    match result {
        Ok(number) => number,
        Err(error) => {
            let error = error.raw_os_error().unwrap_or(libc::EIO);
            // SAFETY: the place of this thread's errno is always there.
            unsafe { *libc::__errno_location() = error };
            -1
        }
    }
}

fn invalid<T>() -> Result<T> {
    Err(std::io::Error::from_raw_os_error(libc::EINVAL))
}

/// # Safety
/// `text` is null or ends with a zero.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller says so.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

/// `cryo_register` in C.
///
/// # Safety
/// As cryo.h says: `name` ends with a zero; `callback` can be called with `data` until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryo_register(
    name: *const c_char,
    callback: Option<Callback>,
    data: *mut c_void,
    context: c_int,
) -> c_int {
    let data = Data(data);
    // SAFETY: the caller says so.
    let name = unsafe { text(name) };
    let (Some(callback), Some(name)) = (callback, name) else {
        return number(invalid());
    };
    let context = match context {
        1 => Context::Thread,
        2 => Context::Signal,
        _ => return number(invalid()),
    };
    let function = move |event: Event| match callback(event as c_int, data.get()) {
        0 => Answer::Ready,
        1 => Answer::Later(String::new()),
        3 => Answer::LeaveOut,
        _ => Answer::Never(String::new()),
    };
    let registered = participant::register(&name.to_string_lossy(), context, function);
    number(registered.map(|registration| registration.number() as c_int))
}

/// `cryo_unregister` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_unregister(registration: c_int) -> c_int {
    match c_uint::try_from(registration) {
        Ok(number) => status(participant::unregister(Registration::from_number(number))),
        Err(_) => number(invalid()),
    }
}

/// `cryo_reason` in C.
///
/// # Safety
/// `reason` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryo_reason(reason: *const c_char) -> c_int {
    // SAFETY: the caller says so.
    match unsafe { text(reason) } {
        Some(reason) => status(participant::give_reason(reason.to_bytes())),
        None => number(invalid()),
    }
}

/// `cryo_enter` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_enter() -> c_int {
    status(participant::enter())
}

/// `cryo_try_enter` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_try_enter() -> c_int {
    number(participant::try_enter().map(c_int::from))
}

/// `cryo_leave` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_leave() -> c_int {
    status(participant::leave())
}

/// `cryo_exclude` in C. The memory itself is not touched.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_exclude(address: *const c_void, length: usize) -> c_int {
    status(participant::exclude(address as usize, length))
}

/// `cryo_include` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_include(address: *const c_void, length: usize) -> c_int {
    status(participant::include(address as usize, length))
}

/// `cryo_reopen` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_reopen(descriptor: c_int) -> c_int {
    status(participant::reopen(descriptor))
}

/// `cryo_keep` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_keep(descriptor: c_int) -> c_int {
    status(participant::keep(descriptor))
}

/// `cryo_generation` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cryo_generation() -> c_int {
    number(participant::generation().map(|count| c_int::try_from(count).unwrap_or(c_int::MAX)))
}

/// `cryo_job` in C.
///
/// # Safety
/// `room` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryo_job(room: *mut c_char, length: usize) -> c_int {
    let Some(name) = participant::job() else {
        return 0;
    };
    let name = name.as_bytes();
    if !room.is_null() && length > 0 {
        let count = name.len().min(length - 1);
        // SAFETY: there is room for `length` bytes, of which one is for the final zero; the name is elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(name.as_ptr().cast(), room, count);
            *room.add(count) = 0;
        }
    }
    c_int::try_from(name.len()).unwrap_or(c_int::MAX)
}

/// `cryo_checkpoint` in C.
///
/// # Safety
/// `path` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryo_checkpoint(path: *const c_char) -> c_int {
    // SAFETY: the caller says so.
    let Some(path) = (unsafe { text(path) }) else {
        return number(invalid());
    };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    number(participant::checkpoint(path).map(|life| match life {
        Return::Original => 0,
        Return::Restarted(generation) => c_int::try_from(generation).unwrap_or(c_int::MAX),
    }))
}
