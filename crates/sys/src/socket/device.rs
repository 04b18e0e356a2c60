//! Network devices of the network namespace of the calling thread (netdevice(7)).

use std::os::fd::{AsFd, AsRawFd};

use super::socket;
use crate::{Result, check};

/// Brings the loopback device up, if it is down.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the network namespace.
pub fn raise_loopback() -> Result<()> {
    // As each C library has the type of requests.
    const READ: libc::Ioctl = libc::SIOCGIFFLAGS as libc::Ioctl;
    const WRITE: libc::Ioctl = libc::SIOCSIFFLAGS as libc::Ioctl;
    let any = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: a structure of integers may be all zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    let number = any.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the name and writes the flags of `request`, which lives through the call.
    check(unsafe { libc::ioctl(number, READ, &raw mut request) }.into())?;
    // SAFETY: the kernel has just filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads `request`, which lives through the call.
    check(unsafe { libc::ioctl(number, WRITE, &raw const request) }.into()).map(drop)
}
