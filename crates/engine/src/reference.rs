//! Files by reference: whether a file here is what it was when its job was saved.
//!
//! An image names files by path and says what they were like: inode number, size, time of last change, the build id of programs
//! and libraries that were mapped, and where it was asked for a hash of the content. A file is the same if any of these holds:
//!
//! - inode number, size and time of last change are the same: nobody has touched it;
//! - build id and size are the same: another copy of the same build;
//! - the hash of its content is the same;
//! - size and time of last change are the same, and no build id or hash says otherwise: a copy that kept its times.
//!
//! What is not seen: a change of the content that puts size and time of last change back, in a file without hash.

mod elf;
mod hash;

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::host::{Changed, Grown, Host};
use crate::plan::Plan;
use crate::resource::memory::{AddressSpace, Backing, FileIdentity, identity, printable};

pub(crate) use elf::number;
pub use elf::{Dynamic, build_id, dynamic};
pub use hash::{beginning_hash, content_hash};

/// What a user can do about a file that is not there.
pub const PUT_BACK: &str = "put it back in its place, or tell where it is now: --relocate OLD=NEW, with the beginning of its path then and now";

/// Whether identities are to have a hash of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hashing {
    /// None: no file is read.
    #[default]
    None,
    /// Every file that a job uses is read and hashed, before the job is stopped; what changes after that, while it stands still.
    Content,
}

/// In what a file differs from what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is of another build: the code in it is laid out in another way.
    Build(String),
    /// Anything else.
    Content(String),
}

impl Difference {
    /// In words.
    pub fn text(&self) -> &str {
        match self {
            Difference::Build(text) | Difference::Content(text) => text,
        }
    }

    /// What the user can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Difference::Build(_) => {
                "put the old version back, or name a copy of it: --relocate OLD=NEW (the job cannot go on with another build)"
            }
            Difference::Content(_) => {
                "put the old version back, name a copy of it (--relocate OLD=NEW), or accept this one (--allow-changed)"
            }
        }
    }
}

/// Whether a file that is mapped may have got longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// As data that the job only reads: what came after is none of its business.
    ToRead,
    /// As code, or to be written to.
    Otherwise,
}

/// Compares a file with what it was. The file is read where the image has its build id or hash and it was touched.
pub fn difference(then: &FileIdentity, now: &FileIdentity) -> Option<Difference> {
    let kind = |identity: &FileIdentity| identity.mode & libc::S_IFMT;
    if kind(then) != kind(now) {
        return Some(Difference::Content("it is of another type now".into()));
    }
    let same_size = then.size == now.size;
    let same_time = then.modified == now.modified;
    if same_size && same_time && then.inode == now.inode {
        return None;
    }
    let path = path_of(now);
    let builds = then.build_id.clone().zip(build_id(path));
    if same_size && builds.as_ref().is_some_and(|(then, now)| then == now) {
        return None;
    }
    let hashes = match &then.content_hash {
        Some(then) if same_size => content_hash(path).map(|now| (then.clone(), now.to_vec())),
        _ => None,
    };
    if hashes.as_ref().is_some_and(|(then, now)| then == now) {
        return None;
    }
    if same_size && same_time && builds.is_none() && hashes.is_none() {
        return None;
    }
    let mut parts = Vec::new();
    if !same_size {
        parts.push(format!("{} bytes then, {} now", then.size, now.size));
    }
    if !same_time {
        parts.push(format!(
            "last changed {} then, {} now",
            moment(then.modified),
            moment(now.modified)
        ));
    }
    if hashes.is_some() {
        parts.push("another content (by its hash)".into());
    }
    match builds.filter(|(then, now)| then != now) {
        Some((then, now)) => {
            parts.insert(
                0,
                format!(
                    "build id {} then, {} now",
                    hexadecimal(&then),
                    hexadecimal(&now)
                ),
            );
            Some(Difference::Build(parts.join("; ")))
        }
        None => Some(Difference::Content(parts.join("; "))),
    }
}

/// Whether a file has only got longer, as far as can be told: it is the same file, or one that begins as the old one by its hash.
pub fn has_grown(then: &FileIdentity, now: &FileIdentity) -> bool {
    if now.size <= then.size || then.mode & libc::S_IFMT != now.mode & libc::S_IFMT {
        return false;
    }
    match &then.content_hash {
        Some(hash) => beginning_hash(path_of(now), then.size).is_some_and(|now| now == hash[..]),
        None => now.inode == then.inode && now.device == then.device,
    }
}

/// Checks executables and mapped files: each once, however many processes map it, in the strictest way that one of them needs.
pub fn check_mapped_files(spaces: &[AddressSpace], host: &Host, plan: &mut Plan) {
    let mut uses: Vec<(&FileIdentity, i32, Mapped)> = Vec::new();
    let mut known: HashMap<(&[u8], u64, i64), usize> = HashMap::new();
    for space in spaces {
        let by_path = space.areas.iter().filter(|area| area.kept == 0);
        let mapped = by_path.filter_map(|area| {
            let to_run = area.protection & libc::PROT_EXEC as u32 != 0;
            let to_write = area.backing() == Backing::FileShared
                && area.protection & libc::PROT_WRITE as u32 != 0;
            let mapped = match to_run || to_write {
                true => Mapped::Otherwise,
                false => Mapped::ToRead,
            };
            area.file.as_ref().map(|file| (file, mapped))
        });
        let executable = space.executable.as_ref();
        let executable = executable.filter(|_| space.kept_executable == 0);
        for (file, mapped) in mapped.chain(executable.map(|file| (file, Mapped::Otherwise))) {
            let key = (file.path.as_slice(), file.inode, file.modified);
            let index = *known.entry(key).or_insert_with(|| {
                uses.push((file, space.process, mapped));
                uses.len() - 1
            });
            if mapped == Mapped::Otherwise {
                uses[index].2 = mapped;
            }
        }
    }
    for (file, process, mapped) in uses {
        check(host, file, process, mapped, plan);
    }
}

/// Refuses a mapped file or executable that is gone, or not what it was.
pub fn check(host: &Host, file: &FileIdentity, process: i32, mapped: Mapped, plan: &mut Plan) {
    if host.provides(&file.path) {
        return;
    }
    let object = format!("file {}", printable(&file.path));
    let Some(now) = identity(&file.path, Path::new("/")) else {
        plan.refusals
            .add((process, ""), object, "it does not exist here", PUT_BACK);
        return;
    };
    let Some(found) = difference(file, &now) else {
        return;
    };
    if mapped == Mapped::ToRead && has_grown(file, &now) {
        if host.grown == Grown::Refuse {
            refuse_growth((process, ""), object, (file.size, now.size), plan);
        }
        return;
    }
    if host.changed == Changed::Refuse {
        let reason = format!("it has changed since the checkpoint: {}", found.text());
        plan.refusals
            .add((process, ""), object, reason, found.remedy());
    }
}

/// Refuses a file that grew, as `--grown refuse` wants it.
pub fn refuse_growth(
    process: (i32, &str),
    object: String,
    (then, now): (u64, u64),
    plan: &mut Plan,
) {
    plan.refusals.add(
        process,
        object,
        format!("it has grown since the checkpoint, from {then} to {now} bytes"),
        "cut it back to its old size (--grown truncate), or take it as it is (--grown keep)",
    );
}

/// Opens a regular file to read it, never waiting for a lease or a device.
fn open(path: &Path) -> Option<(File, Metadata)> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok().filter(Metadata::is_file)?;
    Some((file, metadata))
}

/// What tells one state of a file from another, as long as nobody sets the clock back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StateOfFile {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl StateOfFile {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn path_of(identity: &FileIdentity) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&identity.path))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nanoseconds since 1970 as `2031-05-06 07:08:09.123 UTC`.
fn moment(nanoseconds: i64) -> String {
    let milliseconds = nanoseconds.div_euclid(1_000_000);
    let (seconds, rest) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days as years of 400 begin on a first of March, so that a leap day is a year's last.
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    format!(
        "{}-{month:02}-{:02} {:02}:{:02}:{:02}.{rest:03} UTC",
        year + era * 400 + i64::from(month <= 2),
        of_year - (153 * shifted + 2) / 5 + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(moment(-1_000_000), "1969-12-31 23:59:59.999 UTC");
        assert_eq!(
            moment(951_827_696_789_000_000),
            "2000-02-29 12:34:56.789 UTC"
        );
        assert!(moment(i64::MAX).starts_with("2262-04-11"));
        assert!(moment(i64::MIN).starts_with("1677-09-21"));
    }

    #[test]
    fn a_file_is_known_by_any_of_its_marks() {
        let directory =
            std::env::temp_dir().join(format!("cryonaut-reference-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("data");
        std::fs::write(&path, "content").unwrap();
        let look = || identity(path.as_os_str().as_bytes(), Path::new("/")).unwrap();
        let mut then = look();
        assert_eq!(difference(&then, &look()), None);

        // A copy that kept its times.
        let copied = FileIdentity {
            inode: then.inode + 1,
            ..then.clone()
        };
        assert_eq!(difference(&copied, &look()), None);

        // The same content at another time: only its hash tells.
        then.modified -= 1;
        let found = difference(&then, &look()).unwrap();
        assert!(found.text().contains("last changed"), "{found:?}");
        then.content_hash = content_hash(&path).map(|hash| hash.to_vec());
        assert_eq!(difference(&then, &look()), None);
        std::fs::write(&path, "CONTENT").unwrap();
        assert!(difference(&then, &look()).unwrap().text().contains("hash"));

        // Growth by the hash of the beginning.
        std::fs::write(&path, "content").unwrap();
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b" and more")
            .unwrap();
        assert!(has_grown(&then, &look()));
        std::fs::write(&path, "CONTENT and more").unwrap();
        assert!(!has_grown(&then, &look()));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_program_is_known_by_its_build() {
        let program = std::env::current_exe().unwrap();
        let now = identity(program.as_os_str().as_bytes(), Path::new("/")).unwrap();
        let Some(build) = build_id(&program) else {
            eprintln!("not tested: this test was linked without a build id");
            return;
        };
        let touched = FileIdentity {
            modified: now.modified - 1,
            inode: now.inode + 1,
            build_id: Some(build.clone()),
            ..now.clone()
        };
        assert_eq!(difference(&touched, &now), None);
        let other = FileIdentity {
            build_id: Some(vec![0xab; 20]),
            ..touched
        };
        let found = difference(&other, &now).unwrap();
        assert!(matches!(found, Difference::Build(_)));
        assert!(found.text().contains(&hexadecimal(&build)));
        assert!(found.text().contains("abababab"));
    }
}
