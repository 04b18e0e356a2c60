//! What an image holds, decoded for people and programs: `cryo show`.

use std::collections::BTreeMap;

use cryonaut_image::{RecordSet, SeekableImage};
use prost::Message;
use serde::Serialize;

use crate::Result;
use crate::resource::file::DescriptorTable;
use crate::resource::memory::{AddressSpace, AreaRecord, Backing, FileIdentity, printable};
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
    /// The kind.
    pub kind: &'static str,
    /// How many mappings.
    pub mappings: usize,
    /// Their length in bytes.
    pub bytes: u64,
    /// How much of it was to be saved, in bytes: touched pages, before zero pages are left out.
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
    /// How much of it was to be saved, in bytes.
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
    Ok(Description {
        id: preamble.image_id_text(),
        created_by: preamble.created_by.clone(),
        created_unix_nanoseconds: preamble.created_unix_nanoseconds,
        node: preamble.node.clone(),
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
        processes: processes(&records)?,
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

fn processes(records: &RecordSet) -> Result<Vec<ProcessDescription>> {
    let spaces: BTreeMap<i32, AddressSpace> = records
        .all::<AddressSpace>()?
        .into_iter()
        .map(|space| (space.process, space))
        .collect();
    let tables: BTreeMap<i32, DescriptorTable> = records
        .all::<DescriptorTable>()?
        .into_iter()
        .map(|table| (table.process, table))
        .collect();
    let objects = objects(records);
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
            state: match (process.zombie, process.stopped) {
                (Some(status), _) => State::Zombie(status),
                (None, Some(signal)) => State::Stopped(signal),
                (None, None) => State::Running,
            },
            threads: process.tasks,
            memory: by_kind(areas),
            mappings: areas.iter().map(mapping).collect(),
            descriptors: slots
                .iter()
                .map(|slot| {
                    let object = objects.get(&slot.object);
                    DescriptorDescription {
                        number: slot.number,
                        object: slot.object,
                        kind: object.map(|object| object.kind.clone()).unwrap_or_default(),
                        path: object.and_then(|object| object.path.clone()),
                        close_on_exec: slot.close_on_exec,
                    }
                })
                .collect(),
        }
    });
    Ok(as_tree(described.collect()))
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

/// What an open file description is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    kind: String,
    path: Option<String>,
}

/// The parts of file records that are shown. The records themselves belong to their files in `resource/file/`; the fields
/// named here keep their numbers for as long as a record keeps its version.
mod part {
    use super::FileIdentity;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Any {
        #[prost(uint64, tag = "1")]
        pub object: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WithFile {
        #[prost(uint64, tag = "1")]
        pub object: u64,
        #[prost(message, optional, tag = "4")]
        pub identity: Option<FileIdentity>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Place {
        #[prost(uint64, tag = "1")]
        pub object: u64,
        #[prost(message, optional, tag = "3")]
        pub identity: Option<FileIdentity>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Device {
        #[prost(uint64, tag = "1")]
        pub object: u64,
        #[prost(bytes = "vec", tag = "3")]
        pub path: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Pipe {
        #[prost(message, repeated, tag = "2")]
        pub ends: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Fifo {
        #[prost(message, optional, tag = "1")]
        pub identity: Option<FileIdentity>,
        #[prost(message, repeated, tag = "3")]
        pub ends: Vec<Any>,
    }
}

/// All open file descriptions by number. Records that cannot be decoded are left out: a restart tells of them.
fn objects(records: &RecordSet) -> BTreeMap<u64, Object> {
    let mut all = BTreeMap::new();
    for record in records.iter() {
        let Some(kind) = record.name.strip_prefix("file.") else {
            continue;
        };
        let path =
            |identity: &Option<FileIdentity>| identity.as_ref().map(|file| printable(&file.path));
        let ends = |ends: &[part::Any]| ends.iter().map(|end| end.object).collect::<Vec<_>>();
        let (numbers, path) = match kind {
            "table" | "controlling-terminal" => continue,
            "regular" | "directory" => match part::WithFile::decode(record.body) {
                Ok(found) => (vec![found.object], path(&found.identity)),
                Err(_) => continue,
            },
            "place" => match part::Place::decode(record.body) {
                Ok(found) => (vec![found.object], path(&found.identity)),
                Err(_) => continue,
            },
            "device" | "external-pipe" => match part::Device::decode(record.body) {
                Ok(found) => (vec![found.object], Some(printable(&found.path))),
                Err(_) => continue,
            },
            "pipe" => match part::Pipe::decode(record.body) {
                Ok(found) => (ends(&found.ends), None),
                Err(_) => continue,
            },
            "fifo" => match part::Fifo::decode(record.body) {
                Ok(found) => (ends(&found.ends), path(&found.identity)),
                Err(_) => continue,
            },
            _ => match part::Any::decode(record.body) {
                Ok(found) => (vec![found.object], None),
                Err(_) => continue,
            },
        };
        let object = Object {
            kind: kind.to_owned(),
            path,
        };
        all.extend(numbers.into_iter().map(|number| (number, object.clone())));
    }
    all
}

fn words(command_line: &[u8]) -> Vec<String> {
    let whole = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    if whole.is_empty() {
        return Vec::new();
    }
    whole.split(|&byte| byte == 0).map(printable).collect()
}

fn kind_of(area: &AreaRecord) -> &'static str {
    match area.backing() {
        Backing::Unknown => "unknown",
        Backing::Anonymous => "anonymous",
        Backing::FilePrivate => "file",
        Backing::FileShared => "shared file",
        Backing::SharedObject => "shared",
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock => "kernel",
    }
}

fn saved_bytes(area: &AreaRecord) -> u64 {
    area.pages.saturating_mul(cryonaut_sys::PAGE_SIZE)
}

fn by_kind(areas: &[AreaRecord]) -> Vec<MemoryDescription> {
    let mut kinds: Vec<MemoryDescription> = Vec::new();
    for area in areas {
        let kind = kind_of(area);
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

fn mapping(area: &AreaRecord) -> MappingDescription {
    let bit = |bit: i32, letter: char| {
        if area.protection & bit as u32 != 0 {
            letter
        } else {
            '-'
        }
    };
    let sharing = match area.backing() {
        Backing::FileShared | Backing::SharedObject => 's',
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
        kind: kind_of(area),
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
        let found: Vec<(i32, usize)> = processes(&records)
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
        let sums = by_kind(&[area.clone(), area]);
        assert_eq!(
            (sums[0].mappings, sums[0].bytes, sums[0].saved_bytes),
            (2, 0, u64::MAX)
        );
    }
}
