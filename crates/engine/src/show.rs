//! What an image holds, decoded for people and programs: `cryo show`.

use std::collections::BTreeMap;

use cryonaut_image::{RecordSet, SeekableImage};
use serde::Serialize;

mod files;
mod objects;

pub use files::{EmbeddedDescription, FileDescription};
pub use objects::{Channel, ChannelEnd};

pub(crate) use files::embedded;
use objects::{Objects, flags_in_words};

use crate::Result;
use crate::resource::credentials::CredentialsRecord;
use crate::resource::file::{DescriptorTable, SlotRecord};
use crate::resource::fs_context::FsContextRecord;
use crate::resource::memory::{AddressSpace, AreaRecord, Backing, printable};
use crate::resource::process::ProcessRecord;

/// An image.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// The program and version that wrote it.
    pub created_by: String,
    /// When it was begun, in nanoseconds since 1970.
    pub created_unix_nanoseconds: u64,
    /// The host that wrote it, empty where not said.
    pub node: String,
    /// The release of the kernel that the job ran under, empty where not said.
    pub kernel: String,
    /// The job's name, empty if it had none.
    pub job_name: String,
    /// How many times the job had been restarted before.
    pub generation: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes of memory whose contents it holds.
    pub stored_bytes: u64,
    /// Bytes of memory that it names as equal to another process'.
    pub same_bytes: u64,
    /// What the restarting host must have.
    pub needs: BTreeMap<String, String>,
    /// The processes, parents before children.
    pub processes: Vec<ProcessDescription>,
    /// What joins descriptors of the job, with each other or with what lies outside.
    pub channels: Vec<Channel>,
    /// The files that it names and does not hold, by path.
    pub files: Vec<FileDescription>,
    /// The files that are in it for machines that lack them, by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embedded: Vec<EmbeddedDescription>,
    /// What records it has.
    pub records: Vec<RecordCount>,
}

/// One process of an image.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessDescription {
    /// Its pid, in its own namespace.
    pub pid: i32,
    /// Its parent's pid; 0 when that lies outside the job.
    pub parent: i32,
    /// How many ancestors it has in the job.
    pub depth: usize,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub command_line: Vec<String>,
    /// Its executable, empty for a zombie.
    pub executable: String,
    /// Its effective user, where the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Its working directory, empty for a zombie.
    pub working_directory: String,
    /// Its root directory, where it has changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// What it is doing.
    pub state: State,
    /// Ids of its threads, the first one's own pid; none for a zombie.
    pub threads: Vec<i32>,
    /// Its memory by kind.
    pub memory: Vec<MemoryDescription>,
    /// Its mappings, by address.
    pub mappings: Vec<MappingDescription>,
    /// Its descriptors, by number.
    pub descriptors: Vec<DescriptorDescription>,
}

/// What a process of an image is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    Running,
    /// This signal has stopped it.
    Stopped(i32),
    /// It has ended with this wait status, of which its parent has not taken notice.
    Zombie(i32),
}

/// Memory of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryDescription {
    /// The kind: `heap`, `stack`, `anonymous`, `reserved` (nobody may touch it, nobody has), `file`, `shared file`, `shared`,
    /// `kernel`.
    pub kind: &'static str,
    /// How many mappings.
    pub mappings: usize,
    /// Their length in bytes.
    pub bytes: u64,
    /// How much of it was saved, in bytes: pages that were touched; those full of zeros take no room in the image.
    pub saved_bytes: u64,
}

/// One mapping.
#[derive(Clone, Debug, Serialize)]
pub struct MappingDescription {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// `rwxp` as in /proc/PID/maps.
    pub permissions: String,
    /// The kind.
    pub kind: &'static str,
    /// The file behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in the file or object it begins.
    pub offset: u64,
    /// How much of it was saved, in bytes: pages that were touched; those full of zeros take no room in the image.
    pub saved_bytes: u64,
}

/// One descriptor.
#[derive(Clone, Debug, Serialize)]
pub struct DescriptorDescription {
    /// Its number.
    pub number: i32,
    /// The open file description: descriptors with the same one share offset and flags.
    pub object: u64,
    /// What it is (`pipe`, `regular`), empty where the image does not say.
    pub kind: String,
    /// The file behind it, if it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether it closes at exec.
    pub close_on_exec: bool,
    /// How it is open (`write, append`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// The position in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// What else there is to say (`count 3`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How many records of a kind there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordCount {
    /// The kind.
    pub kind: String,
    /// Its version.
    pub version: u32,
    /// How many.
    pub count: usize,
}

/// Describes an image.
///
/// # Errors
/// [`crate::Error::Image`] when it is damaged.
pub fn describe(image: &SeekableImage) -> Result<Description> {
    let records = image.records()?;
    let (preamble, summary) = (image.preamble(), image.summary());
    let page = cryonaut_sys::PAGE_SIZE;
    let tables = records.all::<DescriptorTable>()?;
    let objects = objects::read(&records, &tables);
    Ok(Description {
        id: preamble.image_id_text(),
        created_by: preamble.created_by.clone(),
        created_unix_nanoseconds: preamble.created_unix_nanoseconds,
        node: preamble.node.clone(),
        kernel: preamble.kernel.clone(),
        job_name: preamble.job_name.clone(),
        generation: preamble.generation,
        bytes: summary.bytes,
        stored_bytes: summary.stored_pages.saturating_mul(page),
        same_bytes: summary.same_pages.saturating_mul(page),
        needs: preamble
            .needs
            .iter()
            .map(|need| (need.name.clone(), need.value.clone()))
            .collect(),
        processes: processes(&records, &tables, &objects)?,
        channels: objects.channels,
        files: files::read(&records)?,
        embedded: files::embedded(&records)?,
        records: records
            .kinds()
            .iter()
            .map(|kind| RecordCount {
                kind: kind.name.clone(),
                version: kind.version,
                count: kind.count,
            })
            .collect(),
    })
}

fn processes(
    records: &RecordSet,
    tables: &[DescriptorTable],
    objects: &Objects,
) -> Result<Vec<ProcessDescription>> {
    let spaces: BTreeMap<i32, AddressSpace> = records
        .all::<AddressSpace>()?
        .into_iter()
        .map(|space| (space.process, space))
        .collect();
    let tables: BTreeMap<i32, &DescriptorTable> =
        tables.iter().map(|table| (table.process, table)).collect();
    let users: BTreeMap<i32, u32> = records
        .all::<CredentialsRecord>()?
        .iter()
        .filter_map(|found| Some((found.process, *found.users.get(1)?)))
        .collect();
    let contexts: BTreeMap<i32, FsContextRecord> = records
        .all::<FsContextRecord>()?
        .into_iter()
        .map(|context| (context.process, context))
        .collect();
    let described = records.all::<ProcessRecord>()?.into_iter().map(|process| {
        let space = spaces.get(&process.pid);
        let slots = tables
            .get(&process.pid)
            .map(|table| table.slots.as_slice())
            .unwrap_or_default();
        let areas = space
            .map(|space| space.areas.as_slice())
            .unwrap_or_default();
        let executable = space.and_then(|space| space.executable.as_ref());
        let layout = space.map(Layout::of).unwrap_or_default();
        ProcessDescription {
            pid: process.pid,
            parent: process.parent,
            depth: 0,
            group: process.group,
            session: process.session,
            name: printable(&process.name),
            command_line: words(&process.command_line),
            executable: executable
                .map(|file| printable(&file.path))
                .unwrap_or_default(),
            user: users.get(&process.pid).copied(),
            working_directory: contexts
                .get(&process.pid)
                .map(|context| printable(&context.working_directory))
                .unwrap_or_default(),
            root: contexts
                .get(&process.pid)
                .filter(|context| context.root != b"/")
                .map(|context| printable(&context.root)),
            state: match (process.zombie, process.stopped) {
                (Some(status), _) => State::Zombie(status),
                (None, Some(signal)) => State::Stopped(signal),
                (None, None) => State::Running,
            },
            threads: process.tasks,
            memory: by_kind(areas, &layout),
            mappings: areas.iter().map(|area| mapping(area, &layout)).collect(),
            descriptors: slots.iter().map(|slot| descriptor(slot, objects)).collect(),
        }
    });
    Ok(as_tree(described.collect()))
}

fn descriptor(slot: &SlotRecord, objects: &Objects) -> DescriptorDescription {
    let object = objects.by_number.get(&slot.object);
    DescriptorDescription {
        number: slot.number,
        object: slot.object,
        kind: object.map(|object| object.kind.clone()).unwrap_or_default(),
        path: object.and_then(|object| object.path.clone()),
        close_on_exec: slot.close_on_exec,
        access: object.and_then(|object| object.flags).map(flags_in_words),
        position: object.and_then(|object| object.position),
        detail: object.and_then(|object| object.detail.clone()),
    }
}

/// Orders processes as a tree is walked, and gives each its depth. Those whose ancestors form a circle, which only a hostile
/// image has, come last.
fn as_tree(processes: Vec<ProcessDescription>) -> Vec<ProcessDescription> {
    let known: Vec<i32> = processes.iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<i32, Vec<ProcessDescription>> = BTreeMap::new();
    for process in processes.into_iter().rev() {
        let parent = if known.contains(&process.parent) {
            process.parent
        } else {
            0
        };
        children.entry(parent).or_default().push(process);
    }
    let mut ordered = Vec::with_capacity(known.len());
    let mut waiting = children.remove(&0).unwrap_or_default();
    while let Some(process) = waiting.pop() {
        for mut child in children.remove(&process.pid).into_iter().flatten() {
            child.depth = process.depth + 1;
            waiting.push(child);
        }
        ordered.push(process);
    }
    ordered.extend(children.into_values().flatten());
    ordered
}

fn words(command_line: &[u8]) -> Vec<String> {
    let whole = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    if whole.is_empty() {
        return Vec::new();
    }
    whole.split(|&byte| byte == 0).map(printable).collect()
}

/// Where heap and stack of a process are.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    heap: (u64, u64),
    stack: u64,
}

impl Layout {
    fn of(space: &AddressSpace) -> Self {
        let at = |index: usize| space.layout.get(index).copied().unwrap_or_default();
        Self {
            heap: (at(4), at(5)),
            stack: at(6),
        }
    }
}

fn kind_of(area: &AreaRecord, layout: &Layout) -> &'static str {
    let (heap, heap_end) = layout.heap;
    match area.backing() {
        Backing::Unknown => "unknown",
        Backing::Anonymous if area.start < heap_end && heap < area.end => "heap",
        Backing::Anonymous if (area.start..area.end).contains(&layout.stack) => "stack",
        Backing::Anonymous if area.protection == 0 && area.pages == 0 => "reserved",
        Backing::Anonymous | Backing::AnonymousHuge => "anonymous",
        Backing::FilePrivate => "file",
        Backing::FileShared => "shared file",
        Backing::SharedObject => "shared",
        Backing::SystemV => "System V",
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::AioRing => "kernel",
    }
}

fn saved_bytes(area: &AreaRecord) -> u64 {
    area.pages.saturating_mul(cryonaut_sys::PAGE_SIZE)
}

fn by_kind(areas: &[AreaRecord], layout: &Layout) -> Vec<MemoryDescription> {
    let mut kinds: Vec<MemoryDescription> = Vec::new();
    for area in areas {
        let kind = kind_of(area, layout);
        let place = kinds
            .iter()
            .position(|known| known.kind == kind)
            .unwrap_or_else(|| {
                kinds.push(MemoryDescription {
                    kind,
                    mappings: 0,
                    bytes: 0,
                    saved_bytes: 0,
                });
                kinds.len() - 1
            });
        let sum = &mut kinds[place];
        sum.mappings += 1;
        sum.bytes = sum
            .bytes
            .saturating_add(area.end.saturating_sub(area.start));
        sum.saved_bytes = sum.saved_bytes.saturating_add(saved_bytes(area));
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    kinds
}

fn mapping(area: &AreaRecord, layout: &Layout) -> MappingDescription {
    let bit = |bit: i32, letter: char| {
        if area.protection & bit as u32 != 0 {
            letter
        } else {
            '-'
        }
    };
    let sharing = match area.backing() {
        Backing::FileShared | Backing::SharedObject | Backing::SystemV => 's',
        _ => 'p',
    };
    MappingDescription {
        start: area.start,
        end: area.end,
        permissions: [
            bit(libc::PROT_READ, 'r'),
            bit(libc::PROT_WRITE, 'w'),
            bit(libc::PROT_EXEC, 'x'),
            sharing,
        ]
        .iter()
        .collect(),
        kind: kind_of(area, layout),
        file: area.file.as_ref().map(|file| printable(&file.path)),
        offset: area.offset,
        saved_bytes: saved_bytes(area),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> ProcessRecord {
        ProcessRecord {
            pid,
            parent,
            name: b"a\n".to_vec(),
            command_line: b"a\0b\0".to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn the_tree_is_walked_in_order_and_circles_end() {
        let mut records = RecordSet::new();
        for (pid, parent) in [
            (10, 0),
            (11, 10),
            (12, 10),
            (13, 11),
            (20, 21),
            (21, 20),
            (30, 99),
        ] {
            records.push(&process(pid, parent)).unwrap();
        }
        let found: Vec<(i32, usize)> = processes(&records, &[], &Objects::default())
            .unwrap()
            .iter()
            .map(|process| (process.pid, process.depth))
            .collect();
        assert_eq!(found[..5], [(10, 0), (11, 1), (13, 2), (12, 1), (30, 0)]);
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn hostile_areas_do_no_harm() {
        let area = AreaRecord {
            start: 5,
            end: 1,
            pages: u64::MAX,
            ..Default::default()
        };
        let sums = by_kind(&[area.clone(), area], &Layout::default());
        assert_eq!(
            (sums[0].mappings, sums[0].bytes, sums[0].saved_bytes),
            (2, 0, u64::MAX)
        );
    }
}
