//! Watching files: inotify(7), fanotify(7), and finding a file again by its handle (open_by_handle_at(2)).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

/// The longest handle that the kernel gives (MAX_HANDLE_SZ).
const LONGEST_HANDLE: usize = 128;

fn owned(value: i64) -> Result<OwnedFd> {
    let fd = check(value)?;
    // SAFETY: callers pass the result of a call that has just created this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes an inotify instance, close-on-exec and non-blocking.
///
/// # Errors
/// EMFILE at the user's limit (fs.inotify.max_user_instances) or the process' own.
pub fn inotify() -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(i64::from(unsafe {
        libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK)
    }))
}

/// Watches a file with a mask of `IN_*` bits; gives the number of the watch.
///
/// # Errors
/// ENOENT; EACCES for a file that may not be read; ENOSPC at the user's limit (fs.inotify.max_user_watches).
pub fn add_watch(inotify: BorrowedFd<'_>, path: &CStr, mask: u32) -> Result<i32> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(i64::from(unsafe {
        libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), mask)
    }))
    .map(|number| number as i32)
}

/// Ends a watch, which reports that (IN_IGNORED).
///
/// # Errors
/// EINVAL when there is none with this number.
pub fn remove_watch(inotify: BorrowedFd<'_>, number: i32) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(i64::from(unsafe {
        libc::inotify_rm_watch(inotify.as_raw_fd(), number)
    }))
    .map(drop)
}

/// Sets the number that the next new watch gets, at least 1 (INOTIFY_IOC_SETNEXTWD).
///
/// # Errors
/// ENOTTY without CONFIG_CHECKPOINT_RESTORE; EINVAL.
pub fn set_next_watch(inotify: BorrowedFd<'_>, number: i32) -> Result<()> {
    /// `_IOW('I', 0, __s32)`.
    const SET_NEXT: libc::Ioctl = 0x4004_4900;
    // SAFETY: the argument is a number, not a pointer (include/uapi/linux/inotify.h, fs/notify/inotify/inotify_user.c).
    check(i64::from(unsafe {
        libc::ioctl(inotify.as_raw_fd(), SET_NEXT, libc::c_long::from(number))
    }))
    .map(drop)
}

/// Makes a fanotify group with `FAN_*` flags and the `O_*` flags of the descriptors that come with its events.
///
/// # Errors
/// EPERM where the flags need CAP_SYS_ADMIN; EINVAL; EMFILE.
pub fn fanotify(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::syscall(libc::SYS_fanotify_init, flags, event_flags) })
}

/// Adds a mark to a fanotify group: `FAN_MARK_*` flags, a mask of events, the file.
///
/// # Errors
/// EPERM, ENOENT, EACCES, EINVAL, ENODEV and EXDEV for file systems without identity, ENOSPC at the limit on marks.
pub fn fanotify_mark(group: BorrowedFd<'_>, flags: u32, mask: u64, path: &CStr) -> Result<()> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_fanotify_mark,
            group.as_raw_fd(),
            flags,
            mask,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    })
    .map(drop)
}

/// Opens a file by its handle, as a place only (`O_PATH`), on the mount that the caller's working directory is on.
///
/// # Errors
/// EPERM without CAP_DAC_READ_SEARCH in the initial user namespace; ESTALE when the file is gone; EOPNOTSUPP for file systems
/// whose handles cannot be opened; EINVAL for a handle that is too long.
pub fn open_by_handle(kind: i32, handle: &[u8]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        bytes: [u8; LONGEST_HANDLE],
    }
    if handle.len() > LONGEST_HANDLE {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut whole = Handle {
        length: handle.len() as u32,
        kind,
        bytes: [0; LONGEST_HANDLE],
    };
    whole.bytes[..handle.len()].copy_from_slice(handle);
    // SAFETY: the handle's length lies within `whole`, which outlives the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            libc::AT_FDCWD,
            &raw mut whole,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    })
}
