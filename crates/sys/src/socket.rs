//! Sockets: options, names, peeking into queues, messages with ancillary data (socket(7), unix(7)), and what sock_diag(7) lists.

pub mod device;
pub mod diagnosis;
mod internet;
mod message;
pub mod netlink;
pub mod repair;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

pub use internet::{Tcp, namespace_cookie, state, take_error};
pub use message::{Credentials, Peeked, peek, peek_whole_buffers, receive_urgent, send, send_as};

/// Room for any socket address (struct sockaddr_storage).
pub(crate) const ADDRESS_ROOM: usize = 128;

/// An address as the kernel takes and gives it: the family in two bytes, then what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Address(Vec<u8>);

impl Address {
    /// The address of a unix socket, from what follows the family in `sun_path`: a path without its final zero, an abstract name
    /// (with the zero that it begins with), or nothing for a socket without a name. At most 108 bytes.
    pub fn unix(name: &[u8]) -> Self {
        let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(name);
        if name.first().is_some_and(|first| *first != 0) {
            bytes.push(0);
        }
        Self(bytes)
    }

    /// An address of any family, as the kernel gave it.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `AF_*`; 0 when it is empty.
    pub fn family(&self) -> i32 {
        match self.0.get(..2) {
            Some(family) => u16::from_ne_bytes([family[0], family[1]]).into(),
            None => 0,
        }
    }

    /// The name of a unix socket as [`Address::unix`] takes it; none when it has none.
    pub fn unix_name(&self) -> Option<Vec<u8>> {
        let name = self.0.get(2..).filter(|name| !name.is_empty())?;
        Some(match name[0] {
            0 => name.to_vec(),
            _ => name
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or(name)
                .to_vec(),
        })
    }
}

fn new_descriptor(value: libc::c_int) -> Result<OwnedFd> {
    check(value.into())?;
    // SAFETY: callers pass the result of a call that has just created this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(value) })
}

/// Makes a socket(2), close-on-exec. `kind` is `SOCK_*` with its flags.
///
/// # Errors
/// As socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    new_descriptor(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// Makes two connected unix sockets (socketpair(2)), close-on-exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair(kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for both descriptors.
    check(i64::from(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    }))?;
    // SAFETY: the call has just created both.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Gives a socket a name (bind(2)).
///
/// # Errors
/// EADDRINUSE, and as bind(2).
pub fn bind(socket: BorrowedFd<'_>, address: &Address) -> Result<()> {
    let length = address.0.len() as libc::socklen_t;
    // SAFETY: the address outlives the call, and its length is told.
    check(i64::from(unsafe {
        libc::bind(socket.as_raw_fd(), address.0.as_ptr().cast(), length)
    }))
    .map(drop)
}

/// Connects a socket (connect(2)).
///
/// # Errors
/// ECONNREFUSED, EAGAIN for a full backlog, and as connect(2).
pub fn connect(socket: BorrowedFd<'_>, address: &Address) -> Result<()> {
    let length = address.0.len() as libc::socklen_t;
    // SAFETY: the address outlives the call, and its length is told.
    check(i64::from(unsafe {
        libc::connect(socket.as_raw_fd(), address.0.as_ptr().cast(), length)
    }))
    .map(drop)
}

/// Has a socket wait for connections (listen(2)).
///
/// # Errors
/// As listen(2).
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe {
        libc::listen(socket.as_raw_fd(), backlog)
    }))
    .map(drop)
}

/// Takes the next connection (accept4(2)), close-on-exec.
///
/// # Errors
/// As accept(2).
pub fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: no address is asked for.
    new_descriptor(unsafe {
        libc::accept4(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    })
}

/// Closes directions of a socket (shutdown(2)): `SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`.
///
/// # Errors
/// ENOTCONN.
pub fn shutdown(socket: BorrowedFd<'_>, how: i32) -> Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe {
        libc::shutdown(socket.as_raw_fd(), how)
    }))
    .map(drop)
}

/// Which end's address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The socket's own (getsockname(2)).
    Own,
    /// Its peer's (getpeername(2)).
    Peer,
}

/// The address of an end of a socket.
///
/// # Errors
/// ENOTCONN for a peer that is not there.
pub fn address(socket: BorrowedFd<'_>, end: End) -> Result<Address> {
    let mut room = [0_u8; ADDRESS_ROOM];
    let mut length = ADDRESS_ROOM as libc::socklen_t;
    let (pointer, number) = (room.as_mut_ptr().cast(), socket.as_raw_fd());
    // SAFETY: the room outlives the call, and its length is told.
    check(i64::from(unsafe {
        match end {
            End::Own => libc::getsockname(number, pointer, &raw mut length),
            End::Peer => libc::getpeername(number, pointer, &raw mut length),
        }
    }))?;
    Ok(Address(
        room[..(length as usize).min(ADDRESS_ROOM)].to_vec(),
    ))
}

/// The value of an option (getsockopt(2)), at most `room` bytes.
///
/// # Errors
/// ENOPROTOOPT where the kernel or the family has no such option.
pub fn option(socket: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    let mut value = vec![0_u8; room];
    let mut length = room as libc::socklen_t;
    // SAFETY: the room outlives the call, and its length is told.
    check(i64::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    }))?;
    value.truncate(length as usize);
    Ok(value)
}

/// As [`option`], for an option whose value says what is asked about.
///
/// # Errors
/// As getsockopt(2).
pub fn ask_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    mut value: Vec<u8>,
) -> Result<Vec<u8>> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the value outlives the call, and its length is told.
    check(i64::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    }))?;
    Ok(value)
}

/// The number of a network interface (if_nametoindex(3)).
///
/// # Errors
/// ENODEV when there is none of this name.
pub fn interface_number(name: &[u8]) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is ended by a zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()),
        number => Ok(number),
    }
}

/// The value of an option that is a number.
///
/// # Errors
/// As [`option`].
pub fn number_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    let value = option(socket, level, name, 4)?;
    let bytes: [u8; 4] = value
        .try_into()
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(i32::from_ne_bytes(bytes))
}

/// Sets an option (setsockopt(2)).
///
/// # Errors
/// As setsockopt(2).
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: the value outlives the call, and its length is told.
    check(i64::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    }))
    .map(drop)
}

/// The classic program that filters what a socket receives (SO_GET_FILTER): eight bytes for each instruction; empty for none.
///
/// # Errors
/// EACCES when the filter is no classic program.
pub fn filter(socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut count: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel only tells the number of instructions.
    check(i64::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut count,
        )
    }))?;
    let mut program = vec![0_u8; count as usize * 8];
    if count > 0 {
        // SAFETY: the length is given and told in instructions of eight bytes, for which there is room.
        check(i64::from(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                program.as_mut_ptr().cast(),
                &raw mut count,
            )
        }))?;
        program.truncate(count as usize * 8);
    }
    Ok(program)
}

/// Sets the classic program that filters what a socket receives (SO_ATTACH_FILTER), as [`filter`] gives it.
///
/// # Errors
/// EINVAL for a program that the kernel does not accept.
pub fn set_filter(socket: BorrowedFd<'_>, program: &[u8]) -> Result<()> {
    let header = libc::sock_fprog {
        len: (program.len() / 8) as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the header and the program outlive the call, which reads both; the length is told in instructions.
    check(i64::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const header).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    }))
    .map(drop)
}

fn ask_number(socket: BorrowedFd<'_>, request: libc::Ioctl) -> Result<i32> {
    let mut value = 0_i32;
    // SAFETY: used with requests that write one int, which outlives the call.
    check(i64::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), request, &raw mut value)
    }))?;
    Ok(value)
}

/// Bytes of memory that hold what was sent and not received yet (SIOCOUTQ; for a unix socket its messages in any queue).
///
/// # Errors
/// EINVAL for a socket that listens.
pub fn unreceived(socket: BorrowedFd<'_>) -> Result<usize> {
    ask_number(socket, libc::TIOCOUTQ).map(|value| value.max(0) as usize)
}

/// Whether the next byte of a stream is where urgent data was sent (SIOCATMARK).
///
/// # Errors
/// ENOTTY where the kernel does not tell.
pub fn at_mark(socket: BorrowedFd<'_>) -> Result<bool> {
    const SIOCATMARK: libc::Ioctl = 0x8905;
    ask_number(socket, SIOCATMARK).map(|value| value != 0)
}

/// The file that a unix socket was bound to, as a place (`O_PATH`), wherever it is now (SIOCUNIXFILE, Linux 4.12).
///
/// # Errors
/// ENOENT for a socket without one; EPERM without CAP_NET_ADMIN over its network namespace.
pub fn bound_file(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    const SIOCUNIXFILE: libc::Ioctl = 0x89e0;
    // SAFETY: the request takes no argument.
    new_descriptor(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE) })
}

/// Sets the time of last modification of a file, in ns since 1970, without following a link (utimensat(2)).
///
/// # Errors
/// EPERM; ENOENT.
pub fn set_modified(path: &std::ffi::CStr, nanoseconds: i64) -> Result<()> {
    let times = [
        libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        libc::timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
        },
    ];
    // SAFETY: the path and both times outlive the call.
    check(i64::from(unsafe {
        libc::utimensat(
            libc::AT_FDCWD,
            path.as_ptr(),
            times.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    }))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn names_of_unix_sockets_survive_the_kernel() {
        let socket = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).unwrap();
        assert_eq!(address(socket.as_fd(), End::Own).unwrap().unix_name(), None);
        let name = format!("\0cryonaut-{}\0x", std::process::id());
        bind(socket.as_fd(), &Address::unix(name.as_bytes())).unwrap();
        let found = address(socket.as_fd(), End::Own).unwrap();
        assert_eq!(found.unix_name().as_deref(), Some(name.as_bytes()));
        assert_eq!(found.family(), libc::AF_UNIX);
    }

    #[test]
    fn a_filter_comes_back_as_it_was_set() {
        let (one, _other) = pair(libc::SOCK_DGRAM).unwrap();
        assert_eq!(filter(one.as_fd()).unwrap(), []);
        // Accept everything: BPF_RET | BPF_K with all ones.
        let program = [6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        set_filter(one.as_fd(), &program).unwrap();
        assert_eq!(filter(one.as_fd()).unwrap(), program);
    }
}
