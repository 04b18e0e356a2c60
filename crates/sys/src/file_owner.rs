//! Whom an open file description sends signals to: fcntl(2) `F_GETOWN_EX`, `F_GETOWNER_UIDS`, `F_GETSIG`.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// include/uapi/asm-generic/fcntl.h
const F_GETSIG: i32 = 11;
/// include/uapi/asm-generic/fcntl.h
const F_GETOWN_EX: i32 = 16;
/// include/uapi/asm-generic/fcntl.h
const F_GETOWNER_UIDS: i32 = 17;

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_TID` (0), `F_OWNER_PID` (1) or `F_OWNER_PGRP` (2).
    pub kind: i32,
    /// Thread, process or group, in this process' pid namespace; 0 for none, one that has ended, or one outside of the
    /// namespace.
    pub id: i32,
}

const _: () = assert!(size_of::<Owner>() == 8);

/// Who is sent signals when the file is ready (`F_GETOWN_EX`).
///
/// # Errors
/// EBADF for descriptors that only name a place (`O_PATH`).
pub fn owner(fd: BorrowedFd<'_>) -> Result<Owner> {
    let mut owner = Owner::default();
    // SAFETY: `owner` outlives the call, which writes one `struct f_owner_ex`.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut owner)
    }))?;
    Ok(owner)
}

/// The real and effective user of the process that has set the owner (`F_GETOWNER_UIDS`): what signals are permitted by.
///
/// # Errors
/// EINVAL without CONFIG_CHECKPOINT_RESTORE.
pub fn users(fd: BorrowedFd<'_>) -> Result<(u32, u32)> {
    let mut users = [0_u32; 2];
    // SAFETY: `users` outlives the call, which writes two uids.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, users.as_mut_ptr())
    }))?;
    Ok((users[0], users[1]))
}

/// The signal that is sent (`F_GETSIG`); 0 for SIGIO without further particulars.
///
/// # Errors
/// EBADF for descriptors that only name a place.
pub fn signal(fd: BorrowedFd<'_>) -> Result<i32> {
    crate::descriptor::control(fd, F_GETSIG, 0).map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_set_is_told() {
        let (end, _other) = crate::descriptor::pipe(0).unwrap();
        assert_eq!(owner(end.as_fd()).unwrap().id, 0);
        assert_eq!(signal(end.as_fd()).unwrap(), 0);
        let own = std::process::id() as i32;
        crate::descriptor::control(end.as_fd(), libc::F_SETOWN, i64::from(own)).unwrap();
        assert_eq!(owner(end.as_fd()).unwrap(), Owner { kind: 1, id: own });
        if let Ok((_, effective)) = users(end.as_fd()) {
            assert_eq!(effective, crate::task::effective_ids().0);
        }
    }
}
