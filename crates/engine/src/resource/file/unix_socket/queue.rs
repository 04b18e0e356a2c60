//! Reading receive queues without consuming anything.
//!
//! MSG_PEEK from an offset (SO_PEEK_OFF) shows message after message, with copies of descriptors in flight. Offset, and the
//! options that tell who sent a message and what its urgent byte is, belong to the job's sockets: they are set for the time of
//! the reading only. Should `cryo` be killed meanwhile, a process of its own puts them back.
//!
//! What a stream shows in one piece ends where the sender's credentials change, after descriptors, and at the place of an urgent
//! byte. A piece that ends for neither of the first two reasons tells the third.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Credentials, Peeked};
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor};

use crate::error::Attempt;
use crate::{Error, Refusal, Result};

/// Options that are changed for reading: their values then.
pub type Changes = &'static [(i32, i32)];

/// The options of unix sockets that are changed for reading.
pub const CHANGES: Changes = &[
    (libc::SO_PEEK_OFF, 0),
    (libc::SO_PASSCRED, 1),
    (libc::SO_OOBINLINE, 0),
];

/// What is special about a piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// It is the urgent byte (MSG_OOB), not read yet.
    Urgent,
    /// It is empty: here an urgent byte was, which has been read.
    Taken,
}

/// A message, or a piece of a stream, in a receive queue.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The name of the socket that sent it.
    pub from: Option<Vec<u8>>,
    /// Who sent it, as we see them; none when the kernel noted nobody.
    pub credentials: Option<Credentials>,
    /// Copies of the descriptors in flight with it.
    pub descriptors: Vec<OwnedFd>,
    /// Whether it is the urgent byte, or its place.
    pub mark: Mark,
}

/// Sockets whose options are changed for reading. Dropping it puts them back.
pub struct Reading<'a> {
    sockets: Vec<(BorrowedFd<'a>, Vec<i32>)>,
    changes: Changes,
    link: Option<PipeWriter>,
    keeper: i32,
}

impl<'a> Reading<'a> {
    /// Prepares sockets for reading.
    ///
    /// # Errors
    /// When no process can be started, or an option may not be set; then all is as it was.
    pub fn begin(sockets: impl Iterator<Item = BorrowedFd<'a>>, changes: Changes) -> Result<Self> {
        let what = || "reading the queues of sockets".to_owned();
        let mut found = Vec::new();
        for socket in sockets {
            let mut old = Vec::with_capacity(changes.len());
            for (option, _) in changes {
                old.push(socket::number_option(socket, libc::SOL_SOCKET, *option).attempt(what)?);
            }
            found.push((socket, old));
        }
        let (mut told, link) = std::io::pipe().attempt(what)?;
        let started = spawn::fork_child(|| {
            let _ = set_signal_mask(SignalSet::FULL);
            let _ = spawn::new_session();
            let _ = spawn::set_thread_name(c"cryo-keeper");
            let _ = spawn::close_number(link.as_raw_fd());
            if told.read(&mut [0]).unwrap_or(0) == 0 {
                put_back(&found, changes);
            }
            0
        })
        .attempt(what)?;
        let reading = Self {
            sockets: found,
            changes,
            link: Some(link),
            keeper: started.pid,
        };
        for (socket, _) in &reading.sockets {
            for (option, value) in changes {
                socket::set_option(*socket, libc::SOL_SOCKET, *option, &value.to_ne_bytes())
                    .attempt(what)?;
            }
        }
        Ok(reading)
    }
}

/// Gives sockets their options back. Each accepted the value before.
fn put_back(sockets: &[(BorrowedFd<'_>, Vec<i32>)], changes: Changes) {
    for (socket, old) in sockets {
        for (value, (option, _)) in old.iter().zip(changes) {
            let _ = socket::set_option(*socket, libc::SOL_SOCKET, *option, &value.to_ne_bytes());
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        put_back(&self.sockets, self.changes);
        if let Some(mut link) = self.link.take() {
            let _ = link.write_all(b"d");
        }
        let _ = spawn::wait_for(WaitFor::Pid(self.keeper), libc::WEXITED);
    }
}

/// Whether there may be anything in the queue of a socket that does not listen. Reading messages with borders would take a pending
/// error away from the program.
///
/// # Errors
/// When there are messages behind such an error.
pub fn may_hold(socket: BorrowedFd<'_>, kind: i32) -> Result<bool> {
    let what = || "looking at a socket".to_owned();
    let events = descriptor::poll_now(socket, libc::POLLIN | libc::POLLPRI).attempt(what)?;
    if events & libc::POLLERR != 0 && kind != libc::SOCK_STREAM {
        return match descriptor::readable_bytes(socket).attempt(what)? {
            0 => Ok(false),
            _ => Err(Error::Unsettled(vec![Refusal {
                pid: 0,
                process: String::new(),
                object: "a unix socket".into(),
                reason: "it holds messages behind an error that its program has not been told yet, and looking at them would take the error away".into(),
                remedy: "try again once the program has received from it".into(),
            }])),
        };
    }
    Ok(events & (libc::POLLIN | libc::POLLPRI) != 0)
}

/// Everything in the receive queue of a socket that is under [`Reading`].
///
/// # Errors
/// When it cannot be read.
pub fn read(socket: BorrowedFd<'_>, kind: i32) -> Result<Vec<Waiting>> {
    match kind {
        libc::SOCK_STREAM => read_stream(socket),
        _ => read_messages(socket),
    }
    .attempt(|| "reading the queue of a socket".into())
}

fn set_offset(socket: BorrowedFd<'_>, offset: i32) -> std::io::Result<()> {
    let value = offset.to_ne_bytes();
    socket::set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &value)
}

fn waiting(peeked: Peeked) -> Waiting {
    Waiting {
        bytes: peeked.bytes,
        from: peeked.from.unix_name(),
        credentials: peeked.credentials.filter(|sender| sender.pid != 0),
        descriptors: peeked.descriptors,
        mark: Mark::None,
    }
}

/// Messages with borders. An empty one is shown once from an offset, and then only where it is the first: the kernel notes that.
fn read_messages(socket: BorrowedFd<'_>) -> std::io::Result<Vec<Waiting>> {
    let mut found = Vec::new();
    let mut room = 64 * 1024;
    set_offset(socket, -1)?;
    match peek_message(socket, room)? {
        None => return Ok(found),
        Some(first) if first.bytes.is_empty() => found.push(waiting(first)),
        Some(_) => {}
    }
    let mut offset = 0;
    loop {
        set_offset(socket, offset)?;
        match peek_message(socket, room)? {
            None => return Ok(found),
            Some(message) if message.flags & libc::MSG_TRUNC != 0 => room *= 4,
            Some(message) => {
                offset += message.bytes.len() as i32;
                found.push(waiting(message));
            }
        }
    }
}

/// One message, if there is one. At the end of what a peer that has gone sent there is a message without a sender.
fn peek_message(socket: BorrowedFd<'_>, room: usize) -> std::io::Result<Option<Peeked>> {
    match socket::peek(socket, room, 0) {
        Ok(message) if message.bytes.is_empty() && message.credentials.is_none() => Ok(None),
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_stream(socket: BorrowedFd<'_>) -> std::io::Result<Vec<Waiting>> {
    let total = descriptor::readable_bytes(socket)?;
    let urgent = match socket::peek(socket, 1, libc::MSG_OOB) {
        Ok(byte) => byte.bytes.first().copied(),
        Err(_) => None,
    };
    let marked = socket::at_mark(socket).unwrap_or(false);
    let mut found = Vec::new();
    // An urgent byte that comes first is left out of what is shown.
    let mut left = total;
    match urgent {
        Some(byte) if marked => {
            found.push(Waiting {
                bytes: vec![byte],
                mark: Mark::Urgent,
                ..Waiting::default()
            });
            left = left.saturating_sub(1);
        }
        None if marked => found.push(Waiting {
            mark: Mark::Taken,
            ..Waiting::default()
        }),
        _ => {}
    }
    let mut offset = 0;
    let mut pieces = Vec::new();
    // Never past the end, where a pending error would be told to us instead of the program.
    while offset < left {
        set_offset(socket, offset as i32)?;
        let peeked = match socket::peek(socket, left - offset, 0) {
            Ok(peeked) if !peeked.bytes.is_empty() => peeked,
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        let piece = waiting(peeked);
        let length = piece.bytes.len();
        let before = if piece.descriptors.is_empty() {
            0
        } else {
            set_offset(socket, offset as i32)?;
            socket::peek_whole_buffers(socket, length - 1)?
        };
        offset += length;
        pieces.push((piece, before));
    }
    let pending = urgent.filter(|_| !marked);
    let pieces = split(pieces);
    found.extend(with_marks(pieces, pending)?);
    Ok(found)
}

/// Pieces as the stream showed them, of which each that has descriptors is parted where the buffer with them begins. The second
/// of each pair says whether a piece is the rest of the one before it.
fn split(pieces: Vec<(Waiting, usize)>) -> Vec<(Waiting, bool)> {
    let mut parted = Vec::with_capacity(pieces.len());
    for (mut piece, before) in pieces {
        if before > 0 {
            let rest = piece.bytes.split_off(before);
            let descriptors = std::mem::take(&mut piece.descriptors);
            let second = Waiting {
                bytes: rest,
                from: piece.from.clone(),
                credentials: piece.credentials,
                descriptors,
                mark: Mark::None,
            };
            parted.push((piece, false));
            parted.push((second, true));
        } else {
            parted.push((piece, false));
        }
    }
    parted
}

/// Finds the place of the urgent byte: where a piece ends for no other reason.
fn with_marks(pieces: Vec<(Waiting, bool)>, urgent: Option<u8>) -> std::io::Result<Vec<Waiting>> {
    let mut breaks = Vec::new();
    for index in 1..pieces.len() {
        let (before, after) = (&pieces[index - 1].0, &pieces[index]);
        let explained =
            after.1 || !before.descriptors.is_empty() || before.credentials != after.0.credentials;
        breaks.push((index, explained));
    }
    let starts =
        |index: usize| urgent.is_some() && pieces[index].0.bytes.first().copied() == urgent;
    let candidates: Vec<usize> = breaks
        .iter()
        .filter(|(index, _)| starts(*index))
        .map(|(index, _)| *index)
        .collect();
    let certain = breaks
        .iter()
        .find(|(index, explained)| !explained && starts(*index))
        .map(|(index, _)| *index);
    let place = match (urgent, certain, candidates.as_slice()) {
        (None, ..) => None,
        (Some(_), Some(certain), _) => Some(certain),
        (Some(_), None, [only]) => Some(*only),
        _ => {
            return Err(std::io::Error::other(
                "the place of the urgent byte in it cannot be told",
            ));
        }
    };
    let taken: Vec<usize> = breaks
        .iter()
        .filter(|(index, explained)| !explained && Some(*index) != place)
        .map(|(index, _)| *index)
        .collect();
    let mut found = Vec::with_capacity(pieces.len() + 2);
    for (index, (mut piece, _)) in pieces.into_iter().enumerate() {
        if taken.contains(&index) {
            found.push(Waiting {
                mark: Mark::Taken,
                ..Waiting::default()
            });
        }
        if Some(index) == place {
            let rest = piece.bytes.split_off(1);
            let second = Waiting {
                bytes: rest,
                from: piece.from.clone(),
                credentials: piece.credentials,
                descriptors: std::mem::take(&mut piece.descriptors),
                mark: Mark::None,
            };
            piece.mark = Mark::Urgent;
            found.push(piece);
            if !second.bytes.is_empty() {
                found.push(second);
            }
        } else {
            found.push(piece);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn read_all(socket: &OwnedFd, kind: i32) -> Vec<Waiting> {
        let _reading = Reading::begin(std::iter::once(socket.as_fd()), CHANGES).unwrap();
        read(socket.as_fd(), kind).unwrap()
    }

    fn send(socket: &OwnedFd, bytes: &[u8], flags: i32, descriptors: &[i32]) {
        let sent = socket::send(socket.as_fd(), bytes, None, descriptors, flags).unwrap();
        assert_eq!(sent, bytes.len());
    }

    #[test]
    fn a_stream_is_read_with_the_places_of_its_descriptors() {
        let (one, other) = socket::pair(libc::SOCK_STREAM).unwrap();
        send(&one, b"plain", 0, &[]);
        send(&one, b"more", 0, &[]);
        send(&one, b"with", 0, &[1, 2]);
        send(&one, b"x", 0, &[0]);
        send(&one, b"after", 0, &[]);
        for _ in 0..2 {
            let found = read_all(&other, libc::SOCK_STREAM);
            let shown: Vec<_> = found
                .iter()
                .map(|piece| (piece.bytes.as_slice(), piece.descriptors.len()))
                .collect();
            let wanted: [(&[u8], usize); 4] =
                [(b"plainmore", 0), (b"with", 2), (b"x", 1), (b"after", 0)];
            assert_eq!(shown, wanted);
        }
        let offset = socket::number_option(other.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF);
        assert_eq!(offset.unwrap(), -1);
    }

    #[test]
    fn the_urgent_byte_is_found_where_it_is() {
        for (before, after) in [(true, true), (true, false), (false, true), (false, false)] {
            let (one, other) = socket::pair(libc::SOCK_STREAM).unwrap();
            if before {
                send(&one, b"abc", 0, &[]);
            }
            send(&one, b"X", libc::MSG_OOB, &[]);
            if after {
                send(&one, b"def", 0, &[]);
            }
            let found = read_all(&other, libc::SOCK_STREAM);
            let text: Vec<&[u8]> = found.iter().map(|piece| piece.bytes.as_slice()).collect();
            let mut wanted: Vec<&[u8]> = Vec::new();
            wanted.extend(before.then_some(b"abc".as_slice()));
            wanted.push(b"X");
            wanted.extend(after.then_some(b"def".as_slice()));
            assert_eq!(text, wanted);
            assert_eq!(found[usize::from(before)].mark, Mark::Urgent);
            socket::receive_urgent(other.as_fd()).unwrap();
            if before && after {
                let found = read_all(&other, libc::SOCK_STREAM);
                assert_eq!(found.len(), 3);
                assert_eq!(found[1].mark, Mark::Taken);
            }
        }
    }

    #[test]
    fn messages_keep_their_borders_senders_and_emptiness() {
        for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            let (one, other) = socket::pair(kind).unwrap();
            send(&one, b"", 0, &[]);
            send(&one, b"two", 0, &[0]);
            send(&one, &vec![7; 100_000], 0, &[]);
            send(&one, b"", 0, &[]);
            let found = read_all(&other, kind);
            let lengths: Vec<usize> = found.iter().map(|message| message.bytes.len()).collect();
            assert_eq!(lengths, [0, 3, 100_000, 0]);
            assert_eq!(found[1].descriptors.len(), 1);
            drop(one);
            assert!(!read_all(&other, kind).is_empty());
        }
    }
}
