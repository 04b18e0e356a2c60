//! What a holder of a terminal and its viewers say to each other, over a stream socket.
//!
//! A frame is its type (one byte), the length of its body (four bytes, little-endian), and the body. Whoever sends anything
//! else is dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use cryonaut_sys::terminal::{Readiness, WindowSize};

/// The longest body, in bytes.
const LONGEST: usize = 64 * 1024;

/// What a viewer wants to see first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replay {
    /// What was printed before, as far as it was kept.
    #[default]
    Kept,
    /// Nothing: only what is printed from now on.
    Nothing,
}

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A viewer shows itself; without a size it has no window.
    Join(Option<WindowSize>, Replay),
    /// Bytes typed.
    Typed(Vec<u8>),
    /// The viewer's window has another size.
    Resized(WindowSize),
    /// The viewer's input, which is no terminal, has ended: this many end-of-file characters are to be typed.
    InputEnded(u8),
    /// Asks how many viewers there are.
    Ask,
    /// Whoever waits for the job's root knows that it ended with this exit code.
    RootEnded(u8),
    /// Bytes printed.
    Printed(Vec<u8>),
    /// All was printed, and the root has ended with this exit code, if that is known.
    Over(Option<u8>),
    /// How many viewers there are.
    Viewers(u32),
    /// The input of all viewers has ended, and the job goes on waiting for single keys.
    Unheard,
    /// The terminal is to be hung up, as the end of its window does.
    HangUp,
}

fn size_bytes(size: WindowSize) -> Vec<u8> {
    [size.rows, size.columns, size.width, size.height]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn size_of(bytes: &[u8]) -> Option<WindowSize> {
    let (numbers, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let [rows, columns, width, height] = *numbers else {
        return None;
    };
    Some(WindowSize {
        rows: u16::from_le_bytes(rows),
        columns: u16::from_le_bytes(columns),
        width: u16::from_le_bytes(width),
        height: u16::from_le_bytes(height),
    })
}

impl Frame {
    fn encode(&self, out: &mut VecDeque<u8>) {
        let (kind, body) = match self {
            Frame::Join(size, replay) => {
                let mut body = vec![u8::from(*replay == Replay::Kept)];
                body.extend(size.map(size_bytes).unwrap_or_default());
                (1, body)
            }
            Frame::Typed(bytes) => (2, bytes.clone()),
            Frame::Resized(size) => (3, size_bytes(*size)),
            Frame::InputEnded(times) => (4, vec![*times]),
            Frame::Ask => (5, Vec::new()),
            Frame::RootEnded(code) => (6, vec![*code]),
            Frame::Printed(bytes) => (7, bytes.clone()),
            Frame::Over(code) => (8, code.iter().copied().collect()),
            Frame::Viewers(count) => (9, count.to_le_bytes().to_vec()),
            Frame::Unheard => (10, Vec::new()),
            Frame::HangUp => (11, Vec::new()),
        };
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        out.push_back(kind);
        out.extend(length.to_le_bytes());
        out.extend(body);
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Frame> {
        Some(match (kind, body) {
            (1, [replay, size @ ..]) => {
                let replay = match replay {
                    0 => Replay::Nothing,
                    _ => Replay::Kept,
                };
                let size = match size {
                    [] => None,
                    size => Some(size_of(size)?),
                };
                Frame::Join(size, replay)
            }
            (2, bytes) => Frame::Typed(bytes.to_vec()),
            (3, size) => Frame::Resized(size_of(size)?),
            (4, [times]) => Frame::InputEnded(*times),
            (5, []) => Frame::Ask,
            (6, [code]) => Frame::RootEnded(*code),
            (7, bytes) => Frame::Printed(bytes.to_vec()),
            (8, []) => Frame::Over(None),
            (8, [code]) => Frame::Over(Some(*code)),
            (9, count) => Frame::Viewers(u32::from_le_bytes(count.try_into().ok()?)),
            (10, []) => Frame::Unheard,
            (11, []) => Frame::HangUp,
            _ => return None,
        })
    }
}

/// One end of the connection, which never waits.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: VecDeque<u8>,
    open: bool,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Link> {
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            open: true,
        })
    }

    /// Whether the other end is there.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// How many bytes wait to go out.
    pub(crate) fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    pub(crate) fn push(&mut self, frame: &Frame) {
        frame.encode(&mut self.outgoing);
    }

    /// Sends what the socket takes; gives how many bytes that was.
    pub(crate) fn flush(&mut self) -> usize {
        let mut sent = 0;
        while self.open && !self.outgoing.is_empty() {
            let (piece, _) = self.outgoing.as_slices();
            match self.stream.write(piece) {
                Ok(length) => {
                    sent += length;
                    self.outgoing.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What the other end said before it went can still be read.
                Err(_) => self.outgoing.clear(),
            }
        }
        sent
    }

    /// What has come; at the end, or after nonsense, the link is closed.
    pub(crate) fn read(&mut self) -> Vec<Frame> {
        let mut room = [0; 16 * 1024];
        while self.open && self.incoming.len() < 2 * LONGEST {
            match self.stream.read(&mut room) {
                Ok(0) => self.open = false,
                Ok(length) => self.incoming.extend_from_slice(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        let (mut frames, mut taken) = (Vec::new(), 0);
        while let Some(([kind, a, b, c, d], rest)) = self.incoming[taken..].split_first_chunk() {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            if length > LONGEST {
                self.open = false;
                break;
            }
            let Some(body) = rest.get(..length) else {
                break;
            };
            match Frame::decode(*kind, body) {
                Some(frame) => frames.push(frame),
                None => self.open = false,
            }
            taken += 5 + length;
        }
        self.incoming.drain(..taken);
        frames
    }

    /// What to wait for.
    pub(crate) fn wish(&self, reading: Reading) -> Option<Readiness<'_>> {
        let mut wanted = 0;
        if reading == Reading::Wanted {
            wanted |= libc::POLLIN;
        }
        if !self.outgoing.is_empty() {
            wanted |= libc::POLLOUT;
        }
        (self.open && wanted != 0).then(|| Readiness::new(self.stream.as_fd(), wanted))
    }
}

/// Whether more is wanted from the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Wanted,
    Later,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_the_stream_in_pieces() {
        let size = WindowSize {
            rows: 24,
            columns: 80,
            width: 3,
            height: 500,
        };
        let frames = [
            Frame::Join(Some(size), Replay::Kept),
            Frame::Join(None, Replay::Nothing),
            Frame::Typed(b"ls\n".to_vec()),
            Frame::Resized(size),
            Frame::InputEnded(2),
            Frame::Ask,
            Frame::RootEnded(137),
            Frame::Printed(vec![7; LONGEST]),
            Frame::Over(None),
            Frame::Over(Some(3)),
            Frame::Viewers(70_000),
            Frame::Unheard,
            Frame::HangUp,
        ];
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Link::new(one).unwrap(), Link::new(other).unwrap());
        for frame in &frames {
            one.push(frame);
        }
        let mut seen = Vec::new();
        while seen.len() < frames.len() {
            one.flush();
            seen.extend(other.read());
        }
        assert_eq!(seen, frames);
        drop(one);
        assert_eq!(other.read(), []);
        assert!(!other.is_open());
    }

    #[test]
    fn nonsense_closes_the_link() {
        for bytes in [
            &[9, 1, 0, 0, 0, 1][..],
            &[2, 255, 255, 255, 255],
            &[99, 0, 0, 0, 0],
        ] {
            let (mut one, other) = UnixStream::pair().unwrap();
            let mut other = Link::new(other).unwrap();
            one.write_all(bytes).unwrap();
            assert_eq!(other.read(), []);
            assert!(!other.is_open(), "{bytes:?}");
        }
    }
}
