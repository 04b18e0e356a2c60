//! Namespaces by descriptors: files of /proc/PID/ns (namespaces(7), ioctl_nsfs(2)).

use std::io::Error;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

// include/uapi/linux/nsfs.h
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// Moves the calling process, which must have one thread, into the namespace that `namespace` is (setns(2)).
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over that namespace; EINVAL for a user namespace that it is in already.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::setns(namespace.as_raw_fd(), 0) }.into()).map(drop)
}

/// The user namespace that a namespace belongs to.
///
/// # Errors
/// EPERM where that is not the caller's, nor below it.
pub fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    related(namespace, NS_GET_USERNS)
}

/// The user namespace around a user namespace.
///
/// # Errors
/// EPERM where that is not the caller's, nor below it.
pub fn parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    related(namespace, NS_GET_PARENT)
}

fn related(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> Result<OwnedFd> {
    // SAFETY: neither request takes an argument.
    let number = check(unsafe { libc::ioctl(namespace.as_raw_fd(), request) }.into())?;
    let number = i32::try_from(number).map_err(Error::other)?;
    // SAFETY: the call just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The user who made a user namespace, and has all capabilities in it from the one around it; as the caller sees it.
///
/// # Errors
/// EINVAL for a namespace of another kind.
pub fn owner_user(namespace: BorrowedFd<'_>) -> Result<u32> {
    let mut user: libc::uid_t = 0;
    // SAFETY: the kernel writes one uid, for which there is room.
    check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut user) }.into())?;
    Ok(user)
}
