//! The board: the piece of a program's memory in which it and `cryo` write to each other.
//!
//! It is private anonymous memory of [`SIZE`] bytes between two pages that nobody may touch, so that no neighbour ever becomes one
//! area with it. It begins with [`MAGIC`], its own address, and the process id of the process that it speaks for: a copy of it
//! that a child has after fork, or that somebody made, is recognized as one. `cryo` finds it by looking at the areas of this size,
//! reads and writes it through `/proc/PID/mem`, and wakes the thread that reads it by a signal to that thread alone. Nothing else
//! is known of a process; one that does not take part has no board.
//!
//! All numbers are of the processor's own byte order. Who writes what is said at each field; docs/libcryo.md tells the order.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// How a board begins.
pub const MAGIC: [u8; 16] = *b"CRYONAUT board 1";
/// Bytes of a board.
pub const SIZE: usize = 3 * 4096;
/// Bytes of it that change during a checkpoint, texts included.
pub const HEAD: usize = 1024;
/// How many ranges of memory can be left out.
pub const RANGES: usize = 256;
/// How many descriptors can be left out.
pub const DESCRIPTORS: usize = 1024;
/// Longest name of a callback, with its final zero.
pub const NAME: usize = 128;
/// Longest reason of a refusal, with its final zero.
pub const REASON: usize = 512;

/// What a program is doing about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nothing: no request is under way.
    Idle = 0,
    /// It waits for its threads to leave their critical sections.
    Entering = 1,
    /// A callback runs; [`Board::name`] tells which.
    InCallback = 2,
    /// All callbacks for *checkpoint* have come back: it may be frozen.
    Ready = 3,
    /// A callback said that now is a bad time; [`Board::reason`] tells why.
    Later = 4,
    /// A callback said that this program can never be checkpointed; [`Board::reason`] tells why.
    Never = 5,
    /// A callback said that this process is to be left out; otherwise it is ready.
    LeftOut = 6,
    /// The outcome is known and its callbacks run.
    Finishing = 7,
    /// It has waited in vain for `cryo`, and goes on as after a failure.
    GaveUp = 8,
}

impl State {
    /// The state with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use State::{Entering, Finishing, GaveUp, Idle, InCallback, Later, LeftOut, Never, Ready};
        let all = [
            Idle, Entering, InCallback, Ready, Later, Never, LeftOut, Finishing, GaveUp,
        ];
        all.into_iter().find(|state| *state as u32 == number)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// It is under way.
    Pending = 0,
    /// The checkpoint was made, and the same life goes on.
    Continued = 1,
    /// A new life begins.
    Restarted = 2,
    /// There is no checkpoint; the same life goes on.
    Failed = 3,
}

impl Outcome {
    /// The outcome with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use Outcome::{Continued, Failed, Pending, Restarted};
        let all = [Pending, Continued, Restarted, Failed];
        all.into_iter().find(|outcome| *outcome as u32 == number)
    }
}

/// The bit of [`Board::wishes`] of one that is to be told of checkpoints.
pub const WANTS_NOTICE: u32 = 1;
/// The bit of [`Board::wishes`] of one that is left out of all checkpoints, and need not be told of any.
pub const WANTS_OUT: u32 = 2;
/// The bit of [`Board::wishes`] of one that opens its sockets again itself, as programs written for BLCR do: where the checkpoint
/// is made by the commands of that name, it is made without them.
pub const OPENS_SOCKETS: u32 = 4;
/// Longest path of an image that is told, with its final zero.
pub const PLACE: usize = 3072;

/// What `cryo` says of a checkpoint, or of a restart, beside that it is made. Numbers of which nothing is known are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The process that makes it, as it is known outside.
    pub maker: u32,
    /// The number of its scope as BLCR has it (0 process, 1 group, 2 session, 3 tree).
    pub scope: u32,
    /// The process, group or session that was named.
    pub named: u32,
    /// The signal that the processes get when it is over.
    pub signal: u32,
    /// Where the image goes, or comes from: an absolute path; empty for one that has none.
    pub place: Vec<u8>,
}

/// The board as it lies in memory.
#[repr(C)]
pub struct Board {
    /// [`MAGIC`].
    pub magic: [AtomicU8; 16],
    /// Its own address.
    pub address: AtomicU64,
    /// The process that it speaks for, as that process sees its number.
    pub process: AtomicU32,
    /// The thread that is woken, as the process sees its number; 0 if there is none.
    pub waiter: AtomicU32,
    /// The signal that wakes it.
    pub signal: AtomicU32,
    /// [`WANTS_NOTICE`].
    pub wishes: AtomicU32,
    /// What the program is doing: [`State`].
    pub state: AtomicU32,
    /// The request that `state` is about.
    pub answered: AtomicU32,
    /// Written by `cryo`: the number of its request, another for each, never 0.
    pub request: AtomicU32,
    /// Written by `cryo`: how the request ended, [`Outcome`].
    pub outcome: AtomicU32,
    /// Written by `cryo`: how many times the program was restarted.
    pub generation: AtomicU64,
    /// Changed by `cryo` as long as it is there.
    pub lease: AtomicU32,
    /// What its refusal is to be reported as, an error number: 0 says nothing.
    pub code: AtomicU32,
    /// Written by `cryo` before an *outcome* of failed: why, an error number, or 0.
    pub verdict: AtomicU32,
    /// Written by `cryo` before its request, and before *outcome* restarted: [`Details`] without their place, in that order.
    pub details: [AtomicU32; 4],
    /// Processes that are to be saved too: the number of their scope, and the process that it goes by ([`Details`]).
    pub forward: [AtomicU32; 2],
    /// How many times that was asked.
    pub forwards: AtomicU32,
    /// Written by `cryo`: as `forwards`, when it has done what was asked, with `forward_error`.
    pub forwarded: AtomicU32,
    /// Written by `cryo`: why it could not be done, an error number, or 0.
    pub forward_error: AtomicU32,
    unused: [AtomicU8; 16],
    /// The callback that runs or ran last, ending with a zero.
    pub name: [AtomicU8; NAME],
    /// Why the checkpoint is refused, ending with a zero.
    pub reason: [AtomicU8; REASON],
    /// Written by `cryo` with the details: their place, ending with a zero.
    pub place: [AtomicU8; PLACE],
    unused_too: [AtomicU8; 4096 - 768 - PLACE],
    /// Ranges of private memory that are to be zero in a restarted life: first address, and bytes. Unused are those without bytes.
    pub ranges: [[AtomicU64; 2]; RANGES],
    /// Descriptors that the program opens again itself, each plus 1; 0 are unused.
    pub descriptors: [AtomicU32; DESCRIPTORS],
}

const _: () = assert!(size_of::<Board>() == SIZE);
const _: () = assert!(offset_of!(Board, name) == 128);
const _: () = assert!(offset_of!(Board, place) == 768);
const _: () = assert!(offset_of!(Board, ranges) == 4096);

/// Where `request` lies in a board.
pub const REQUEST: usize = offset_of!(Board, request);
/// Where `outcome` lies in a board.
pub const OUTCOME: usize = offset_of!(Board, outcome);
/// Where `generation` lies in a board.
pub const GENERATION: usize = offset_of!(Board, generation);
/// Where `lease` lies in a board.
pub const LEASE: usize = offset_of!(Board, lease);
/// Where `verdict` lies in a board.
pub const VERDICT: usize = offset_of!(Board, verdict);
/// Where `details` lie in a board.
pub const DETAILS: usize = offset_of!(Board, details);
/// Where `place` lies in a board.
pub const PLACE_OFFSET: usize = offset_of!(Board, place);
/// Where `forwarded` lies in a board.
pub const FORWARDED: usize = offset_of!(Board, forwarded);
/// Where `forward_error` lies in a board.
pub const FORWARD_ERROR: usize = offset_of!(Board, forward_error);

impl Details {
    /// What stands at [`DETAILS`], and at [`PLACE_OFFSET`]. A place that is too long for a board is left out.
    #[must_use]
    pub fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let numbers = [self.maker, self.scope, self.named, self.signal];
        let numbers = numbers.iter().flat_map(|number| number.to_ne_bytes());
        let mut place = match self.place.len() < PLACE {
            true => self.place.clone(),
            false => Vec::new(),
        };
        place.push(0);
        (numbers.collect(), place)
    }
}

/// Writes a text that ends with a zero, cut to the room that there is. Safe in a signal handler.
pub fn write_text(room: &[AtomicU8], text: &[u8]) {
    let Some((last, room)) = room.split_last() else {
        return;
    };
    let bytes = text.iter().copied().chain(std::iter::repeat(0));
    for (place, byte) in room.iter().zip(bytes) {
        place.store(byte, Ordering::Relaxed);
    }
    last.store(0, Ordering::Relaxed);
}

/// A board as `cryo` has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its address.
    pub address: u64,
    /// The process that it speaks for.
    pub process: i32,
    /// The thread that is woken.
    pub waiter: i32,
    /// The signal that wakes it.
    pub signal: i32,
    /// [`WANTS_NOTICE`] and the other wishes.
    pub wishes: u32,
    /// What the program is doing.
    pub state: State,
    /// The request that `state` is about.
    pub answered: u32,
    /// What its refusal is to be reported as.
    pub code: u32,
    /// The scope and the process of what is to be saved too.
    pub forward: (u32, i32),
    /// How many times that was asked, and done.
    pub forwards: (u32, u32),
    /// How many times the program was restarted.
    pub generation: u64,
    /// The callback that runs or ran last.
    pub name: String,
    /// Why the checkpoint is refused.
    pub reason: String,
}

impl Snapshot {
    /// Whether it is to be told of checkpoints.
    #[must_use]
    pub fn wants_notice(&self) -> bool {
        self.wishes & WANTS_NOTICE != 0
    }

    /// Whether it is left out of all checkpoints.
    #[must_use]
    pub fn wants_out(&self) -> bool {
        self.wishes & WANTS_OUT != 0
    }

    /// What the first [`HEAD`] bytes of a board at `address` say; none if they are not a board's own.
    #[must_use]
    pub fn read(bytes: &[u8], address: u64) -> Option<Self> {
        let word = |offset: usize| {
            let bytes = bytes.get(offset..offset + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let long = |offset: usize| {
            let bytes = bytes.get(offset..offset + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let text = |offset: usize, room: usize| {
            let bytes = bytes.get(offset..offset + room)?;
            let end = bytes.iter().position(|&byte| byte == 0);
            let text = String::from_utf8_lossy(&bytes[..end.unwrap_or(room)]);
            Some(text.chars().filter(|c| !c.is_control()).collect())
        };
        let number = |offset: usize| word(offset).map(|number| number as i32);
        if bytes.get(..16)? != MAGIC || long(offset_of!(Board, address))? != address {
            return None;
        }
        Some(Self {
            address,
            process: number(offset_of!(Board, process))?,
            waiter: number(offset_of!(Board, waiter))?,
            signal: number(offset_of!(Board, signal))?,
            wishes: word(offset_of!(Board, wishes))?,
            state: State::from_number(word(offset_of!(Board, state))?)?,
            answered: word(offset_of!(Board, answered))?,
            code: word(offset_of!(Board, code))?,
            forward: (
                word(offset_of!(Board, forward))?,
                number(offset_of!(Board, forward) + 4)?,
            ),
            forwards: (word(offset_of!(Board, forwards))?, word(FORWARDED)?),
            generation: Some(long(GENERATION)?).filter(|lives| *lives <= MOST_LIVES)?,
            name: text(offset_of!(Board, name), NAME)?,
            reason: text(offset_of!(Board, reason), REASON)?,
        })
    }
}

/// A page of memory.
const PAGE: u64 = 4096;
/// More restarts than a program that tells the truth has behind it.
const MOST_LIVES: u64 = 1 << 31;

/// The ranges of memory, first address and end, of whole pages, and the descriptors that a whole board leaves out.
#[must_use]
pub fn omissions(bytes: &[u8]) -> (Vec<(u64, u64)>, Vec<i32>) {
    let ranges = bytes.get(offset_of!(Board, ranges)..).unwrap_or_default();
    let ranges = ranges.chunks_exact(16).take(RANGES).filter_map(|pair| {
        let start = u64::from_ne_bytes(pair[..8].try_into().ok()?);
        let length = u64::from_ne_bytes(pair[8..].try_into().ok()?);
        // The library marks whole pages only; any program may write here.
        let end = start.checked_add(length)? / PAGE * PAGE;
        let start = start.checked_next_multiple_of(PAGE)?;
        (start < end).then_some((start, end))
    });
    let marks = offset_of!(Board, descriptors);
    let marks = bytes.get(marks..).unwrap_or_default();
    let marks = marks.chunks_exact(4).take(DESCRIPTORS).filter_map(|word| {
        let number = u32::from_ne_bytes(word.try_into().ok()?);
        i32::try_from(number.checked_sub(1)?).ok()
    });
    (ranges.collect(), marks.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..24].copy_from_slice(&0x7000_u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&12_u32.to_ne_bytes());
        bytes[128..134].copy_from_slice(b"so\x1blve");
        bytes[4096..4104].copy_from_slice(&0x10000_u64.to_ne_bytes());
        bytes[4104..4112].copy_from_slice(&8192_u64.to_ne_bytes());
        bytes[8192..8196].copy_from_slice(&4_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_board_is_read() {
        let bytes = sample();
        let found = Snapshot::read(&bytes, 0x7000).unwrap();
        assert_eq!((found.process, found.state), (12, State::Idle));
        assert_eq!(
            found.name, "solve",
            "what a terminal would obey is left out"
        );
        assert_eq!(omissions(&bytes), (vec![(0x10000, 0x12000)], vec![3]));
    }

    #[test]
    fn copies_and_rubbish_are_no_boards() {
        let mut bytes = sample();
        assert_eq!(Snapshot::read(&bytes, 0x8000), None);
        assert_eq!(Snapshot::read(&bytes[..HEAD / 2], 0x7000), None);
        let state = offset_of!(Board, state);
        bytes[state..state + 4].copy_from_slice(&77_u32.to_ne_bytes());
        assert_eq!(Snapshot::read(&bytes, 0x7000), None);
        bytes[4096..4112].fill(0xff);
        assert_eq!(omissions(&bytes).0, [], "a range that goes round the end");
        for (start, length, found) in [
            (0x10010_u64, 0x123_u64, None),
            (0x10010, 0x1fff, Some((0x11000, 0x12000))),
            (u64::MAX - 8, 8, None),
        ] {
            bytes[4096..4104].copy_from_slice(&start.to_ne_bytes());
            bytes[4104..4112].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(omissions(&bytes).0.first().copied(), found);
        }
        let mut bytes = sample();
        bytes[GENERATION..GENERATION + 8].fill(0xff);
        assert_eq!(Snapshot::read(&bytes, 0x7000), None);
        assert_eq!(omissions(&[]), (vec![], vec![]));
    }

    #[test]
    fn details_have_their_places() {
        let details = Details {
            maker: 7,
            scope: 3,
            named: 12,
            signal: 15,
            place: b"/image".to_vec(),
        };
        let (numbers, place) = details.bytes();
        assert_eq!(numbers[8..12], 12_u32.to_ne_bytes());
        assert_eq!(place, b"/image\0");
        let long = Details {
            place: vec![b'x'; PLACE],
            ..details
        };
        assert_eq!(long.bytes().1, b"\0");
    }

    #[test]
    fn texts_are_cut_to_their_room() {
        let room: [AtomicU8; 4] = Default::default();
        write_text(&room, b"abcdef");
        assert_eq!(room.map(AtomicU8::into_inner), *b"abc\0");
    }
}
