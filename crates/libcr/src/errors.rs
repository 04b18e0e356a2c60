//! Error numbers: those of the system, and those that only BLCR has.

use std::ffi::{CStr, c_char, c_int};

/// Declares BLCR's numbers with their texts.
macro_rules! errors {
    ($($(#[$about:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        $(
            $(#[$about])*
            #[allow(dead_code, reason = "some only pass through")]
            pub const $name: c_int = $number;
        )*

        /// What BLCR's numbers mean.
        fn text(error: c_int) -> Option<&'static CStr> {
            match error {
                $($number => Some($text),)*
                _ => None,
            }
        }
    };
}

errors! {
    /// A callback puts the checkpoint off.
    CR_ETEMPFAIL = 2354, c"The checkpoint was put off by the application";
    /// A callback says that there can be none.
    CR_EPERMFAIL = 2355, c"The application cannot be checkpointed";
    /// Somebody cannot take part.
    CR_ENOSUPPORT = 2356, c"The application has no support for checkpoints";
    /// Library and command do not go together.
    CR_EVERSION = 2357, c"Library and checkpoint command are of different versions";
    /// The process was left out.
    CR_EOMITTED = 2358, c"The process was left out of the checkpoint at its own request";
    /// The image is of another machine.
    CR_EBADARCH = 2359, c"The context file was made on another architecture";
    /// Somebody is traced.
    CR_EPTRACED = 2360, c"A process to be checkpointed is being traced";
    /// Somebody traces.
    CR_EPTRACER = 2361, c"A process to be checkpointed traces another one";
    /// A callback failed in the restart.
    CR_ERSTRTABRT = 2362, c"The restart was given up by a callback";
    /// This is a later life.
    CR_ERESTARTED = 2363, c"The process was restarted after the request was made";
    /// Not in a callback.
    CR_ENOTCB = 2364, c"Not called from within a callback";
    /// Not initialized.
    CR_ENOINIT = 2365, c"The calling thread has not called cr_init";
}

/// Notes an error for the caller.
pub fn set(error: c_int) {
    // SAFETY: the place of this thread's errno is always there.
    unsafe { *libc::__errno_location() = error };
}

/// -1, with errno.
pub fn fail(error: c_int) -> c_int {
    set(error);
    -1
}

/// The number of an error.
pub fn number(error: &std::io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Does something that leaves errno as it was.
pub fn preserved<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the place of this thread's errno is always there.
    let before = unsafe { *libc::__errno_location() };
    let result = work();
    set(before);
    result
}

/// `cr_strerror` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_strerror(error: c_int) -> *const c_char {
    match text(error) {
        Some(text) => text.as_ptr(),
        // SAFETY: a call with a number; what it gives lasts until the next call in this thread.
        None => unsafe { libc::strerror(error) },
    }
}
