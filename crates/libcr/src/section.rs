//! Critical sections, and how a process stands.

use std::ffi::c_int;

use cryonaut_participant::around;

use crate::client::require;
use crate::errors::{fail, number, preserved};

/// `cr_enter_cs` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_enter_cs(_id: c_int) -> c_int {
    if let Err(error) = require() {
        return fail(error);
    }
    match preserved(cryonaut_participant::enter) {
        Ok(()) => 0,
        Err(error) => fail(number(&error)),
    }
}

/// `cr_tryenter_cs` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_tryenter_cs(_id: c_int) -> c_int {
    if let Err(error) = require() {
        return fail(error);
    }
    match preserved(cryonaut_participant::try_enter) {
        Ok(has_entered) => c_int::from(!has_entered),
        Err(error) => fail(number(&error)),
    }
}

/// `cr_leave_cs` in C. A checkpoint that has waited for this is made before it comes back.
#[unsafe(no_mangle)]
pub extern "C" fn cr_leave_cs(_id: c_int) -> c_int {
    if let Err(error) = require() {
        return fail(error);
    }
    let left = preserved(|| {
        let left = cryonaut_participant::leave();
        if left.is_ok() {
            around::await_quiet();
        }
        left
    });
    match left {
        Ok(()) => 0,
        Err(error) => fail(number(&error)),
    }
}

/// `cr_status` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_status() -> c_int {
    /// CR_STATE_*.
    const IDLE: c_int = 0;
    const PENDING: c_int = 1;
    const ACTIVE: c_int = 2;
    if let Err(error) = require() {
        return fail(error);
    }
    match (around::in_callback(), around::is_asked()) {
        (true, _) => ACTIVE,
        (false, true) => PENDING,
        (false, false) => IDLE,
    }
}
