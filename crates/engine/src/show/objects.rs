//! The open file descriptions of an image: what each is, what joins them, and which lie outside the job.
//!
//! The records belong to their files in `resource/file/`. Of each only the fields that are shown are decoded here, by their
//! numbers, which stay the same for as long as a record keeps its version.

use std::collections::{BTreeMap, BTreeSet};

use cryonaut_image::RecordSet;
use prost::Message;
use serde::Serialize;

use crate::resource::file::DescriptorTable;
use crate::resource::memory::{FileIdentity, printable};

/// What joins descriptors: a pipe, a FIFO, an epoll instance, anything that several processes have, a way out of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// What it is (`pipe`).
    pub kind: String,
    /// Its path, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// The descriptors by which processes have it.
    pub ends: Vec<ChannelEnd>,
    /// Numbers of the open file descriptions that it watches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watches: Vec<u64>,
    /// Whether its other end lies outside the job.
    pub external: bool,
}

/// A descriptor of a [`Channel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelEnd {
    /// The process.
    pub process: i32,
    /// The descriptor.
    pub number: i32,
    /// The open file description.
    pub object: u64,
    /// Whether it can be read from.
    pub reads: bool,
    /// Whether it can be written to.
    pub writes: bool,
}

/// What an open file description is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    pub kind: String,
    pub path: Option<String>,
    pub flags: Option<u32>,
    pub position: Option<u64>,
    pub detail: Option<String>,
}

/// All that is known of open file descriptions.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub by_number: BTreeMap<u64, Object>,
    pub channels: Vec<Channel>,
}

/// The parts of records that are shown.
mod part {
    use super::FileIdentity;

    /// Most kinds begin with these two.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Any {
        #[prost(uint64, tag = "1")]
        pub object: u64,
        #[prost(uint32, tag = "2")]
        pub flags: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WithFile {
        #[prost(uint64, tag = "3")]
        pub position: u64,
        #[prost(message, optional, tag = "4")]
        pub identity: Option<FileIdentity>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Place {
        #[prost(message, optional, tag = "3")]
        pub identity: Option<FileIdentity>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WithPath {
        #[prost(bytes = "vec", tag = "3")]
        pub path: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ExternalPipe {
        #[prost(bytes = "vec", tag = "3")]
        pub name: Vec<u8>,
        #[prost(string, tag = "5")]
        pub outsider: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WithNumber {
        #[prost(uint64, tag = "3")]
        pub number: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Mask {
        #[prost(fixed64, tag = "3")]
        pub mask: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Queue {
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub pieces: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Pipe {
        #[prost(message, optional, tag = "1")]
        pub queue: Option<Queue>,
        #[prost(message, repeated, tag = "2")]
        pub ends: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Fifo {
        #[prost(message, optional, tag = "1")]
        pub identity: Option<FileIdentity>,
        #[prost(message, optional, tag = "2")]
        pub queue: Option<Queue>,
        #[prost(message, repeated, tag = "3")]
        pub ends: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Epoll {
        #[prost(message, repeated, tag = "4")]
        pub entries: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Entry {
        #[prost(uint64, tag = "1")]
        pub target: u64,
    }
}

/// Kinds whose names begin like those of open file descriptions, and which are about something else.
const OTHERS: [&str; 4] = ["table", "controlling-terminal", "lock", "addressee"];

/// Reads all open file descriptions. Records that cannot be decoded are left out: a restart tells of them.
pub(super) fn read(records: &RecordSet, tables: &[DescriptorTable]) -> Objects {
    let mut found = Found {
        holders: holders(tables),
        objects: Objects::default(),
    };
    for record in records.iter() {
        if let Some(kind) = record.name.strip_prefix("file.")
            && !OTHERS.contains(&kind)
        {
            found.add(kind, record.body);
        }
    }
    found.shared();
    found.objects
}

/// The slots that have each open file description.
fn holders(tables: &[DescriptorTable]) -> BTreeMap<u64, Vec<(i32, i32)>> {
    let mut holders: BTreeMap<u64, Vec<(i32, i32)>> = BTreeMap::new();
    for table in tables {
        for slot in &table.slots {
            let of_object = holders.entry(slot.object).or_default();
            of_object.push((table.process, slot.number));
        }
    }
    holders
}

struct Found {
    holders: BTreeMap<u64, Vec<(i32, i32)>>,
    objects: Objects,
}

impl Found {
    fn add(&mut self, kind: &str, body: &[u8]) {
        match kind {
            "pipe" => {
                if let Ok(pipe) = part::Pipe::decode(body) {
                    self.queue(kind, None, pipe.queue, &pipe.ends);
                }
            }
            "fifo" => {
                if let Ok(fifo) = part::Fifo::decode(body) {
                    self.queue(kind, path(&fifo.identity), fifo.queue, &fifo.ends);
                }
            }
            _ => {
                if let Ok(found) = part::Any::decode(body) {
                    self.single(kind, &found, body);
                }
            }
        }
    }

    /// A pipe or FIFO with all its ends.
    fn queue(
        &mut self,
        kind: &str,
        path: Option<String>,
        queue: Option<part::Queue>,
        ends: &[part::Any],
    ) {
        let pieces = queue.map(|queue| queue.pieces).unwrap_or_default();
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        for end in ends {
            let object = Object {
                kind: kind.to_owned(),
                path: path.clone(),
                flags: Some(end.flags),
                detail: (bytes > 0).then(|| format!("{bytes} bytes in flight")),
                ..Object::default()
            };
            self.objects.by_number.insert(end.object, object);
        }
        let ends = ends.iter().flat_map(|end| self.ends(end)).collect();
        self.objects.channels.push(Channel {
            kind: kind.to_owned(),
            path,
            in_flight: Some(bytes),
            ends,
            watches: Vec::new(),
            external: false,
        });
    }

    /// What is one open file description by itself.
    fn single(&mut self, kind: &str, found: &part::Any, body: &[u8]) {
        let mut object = Object {
            kind: kind.to_owned(),
            flags: Some(found.flags),
            ..Object::default()
        };
        let mut watches = Vec::new();
        let mut external = false;
        match kind {
            "regular" | "directory" => {
                let file = part::WithFile::decode(body).unwrap_or_default();
                object.path = path(&file.identity);
                object.position = Some(file.position);
            }
            "place" => {
                object.path = path(&part::Place::decode(body).unwrap_or_default().identity);
            }
            "device" | "terminal" => {
                let with = part::WithPath::decode(body).unwrap_or_default();
                object.path = Some(printable(&with.path));
                external = kind == "terminal";
            }
            "external-pipe" => {
                let pipe = part::ExternalPipe::decode(body).unwrap_or_default();
                object.path = Some(printable(&pipe.name));
                object.detail = Some(pipe.outsider)
                    .filter(|outsider| !outsider.is_empty())
                    .map(|outsider| format!("held by {outsider}"));
                external = true;
            }
            "standard-stream" => {
                let stream = part::WithNumber::decode(body).unwrap_or_default().number;
                let name = ["input", "output", "error output"].get(stream as usize);
                object.detail = name.map(|name| format!("standard {name} of the restart"));
                external = true;
            }
            "eventfd" => {
                let count = part::WithNumber::decode(body).unwrap_or_default().number;
                object.detail = Some(format!("count {count}"));
            }
            "signalfd" => {
                let mask = part::Mask::decode(body).unwrap_or_default().mask;
                object.detail = Some(match mask.count_ones() {
                    1 => "1 signal".to_owned(),
                    count => format!("{count} signals"),
                });
            }
            "epoll" => {
                let epoll = part::Epoll::decode(body).unwrap_or_default();
                watches = epoll.entries.iter().map(|entry| entry.target).collect();
                object.detail = Some(format!("watches {}", watches.len()));
            }
            _ => {}
        }
        if external || kind == "epoll" {
            let ends = self.ends(found);
            self.objects.channels.push(Channel {
                kind: kind.to_owned(),
                path: object.path.clone(),
                in_flight: None,
                ends,
                watches,
                external,
            });
        }
        self.objects.by_number.insert(found.object, object);
    }

    /// Adds what several processes have in common, and can talk by: not files, whose position alone they share.
    fn shared(&mut self) {
        const TALKED_BY: [&str; 2] = ["eventfd", "timerfd"];
        for (&number, object) in &self.objects.by_number {
            let processes: BTreeSet<i32> = self
                .holders
                .get(&number)
                .into_iter()
                .flatten()
                .map(|(process, _)| *process)
                .collect();
            let talks = TALKED_BY.contains(&object.kind.as_str()) || object.kind.contains("socket");
            if processes.len() > 1 && talks {
                let end = part::Any {
                    object: number,
                    flags: object.flags.unwrap_or_default(),
                };
                self.objects.channels.push(Channel {
                    kind: object.kind.clone(),
                    path: object.path.clone(),
                    in_flight: None,
                    ends: self.ends(&end),
                    watches: Vec::new(),
                    external: false,
                });
            }
        }
    }

    fn ends(&self, end: &part::Any) -> Vec<ChannelEnd> {
        let access = end.flags as i32 & cryonaut_sys::uapi::O_ACCMODE;
        self.holders
            .get(&end.object)
            .into_iter()
            .flatten()
            .map(|&(process, number)| ChannelEnd {
                process,
                number,
                object: end.object,
                reads: access != libc::O_WRONLY,
                writes: access != libc::O_RDONLY,
            })
            .collect()
    }
}

fn path(identity: &Option<FileIdentity>) -> Option<String> {
    identity.as_ref().map(|file| printable(&file.path))
}

/// `O_*` flags in words, the access mode first.
pub(super) fn flags_in_words(flags: u32) -> String {
    const NAMES: [(i32, &str); 7] = [
        (libc::O_APPEND, "append"),
        (libc::O_NONBLOCK, "non-blocking"),
        (libc::O_DIRECT, "direct"),
        (libc::O_SYNC, "synchronous"),
        (libc::O_NOATIME, "no access time"),
        (libc::O_ASYNC, "signals"),
        (libc::O_PATH, "place only"),
    ];
    let flags = flags as i32;
    let access = match flags & cryonaut_sys::uapi::O_ACCMODE {
        libc::O_WRONLY => "write",
        libc::O_RDWR => "read and write",
        _ => "read",
    };
    let mut words = vec![access];
    let set = NAMES.iter().filter(|(bits, _)| flags & bits == *bits);
    words.extend(set.map(|(_, name)| *name));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::file::SlotRecord;
    use cryonaut_image::RawRecord;

    fn table(process: i32, slots: &[(i32, u64)]) -> DescriptorTable {
        let slot = |&(number, object): &(i32, u64)| SlotRecord {
            number,
            object,
            close_on_exec: false,
        };
        DescriptorTable {
            process,
            slots: slots.iter().map(slot).collect(),
        }
    }

    #[test]
    fn a_pipe_joins_its_processes() {
        let end = |object, flags| part::Any { object, flags };
        let pipe = part::Pipe {
            queue: Some(part::Queue {
                pieces: vec![b"ab".to_vec(), b"c".to_vec()],
            }),
            ends: vec![end(1, 0), end(2, 1)],
        };
        let mut records = RecordSet::new();
        let raw = |name, body| RawRecord {
            name,
            version: 1,
            body,
        };
        let (whole, unknown) = (pipe.encode_to_vec(), end(3, 2).encode_to_vec());
        records.push_raw(raw("file.pipe", &whole)).unwrap();
        records.push_raw(raw("file.pipe", b"\xff")).unwrap();
        records.push_raw(raw("file.new", &unknown)).unwrap();
        let tables = [table(10, &[(0, 1), (1, 2)]), table(11, &[(1, 2), (5, 3)])];
        let found = read(&records, &tables);
        assert_eq!(found.channels.len(), 1);
        assert_eq!(found.channels[0].in_flight, Some(3));
        let ends: Vec<_> = found.channels[0]
            .ends
            .iter()
            .map(|end| (end.process, end.number, end.reads, end.writes))
            .collect();
        assert_eq!(
            ends,
            [
                (10, 0, true, false),
                (10, 1, false, true),
                (11, 1, false, true)
            ]
        );
        assert_eq!(found.by_number[&3].kind, "new");
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(flags_in_words(0), "read");
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK;
        assert_eq!(flags_in_words(flags as u32), "write, append, non-blocking");
    }
}
