//! The language between a supervisor and the init of its namespaces: requests one way, replies and
//! notices the other, each one message on a socket that keeps message borders.

use std::ffi::CString;

use cryonaut_sys::spawn::WaitStatus;

/// What the supervisor asks of init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Start a process: the message carries a memory file with its birth, then its descriptors.
    Spawn,
    /// The reply to `Spawn` was read, so the child may be reaped when it ends.
    Seen,
    /// End with the supervisor.
    LiveWithSupervisor,
    /// Live on without the supervisor.
    LiveIndependently,
    /// Keep the descriptor that comes along, at this number.
    Hold(i32),
    /// This child, born by CLONE_PARENT, is the root.
    Adopt(i32),
    /// The next process or thread born here gets this id.
    NextId(i32),
}

/// What init answers or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// Init has this pid outside (said by the process that made it).
    Forged(i32),
    /// Init is ready for requests.
    Ready,
    /// This step of making the namespaces failed with this errno.
    Failed { step: i32, errno: i32 },
    /// A process was started with this inner pid; its pid descriptor comes along.
    Born(i32),
    /// It could not be cloned, for this errno.
    NotBorn(i32),
    /// The request was carried out.
    Done,
    /// It was not, for this errno.
    NotDone(i32),
    /// The root, with this inner pid, changed.
    Root(i32, WaitStatus),
    /// Init has no children left.
    Empty,
}

pub(crate) const LENGTH: usize = 12;

fn pack(kind: i32, first: i32, second: i32) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (chunk, number) in bytes.chunks_exact_mut(4).zip([kind, first, second]) {
        chunk.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn unpack(bytes: &[u8]) -> Option<(i32, i32, i32)> {
    let mut numbers = bytes
        .chunks_exact(4)
        .map(|chunk| i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

impl Request {
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        match self {
            Request::Spawn => pack(1, 0, 0),
            Request::Seen => pack(2, 0, 0),
            Request::LiveWithSupervisor => pack(3, 0, 0),
            Request::LiveIndependently => pack(4, 0, 0),
            Request::Hold(number) => pack(5, number, 0),
            Request::Adopt(pid) => pack(6, pid, 0),
            Request::NextId(id) => pack(7, id, 0),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Request> {
        Some(match unpack(bytes)? {
            (1, ..) => Request::Spawn,
            (2, ..) => Request::Seen,
            (3, ..) => Request::LiveWithSupervisor,
            (4, ..) => Request::LiveIndependently,
            (5, number, _) => Request::Hold(number),
            (6, pid, _) => Request::Adopt(pid),
            (7, id, _) => Request::NextId(id),
            _ => return None,
        })
    }
}

impl Message {
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        match self {
            Message::Forged(pid) => pack(1, pid, 0),
            Message::Ready => pack(2, 0, 0),
            Message::Failed { step, errno } => pack(3, step, errno),
            Message::Born(pid) => pack(4, pid, 0),
            Message::NotBorn(errno) => pack(5, errno, 0),
            Message::Done => pack(6, 0, 0),
            Message::NotDone(errno) => pack(7, errno, 0),
            Message::Root(pid, WaitStatus::Exited(status)) => pack(8, pid, status),
            Message::Root(pid, WaitStatus::Killed(signal)) => pack(9, pid, signal),
            Message::Root(pid, WaitStatus::Stopped(signal)) => pack(10, pid, signal),
            Message::Root(pid, WaitStatus::Continued) => pack(11, pid, 0),
            Message::Empty => pack(12, 0, 0),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
        Some(match unpack(bytes)? {
            (1, pid, _) => Message::Forged(pid),
            (2, ..) => Message::Ready,
            (3, step, errno) => Message::Failed { step, errno },
            (4, pid, _) => Message::Born(pid),
            (5, errno, _) => Message::NotBorn(errno),
            (6, ..) => Message::Done,
            (7, errno, _) => Message::NotDone(errno),
            (8, pid, status) => Message::Root(pid, WaitStatus::Exited(status)),
            (9, pid, signal) => Message::Root(pid, WaitStatus::Killed(signal)),
            (10, pid, signal) => Message::Root(pid, WaitStatus::Stopped(signal)),
            (11, pid, _) => Message::Root(pid, WaitStatus::Continued),
            (12, ..) => Message::Empty,
            _ => return None,
        })
    }
}

/// Writes numbers and strings one after the other.
#[derive(Default)]
pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn number(&mut self, number: i64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn strings(&mut self, strings: &[CString]) {
        self.number(strings.len() as i64);
        for string in strings {
            self.bytes.extend_from_slice(string.as_bytes_with_nul());
        }
    }
}

/// Reads what an [`Encoder`] wrote.
pub(crate) struct Decoder<'a> {
    pub(crate) bytes: &'a [u8],
}

impl Decoder<'_> {
    pub(crate) fn number(&mut self) -> Option<i64> {
        let (number, rest) = self.bytes.split_first_chunk::<8>()?;
        self.bytes = rest;
        Some(i64::from_le_bytes(*number))
    }

    pub(crate) fn strings(&mut self) -> Option<Vec<CString>> {
        let mut strings = Vec::new();
        for _ in 0..self.number()? {
            let end = self.bytes.iter().position(|byte| *byte == 0)?;
            strings.push(CString::new(&self.bytes[..end]).ok()?);
            self.bytes = &self.bytes[end + 1..];
        }
        Some(strings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_socket() {
        for message in [
            Message::Forged(7),
            Message::Ready,
            Message::Failed { step: 3, errno: 1 },
            Message::Born(2),
            Message::NotBorn(17),
            Message::Done,
            Message::NotDone(9),
            Message::Root(4, WaitStatus::Exited(3)),
            Message::Root(4, WaitStatus::Killed(9)),
            Message::Root(4, WaitStatus::Stopped(19)),
            Message::Root(4, WaitStatus::Continued),
            Message::Empty,
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(&[1, 2]), None);
    }
}
