//! Descriptors that only name a place in the file system (`O_PATH`), by reference.
//!
//! fdinfo shows `O_PATH` among the flags. They have no position, and what they name may be of any type, a symbolic link too.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};

use super::facts::{self, Description, FdFacts, Job};
use super::regular::{damaged, named_file, path_text};
use super::{DescriptorKind, holders, options, path_of, refused, reopen};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::reference::PUT_BACK;
use crate::resource::kept_file;
use crate::resource::memory::{FileIdentity, identity, printable};
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

/// A descriptor that names a place.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedPlace {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// What it names.
    #[prost(message, optional, tag = "3")]
    pub identity: Option<FileIdentity>,
    /// The kept file that it names, by its number; 0 where it is found by its path.
    #[prost(uint64, tag = "4")]
    pub kept: u64,
}

impl Record for NamedPlace {
    const KIND: Kind = Kind {
        name: "file.place",
        version: 1,
    };
}

/// The kind.
pub(super) struct Places;

impl DescriptorKind for Places {
    fn kinds(&self) -> &'static [Kind] {
        const { &[NamedPlace::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_place()
            && (facts.place == facts::Place::Leads || kept_file::is_kept(facts))
            && !refused::is_kernel_file(&facts.link)
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        kept_file::inspect(description, job, refusals);
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let flags = description.facts.flags();
            let used = kept_file::Use::Description(description.object);
            let (kept, identity) = match collection.kept.of(used) {
                Some((kept, identity)) => (kept, Some(identity.clone())),
                None => (0, Some(named_file(description, job)?)),
            };
            collection.put(&NamedPlace {
                object: description.object,
                flags,
                identity,
                kept,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        for place in records.all::<NamedPlace>()? {
            let then = place.identity.as_ref().ok_or_else(damaged)?;
            if place.kept != 0 {
                let needs = vec![Token::Object(place.kept)];
                plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Open { place });
                continue;
            }
            let (process, number) = holders.get(&place.object).copied().unwrap_or_default();
            let now = identity(&then.path, Path::new("/"));
            let other = |now: FileIdentity| now.mode & libc::S_IFMT != then.mode & libc::S_IFMT;
            if !host.provides(&then.path) && now.is_none_or(other) {
                let what = format!("descriptor {number}, place {}", printable(&then.path));
                plan.refusals
                    .add((process, ""), what, "it does not exist here", PUT_BACK);
            }
            plan.step(Stage::Objects, 0, Open { place });
        }
        Ok(())
    }
}

struct Open {
    place: NamedPlace,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.place.identity);
        write!(f, "open a descriptor that names {path}")
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let identity = self.place.identity.as_ref().ok_or_else(damaged)?;
        // The path is that of the thing itself: a link at its end is what is meant.
        let flags = self.place.flags | (libc::O_PATH | libc::O_NOFOLLOW) as u32;
        if self.place.kept != 0 {
            let kept = rebuild.kept.get(&self.place.kept).ok_or_else(damaged)?;
            let flags = flags & !(libc::O_NOFOLLOW as u32);
            let file = reopen(kept.as_fd(), flags)
                .attempt(|| format!("opening {}", printable(&identity.path)))?;
            rebuild.objects.insert(self.place.object, file);
            return Ok(());
        }
        let file = options(flags)
            .open(path_of(&identity.path))
            .attempt(|| format!("opening {}", printable(&identity.path)))?;
        rebuild.objects.insert(self.place.object, file.into());
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Descriptors that only name a place (O_PATH)",
    level: Level::Restored,
    how: "by reference, or by content as other descriptors of such files",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let place = NamedPlace {
            object: 3,
            flags: 0o10000000,
            identity: Some(FileIdentity::default()),
            kept: 0,
        };
        records.push(&place).unwrap();
        assert_eq!(records.all::<NamedPlace>().unwrap(), [place]);
    }
}
