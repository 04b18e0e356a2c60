//! What a socket without connections has not received yet: looked at without taking it.

use std::os::fd::BorrowedFd;

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Peeked};

use super::Datagram;
use crate::Result;
use crate::error::Attempt;
use crate::resource::file::socket::SocketFacts;
use crate::resource::file::unix_socket::queue::{Changes, Reading};

/// The place from which on is looked.
const CHANGES: Changes = &[(libc::SO_PEEK_OFF, 0)];
/// What memory a socket uses (Linux 4.12).
const SO_MEMINFO: i32 = 55;

/// The queue of a socket, or why it cannot be saved now.
///
/// # Errors
/// When the socket cannot be looked at.
pub fn read(
    socket: BorrowedFd<'_>,
    facts: &SocketFacts,
) -> Result<std::result::Result<Vec<Datagram>, String>> {
    let what = || "reading the queue of a socket".to_owned();
    let events = descriptor::poll_now(socket, libc::POLLIN).attempt(what)?;
    if events & libc::POLLERR != 0 {
        let error = "it holds an error that its program has not been told yet, and looking at it would take it away";
        return Ok(Err(error.into()));
    }
    if socket::unreceived(socket).unwrap_or(0) > 0 {
        return Ok(Err(
            "it has something to send that it has not sent yet (UDP_CORK, MSG_MORE)".into(),
        ));
    }
    let has_place = socket::number_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF).is_ok();
    if !has_place || facts.kind != libc::SOCK_DGRAM {
        let memory = socket::option(socket, libc::SOL_SOCKET, SO_MEMINFO, 36).unwrap_or_default();
        let held = memory
            .first_chunk()
            .map_or(0, |held| u32::from_ne_bytes(*held));
        if held > 0 || events & libc::POLLIN != 0 {
            return Ok(Err(
                "packets wait in it, and the kernel shows no more than the first".into(),
            ));
        }
        return Ok(Ok(Vec::new()));
    }
    if events & libc::POLLIN == 0 {
        return Ok(Ok(Vec::new()));
    }
    let _reading = Reading::begin(std::iter::once(socket), CHANGES)?;
    all(socket).attempt(what).map(Ok)
}

fn all(socket: BorrowedFd<'_>) -> std::io::Result<Vec<Datagram>> {
    let mut found: Vec<Datagram> = Vec::new();
    let mut offset: usize = 0;
    // Without a place the first is shown whatever it is: an empty one, too.
    set_place(socket, -1)?;
    match peek(socket)? {
        Some(first) if first.bytes.is_empty() => found.push(datagram(first)),
        _ => {}
    }
    loop {
        set_place(socket, i32::try_from(offset).unwrap_or(i32::MAX))?;
        match peek(socket)? {
            None => return Ok(found),
            Some(next) => {
                offset += next.bytes.len();
                found.push(datagram(next));
            }
        }
    }
}

fn set_place(socket: BorrowedFd<'_>, place: i32) -> std::io::Result<()> {
    let place = place.to_ne_bytes();
    socket::set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &place)
}

fn peek(socket: BorrowedFd<'_>) -> std::io::Result<Option<Peeked>> {
    match socket::peek(socket, 1 << 16, 0) {
        Ok(peeked) => Ok(Some(peeked)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn datagram(peeked: Peeked) -> Datagram {
    Datagram {
        bytes: peeked.bytes,
        from: peeked.from.bytes().to_vec(),
        to: peeked.to,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn datagrams_are_looked_at_and_stay() {
        let (one, other) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let facts = SocketFacts::of(other.as_fd(), b"socket:[1]").unwrap();
        let to = other.local_addr().unwrap();
        for text in ["", "one", "three", "two"] {
            one.send_to(text.as_bytes(), to).unwrap();
        }
        let found = read(other.as_fd(), &facts).unwrap().unwrap();
        let texts: Vec<&[u8]> = found
            .iter()
            .map(|datagram| datagram.bytes.as_slice())
            .collect();
        assert_eq!(texts, [&b""[..], b"one", b"three", b"two"]);
        let from = one.local_addr().unwrap();
        let place = socket::Address::from_bytes(found[1].from.clone()).place();
        assert_eq!(place, Some((from.ip(), from.port())));
        assert_eq!(read(other.as_fd(), &facts).unwrap().unwrap(), found);
        let mut room = [0; 8];
        assert_eq!(other.recv(&mut room).unwrap(), 0);
        assert_eq!(other.recv(&mut room).unwrap(), 3);
    }
}
