//! Segments of a program's own: the local descriptor table of a process (modify_ldt(2)), and the entries that each task has in the
//! global one (set_thread_area(2)).
//!
//! The local table is read by modify_ldt in the process, which first tells whether there is one; the others by ptrace(2). Both are
//! of use to programs that run 16- or 32-bit code (Wine, DOSEMU).

use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::ptrace::segment::{self, Segment};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

const READ: i32 = 0;
/// The form of modify_ldt(2) that writes all that an entry can have.
const WRITE: i32 = 0x11;
/// Bytes of an entry, and of the largest table.
const ENTRY: usize = 8;
const LARGEST: usize = 8192 * ENTRY;
/// Entries that one list writes.
const BATCH: usize = 1024;

/// Segments of a process, or of one of its tasks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SegmentsRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The task whose entries of the global table these are; 0 for the local table of the process.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// Of each segment four numbers, as in `struct user_desc`: entry, base, limit, flags.
    #[prost(uint32, repeated, tag = "3")]
    pub segments: Vec<u32>,
}

impl Record for SegmentsRecord {
    const KIND: Kind = Kind {
        name: "segments",
        version: 1,
    };
}

impl SegmentsRecord {
    fn of(process: i32, task: i32, segments: &[Segment]) -> Self {
        let words = |segment: &Segment| [segment.entry, segment.base, segment.limit, segment.flags];
        Self {
            process,
            task,
            segments: segments.iter().flat_map(words).collect(),
        }
    }

    fn list(&self) -> Vec<Segment> {
        let segment = |words: &[u32]| Segment {
            entry: words[0],
            base: words[1],
            limit: words[2],
            flags: words[3],
        };
        self.segments.chunks_exact(4).map(segment).collect()
    }
}

/// The resource.
pub struct DescriptorTables;

impl Resource for DescriptorTables {
    fn name(&self) -> &'static str {
        "segments"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[SegmentsRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    // All of them can be saved.
    fn inspect(&self, _: &Target, _: &mut Refusals) {}

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive_mut() {
            let local = local_table(process)?;
            if !local.is_empty() {
                collection.put(&SegmentsRecord::of(process.inner, 0, &local))?;
            }
            for task in &process.tasks {
                let areas: Vec<Segment> = (0..segment::AREAS)
                    .filter_map(|number| segment::thread_area(task.stopped.tid(), number).ok())
                    .filter(|area| !area.is_empty())
                    .collect();
                if !areas.is_empty() {
                    collection.put(&SegmentsRecord::of(process.inner, task.inner, &areas))?;
                }
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _: &Host, plan: &mut Plan) -> Result<()> {
        for record in records.all::<SegmentsRecord>()? {
            if !record.segments.len().is_multiple_of(4) {
                return Err(Error::Failed(format!(
                    "the image is damaged: segments of process {}",
                    record.process
                )));
            }
            let stage = if record.task == 0 {
                Stage::Process
            } else {
                Stage::Task
            };
            plan.step(stage, record.process, SetSegments { record });
        }
        Ok(())
    }
}

/// The local descriptor table of a process. Only where there is one does it get memory to be told it in, for two more lists.
fn local_table(process: &mut FrozenProcess) -> Result<Vec<Segment>> {
    let pid = process.pid;
    let what = || format!("process {pid}: reading its local descriptor table");
    let mut list = CallList::new();
    let first = list.space(ENTRY);
    let present = list.call(
        libc::SYS_modify_ldt,
        &[READ.into(), first.into(), (ENTRY as u64).into()],
    );
    let outcomes = process.run(0, &list)?;
    match outcomes.result(present) {
        Ok(0) => return Ok(Vec::new()),
        Ok(_) => {}
        // A kernel without such tables.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error).attempt(what),
    }
    let mut list = CallList::new();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let arguments = [
        0.into(),
        (LARGEST as u64).into(),
        protection.into(),
        flags.into(),
        u64::MAX.into(),
        0.into(),
    ];
    let map = list.call(libc::SYS_mmap, &arguments);
    let read = list.call(
        libc::SYS_modify_ldt,
        &[READ.into(), map.into(), (LARGEST as u64).into()],
    );
    let outcomes = process.run(0, &list)?;
    let place = outcomes.result(map).attempt(what)?;
    let mut table = vec![0; LARGEST];
    let copied = process.read(place, &mut table);
    let mut list = CallList::new();
    list.call(libc::SYS_munmap, &[place.into(), (LARGEST as u64).into()]);
    process.run(0, &list)?;
    outcomes.result(read).attempt(what)?;
    copied?;
    Ok(decode(&table))
}

/// The entries of a table that have been set, in the processor's form (Intel's manual, volume 3, "segment descriptors").
fn decode(table: &[u8]) -> Vec<Segment> {
    let mut segments = Vec::new();
    for (number, bytes) in table.chunks_exact(ENTRY).enumerate() {
        let entry = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        if entry == 0 {
            continue;
        }
        let bits = |at: u32, count: u32| (entry >> at) as u32 & ((1 << count) - 1);
        let kind = bits(40, 4);
        segments.push(Segment {
            entry: number as u32,
            base: bits(16, 16) | bits(32, 8) << 16 | bits(56, 8) << 24,
            limit: bits(0, 16) | bits(48, 4) << 16,
            flags: bits(54, 1)
                | (kind >> 2 & 3) << 1
                | (!kind >> 1 & 1) << 3
                | bits(55, 1) << 4
                | (!bits(47, 1) & 1) << 5
                | bits(52, 1) << 6,
        });
    }
    segments
}

/// Sets segments again.
struct SetSegments {
    record: SegmentsRecord,
}

impl fmt::Display for SetSegments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.record.segments.len() / 4;
        match self.record.task {
            0 => write!(f, "set {count} entries of the local descriptor table"),
            task => write!(f, "set {count} segments of task {task}"),
        }
    }
}

impl Action for SetSegments {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let SegmentsRecord { process, task, .. } = self.record;
        let what = || format!("process {process}: setting segments");
        let segments = self.record.list();
        if task != 0 {
            let tid = rebuild.task(process, task)?;
            return segments
                .iter()
                .try_for_each(|segment| segment::set_thread_area(tid, segment))
                .attempt(what);
        }
        for batch in segments.chunks(BATCH) {
            let mut list = CallList::new();
            let mut calls = Vec::with_capacity(batch.len());
            for segment in batch {
                let segment = list.bytes(&segment.to_bytes());
                let arguments = [WRITE.into(), segment.into(), 16.into()];
                calls.push(list.call(libc::SYS_modify_ldt, &arguments));
            }
            let outcomes = rebuild.run(process, &list)?;
            for call in calls {
                outcomes.result(call).attempt(what)?;
            }
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Local descriptor tables (modify_ldt), segments in the global one (set_thread_area)",
    level: Level::Restored,
    how: "of each process and each thread",
}];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn the_record_makes_a_round_trip() {
        let segment = Segment {
            entry: 3,
            base: 0x1234_5678,
            limit: 0xf_ffff,
            flags: 0x51,
        };
        let record = SegmentsRecord::of(7, 0, &[segment]);
        let read = SegmentsRecord::decode(record.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.list(), [segment]);
    }

    #[test]
    fn entries_are_told_as_they_were_set() {
        // Base 0x12345678, limit 0xfffff pages, 32-bit data, writable, present, accessed, usable.
        let entry: u64 = 0x12 << 56 | 0xdf << 48 | 0xf3 << 40 | 0x34 << 32 | 0x5678 << 16 | 0xffff;
        let mut table = vec![0; 24];
        table[16..].copy_from_slice(&entry.to_le_bytes());
        assert_eq!(
            decode(&table),
            [Segment {
                entry: 2,
                base: 0x1234_5678,
                limit: 0xf_ffff,
                flags: 0b101_0001,
            }]
        );
    }
}
