//! Files by reference whose content goes into the image all the same (`cryo checkpoint --embed`, `--self-contained`), for a
//! restart where they are gone or others.
//!
//! Which files a job refers to its records say; what it will need beyond them, as far as that can be known, `rules` say. Each
//! file is one record, each content is stored once. Files that the job does not write are read before it is frozen (their
//! hashes) and after it is released (their contents), so that it does not stand still for them. At a restart they are used only
//! where the machine's own files differ: then they are laid over its tree, for the job alone (`view`).
//!
//! A job that was restarted so lives among files that are nowhere else: these are saved with it in any case.
//!
//! Not preserved: extended attributes (so capabilities of files too), set-user-id bits have no effect, hard links become copies.

mod carried;
mod rules;
mod select;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use cryonaut_image::{Kind, Record, RecordSet};

use crate::collect::{Collection, Later, Space};
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::pattern::Pattern;
use crate::plan::Plan;
use crate::reference::{self, StateOfFile};
use crate::resource::file::RegularFile;
use crate::resource::kept_file::{self, KeptFile};
use crate::resource::memory::{FileIdentity, device_number, printable};
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

pub(crate) use carried::{is_of_view, mounts_of_view};
use select::{Chosen, Selection, of_the_kernel};

/// Contents of embedded files are spaces numbered from here.
pub const FIRST_EMBEDDED: u64 = 1 << 41;
/// The last number that may be one.
const LAST_EMBEDDED: u64 = (1 << 42) - 1;
/// How many bytes are embedded at most where the user says nothing.
pub const USUAL_LIMIT: u64 = 1 << 30;

/// A file by reference that is in the image too.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EmbeddedFile {
    /// Path, size in bytes, time of last change, mode, hash of the content.
    #[prost(message, optional, tag = "1")]
    pub identity: Option<FileIdentity>,
    /// Its owner.
    #[prost(uint32, tag = "2")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "3")]
    pub group: u32,
    /// The space with its content, which files with the same content share; 0 where it has none.
    #[prost(uint64, tag = "4")]
    pub content: u64,
    /// What it leads to where it is a symbolic link.
    #[prost(bytes = "vec", tag = "5")]
    pub target: Vec<u8>,
    /// Whether the job has it open.
    #[prost(bool, tag = "6")]
    pub open: bool,
    /// Whether a machine that has such a file, whatever is in it, keeps its own.
    #[prost(bool, tag = "7")]
    pub only_if_missing: bool,
    /// Bytes of its content that are no holes.
    #[prost(uint64, tag = "8")]
    pub stored: u64,
}

impl Record for EmbeddedFile {
    const KIND: Kind = Kind {
        name: "embedded-file",
        version: 1,
    };
}

impl EmbeddedFile {
    /// Its identity.
    ///
    /// # Errors
    /// When the record is damaged: without one, with a path that is not absolute, leads up or to what is the kernel's, of a type
    /// that is not embedded.
    pub fn checked(&self) -> Result<&FileIdentity> {
        let damaged =
            || Error::Failed("the image is damaged: an embedded file makes no sense".into());
        let identity = self.identity.as_ref().ok_or_else(damaged)?;
        let path = &identity.path;
        let plain = |name: &[u8]| !name.is_empty() && name != b"." && name != b"..";
        let whole = path == b"/"
            || path.starts_with(b"/") && path[1..].split(|&byte| byte == b'/').all(plain);
        let content = match identity.mode & libc::S_IFMT {
            libc::S_IFREG => {
                self.content == 0 && self.stored == 0
                    || (FIRST_EMBEDDED..=LAST_EMBEDDED).contains(&self.content)
            }
            libc::S_IFDIR => self.content == 0,
            libc::S_IFLNK => self.content == 0 && !self.target.is_empty(),
            _ => false,
        };
        let usable = !path.contains(&0) && !self.target.contains(&0) && !of_the_kernel(path);
        if whole && content && usable && identity.size <= i64::MAX as u64 {
            Ok(identity)
        } else {
            Err(damaged())
        }
    }
}

/// Which files by reference go into an image.
#[derive(Clone, Debug, Default)]
pub struct Embedding {
    /// How many.
    pub extent: Extent,
    /// Files that are taken in besides, with all below directories.
    pub include: Vec<Pattern>,
    /// Files that are left out.
    pub exclude: Vec<Pattern>,
    /// Bytes at most; [`USUAL_LIMIT`] where nothing is said.
    pub limit: Option<u64>,
}

/// How much is embedded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Nothing but what is nowhere else.
    #[default]
    Nothing,
    /// Those of the files that the job refers to that one of the patterns stands for; all where there is none.
    References(Vec<Pattern>),
    /// All that the job refers to, and what it will need later.
    SelfContained,
}

impl Embedding {
    fn wants_nothing(&self) -> bool {
        self.extent == Extent::Nothing && self.include.is_empty()
    }

    /// Whether the content of a file that a job refers to is wanted.
    fn wants(&self, path: &[u8]) -> bool {
        let stands = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(path));
        let wanted = match &self.extent {
            Extent::Nothing => false,
            Extent::References(patterns) => patterns.is_empty() || stands(patterns),
            Extent::SelfContained => true,
        };
        wanted && !stands(&self.exclude)
    }
}

/// The resource.
pub struct EmbeddedFiles;

impl Resource for EmbeddedFiles {
    fn name(&self) -> &'static str {
        "files in the image"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[EmbeddedFile::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    /// Reads all files once, so that their hashes are known when the job stands still; what is too much is refused here.
    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let embedding = &target.embedding;
        let alive = target
            .processes
            .iter()
            .filter(|process| !process.is_zombie());
        let directories = alive.map(|process| &process.directory).collect::<Vec<_>>();
        if embedding.wants_nothing()
            && directories
                .iter()
                .all(|found| mounts_of_view(found).is_empty())
        {
            return;
        }
        let Ok(mut selection) = Selection::new(embedding, &directories) else {
            return;
        };
        selection.references_of_running(&directories);
        selection.all_else(&directories);
        let mut contents = Contents::default();
        for (path, chosen) in &selection.chosen {
            let _ = contents.identity(&selection, path, chosen);
        }
        contents.check(embedding, refusals);
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let embedding = std::sync::Arc::clone(&frozen.embedding);
        let directories = frozen
            .alive()
            .map(|process| &process.directory)
            .collect::<Vec<_>>();
        if embedding.wants_nothing()
            && directories
                .iter()
                .all(|found| mounts_of_view(found).is_empty())
        {
            return Ok(());
        }
        refuse_partial(&collection.records, &embedding)?;
        let mut selection = Selection::new(&embedding, &directories)?;
        selection.references(&collection.records)?;
        selection.all_else(&directories);
        let written: Vec<Vec<u8>> = collection
            .records
            .all::<RegularFile>()?
            .into_iter()
            .filter(|file| file.writes())
            .filter_map(|file| file.identity.map(|identity| identity.path))
            .collect();
        let mut contents = Contents::default();
        let mut records = Vec::new();
        for (path, chosen) in &selection.chosen {
            let identity = contents.identity(&selection, path, chosen)?;
            records.push((identity, chosen.clone()));
        }
        let mut refusals = Refusals::default();
        contents.check(&embedding, &mut refusals);
        refusals.into_result()?;
        let mut spaces: BTreeMap<Vec<u8>, (u64, u64)> = BTreeMap::new();
        for (identity, chosen) in records {
            let (content, stored) = match &identity.content_hash {
                Some(hash) if identity.size > 0 => match spaces.get(hash) {
                    Some(known) => *known,
                    None => {
                        let id = FIRST_EMBEDDED + spaces.len() as u64;
                        let is_written = written.contains(&identity.path);
                        let stored =
                            store(id, &selection, (&identity, &chosen), is_written, collection)?;
                        spaces.insert(hash.clone(), (id, stored));
                        (id, stored)
                    }
                },
                _ => (0, 0),
            };
            collection.put(&EmbeddedFile {
                user: chosen.metadata.uid(),
                group: chosen.metadata.gid(),
                content,
                target: chosen.target,
                open: chosen.open,
                only_if_missing: chosen.only_if_missing,
                stored,
                identity: Some(identity),
            })?;
        }
        Ok(())
    }

    /// What is needed of them is laid out before a restart is planned; here they only have to make sense.
    fn plan(&self, records: &RecordSet, _host: &Host, _plan: &mut Plan) -> Result<()> {
        for file in records.all::<EmbeddedFile>()? {
            file.checked()?;
        }
        Ok(())
    }
}

/// Refuses a file that an upgrade has replaced and that is only partly known, where its content is asked for.
fn refuse_partial(records: &RecordSet, embedding: &Embedding) -> Result<()> {
    let mut refusals = Refusals::default();
    for file in records.all::<KeptFile>()? {
        let path = file
            .identity
            .map(|identity| identity.path)
            .unwrap_or_default();
        if file.partial && embedding.wants(&path) {
            refusals.add_for_job(
                format!("file {}", printable(&path)),
                "it was deleted or replaced while the job uses it, and the kernel shows its old content to root only",
                "checkpoint as root, leave it out with --exclude (what is mapped of it is saved in any case), or restart the program with the new version first",
            );
        }
    }
    refusals.into_result()
}

/// Adds the content of a file to what is to be copied; gives how many bytes of it are no holes.
fn store(
    id: u64,
    selection: &Selection<'_>,
    (identity, chosen): (&FileIdentity, &Chosen),
    is_written: bool,
    collection: &mut Collection,
) -> Result<u64> {
    let path = printable(&identity.path);
    let file =
        kept_file::open(&selection.reach(&identity.path)).attempt(|| format!("opening {path}"))?;
    let now = file.metadata().attempt(|| format!("looking at {path}"))?;
    let state = StateOfFile::of(&now);
    if state != StateOfFile::of(&chosen.metadata) {
        return Err(Error::Failed(format!(
            "file {path} changed while it was being saved; try again, or leave it out with --exclude"
        )));
    }
    let ranges = kept_file::data(&file)?;
    let stored = ranges.iter().map(|range| range.end - range.start).sum();
    let space = Space {
        id,
        pid: 0,
        ranges,
        same: Vec::new(),
    };
    collection.contents.insert(id, file);
    if is_written {
        collection.spaces.push(space);
    } else {
        collection.later.push(Later { space, state, path });
    }
    Ok(stored)
}

/// The contents of chosen files, each once.
#[derive(Default)]
struct Contents {
    sizes: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    unreadable: Vec<Vec<u8>>,
}

impl Contents {
    /// What a file is like, with the hash of its content.
    fn identity(
        &mut self,
        selection: &Selection<'_>,
        path: &[u8],
        chosen: &Chosen,
    ) -> Result<FileIdentity> {
        let metadata = &chosen.metadata;
        let mut identity = FileIdentity {
            path: path.to_vec(),
            device: device_number(metadata.dev()),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            mode: metadata.mode(),
            build_id: None,
            content_hash: None,
        };
        if metadata.is_file() {
            let place = selection.reach(path);
            match reference::content_hash(&place) {
                Some(hash) => {
                    let bytes = metadata
                        .size()
                        .min(metadata.blocks().saturating_mul(512).max(1));
                    self.sizes.insert(hash.to_vec(), (bytes, path.to_vec()));
                    identity.content_hash = Some(hash.to_vec());
                }
                None => self.unreadable.push(path.to_vec()),
            }
            identity.build_id = reference::build_id(&place);
        }
        Ok(identity)
    }

    /// Refuses what cannot be read, and what is too much.
    fn check(&self, embedding: &Embedding, refusals: &mut Refusals) {
        for path in &self.unreadable {
            refusals.add_for_job(
                format!("file {}", printable(path)),
                "its content is to go into the image, and may not be read or changes all the time",
                "checkpoint as a user who may read it, or leave it out with --exclude",
            );
        }
        let limit = embedding.limit.unwrap_or(USUAL_LIMIT);
        let sum: u64 = self.sizes.values().map(|(bytes, _)| bytes).sum();
        if sum > limit {
            let mut largest: Vec<_> = self.sizes.values().collect();
            largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
            let largest: Vec<String> = largest
                .iter()
                .take(5)
                .map(|(bytes, path)| format!("{} ({bytes} bytes)", printable(path)))
                .collect();
            refusals.add_for_job(
                "files in the image",
                format!(
                    "{} of them come to {sum} bytes, more than the limit of {limit}; the largest: {}",
                    self.sizes.len(),
                    largest.join(", ")
                ),
                "leave some out with --exclude, or raise --embed-limit",
            );
        }
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Programs, libraries, open and mapped files in the image (--embed, --self-contained), for machines that lack them or have others",
        level: Level::Restored,
        how: "laid over the machine's own tree for the job alone, in memory, by an ordinary user too; without extended attributes and set-user-id. What the job changes in them, or makes in a directory that had to be laid out anew, goes with the job; its next checkpoint saves it",
    },
    Support {
        what: "With --embed: files that were deleted or replaced while they are mapped, as an ordinary user",
        level: Level::Refused,
        how: "the kernel shows their old content to root only",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32) -> EmbeddedFile {
        EmbeddedFile {
            identity: Some(FileIdentity {
                path: path.into(),
                mode,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn records_come_back_and_hostile_ones_are_refused() {
        let good = EmbeddedFile {
            content: FIRST_EMBEDDED,
            stored: 4096,
            open: true,
            ..file("/usr/bin/x", libc::S_IFREG | 0o755)
        };
        let mut records = RecordSet::new();
        records.push(&good).unwrap();
        assert_eq!(records.all::<EmbeddedFile>().unwrap()[0], good);
        assert!(good.checked().is_ok());
        assert!(file("/", libc::S_IFDIR).checked().is_ok());
        for path in ["", "x", "/..", "/a/../b", "/a//b", "/a/", "/a/./b", "/a\0"] {
            let bad = file(path, libc::S_IFREG);
            assert!(bad.checked().is_err(), "{path:?}");
        }
        assert!(file("/dev/sda", libc::S_IFBLK).checked().is_err());
        for path in ["/proc/kcore", "/sys/x", "/dev/x", "/proc"] {
            assert!(file(path, libc::S_IFREG).checked().is_err(), "{path}");
        }
        assert!(file("/link", libc::S_IFLNK).checked().is_err());
        let other_space = EmbeddedFile {
            content: 5,
            stored: 1,
            ..good
        };
        assert!(other_space.checked().is_err());
        assert!(EmbeddedFile::default().checked().is_err());
    }

    #[test]
    fn what_is_too_much_is_refused_with_the_largest() {
        let mut contents = Contents::default();
        contents.sizes.insert(vec![1], (700, b"/small".to_vec()));
        contents.sizes.insert(vec![2], (9000, b"/large".to_vec()));
        let mut refusals = Refusals::default();
        let mut embedding = Embedding {
            limit: Some(9700),
            ..Default::default()
        };
        contents.check(&embedding, &mut refusals);
        assert!(refusals.list().is_empty());
        embedding.limit = Some(9699);
        contents.check(&embedding, &mut refusals);
        assert!(
            refusals.list()[0]
                .reason
                .contains("/large (9000 bytes), /small")
        );
    }
}
