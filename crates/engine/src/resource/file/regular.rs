//! Regular files, by reference: path, flags, position.
//!
//! /proc/PID/fd shows the path, fdinfo flags and position. The content stays where it is; how it is told that the file is the
//! same says [`crate::reference`]. A file that only grew since, as logs do, is cut back to its old size once the job is
//! committed (or what `--grown` says); the last bytes before that size are stored to tell growth from change. Not preserved:
//! what the job overwrote since (refused).

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use cryonaut_image::{Kind, Record, RecordSet};

use super::facts::{Description, FdFacts, Job, Place};
use super::{DescriptorKind, holders, lock, object, options, path_of, refused, reopen, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::{Changed, Grown, Host};
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::reference::{self, Hashing, PUT_BACK};
use crate::resource::kept_file::{self, Opening};
use crate::resource::memory::{FileIdentity, identity, printable};
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// Bytes before a file's end that are stored to recognise it when it has grown.
const TAIL: u64 = 1024;

/// An open regular file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegularFile {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Position in bytes.
    #[prost(uint64, tag = "3")]
    pub position: u64,
    /// The file.
    #[prost(message, optional, tag = "4")]
    pub identity: Option<FileIdentity>,
    /// For a file open for writing its last bytes, at most 1024; absent where they could not be read.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub tail: Option<Vec<u8>>,
    /// The kept file that it is, by its number; 0 where it is found by its path.
    #[prost(uint64, tag = "6")]
    pub kept: u64,
}

impl Record for RegularFile {
    const KIND: Kind = Kind {
        name: "file.regular",
        version: 1,
    };
}

impl RegularFile {
    /// Whether it may be written to.
    pub(crate) fn writes(&self) -> bool {
        self.flags as i32 & cryonaut_sys::uapi::O_ACCMODE != libc::O_RDONLY
    }
}

/// The kind.
pub(super) struct RegularFiles;

impl DescriptorKind for RegularFiles {
    fn kinds(&self) -> &'static [Kind] {
        const { &[RegularFile::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.file_type() == libc::S_IFREG
            && matches!(facts.place, Place::Leads | Place::Deleted)
            && !facts.is_place()
            && !facts.queue
            && !refused::is_kernel_file(&facts.link)
            && !refused::is_private_memory(&facts.link)
    }

    /// What is to be hashed is read now: the job does not stand still for it.
    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        kept_file::inspect(description, job, refusals);
        if job.hashing == Hashing::Content && may_hash(description) {
            reference::content_hash(
                &job.owner(description.first())
                    .reach(&description.facts.link),
            );
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let facts = &description.facts;
            if let Some((kept, identity)) = collection
                .kept
                .of(kept_file::Use::Description(description.object))
            {
                let identity = Some(identity.clone());
                collection.put(&RegularFile {
                    object: description.object,
                    flags: facts.flags(),
                    position: facts.info.position.max(0) as u64,
                    identity,
                    tail: None,
                    kept,
                })?;
                continue;
            }
            let found = named_file(description, job)?;
            let tail = if facts.writes() {
                known_end(description, job, found.size)
            } else {
                None
            };
            collection.put(&RegularFile {
                object: description.object,
                flags: facts.flags(),
                position: facts.info.position.max(0) as u64,
                identity: Some(found),
                tail,
                kept: 0,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        let mut cut: Vec<CutBack> = Vec::new();
        let mut told = BTreeSet::new();
        let leased = lock::leased(records, host)?;
        let mut firsts = kept_file::First::of(records)?;
        for file in records.all::<RegularFile>()? {
            let Some(then) = &file.identity else {
                return Err(damaged());
            };
            if file.kept != 0 {
                let needs = vec![Token::Object(file.kept)];
                let opening = firsts.opening(&file);
                let action = OpenKept { file, opening };
                plan.linked_step(Stage::Objects, 0, needs, Vec::new(), action);
                continue;
            }
            if leased.contains(&then.path) {
                // The job itself holds the file open and closed to others: so it is there, and as it was.
                plan.step(Stage::Objects, 0, OpenFile { file });
                continue;
            }
            let holder = holders.get(&file.object).copied().unwrap_or_default();
            let growth = check(&file, then, holder, host, plan);
            if growth != Growth::None && told.insert(then.path.clone()) {
                plan.remarks.push(remark(growth, &file, then));
            }
            if growth == Growth::CutBack {
                CutBack::add(&file, then, &mut cut);
            }
            plan.step(Stage::Objects, 0, OpenFile { file });
        }
        for action in cut {
            plan.step(Stage::Objects, 0, action);
        }
        Ok(())
    }
}

/// What the user is to know about a file that grew.
fn remark(growth: Growth, file: &RegularFile, then: &FileIdentity) -> String {
    let path = printable(&then.path);
    let then = then.size;
    let position = file.position;
    let appends = file.flags as i32 & libc::O_APPEND != 0;
    match growth {
        Growth::CutBack => format!(
            "file {path} has grown since the checkpoint: it is cut back to {then} bytes when the job runs again"
        ),
        _ if file.writes() && !appends => format!(
            "file {path} has grown since the checkpoint and is kept: the job goes on writing at {position}, over what was added"
        ),
        _ => format!("file {path} has grown since the checkpoint, from {then} bytes, and is kept"),
    }
}

/// The file that a description's path leads to.
///
/// # Errors
/// When it has gone since it was looked at.
pub(super) fn named_file(description: &Description, job: &Job<'_>) -> Result<FileIdentity> {
    let owner = job.owner(description.first());
    let mut found = identity(&description.facts.link, &owner.reach(b"/")).ok_or_else(|| {
        Error::Failed(format!(
            "process {}: {} has vanished",
            owner.pid,
            job.name(description)
        ))
    })?;
    if found.mode & libc::S_IFMT == libc::S_IFREG && may_hash(description) {
        found.add_hash(&owner.reach(&description.facts.link), job.hashing);
    }
    Ok(found)
}

/// Whether a file may be opened to read all of it: that would break a lease, and a place is not about content.
fn may_hash(description: &Description) -> bool {
    !description.facts.is_place() && !lock::has_lease(description)
}

/// The path of a record's file for a step's text; nothing where the record is damaged.
pub(super) fn path_text(identity: &Option<FileIdentity>) -> String {
    identity
        .as_ref()
        .map(|file| printable(&file.path))
        .unwrap_or_default()
}

/// What a record without its file means.
pub(super) fn damaged() -> Error {
    Error::Failed("the image is damaged: an open file without its path".into())
}

/// The last bytes of a file that the job writes, if they can be read.
fn known_end(description: &Description, job: &Job<'_>, size: u64) -> Option<Vec<u8>> {
    if lock::has_lease(description) {
        // Opening the file would break the lease. Reading at a place leaves the program's own position alone.
        let readable = description.facts.reads();
        let copy = job.copy(description).ok().filter(|_| readable)?;
        return last_bytes(&File::from(copy), size);
    }
    let owner = job.owner(description.first());
    tail(&owner.reach(&description.facts.link), size)
}

/// The last bytes of the file at a path.
fn tail(path: &Path, size: u64) -> Option<Vec<u8>> {
    // Not by way of the program's own descriptor: that may be open for writing only. Never blocking on a lease.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    last_bytes(&file, size)
}

fn last_bytes(file: &File, size: u64) -> Option<Vec<u8>> {
    let length = size.min(TAIL);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, size - length).ok()?;
    Some(bytes)
}

/// What is to be done about a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    None,
    Kept,
    CutBack,
}

/// Checks that a file is there, can be opened, and is what it was.
fn check(
    file: &RegularFile,
    then: &FileIdentity,
    (process, number): (i32, i32),
    host: &Host,
    plan: &mut Plan,
) -> Growth {
    let what = format!("descriptor {number}, file {}", printable(&then.path));
    let mut refuse = |reason: String, remedy: &str| {
        plan.refusals.add((process, ""), &what, reason, remedy);
        Growth::None
    };
    if host.provides(&then.path) {
        return Growth::None;
    }
    let Some(now) = identity(&then.path, Path::new("/")) else {
        return refuse("it does not exist here".into(), PUT_BACK);
    };
    if now.mode & libc::S_IFMT != libc::S_IFREG {
        return refuse(
            "it is no regular file any more".into(),
            "put the old file back in its place",
        );
    }
    if let Err(error) = options(file.flags).open(path_of(&then.path)) {
        let access = if file.writes() { "writing" } else { "reading" };
        return refuse(
            format!("it cannot be opened for {access}: {error}"),
            "restart as a user who may open it, or change its permissions",
        );
    }
    let Some(found) = reference::difference(then, &now) else {
        return Growth::None;
    };
    if is_as_known(file, then, &now) {
        return Growth::None;
    }
    if has_grown(file, then, &now) {
        return match (host.grown, file.writes()) {
            (Grown::AsUsed | Grown::Truncate, true) => Growth::CutBack,
            (Grown::Truncate, false) => match may_write(then) {
                Ok(()) => Growth::CutBack,
                Err(error) => refuse(
                    format!("it has grown and cannot be cut back: {error}"),
                    "restart as a user who may write to it, or take it as it is (--grown keep)",
                ),
            },
            (Grown::AsUsed, false) | (Grown::Keep, _) => Growth::Kept,
            (Grown::Refuse, _) => {
                reference::refuse_growth((process, ""), what, (then.size, now.size), plan);
                Growth::None
            }
        };
    }
    if host.changed == Changed::Refuse {
        return refuse(
            format!("it has changed since the checkpoint: {}", found.text()),
            found.remedy(),
        );
    }
    Growth::None
}

/// Whether a file that was touched is known by its end: it has all that is known of it, or as much as tells growth from change.
fn is_as_known(file: &RegularFile, then: &FileIdentity, now: &FileIdentity) -> bool {
    let whole = |tail: &Vec<u8>| tail.len() as u64 == then.size;
    let appends = file.flags as i32 & libc::O_APPEND != 0;
    now.size == then.size
        && then.content_hash.is_none()
        && file
            .tail
            .as_ref()
            .is_some_and(|tail| (whole(tail) || appends) && same_tail(then, tail))
}

/// Whether a file has only got longer. One that the job writes is to have its old end where it was; of one that it only reads
/// no more is known than that it is the same file, unless the image has its hash.
fn has_grown(file: &RegularFile, then: &FileIdentity, now: &FileIdentity) -> bool {
    if now.size <= then.size {
        return false;
    }
    match &file.tail {
        Some(tail) if then.content_hash.is_none() => same_tail(then, tail),
        None if file.writes() && then.content_hash.is_none() => false,
        _ => reference::has_grown(then, now),
    }
}

fn may_write(then: &FileIdentity) -> std::io::Result<()> {
    options(libc::O_WRONLY as u32)
        .open(path_of(&then.path))
        .map(drop)
}

fn same_tail(then: &FileIdentity, tail: &[u8]) -> bool {
    let mut bytes = vec![0; tail.len()];
    let Some(from) = then.size.checked_sub(tail.len() as u64) else {
        return false;
    };
    File::open(path_of(&then.path))
        .and_then(|file| file.read_exact_at(&mut bytes, from))
        .is_ok_and(|()| bytes == tail)
}

struct OpenFile {
    file: RegularFile,
}

impl fmt::Display for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.file.identity);
        let access = match self.file.flags as i32 & cryonaut_sys::uapi::O_ACCMODE {
            libc::O_RDONLY => "reading",
            libc::O_WRONLY if self.file.flags as i32 & libc::O_APPEND != 0 => "appending",
            libc::O_WRONLY => "writing",
            _ => "reading and writing",
        };
        write!(f, "open {path} for {access} at {}", self.file.position)
    }
}

impl Action for OpenFile {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let identity = self.file.identity.as_ref().ok_or_else(damaged)?;
        open_at(
            rebuild,
            self.file.object,
            self.file.flags,
            &identity.path,
            self.file.position,
        )
    }
}

/// Opens a file that was kept by content.
struct OpenKept {
    file: RegularFile,
    opening: Opening,
}

impl fmt::Display for OpenKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.clone();
        write!(f, "{}, as it was kept", OpenFile { file })
    }
}

impl Action for OpenKept {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || format!("opening {}", path_text(&self.file.identity));
        let kept = rebuild.kept.get(&self.file.kept).ok_or_else(damaged)?;
        let opened = match self.opening {
            Opening::First => kept.try_clone(),
            Opening::Another => reopen(kept.as_fd(), self.file.flags),
        };
        let mut opened = File::from(opened.attempt(what)?);
        let position = SeekFrom::Start(self.file.position);
        opened.seek(position).attempt(what)?;
        set_flags(opened.as_fd(), self.file.flags).attempt(what)?;
        rebuild.objects.insert(self.file.object, opened.into());
        Ok(())
    }
}

/// Opens a file or directory by its path and goes to a position in it.
///
/// # Errors
/// When it cannot be opened, or has no such position.
pub(super) fn open_at(
    rebuild: &mut Rebuild<'_>,
    object: u64,
    flags: u32,
    path: &[u8],
    position: u64,
) -> Result<()> {
    let what = || format!("opening {}", printable(path));
    let mut file = options(flags).open(path_of(path)).attempt(what)?;
    file.seek(SeekFrom::Start(position)).attempt(what)?;
    set_flags(file.as_fd(), flags).attempt(what)?;
    rebuild.objects.insert(object, file.into());
    Ok(())
}

/// Cuts a file that grew back to what it was, its time of last change included: the next restart is to know it again.
struct CutBack {
    /// A description that writes to it, if any does: another one would stand in the way of a lease.
    object: Option<u64>,
    then: FileIdentity,
}

impl CutBack {
    /// Adds a file to those that are cut back; each is cut back once.
    fn add(file: &RegularFile, then: &FileIdentity, all: &mut Vec<Self>) {
        let object = file.writes().then_some(file.object);
        match all.iter_mut().find(|other| other.then.path == then.path) {
            Some(known) => known.object = known.object.or(object),
            None => all.push(Self {
                object,
                then: then.clone(),
            }),
        }
    }
}

impl fmt::Display for CutBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cut {} back to {} bytes after the commit",
            printable(&self.then.path),
            self.then.size
        )
    }
}

impl Action for CutBack {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = format!("cutting {} back", printable(&self.then.path));
        let file = match self.object {
            Some(number) => object(rebuild, number)?
                .try_clone_to_owned()
                .map(File::from),
            None => options(libc::O_WRONLY as u32).open(path_of(&self.then.path)),
        };
        let file = file.attempt(|| what.clone())?;
        let then = self.then.clone();
        rebuild
            .after_commit
            .push(Box::new(move || cut_back(&file, &then).attempt(|| what)));
        Ok(())
    }
}

fn cut_back(file: &File, then: &FileIdentity) -> std::io::Result<()> {
    file.set_len(then.size)?;
    // Only its owner may set the time of a file. Without that a file that the job appends to is still known by its end.
    let modified = match u64::try_from(then.modified) {
        Ok(after) => UNIX_EPOCH.checked_add(Duration::from_nanos(after)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_nanos(then.modified.unsigned_abs())),
    };
    if let Some(modified) = modified {
        let _ = file.set_modified(modified);
    }
    Ok(())
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Regular files: flags, position, O_APPEND, O_DIRECT, O_SYNC",
        level: Level::Restored,
        how: "by reference; the same by inode, size and time, by build id, or by hash (--hash-files); what is gone or has changed is a refusal at restart (--relocate, --allow-changed)",
    },
    Support {
        what: "Files that grew since the checkpoint",
        level: Level::Restored,
        how: "one that the job writes is cut back to its old size, last of all; one that it only reads is taken as it is (--grown truncate, keep, refuse)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::resource::file::tests::host;
    use std::io::Write;

    fn record(path: &Path, flags: i32) -> RegularFile {
        let path = path.to_str().unwrap().as_bytes();
        let found = identity(path, Path::new("/")).unwrap();
        let tail = tail(path_of(path), found.size);
        RegularFile {
            object: 7,
            flags: flags as u32,
            position: 3,
            identity: Some(found),
            tail,
            kept: 0,
        }
    }

    fn planned(file: &RegularFile) -> (Plan, Result<()>) {
        let mut records = RecordSet::new();
        records.push(file).unwrap();
        let mut plan = Plan::default();
        let outcome = RegularFiles.plan(&records, &host(), &mut plan);
        (plan, outcome)
    }

    #[test]
    fn a_file_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let file = RegularFile {
            object: 1,
            flags: 0o2001,
            position: 17,
            identity: Some(FileIdentity::default()),
            tail: None,
            kept: 0,
        };
        records.push(&file).unwrap();
        assert_eq!(records.all::<RegularFile>().unwrap(), [file]);
    }

    #[test]
    fn growth_is_cut_back_and_change_is_refused() {
        let path = std::env::temp_dir().join(format!("cryonaut-regular-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let file = record(&path, libc::O_WRONLY | libc::O_APPEND);
        let (plan, outcome) = planned(&file);
        outcome.unwrap();
        assert!(plan.refusals.list().is_empty());
        assert_eq!(plan.ordered().unwrap().len(), 1);

        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"three\n")
            .unwrap();
        let (plan, _) = planned(&file);
        assert!(plan.refusals.list().is_empty());
        let steps: Vec<String> = plan
            .ordered()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(steps[0].contains("for appending at 3"), "{steps:?}");
        assert!(
            steps[1].contains("back to 8 bytes after the commit"),
            "{steps:?}"
        );

        let then = file.identity.clone().unwrap();
        cut_back(&File::options().write(true).open(&path).unwrap(), &then).unwrap();
        assert!(
            reference::difference(&then, &identity(&then.path, Path::new("/")).unwrap()).is_none(),
            "known again after it was cut back"
        );

        std::fs::write(&path, "one\ntwo\n").unwrap();
        let (plan, _) = planned(&file);
        assert!(
            plan.refusals.list().is_empty(),
            "a small file that was only touched is the same"
        );
        std::fs::write(&path, "one\nTWO\n").unwrap();
        let (plan, _) = planned(&file);
        assert!(plan.refusals.list()[0].reason.contains("has changed"));

        std::fs::write(&path, "uno\ndue\ntre\n").unwrap();
        let (plan, _) = planned(&file);
        assert!(plan.refusals.list()[0].reason.contains("has changed"));
        let (plan, _) = planned(&RegularFile {
            flags: libc::O_RDONLY as u32,
            tail: None,
            ..file.clone()
        });
        assert!(
            plan.refusals.list().is_empty(),
            "a file that is only read may grow"
        );

        std::fs::remove_file(&path).unwrap();
        let (plan, _) = planned(&file);
        assert!(plan.refusals.list()[0].reason.contains("does not exist"));
    }
}
