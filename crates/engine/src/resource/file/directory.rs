//! Open directories, by reference: path, flags, position.
//!
//! /proc/PID/fd shows the path, fdinfo flags and position. The position is the file system's own cookie; on the same file
//! system it means the same entry. That entries have come and gone since is no change that matters to a program. An overlay merges
//! layers when a directory is first read, and counts entries: one that is opened anew has none that were removed since (ovl_iterate in
//! fs/overlayfs/readdir.c), so that those after them come too early.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};

use super::facts::{Description, FdFacts, Job, Place};
use super::regular::{damaged, named_file, open_at, path_text};
use super::{DescriptorKind, holders, options, path_of, refused, reopen, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::kept_file;
use crate::resource::memory::{FileIdentity, identity, printable};
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

/// An open directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenDirectory {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Position: a cookie of the file system.
    #[prost(uint64, tag = "3")]
    pub position: u64,
    /// The directory.
    #[prost(message, optional, tag = "4")]
    pub identity: Option<FileIdentity>,
    /// The kept file that it is, by its number, where it was removed; otherwise 0.
    #[prost(uint64, tag = "5")]
    pub kept: u64,
}

impl Record for OpenDirectory {
    const KIND: Kind = Kind {
        name: "file.directory",
        version: 1,
    };
}

/// The kind.
pub(super) struct Directories;

impl DescriptorKind for Directories {
    fn kinds(&self) -> &'static [Kind] {
        const { &[OpenDirectory::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.file_type() == libc::S_IFDIR
            && (facts.place == Place::Leads || kept_file::is_kept(facts))
            && !facts.is_place()
            && !refused::is_kernel_file(&facts.link)
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let used = kept_file::Use::Description(description.object);
            let (kept, identity) = match collection.kept.of(used) {
                Some((kept, identity)) => (kept, Some(identity.clone())),
                None => (0, Some(named_file(description, job)?)),
            };
            collection.put(&OpenDirectory {
                object: description.object,
                flags: description.facts.flags(),
                position: description.facts.info.position.max(0) as u64,
                identity,
                kept,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        for directory in records.all::<OpenDirectory>()? {
            let then = directory.identity.as_ref().ok_or_else(damaged)?;
            if directory.kept != 0 {
                let needs = vec![Token::Object(directory.kept)];
                plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Open { directory });
                continue;
            }
            let (process, number) = holders.get(&directory.object).copied().unwrap_or_default();
            let what = format!("descriptor {number}, directory {}", printable(&then.path));
            let now = identity(&then.path, Path::new("/"));
            if host.provides(&then.path) {
                plan.step(Stage::Objects, 0, Open { directory });
                continue;
            }
            if now.is_none_or(|now| now.mode & libc::S_IFMT != libc::S_IFDIR) {
                plan.refusals.add(
                    (process, ""),
                    what,
                    "it does not exist here",
                    "make it again, or tell where it is now: --relocate OLD=NEW, with the beginning of its path then and now",
                );
            } else if let Err(error) = options(directory.flags).open(path_of(&then.path)) {
                let reason = format!("it cannot be opened: {error}");
                plan.refusals.add(
                    (process, ""),
                    what,
                    reason,
                    "restart as a user who may read it",
                );
            }
            plan.step(Stage::Objects, 0, Open { directory });
        }
        Ok(())
    }
}

struct Open {
    directory: OpenDirectory,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.directory.identity);
        write!(f, "open directory {path}")
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let directory = &self.directory;
        let identity = directory.identity.as_ref().ok_or_else(damaged)?;
        if directory.kept != 0 {
            let what = || format!("opening {}", printable(&identity.path));
            let kept = rebuild.kept.get(&directory.kept).ok_or_else(damaged)?;
            // It is empty: whatever its position was, nothing comes after it.
            let opened = reopen(kept.as_fd(), directory.flags).attempt(what)?;
            set_flags(opened.as_fd(), directory.flags).attempt(what)?;
            rebuild.objects.insert(directory.object, opened);
            return Ok(());
        }
        open_at(
            rebuild,
            directory.object,
            directory.flags,
            &identity.path,
            directory.position,
        )
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Open directories",
    level: Level::Partly,
    how: "by reference, with the position that the file system gave; an overlay counts entries: of a directory with entries in several \
          layers the next ones may be skipped where some of the upper layer were removed since it was first read",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let directory = OpenDirectory {
            object: 3,
            flags: 0o200000,
            position: 9,
            identity: Some(FileIdentity::default()),
            kept: 0,
        };
        records.push(&directory).unwrap();
        assert_eq!(records.all::<OpenDirectory>().unwrap(), [directory]);
    }
}
