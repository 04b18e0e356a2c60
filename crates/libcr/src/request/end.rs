//! The end of a request: waiting for it, what is known of it, and taking notice.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::time::{Duration, Instant};

use super::{Answer, Purpose, system};
use crate::client::process;
use crate::errors::{CR_ERESTARTED, fail, set};

/// Waits until a request is over; tells whether it is.
fn wait(purpose: Purpose, handle: c_ulong, limit: Option<Duration>) -> Result<bool, c_int> {
    const MOMENT: Duration = Duration::from_millis(200);
    let start = Instant::now();
    loop {
        if process()
            .requests
            .find(purpose, handle, |request| Ok(request.is_over()))?
        {
            return Ok(true);
        }
        let left = limit.map_or(MOMENT, |limit| limit.saturating_sub(start.elapsed()));
        if left.is_zero() {
            return Ok(false);
        }
        let mut wish = libc::pollfd {
            fd: handle as c_int,
            events: libc::POLLIN,
            revents: 0,
        };
        let pause = left.min(MOMENT);
        let milliseconds = pause.as_millis().max(1) as c_int;
        // SAFETY: one of them, on this stack.
        system(unsafe { libc::poll(&raw mut wish, 1, milliseconds) })?;
    }
}

/// # Safety
/// The pointers are null or lead to a handle and a time.
unsafe fn wait_for(
    purpose: Purpose,
    handle: *const c_ulong,
    time: *mut libc::timeval,
) -> Result<bool, c_int> {
    // SAFETY: the caller says so.
    let (handle, time) = unsafe { (handle.as_ref(), time.as_mut()) };
    let handle = *handle.ok_or(libc::EINVAL)?;
    let limit = match &time {
        None => None,
        Some(time) => {
            let seconds = u64::try_from(time.tv_sec).map_err(|_| libc::EINVAL)?;
            let micros = u32::try_from(time.tv_usec).map_err(|_| libc::EINVAL)?;
            Some(Duration::from_secs(seconds) + Duration::from_micros(micros.into()))
        }
    };
    let start = Instant::now();
    let outcome = wait(purpose, handle, limit);
    if let (Some(time), Some(limit)) = (time, limit) {
        let left = limit.saturating_sub(start.elapsed());
        time.tv_sec = left.as_secs() as libc::time_t;
        time.tv_usec = left.subsec_micros().into();
    }
    outcome
}

/// # Safety
/// The handle is null or one, and there is room for so much.
unsafe fn log(
    purpose: Purpose,
    handle: *const c_ulong,
    length: c_uint,
    room: *mut c_char,
) -> Result<c_int, c_int> {
    // SAFETY: the caller says so.
    let handle = *unsafe { handle.as_ref() }.ok_or(libc::EINVAL)?;
    if room.is_null() && length > 0 {
        return Err(libc::EINVAL);
    }
    process().requests.find(purpose, handle, |request| {
        request.is_over();
        // What came of a restart is a number.
        let log = match (&request.answer, purpose) {
            (Some(answer), Purpose::Checkpoint) if !answer.log.is_empty() => &answer.log,
            _ => return Ok(0),
        };
        if length > 0 {
            let count = log.len().min(length as usize - 1);
            // SAFETY: the caller says that there is room for `length`, of which one is for the final zero.
            unsafe {
                std::ptr::copy_nonoverlapping(log.as_ptr().cast(), room, count);
                *room.add(count) = 0;
            }
        }
        Ok((log.len() + 1) as c_int)
    })
}

/// # Safety
/// The handle is null or one.
unsafe fn reap(purpose: Purpose, handle: *const c_ulong) -> Result<c_int, c_int> {
    // SAFETY: the caller says so.
    let handle = *unsafe { handle.as_ref() }.ok_or(libc::EINVAL)?;
    let requests = &process().requests;
    let outcome = requests.find(purpose, handle, |request| {
        if !request.is_over() {
            return Err(libc::EAGAIN);
        }
        request.release();
        Ok(match &request.answer {
            _ if request.is_restarted() => Err(CR_ERESTARTED),
            None => Err(libc::EIO),
            Some(Answer { number: 0, .. }) if purpose == Purpose::Restart => Ok(request.child),
            Some(Answer { number: 0, .. }) => Ok(0),
            Some(answer) => Err(answer.number),
        })
    })?;
    requests
        .all()
        .retain(|request| request.event as c_ulong != handle);
    requests.note_handle(handle as c_int + 1, 0);
    outcome
}

/// # Safety
/// As those of which it is made.
unsafe fn poll(
    purpose: Purpose,
    handle: *const c_ulong,
    time: *mut libc::timeval,
    message: *mut *mut c_char,
) -> c_int {
    /// CR_POLL_*.
    const BEFORE: c_int = -1;
    const AFTER: c_int = -2;
    const LOG: c_int = -3;
    let failed = |error: c_int, result: c_int| {
        set(error);
        result
    };
    // SAFETY: the caller says so; what is allocated is as large as what is written there.
    unsafe {
        match wait_for(purpose, handle, time) {
            Err(error) => return failed(error, BEFORE),
            Ok(false) => return 0,
            Ok(true) => {}
        }
        if !message.is_null() {
            let length = match log(purpose, handle, 0, std::ptr::null_mut()) {
                Err(error) => return failed(error, LOG),
                Ok(length) => length,
            };
            if length > 0 {
                let room: *mut c_char = libc::malloc(length as usize).cast();
                if room.is_null() {
                    return failed(libc::ENOMEM, LOG);
                }
                if let Err(error) = log(purpose, handle, length as c_uint, room) {
                    libc::free(room.cast::<c_void>());
                    return failed(error, LOG);
                }
                message.write(room);
            }
        }
        match (reap(purpose, handle), purpose) {
            (Err(error), _) => failed(error, AFTER),
            (Ok(pid), Purpose::Restart) => pid,
            (Ok(_), Purpose::Checkpoint) => 1,
        }
    }
}

/// Declares the functions that both kinds of requests have.
macro_rules! functions {
    ($purpose:expr, $wait:ident, $log:ident, $reap:ident, $poll_with_message:ident, $poll:ident) => {
        /// In C.
        ///
        /// # Safety
        /// As libcr.h says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $wait(handle: *const c_ulong, time: *mut libc::timeval) -> c_int {
            // SAFETY: the caller says so.
            match unsafe { wait_for($purpose, handle, time) } {
                Ok(is_over) => c_int::from(is_over),
                Err(error) => fail(error),
            }
        }

        /// In C.
        ///
        /// # Safety
        /// As libcr.h says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $log(
            handle: *const c_ulong,
            length: c_uint,
            room: *mut c_char,
        ) -> c_int {
            // SAFETY: the caller says so.
            unsafe { log($purpose, handle, length, room) }.unwrap_or_else(fail)
        }

        /// In C.
        ///
        /// # Safety
        /// As libcr.h says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $reap(handle: *const c_ulong) -> c_int {
            // SAFETY: the caller says so.
            unsafe { reap($purpose, handle) }.unwrap_or_else(fail)
        }

        /// In C.
        ///
        /// # Safety
        /// As libcr.h says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $poll_with_message(
            handle: *const c_ulong,
            time: *mut libc::timeval,
            message: *mut *mut c_char,
        ) -> c_int {
            // SAFETY: the caller says so.
            unsafe { poll($purpose, handle, time, message) }
        }

        /// In C.
        ///
        /// # Safety
        /// As libcr.h says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $poll(handle: *const c_ulong, time: *mut libc::timeval) -> c_int {
            // SAFETY: the caller says so.
            unsafe { poll($purpose, handle, time, std::ptr::null_mut()) }
        }
    };
}

functions!(
    Purpose::Checkpoint,
    cr_wait_checkpoint,
    cr_log_checkpoint,
    cr_reap_checkpoint,
    cr_poll_checkpoint_msg,
    cr_poll_checkpoint
);
functions!(
    Purpose::Restart,
    cr_wait_restart,
    cr_log_restart,
    cr_reap_restart,
    cr_poll_restart_msg,
    cr_poll_restart
);
