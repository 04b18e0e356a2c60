//! Named pipes (FIFOs): by path, with the bytes in flight and every end with its own flags.
//!
//! As for anonymous pipes, but the ends are opened by path, all without waiting, and flags are set afterwards. Whether a reader
//! sees a hang-up depends on whether there ever was a writer: it comes back as it was. Not preserved: what is left in one that
//! nobody can read from, and what belongs to readers outside the job.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::file::own_path;

use super::facts::{Description, FdFacts, Job, Place};
use super::pipe::{End, Queue, ends_of, queue_of};
use super::regular::{damaged, named_file, path_text};
use super::{DescriptorKind, holders, options, path_of, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::kept_file;
use crate::resource::memory::{FileIdentity, identity, printable};
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

/// A FIFO with all its ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fifo {
    /// What it is called.
    #[prost(message, optional, tag = "1")]
    pub identity: Option<FileIdentity>,
    /// What is in flight.
    #[prost(message, optional, tag = "2")]
    pub queue: Option<Queue>,
    /// The open file descriptions that are its ends.
    #[prost(message, repeated, tag = "3")]
    pub ends: Vec<End>,
    /// Whether a reader sees that the last writer has gone.
    #[prost(bool, tag = "4")]
    pub hung_up: bool,
    /// The kept file that it is, by its number, where it was deleted; otherwise 0.
    #[prost(uint64, tag = "5")]
    pub kept: u64,
}

impl Record for Fifo {
    const KIND: Kind = Kind {
        name: "file.fifo",
        version: 1,
    };
}

/// The kind.
pub(super) struct Fifos;

impl DescriptorKind for Fifos {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Fifo::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.file_type() == libc::S_IFIFO
            && (facts.place == Place::Leads || kept_file::is_kept(facts))
            && !facts.is_place()
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        // Not by path: of those that were deleted two may have had the same.
        let mut fifos: BTreeMap<(u64, u64), Vec<&Description>> = BTreeMap::new();
        for description in descriptions {
            let ends = fifos.entry(description.facts.file).or_default();
            ends.push(description);
        }
        for ends in fifos.into_values() {
            let hung_up = match ends.iter().find(|end| end.facts.reads()) {
                Some(reader) => {
                    let copy = job.copy(reader)?;
                    let events = descriptor::poll_now(copy.as_fd(), 0)
                        .attempt(|| "looking at a FIFO".into())?;
                    events & libc::POLLHUP != 0
                }
                None => false,
            };
            let used = kept_file::Use::Description(ends[0].object);
            let (kept, identity) = match collection.kept.of(used) {
                Some((kept, identity)) => (kept, identity.clone()),
                None => (0, named_file(ends[0], job)?),
            };
            collection.put(&Fifo {
                identity: Some(identity),
                kept,
                queue: Some(queue_of(&ends, job)?),
                ends: ends_of(&ends),
                hung_up,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        for fifo in records.all::<Fifo>()? {
            let then = fifo.identity.as_ref().ok_or_else(damaged)?;
            let now = identity(&then.path, Path::new("/"));
            let there = now.is_some_and(|now| now.mode & libc::S_IFMT == libc::S_IFIFO);
            if fifo.kept == 0 && !there {
                let first = fifo.ends.first().map(|end| end.object).unwrap_or_default();
                let (process, number) = holders.get(&first).copied().unwrap_or_default();
                plan.refusals.add(
                    (process, ""),
                    format!("descriptor {number}, named pipe {}", printable(&then.path)),
                    "it does not exist here",
                    "make it again with mkfifo, or tell where it is now: --relocate OLD=NEW",
                );
            }
            if let Some(queue) = &fifo.queue {
                queue.check(host, plan);
            }
            let needs = match fifo.kept {
                0 => Vec::new(),
                kept => vec![Token::Object(kept)],
            };
            plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Open { fifo });
        }
        Ok(())
    }
}

struct Open {
    fifo: Fifo,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.fifo.identity);
        let readers = self.fifo.ends.iter().filter(|end| end.reads()).count();
        let writers = self.fifo.ends.iter().filter(|end| end.writes()).count();
        write!(
            f,
            "open named pipe {path}, {readers} reading, {writers} writing"
        )?;
        self.fifo
            .queue
            .as_ref()
            .map_or(Ok(()), |queue| write!(f, ", {queue}"))
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let path = match self.fifo.kept {
            0 => {
                let identity = self.fifo.identity.as_ref().ok_or_else(damaged)?;
                path_of(&identity.path).to_path_buf()
            }
            kept => own_path(rebuild.kept.get(&kept).ok_or_else(damaged)?.as_fd()),
        };
        for (object, end) in open(&self.fifo, &path)? {
            rebuild.objects.insert(object, end);
        }
        Ok(())
    }
}

fn open(fifo: &Fifo, path: &Path) -> Result<Vec<(u64, OwnedFd)>> {
    let what = || format!("opening named pipe {}", path_text(&fifo.identity));
    let open = |flags: u32| -> Result<OwnedFd> {
        let flags = flags & !(libc::O_DIRECT as u32) | libc::O_NONBLOCK as u32;
        Ok(options(flags).open(path).attempt(what)?.into())
    };
    let queue = fifo.queue.clone().unwrap_or_default();
    // Opening a writing end fails without a reader, and a writer that comes and goes is what a hang-up tells of: so none is
    // there needlessly.
    let resized = queue.size != 65_536;
    let filled = !queue.pieces.is_empty() || fifo.ends.iter().any(|end| end.writes());
    let keeper = if filled || fifo.hung_up {
        Some(open(libc::O_RDWR as u32)?)
    } else {
        None
    };
    if let Some(keeper) = &keeper {
        queue.fill(keeper)?;
    }
    let mut ends = Vec::with_capacity(fifo.ends.len());
    for end in &fifo.ends {
        let fd = open(end.flags)?;
        set_flags(fd.as_fd(), end.flags).attempt(what)?;
        ends.push((end.object, fd));
    }
    if keeper.is_none()
        && resized
        && let Some((_, end)) = ends.first()
    {
        Queue {
            pieces: Vec::new(),
            ..queue
        }
        .fill(end)?;
    }
    Ok(ends)
}

const SUPPORT: &[Support] = &[Support {
    what: "Named pipes (FIFOs): bytes in flight, one or both ends",
    level: Level::Restored,
    how: "by path; what is in flight for readers in the job is put back",
}];

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn fifo(name: &str) -> (std::path::PathBuf, Option<FileIdentity>) {
        let path =
            std::env::temp_dir().join(format!("cryonaut-fifo-{name}-{}", std::process::id()));
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let found = identity(path.to_str().unwrap().as_bytes(), Path::new("/"));
        (path, found)
    }

    #[test]
    fn a_fifo_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let fifo = Fifo {
            identity: Some(FileIdentity::default()),
            queue: Some(Queue::default()),
            ends: vec![End {
                object: 1,
                flags: 2,
            }],
            hung_up: true,
            kept: 0,
        };
        records.push(&fifo).unwrap();
        assert_eq!(records.all::<Fifo>().unwrap(), [fifo]);
    }

    #[test]
    fn ends_open_without_waiting_and_keep_what_was_in_flight() {
        let (path, identity) = fifo("both");
        let queue = Queue {
            size: 65_536,
            packets: false,
            pieces: vec![b"hello".to_vec()],
            ..Queue::default()
        };
        let ends = vec![
            End {
                object: 1,
                flags: 0,
            },
            End {
                object: 2,
                flags: 1,
            },
        ];
        let mut opened = open(
            &Fifo {
                identity,
                queue: Some(queue),
                ends,
                hung_up: false,
                kept: 0,
            },
            &path,
        )
        .unwrap();
        std::fs::remove_file(path).unwrap();
        drop(opened.pop());
        let mut text = String::new();
        std::fs::File::from(opened.remove(0).1)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_reader_sees_a_hang_up_only_where_it_did() {
        for hung_up in [false, true] {
            let (path, identity) = fifo(if hung_up { "hung" } else { "waiting" });
            let queue = Queue {
                size: 65_536,
                ..Queue::default()
            };
            let opened = open(
                &Fifo {
                    identity,
                    queue: Some(queue),
                    ends: vec![End {
                        object: 1,
                        flags: libc::O_NONBLOCK as u32,
                    }],
                    hung_up,
                    kept: 0,
                },
                &path,
            );
            std::fs::remove_file(path).unwrap();
            let events = descriptor::poll_now(opened.unwrap()[0].1.as_fd(), 0).unwrap();
            assert_eq!(events & libc::POLLHUP != 0, hung_up);
        }
    }
}
