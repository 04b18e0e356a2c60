//! Anonymous pipes: bytes in flight, size, packet borders, every end with its own flags.
//!
//! The inode number, which /proc/PID/fd shows, tells which ends belong together; tee(2) copies what is in flight without
//! consuming it; fcntl tells the size. An end whose other end is closed comes back that way, with what is left to read. A pipe
//! that leads out of the job is a standard stream (see `standard`) or stated as external (see `external`). Not preserved: what is left in a pipe
//! that nobody can read from any more.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;

use super::external::outsider;
use super::facts::{Description, FdFacts, Job, Peer};
use super::{DescriptorKind, holders, reopen, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// The size that a new pipe has.
const USUAL: u32 = 65_536;

/// A pipe with all its ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pipe {
    /// What is in flight.
    #[prost(message, optional, tag = "1")]
    pub queue: Option<Queue>,
    /// The open file descriptions that are its ends.
    #[prost(message, repeated, tag = "2")]
    pub ends: Vec<End>,
    /// Who outside the job held it, too, where that was seen, for messages.
    #[prost(string, tag = "3")]
    pub outsider: String,
}

/// An open file description of a pipe or FIFO.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct End {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags; the access mode tells which end it is.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
}

/// What is in flight in a pipe or FIFO.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Queue {
    /// Size in bytes (F_GETPIPE_SZ).
    #[prost(uint32, tag = "1")]
    pub size: u32,
    /// Whether an end that is still open keeps packets apart (O_DIRECT).
    #[prost(bool, tag = "2")]
    pub packets: bool,
    /// The bytes, or each packet, in order.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub pieces: Vec<Vec<u8>>,
    /// Of each piece, whether it is a packet. Absent in earlier images: then all are what `packets` says.
    #[prost(bool, repeated, tag = "4")]
    pub borders: Vec<bool>,
}

impl Record for Pipe {
    const KIND: Kind = Kind {
        name: "file.pipe",
        version: 1,
    };
}

impl End {
    /// Whether it can be read from.
    pub fn reads(self) -> bool {
        self.flags as i32 & cryonaut_sys::uapi::O_ACCMODE != libc::O_WRONLY
    }

    /// Whether it can be written to.
    pub fn writes(self) -> bool {
        self.flags as i32 & cryonaut_sys::uapi::O_ACCMODE != libc::O_RDONLY
    }
}

impl Queue {
    /// Bytes in flight.
    pub fn length(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Copies what is in flight behind a readable end without consuming it.
    ///
    /// # Errors
    /// When this process may not have a pipe as large.
    pub fn copy_of(end: BorrowedFd<'_>, packets: bool) -> Result<Self> {
        let what = || "copying what is in a pipe".to_owned();
        let size = size_of_pipe(end)?;
        let mut queue = Self {
            size,
            packets,
            ..Self::default()
        };
        let waiting = descriptor::readable_bytes(end).attempt(what)?;
        if waiting == 0 {
            return Ok(queue);
        }
        let copy = Contents::of(end, size).attempt(what)?;
        let pieces = copy.pieces(size).attempt(what)?;
        (queue.pieces, queue.borders) = pieces.into_iter().unzip();
        if queue.length() != waiting {
            return Err(Error::Failed(format!(
                "a pipe holds {waiting} bytes, of which only {} could be copied: too much pipe memory is in use; \
                 raise /proc/sys/fs/pipe-user-pages-soft, or try again when the pipe is emptier",
                queue.length()
            )));
        }
        Ok(queue)
    }

    /// Whether a piece is a packet.
    fn is_packet(&self, piece: usize) -> bool {
        self.borders.get(piece).copied().unwrap_or(self.packets)
    }

    /// Puts the size and what was in flight into a pipe by its writable, non-blocking end.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn fill(&self, end: &OwnedFd) -> Result<()> {
        let what = || format!("filling a pipe with {} bytes", self.length());
        if self.size != USUAL && self.size != 0 {
            // Beyond the user's limit the usual size has to do: the plan has said so.
            let _ = descriptor::control(end.as_fd(), libc::F_SETPIPE_SZ, self.size.into());
        }
        let mut file = File::from(end.try_clone().attempt(what)?);
        let flags = descriptor::control(end.as_fd(), libc::F_GETFL, 0).attempt(what)? as u32;
        let direct = libc::O_DIRECT as u32;
        for (number, piece) in self.pieces.iter().map(Vec::as_slice).enumerate() {
            // What a packet is, is decided when it is written.
            let packet = self.is_packet(number);
            let kind = if packet { direct } else { 0 };
            set_flags(end.as_fd(), flags & !direct | kind).attempt(what)?;
            if !packet && number + 1 < self.pieces.len() && self.is_packet(number + 1) {
                let rest = piece.len().saturating_sub(1) / LARGEST_PACKET * LARGEST_PACKET;
                file.write_all(&piece[..rest]).attempt(what)?;
                put_apart(end.as_fd(), &piece[rest..]).attempt(what)?;
            } else {
                file.write_all(piece).attempt(what)?;
            }
        }
        set_flags(end.as_fd(), flags).attempt(what)
    }

    /// Says what becomes of a size that this user may not set.
    pub fn check(&self, host: &Host, plan: &mut Plan) {
        let most = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").ok();
        let most = most
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1 << 20);
        if host.user != 0 && self.size > most {
            if self.length() as u64 > u64::from(USUAL) {
                plan.refusals.add_for_job(
                    format!("a pipe of {} bytes", self.size),
                    format!(
                        "only root may make one larger than {most} bytes, and it is filled with {}",
                        self.length()
                    ),
                    "raise /proc/sys/fs/pipe-max-size, or restart as root",
                );
            }
            plan.remarks.push(format!(
                "a pipe of {} bytes gets the usual {USUAL}: more than {most} is for root",
                self.size
            ));
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in flight", self.length())?;
        let packets = (0..self.pieces.len()).filter(|&piece| self.is_packet(piece));
        match packets.count() {
            0 => Ok(()),
            packets => write!(f, ", {packets} packets among them"),
        }
    }
}

/// The most that a packet has: a page (`pipe_write` in fs/pipe.c).
const LARGEST_PACKET: usize = 4096;

/// Puts up to a page of bytes into a pipe so that what is written after them does not become a part of them, as also packets do
/// (`pipe_write` in fs/pipe.c); nothing is added to what has come by tee(2).
fn put_apart(end: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK)?;
    File::from(writer).write_all(bytes)?;
    descriptor::tee(reader.as_fd(), end, bytes.len()).map(drop)
}

/// A pipe of our own with the buffers of another. Each keeps its mark of a packet (tee(2)), whatever the ends of the other have
/// become since. Reading ends behind a packet, and what a read leaves of one is dropped: these show the marks.
struct Contents {
    reader: File,
    writer: File,
}

impl Contents {
    fn of(end: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK)?;
        // Room for two buffers at least, which `ends_in_packet` needs. A smaller one may do; if it does not, the length shows it.
        let wanted = i64::from(size).max(2 * LARGEST_PACKET as i64);
        let _ = descriptor::control(writer.as_fd(), libc::F_SETPIPE_SZ, wanted);
        descriptor::tee(end, writer.as_fd(), i32::MAX as usize)?;
        Ok(Self {
            reader: reader.into(),
            writer: writer.into(),
        })
    }

    /// What one read of at most this many bytes gives; nothing when there is nothing left.
    fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; most];
        loop {
            match self.reader.read(&mut piece) {
                Ok(length) => {
                    piece.truncate(length);
                    return Ok(piece);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Vec::new()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn waiting(&self) -> io::Result<usize> {
        descriptor::readable_bytes(self.reader.as_fd())
    }

    /// The bytes and packets in order, each with whether it is a packet.
    fn pieces(&self, size: u32) -> io::Result<Vec<(Vec<u8>, bool)>> {
        let again = || Self::of(self.reader.as_fd(), size);
        let most = size.max(4096) as usize;
        let mut copy = again()?;
        // Each ends with a packet, bytes before it or not; only the last need not.
        let mut runs = Vec::new();
        loop {
            let run = copy.read(most)?;
            if run.is_empty() {
                break;
            }
            runs.push(run);
        }
        let Some(last) = runs.pop() else {
            return Ok(Vec::new());
        };
        let mut copy = again()?;
        for run in &runs {
            copy.read(run.len())?;
        }
        let bytes = if copy.ends_in_packet(last.len())? {
            runs.push(last);
            Vec::new()
        } else {
            last
        };
        let mut copy = again()?;
        let mut pieces = Vec::new();
        for mut run in runs {
            let packet = run.split_off(copy.before_packet(run.len())?);
            if !run.is_empty() {
                pieces.push((run, false));
            }
            pieces.push((packet, true));
        }
        if !bytes.is_empty() {
            pieces.push((bytes, false));
        }
        Ok(pieces)
    }

    /// Whether the last bytes, so many, end in a packet.
    fn ends_in_packet(&mut self, length: usize) -> io::Result<bool> {
        self.read(length - 1)?;
        if self.waiting()? == 0 {
            return Ok(true);
        }
        // One byte is left, and a read goes on behind it unless it is a packet.
        self.writer.write_all(b"x")?;
        Ok(self.read(2)?.len() == 1)
    }

    /// Reads so many bytes that end with a packet, and tells how many come before that.
    fn before_packet(&mut self, length: usize) -> io::Result<usize> {
        let mut before = length.saturating_sub(LARGEST_PACKET);
        self.read(before)?;
        while before + 1 < length {
            let waiting = self.waiting()?;
            self.read(1)?;
            if waiting > self.waiting()? + 1 {
                return Ok(before);
            }
            before += 1;
        }
        self.read(1)?;
        Ok(before)
    }
}

fn size_of_pipe(end: BorrowedFd<'_>) -> Result<u32> {
    let size = descriptor::control(end, libc::F_GETPIPE_SZ, 0)
        .attempt(|| "reading the size of a pipe".into())?;
    Ok(size as u32)
}

/// What is in flight in the pipe that these descriptions are ends of.
///
/// # Errors
/// When it cannot be read.
pub(super) fn queue_of(ends: &[&Description], job: &Job<'_>) -> Result<Queue> {
    let packets = ends
        .iter()
        .any(|end| end.facts.info.flags as i32 & libc::O_DIRECT != 0);
    match ends.iter().find(|end| end.facts.reads()) {
        Some(end) => Queue::copy_of(job.copy(end)?.as_fd(), packets),
        None => Ok(Queue {
            size: size_of_pipe(job.copy(ends[0])?.as_fd())?,
            packets,
            ..Queue::default()
        }),
    }
}

/// The descriptions as ends.
pub(super) fn ends_of(descriptions: &[&Description]) -> Vec<End> {
    descriptions
        .iter()
        .map(|end| End {
            object: end.object,
            flags: end.facts.flags(),
        })
        .collect()
}

/// The kind.
pub(super) struct Pipes;

impl DescriptorKind for Pipes {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Pipe::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_pipe()
            && !facts.is_place()
            && !matches!(facts.peer, Peer::Standard | Peer::Outside)
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for ends in Job::by_link(descriptions).into_values() {
            let queue = Some(queue_of(&ends, job)?);
            collection.put(&Pipe {
                queue,
                ends: ends_of(&ends),
                outsider: outsider(&ends[0].facts.link).unwrap_or_default(),
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        for pipe in records.all::<Pipe>()? {
            if let (false, Some(end)) = (pipe.outsider.is_empty(), pipe.ends.first()) {
                let (process, number) = holders.get(&end.object).copied().unwrap_or_default();
                plan.remarks.push(format!(
                    "descriptor {number} of process {process}: {} had the same pipe and is not connected to it any more",
                    pipe.outsider
                ));
            }
            if let Some(queue) = &pipe.queue {
                queue.check(host, plan);
            }
            plan.step(Stage::Objects, 0, Make { pipe });
        }
        Ok(())
    }
}

struct Make {
    pipe: Pipe,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readers = self.pipe.ends.iter().filter(|end| end.reads()).count();
        let writers = self.pipe.ends.iter().filter(|end| end.writes()).count();
        write!(f, "make a pipe, {readers} reading, {writers} writing")?;
        self.pipe
            .queue
            .as_ref()
            .map_or(Ok(()), |queue| write!(f, ", {queue}"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for (object, end) in make(&self.pipe)? {
            rebuild.objects.insert(object, end);
        }
        Ok(())
    }
}

/// Makes a pipe and its ends. An end that nobody has is closed when this returns.
fn make(pipe: &Pipe) -> Result<Vec<(u64, OwnedFd)>> {
    let what = || "making a pipe".into();
    let queue = pipe.queue.clone().unwrap_or_default();
    let packets = if queue.packets { libc::O_DIRECT } else { 0 };
    let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK | packets).attempt(what)?;
    queue.fill(&writer)?;
    let mut unused = (Some(reader), Some(writer));
    let mut made: Vec<(u64, OwnedFd, u32)> = Vec::with_capacity(pipe.ends.len());
    // What has to be opened anew first, while both original ends are there.
    let mut taken = (false, false);
    let mut original = Vec::new();
    for end in &pipe.ends {
        match (end.reads(), end.writes()) {
            (true, false) if !taken.0 => {
                taken.0 = true;
                original.push(end);
            }
            (false, true) if !taken.1 => {
                taken.1 = true;
                original.push(end);
            }
            _ => {
                // O_DIRECT is not for opening, but for F_SETFL below. Non-blocking: nothing here may wait for the other end.
                let flags = end.flags & !(libc::O_DIRECT as u32) | libc::O_NONBLOCK as u32;
                let from = unused
                    .0
                    .as_ref()
                    .expect("both ends are here until all are opened");
                made.push((
                    end.object,
                    reopen(from.as_fd(), flags).attempt(what)?,
                    end.flags,
                ));
            }
        }
    }
    for end in original {
        let fd = if end.reads() {
            unused.0.take()
        } else {
            unused.1.take()
        };
        made.push((end.object, fd.expect("each is taken once"), end.flags));
    }
    let mut ends = Vec::with_capacity(made.len());
    for (object, fd, flags) in made {
        set_flags(fd.as_fd(), flags).attempt(what)?;
        ends.push((object, fd));
    }
    Ok(ends)
}

const SUPPORT: &[Support] = &[Support {
    what: "Pipes: bytes in flight, size, packets (O_DIRECT, also of a writer that has gone), ends whose other end is closed",
    level: Level::Restored,
    how: "what is in flight is copied without consuming it",
}];

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(fd: &OwnedFd) -> Vec<Vec<u8>> {
        let mut file = File::from(fd.try_clone().unwrap());
        let mut pieces = Vec::new();
        let mut buffer = [0; 70_000];
        while let Ok(length) = file.read(&mut buffer) {
            if length == 0 {
                break;
            }
            pieces.push(buffer[..length].to_vec());
        }
        pieces
    }

    #[test]
    fn a_pipe_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let queue = Queue {
            size: 4096,
            packets: true,
            pieces: vec![b"a".to_vec(), b"bc".to_vec()],
            borders: vec![true, false],
        };
        let pipe = Pipe {
            queue: Some(queue),
            ends: vec![
                End {
                    object: 1,
                    flags: 0,
                },
                End {
                    object: 2,
                    flags: 1,
                },
            ],
            outsider: String::new(),
        };
        records.push(&pipe).unwrap();
        assert_eq!(records.all::<Pipe>().unwrap(), [pipe]);
    }

    #[test]
    fn what_is_in_flight_is_copied_and_stays() {
        for (flags, pieces) in [
            (0, vec![vec![7; 60_000]]),
            (
                libc::O_DIRECT,
                vec![b"one".to_vec(), b"two".to_vec(), vec![b'3'; 4096]],
            ),
        ] {
            let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK | flags).unwrap();
            let mut file = File::from(writer.try_clone().unwrap());
            for piece in &pieces {
                file.write_all(piece).unwrap();
            }
            let queue = Queue::copy_of(reader.as_fd(), flags != 0).unwrap();
            assert_eq!(queue.pieces, pieces);
            assert_eq!(queue.borders, vec![flags != 0; pieces.len()]);
            assert_eq!(read_all(&reader), pieces, "nothing was consumed");

            let nonblocking = libc::O_NONBLOCK as u32;
            let ends = vec![
                End {
                    object: 1,
                    flags: nonblocking,
                },
                End {
                    object: 2,
                    flags: 1 | flags as u32,
                },
            ];
            let made = make(&Pipe {
                queue: Some(queue),
                ends,
                ..Pipe::default()
            })
            .unwrap();
            assert_eq!(read_all(&made[0].1), pieces);
        }
    }

    #[test]
    fn bytes_and_packets_are_told_apart_whatever_the_ends_say_now() {
        let packet = |length: usize| (vec![b'p'; length], true);
        let bytes = |length: usize| (vec![b'b'; length], false);
        for pieces in [
            vec![bytes(1)],
            vec![packet(1)],
            vec![packet(2)],
            vec![bytes(2), packet(1)],
            vec![bytes(1), packet(2), bytes(1)],
            vec![packet(1), bytes(3), packet(3), packet(1)],
            vec![bytes(6000), packet(4096), bytes(5000), packet(1), packet(1)],
            vec![packet(4096); 16],
            vec![packet(1); 16],
            vec![bytes(65_536)],
        ] {
            let (pieces, borders): (Vec<Vec<u8>>, Vec<bool>) = pieces.into_iter().unzip();
            let queue = Queue {
                size: 65_536,
                packets: false,
                pieces,
                borders,
            };
            let ends = vec![End {
                object: 1,
                flags: libc::O_NONBLOCK as u32,
            }];
            let made = make(&Pipe {
                queue: Some(queue.clone()),
                ends,
                ..Pipe::default()
            })
            .unwrap();
            assert_eq!(Queue::copy_of(made[0].1.as_fd(), false).unwrap(), queue);
            let (waiting, length) = (
                descriptor::readable_bytes(made[0].1.as_fd()),
                queue.length(),
            );
            assert_eq!(waiting.unwrap(), length, "nothing was consumed");
        }
    }

    #[test]
    fn an_earlier_image_tells_of_the_whole_queue_whether_it_has_packets() {
        let queue = Queue {
            size: 65_536,
            packets: true,
            pieces: vec![b"one".to_vec(), b"two".to_vec()],
            borders: Vec::new(),
        };
        let made = make(&Pipe {
            queue: Some(queue.clone()),
            ends: vec![End {
                object: 1,
                flags: libc::O_NONBLOCK as u32,
            }],
            ..Pipe::default()
        })
        .unwrap();
        assert_eq!(read_all(&made[0].1), queue.pieces);
    }

    #[test]
    fn an_end_alone_knows_that_the_other_is_closed() {
        let queue = Queue {
            size: 65_536 * 2,
            packets: false,
            pieces: vec![b"rest".to_vec()],
            ..Queue::default()
        };
        let reader = make(&Pipe {
            queue: Some(queue),
            ends: vec![End {
                object: 1,
                flags: 0,
            }],
            ..Pipe::default()
        })
        .unwrap();
        assert_eq!(
            descriptor::poll_now(reader[0].1.as_fd(), libc::POLLIN).unwrap(),
            libc::POLLIN | libc::POLLHUP
        );
        assert_eq!(size_of_pipe(reader[0].1.as_fd()).unwrap(), 131_072);
        assert_eq!(read_all(&reader[0].1), [b"rest"]);
        let writer = make(&Pipe {
            queue: None,
            ends: vec![End {
                object: 1,
                flags: 1,
            }],
            ..Pipe::default()
        })
        .unwrap();
        assert_ne!(
            descriptor::poll_now(writer[0].1.as_fd(), 0).unwrap() & libc::POLLERR,
            0
        );
    }

    #[test]
    fn ends_opened_again_have_flags_of_their_own() {
        let nonblocking = libc::O_NONBLOCK as u32;
        let ends = vec![
            End {
                object: 1,
                flags: 0,
            },
            End {
                object: 2,
                flags: nonblocking,
            },
            End {
                object: 3,
                flags: 1,
            },
            End {
                object: 4,
                flags: 2,
            },
        ];
        let made = make(&Pipe {
            queue: None,
            ends: ends.clone(),
            ..Pipe::default()
        })
        .unwrap();
        for (object, fd) in &made {
            let flags =
                descriptor::control(fd.as_fd(), libc::F_GETFL, 0).unwrap() as u32 & !0o100_000;
            let wanted = ends.iter().find(|end| end.object == *object).unwrap().flags;
            assert_eq!(flags, wanted, "end {object}");
        }
    }
}
