//! Shared memory segments (shmget(2)): stored once, whoever has them attached, and also when nobody has.

use std::fmt;

use cryonaut_image::{Kind, Record, ZeroPages};
use cryonaut_sys::{PAGE_SIZE, ipc};
use cryonaut_tracee::CallList;

use super::{Identity, NAMESPACE, NEW, SEGMENTS, check_identities, damaged, make_object};
use crate::Result;
use crate::collect::{Access, PageRange, Space};
use crate::error::Attempt;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;

/// Spaces of segments are numbered from here on, by their ids.
pub const FIRST_SEGMENT: u64 = 1 << 42;
/// More than the kernel lets any segment have.
const LONGEST: u64 = 1 << 46;

/// A shared memory segment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SharedSegment {
    /// Id, key, owners and permissions.
    #[prost(message, optional, tag = "1")]
    pub identity: Option<Identity>,
    /// Its size in bytes. Its pages are those of the space with the number 2^42 + id.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Whether it goes with its last attachment (IPC_RMID was done).
    #[prost(bool, tag = "3")]
    pub marked: bool,
    /// Whether it is locked in memory (SHM_LOCK).
    #[prost(bool, tag = "4")]
    pub locked: bool,
    /// Bytes of one of its pages where they are huge (SHM_HUGETLB); otherwise 0.
    #[prost(uint64, tag = "5")]
    pub huge_page: u64,
}

impl Record for SharedSegment {
    const KIND: Kind = Kind {
        name: "ipc.shared-memory",
        version: 1,
    };
}

impl SharedSegment {
    /// The number of its space, which areas refer to.
    pub fn object(&self) -> u64 {
        let identifier = self.identity.as_ref().map_or(0, |own| own.identifier);
        attached(identifier.unsigned_abs().into())
    }

    /// Bytes of one of its pages.
    pub fn page(&self) -> u64 {
        self.huge_page.max(PAGE_SIZE)
    }

    /// Bytes that it takes where it is attached.
    pub fn length(&self) -> u64 {
        self.size.next_multiple_of(self.page())
    }
}

/// The number of the space of the segment with this id, as /proc/PID/maps has it in place of an inode number.
pub fn attached(identifier: u64) -> u64 {
    FIRST_SEGMENT + (identifier & 0x7fff_ffff)
}

/// A segment as the visitor found it, and where its content can be read in the visitor.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FoundSegment {
    #[prost(message, optional, tag = "1")]
    pub record: Option<SharedSegment>,
    /// Where the visitor has it attached.
    #[prost(uint64, tag = "2")]
    pub address: u64,
    /// What there is of it: first byte, first byte after, and so on.
    #[prost(uint64, repeated, tag = "3")]
    pub there: Vec<u64>,
}

impl FoundSegment {
    /// The record, and what is to be read from the process `visitor`.
    pub(super) fn into_parts(self, visitor: i32) -> Result<(SharedSegment, Space)> {
        let record = self.record.ok_or_else(|| damaged("a segment"))?;
        let range = |pair: &[u64]| PageRange {
            start: self.address + pair[0],
            end: self.address + pair[1],
            recorded: pair[0],
            zero: ZeroPages::Omit,
            access: Access::Pinned,
        };
        let space = Space {
            id: record.object(),
            pid: visitor,
            ranges: self.there.chunks_exact(2).map(range).collect(),
            same: Vec::new(),
        };
        Ok((record, space))
    }
}

/// Which bytes of a segment that is attached at `address` exist. Pages in swap, and huge ones, do not show: then all may.
pub(super) fn there(
    record: &SharedSegment,
    address: u64,
    in_swap: bool,
) -> std::io::Result<Vec<u64>> {
    let length = record.length();
    if in_swap || record.huge_page != 0 {
        return Ok(vec![0, length]);
    }
    let mut found: Vec<u64> = Vec::new();
    for (index, page) in ipc::pages_there(address, length)?.into_iter().enumerate() {
        let start = index as u64 * PAGE_SIZE;
        match found.last_mut() {
            _ if page & 1 == 0 => {}
            Some(end) if *end == start => *end += PAGE_SIZE,
            _ => found.extend([start, start + PAGE_SIZE]),
        }
    }
    Ok(found)
}

/// Plans the segments: made and filled once, where all processes inherit them attached until they have attached them themselves.
pub(super) fn plan(segments: Vec<SharedSegment>, plan: &mut Plan) -> Result<()> {
    check_identities(
        segments.iter().map(|own| own.identity.as_ref()),
        "a segment",
    )?;
    for segment in segments {
        let huge_page = segment.huge_page;
        let possible = huge_page == 0 || huge_page.is_power_of_two() && huge_page < LONGEST;
        if segment.size == 0 || segment.size > LONGEST || !possible {
            return Err(damaged("a segment"));
        }
        let object = Token::Object(segment.object());
        plan.linked_step(
            Stage::Objects,
            0,
            vec![Token::Process(0), NAMESPACE],
            vec![object],
            MakeSegment { segment },
        );
    }
    Ok(())
}

/// Makes a segment and fills it.
struct MakeSegment {
    segment: SharedSegment,
}

impl fmt::Display for MakeSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identifier = self
            .segment
            .identity
            .as_ref()
            .map_or(0, |own| own.identifier);
        write!(
            f,
            "make the System V segment {identifier} of {} bytes and fill it",
            self.segment.size
        )
    }
}

impl Action for MakeSegment {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let segment = &self.segment;
        let identity = segment
            .identity
            .as_ref()
            .ok_or_else(|| damaged("a segment"))?;
        let mut flags = (identity.mode & 0o777) as i32 | NEW;
        if segment.huge_page != 0 {
            let size = segment.huge_page.ilog2() as i32;
            flags |= libc::SHM_HUGETLB | size << libc::MAP_HUGE_SHIFT;
        }
        let arguments = [identity.key.into(), segment.size.into(), flags.into()];
        let make = (libc::SYS_shmget, &arguments[..]);
        make_object(rebuild, SEGMENTS, identity, make, vec![0; 112])?;
        rebuild.hold_segment(segment, identity.identifier)?;
        let mut list = CallList::new();
        let mut calls = Vec::new();
        for (wanted, command, what) in [
            (segment.locked, libc::SHM_LOCK, "locking (see `ulimit -l`)"),
            (segment.marked, libc::IPC_RMID, "marking for removal"),
        ] {
            if wanted {
                let arguments = [identity.identifier.into(), command.into(), 0.into()];
                calls.push((list.call(libc::SYS_shmctl, &arguments), what));
            }
        }
        if calls.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(0, &list)?;
        for (call, what) in calls {
            outcomes
                .result(call)
                .attempt(|| format!("{what} the shared memory segment {}", identity.identifier))?;
        }
        Ok(())
    }
}
