//! Sockets that keep message borders and carry descriptors (unix(7), SCM_RIGHTS).

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{check, check_int};

/// The most descriptors one message can carry (SCM_MAX_FD, include/net/scm.h).
pub const MOST_DESCRIPTORS: usize = 253;

/// Two connected sockets that keep message borders (unix(7), SOCK_SEQPACKET), close-on-exec.
pub fn message_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: pair has room for two descriptors.
    check_int(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so both are new and owned by nobody.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// Whether a call waits when it cannot be served at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It waits.
    Block,
    /// It fails with `EAGAIN`.
    Never,
}

impl Waiting {
    fn flag(self) -> c_int {
        match self {
            Waiting::Block => 0,
            Waiting::Never => libc::MSG_DONTWAIT,
        }
    }
}

const CONTROL_ROOM: usize = 16 + MOST_DESCRIPTORS * size_of::<RawFd>() + 4;

#[repr(C, align(8))]
struct ControlArea([u8; CONTROL_ROOM]);

/// Sends one message with descriptors (sendmsg, SCM_RIGHTS); never raises SIGPIPE.
pub fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[RawFd],
    waiting: Waiting,
) -> io::Result<()> {
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = ControlArea([0; CONTROL_ROOM]);
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let length = size_of_val(descriptors) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: the area is aligned and has room for MOST_DESCRIPTORS descriptors and the header.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            std::ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                length as usize,
            );
        }
    }
    let flags = libc::MSG_NOSIGNAL | waiting.flag();
    loop {
        // SAFETY: everything message points to lives across the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        match check(sent as c_long) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives one message into `room` (recvmsg); descriptors come close-on-exec.
///
/// Returns the number of bytes, 0 if the other end is closed, and `EMSGSIZE` if the message or its
/// descriptors did not fit.
pub fn receive_message(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    waiting: Waiting,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = ControlArea([0; CONTROL_ROOM]);
    let mut vector = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    // SAFETY: msghdr is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_ROOM as _;
    let flags = libc::MSG_CMSG_CLOEXEC | waiting.flag();
    let length = loop {
        // SAFETY: everything message points to lives across the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match check(received as c_long) {
            Ok(length) => break length as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel wrote well-formed control messages; each SCM_RIGHTS one holds new
    // descriptors that nothing else owns.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let count =
                    ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                for index in 0..count {
                    let number = data.cast::<RawFd>().add(index).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(number));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((length, descriptors))
}
