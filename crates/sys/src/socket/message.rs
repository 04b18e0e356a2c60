//! Messages with ancillary data: sendmsg(2), recvmsg(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{ADDRESS_ROOM, Address};
use crate::{Result, check};

/// The most descriptors one message can carry (SCM_MAX_FD, include/net/scm.h).
const MOST_DESCRIPTORS: usize = 253;
/// Room for descriptors, credentials, a pidfd, a security label and timestamps.
const CONTROL_ROOM: usize = 4096;
/// Ancillary data with a descriptor of the sending process (Linux 6.5).
const SCM_PIDFD: i32 = 4;

#[repr(C, align(8))]
struct ControlArea([u8; CONTROL_ROOM]);

/// Who sent a message, in the ids of the namespaces that this process lives in (SCM_CREDENTIALS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The process; 0 when nobody was noted or it is not visible.
    pub pid: i32,
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

/// What was found in a queue.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// `MSG_*` flags of the message.
    pub flags: i32,
    /// The sender's address, empty if it has none.
    pub from: Address,
    /// Copies of the descriptors in flight with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// The sender's credentials, where the socket is set to pass them on.
    pub credentials: Option<Credentials>,
    /// The address that a datagram was sent to, 4 or 16 bytes in network order, where the socket is set to pass it on.
    pub to: Option<Vec<u8>>,
}

/// Looks at a message without consuming it and without waiting: MSG_PEEK and the flags given, at most `room` bytes.
///
/// # Errors
/// EAGAIN when there is nothing; EMSGSIZE when ancillary data did not fit.
pub fn peek(socket: BorrowedFd<'_>, room: usize, flags: i32) -> Result<Peeked> {
    let mut peeked = Peeked {
        bytes: vec![0; room],
        ..Peeked::default()
    };
    let mut control = ControlArea([0; CONTROL_ROOM]);
    let mut from = [0_u8; ADDRESS_ROOM];
    let mut vector = libc::iovec {
        iov_base: peeked.bytes.as_mut_ptr().cast(),
        iov_len: room,
    };
    // SAFETY: msghdr is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = ADDRESS_ROOM as u32;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_ROOM as _;
    let flags = flags | libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: everything message points to lives across the call, with the lengths told.
    let length =
        check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) } as i64)?;
    peeked.bytes.truncate(length as usize);
    peeked.flags = message.msg_flags;
    let named = (message.msg_namelen as usize).min(ADDRESS_ROOM);
    peeked.from = Address::from_bytes(from[..named].to_vec());
    // SAFETY: the kernel wrote well-formed control messages; those of descriptors hold new ones that nothing else owns, and those
    // of credentials and packet information hold the structures that are read.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let held = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..held / size_of::<RawFd>() {
                        let number = data.cast::<RawFd>().add(index).read_unaligned();
                        peeked.descriptors.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, SCM_PIDFD) => {
                    // Nobody asked for it here: it is closed at once.
                    let number = data.cast::<RawFd>().read_unaligned();
                    if number >= 0 {
                        drop(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    let found = data.cast::<libc::ucred>().read_unaligned();
                    peeked.credentials = Some(Credentials {
                        pid: found.pid,
                        user: found.uid,
                        group: found.gid,
                    });
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let found = data.cast::<libc::in_pktinfo>().read_unaligned();
                    peeked.to = Some(found.ipi_addr.s_addr.to_ne_bytes().to_vec());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let found = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    peeked.to = Some(found.ipi6_addr.s6_addr.to_vec());
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(peeked)
}

/// How many of the first `room` bytes of a stream's queue (from its peek offset on) lie in buffers of the kernel that end within
/// them. A buffer that carries descriptors is what a receiver gets them with, and this tells where it begins.
///
/// # Errors
/// EAGAIN when there is nothing.
pub fn peek_whole_buffers(socket: BorrowedFd<'_>, room: usize) -> Result<usize> {
    let mut bytes = vec![0_u8; room];
    let mut vectors = [
        libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: room,
        },
        // The first page is never mapped: a buffer that does not fit into the room meets EFAULT here, and ends the call.
        libc::iovec {
            iov_base: std::ptr::without_provenance_mut(8),
            iov_len: 64,
        },
    ];
    // SAFETY: msghdr is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len() as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the first vector outlives the call; the kernel refuses to write to the second.
    match check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) } as i64) {
        Ok(length) => Ok(length as usize),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Takes the urgent byte of a stream (MSG_OOB) without waiting.
///
/// # Errors
/// EINVAL when there is none.
pub fn receive_urgent(socket: BorrowedFd<'_>) -> Result<()> {
    let mut byte = 0_u8;
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT;
    // SAFETY: one byte, which outlives the call.
    check(unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) } as i64)
        .map(drop)
}

/// Sends one message without waiting, never raising SIGPIPE: to the peer, or `to` an address, with descriptors. `flags` may say
/// MSG_OOB. Returns the number of bytes taken.
///
/// # Errors
/// EAGAIN when there is no room; EINVAL for more than 253 descriptors; as sendmsg(2).
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<&Address>,
    descriptors: &[RawFd],
    flags: i32,
) -> Result<usize> {
    send_as(socket, bytes, to, descriptors, flags, None)
}

/// As [`send`], telling who sends it (SCM_CREDENTIALS).
///
/// # Errors
/// EPERM for credentials that this process may not claim; ESRCH for a pid that nobody has; as [`send`].
pub fn send_as(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<&Address>,
    descriptors: &[RawFd],
    flags: i32,
    credentials: Option<Credentials>,
) -> Result<usize> {
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
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
    if let Some(to) = to {
        message.msg_name = to.bytes().as_ptr().cast_mut().cast();
        message.msg_namelen = to.bytes().len() as u32;
    }
    let numbers: Vec<u8> = descriptors
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect();
    let who = credentials.map(|who| {
        let words = [who.pid as u32, who.user, who.group];
        words.map(u32::to_ne_bytes).concat()
    });
    let mut parts = Vec::new();
    if !numbers.is_empty() {
        parts.push((libc::SCM_RIGHTS, &numbers));
    }
    if let Some(who) = &who {
        parts.push((libc::SCM_CREDENTIALS, who));
    }
    let mut used = 0;
    for (kind, data) in parts {
        let length = size_of::<libc::cmsghdr>() + data.len();
        let end = used + length;
        // SAFETY: cmsghdr is plain data, which some C libraries give padding.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = length as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = kind;
        // SAFETY: the area is aligned, and has room for MOST_DESCRIPTORS descriptors, credentials, and the header of each.
        unsafe {
            let at = control.0.as_mut_ptr().add(used);
            at.cast::<libc::cmsghdr>().write(header);
        }
        control.0[end - data.len()..end].copy_from_slice(data);
        used = end.next_multiple_of(align_of::<libc::cmsghdr>());
    }
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used as _;
    }
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: everything message points to lives across the call, with the lengths told.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) } as i64)
        .map(|sent| sent as usize)
}
