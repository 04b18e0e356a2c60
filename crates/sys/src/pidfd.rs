//! Process descriptors: pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

/// Opens a descriptor of process `pid` (a thread group leader).
///
/// # Errors
/// ESRCH when there is none.
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a descriptor with flags: `O_NONBLOCK` (PIDFD_NONBLOCK, Linux 5.10), `O_EXCL` (PIDFD_THREAD, Linux 6.9), with which `pid`
/// may be any task.
///
/// # Errors
/// ESRCH when there is none; EINVAL for flags that this kernel does not know, or a task that leads no process.
pub fn open_with(pid: i32, flags: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct pidfd_info` (include/uapi/linux/pidfd.h), the part that every version has.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Report {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<Report>() == 64);

/// The wait status of a process that has ended and been waited for, where the kernel kept it (PIDFD_GET_INFO with
/// PIDFD_INFO_EXIT, Linux 6.15).
pub fn exit_status(process: BorrowedFd<'_>) -> Option<i32> {
    /// `_IOWR(0xff, 11, struct pidfd_info)`.
    const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
    const EXIT: u64 = 1 << 3;
    let mut report = Report {
        mask: EXIT,
        ..Report::default()
    };
    // SAFETY: the request says how large `report` is, and it outlives the call.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), GET_INFO, &raw mut report) };
    (result == 0 && report.mask & EXIT != 0).then_some(report.exit_code)
}

/// Takes a duplicate of descriptor `fd` of the process, without disturbing it. Needs ptrace access to it.
///
/// # Errors
/// EBADF when it has no such descriptor; EPERM without ptrace access; ESRCH when it has ended.
pub fn get_descriptor(process: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to exactly the process that the descriptor names, never to a later one with its number.
///
/// # Errors
/// ESRCH when it has ended; EPERM.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the siginfo pointer is null, which the call allows.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    })?;
    Ok(())
}
