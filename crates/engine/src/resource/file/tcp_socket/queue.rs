//! What a TCP socket has not received yet: looked at without taking it.

use std::os::fd::BorrowedFd;

use cryonaut_sys::{descriptor, socket};

use crate::Result;
use crate::error::Attempt;
use crate::resource::file::unix_socket::queue::{Changes, Reading};

/// The urgent byte is shown in its place while the rest is looked at.
const CHANGES: Changes = &[(libc::SO_PEEK_OFF, 0), (libc::SO_OOBINLINE, 1)];

/// What waits to be received.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// The bytes, the urgent one among them.
    pub bytes: Vec<u8>,
    /// Where the urgent byte is.
    pub urgent: Option<usize>,
    /// Whether the program has received that one.
    pub urgent_taken: bool,
}

/// Looks at all that a socket has not received; `expected` bytes where that is known. None when they cannot be looked at whole.
///
/// # Errors
/// When the socket cannot be read.
pub fn unread(socket: BorrowedFd<'_>, expected: Option<usize>) -> Result<Option<Unread>> {
    let what = || "reading the queue of a TCP socket".to_owned();
    let place = socket::number_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF);
    let urgent = descriptor::poll_now(socket, libc::POLLPRI).attempt(what)? & libc::POLLPRI != 0;
    let marked = socket::at_mark(socket).unwrap_or(false);
    let held = descriptor::readable_bytes(socket).attempt(what)?;
    if *place.as_ref().unwrap_or(&-1) < 0
        && !urgent
        && !marked
        && expected.is_none_or(|expected| expected == held)
    {
        let bytes = match held {
            0 => Vec::new(),
            _ => peek(socket, held).attempt(what)?,
        };
        if bytes.len() == held {
            return Ok(Some(Unread {
                bytes,
                ..Unread::default()
            }));
        }
    }
    match place {
        Ok(_) => around_mark(socket, expected),
        // Before Linux 6.9 TCP has no SO_PEEK_OFF.
        Err(_) => Ok(None),
    }
}

fn peek(socket: BorrowedFd<'_>, room: usize) -> std::io::Result<Vec<u8>> {
    match socket::peek(socket, room, 0) {
        Ok(peeked) => Ok(peeked.bytes),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Looks at a queue with an urgent byte: what is shown at a time ends before it.
fn around_mark(socket: BorrowedFd<'_>, expected: Option<usize>) -> Result<Option<Unread>> {
    let what = || "reading the queue of a TCP socket".to_owned();
    let inline =
        socket::number_option(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE).attempt(what)?;
    let waits = socket::peek(socket, 1, libc::MSG_OOB).is_ok();
    let mut urgent = socket::at_mark(socket).attempt(what)?.then_some(0);
    let _reading = Reading::begin(std::iter::once(socket), CHANGES)?;
    let held = descriptor::readable_bytes(socket).attempt(what)?;
    let mut bytes = Vec::with_capacity(held);
    while bytes.len() < held {
        let offset = (bytes.len() as i32).to_ne_bytes();
        socket::set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset).attempt(what)?;
        let mut piece = peek(socket, held - bytes.len()).attempt(what)?;
        if piece.is_empty() {
            break;
        }
        bytes.append(&mut piece);
        if bytes.len() < held {
            urgent = Some(bytes.len());
        }
    }
    if bytes.len() != expected.unwrap_or(held) || waits && urgent.is_none() {
        return Ok(None);
    }
    Ok(Some(Unread {
        urgent_taken: urgent.is_some() && !waits && inline == 0,
        bytes,
        urgent,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_are_looked_at_and_stay() {
        let (mut one, mut other) = pair();
        assert_eq!(
            unread(other.as_fd(), None).unwrap(),
            Some(Unread::default())
        );
        one.write_all(b"some bytes").unwrap();
        for _ in 0..2 {
            let found = unread(other.as_fd(), Some(10)).unwrap().unwrap();
            assert_eq!(found.bytes, b"some bytes");
        }
        drop(one);
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "some bytes");
    }

    #[test]
    fn the_urgent_byte_is_found_in_its_place() {
        for (before, after) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut one, other) = pair();
            if before {
                one.write_all(b"abc").unwrap();
            }
            socket::send(one.as_fd(), b"X", None, &[], libc::MSG_OOB).unwrap();
            if after {
                one.write_all(b"def").unwrap();
            }
            let at = if before { 3 } else { 0 };
            let length = at + 1 + if after { 3 } else { 0 };
            let found = unread(other.as_fd(), Some(length)).unwrap().unwrap();
            assert_eq!((found.bytes.len(), found.urgent), (length, Some(at)));
            assert_eq!(found.bytes[at], b'X');
            assert!(!found.urgent_taken);
            socket::receive_urgent(other.as_fd()).unwrap();
            let found = unread(other.as_fd(), Some(length)).unwrap().unwrap();
            assert_eq!((found.urgent, found.urgent_taken), (Some(at), true));
        }
    }
}
