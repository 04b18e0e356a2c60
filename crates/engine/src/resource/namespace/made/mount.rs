//! What a mount namespace has that the one around the job has not (mount_namespaces(7)).
//!
//! /proc/PID/mountinfo tells what is mounted where, and a process of ours that enters the namespace what is in its file systems in
//! memory (`memory`). What is mounted outside too is found there again at a restart: by the path that leads to it outside. A
//! restart makes a namespace, which begins with what is mounted around the job, and a process of ours that enters it makes the
//! difference: it takes away, mounts, and where the root is another one, changes the root. Not preserved: the numbers of mounts
//! and devices.

mod compare;
mod memory;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cryonaut_image::SeekableImage;
use cryonaut_procfs::{Mount, ProcessDirectory};
use cryonaut_sys::mount::{self, Changes, Extent, attribute};
use cryonaut_sys::{spawn, task};

use super::damaged;
use crate::Result;
use crate::collect::Collection;
use crate::resource::file::path_of;
use crate::resource::fs_context;
use crate::resource::memory::{printable, under};

pub use memory::Entry;

/// What a mount namespace has that the one around the job has not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountTree {
    /// What is mounted there, each after what it is mounted on. The first is its root where that is not the one outside.
    #[prost(message, repeated, tag = "1")]
    pub mounts: Vec<Mounted>,
    /// Where something is mounted outside that is not mounted there.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub taken_away: Vec<Vec<u8>>,
    /// The propagation of mounts that are not named here.
    #[prost(enumeration = "Propagation", tag = "3")]
    pub propagation: i32,
}

/// A mount.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mounted {
    /// Where: an absolute path in the namespace.
    #[prost(bytes = "vec", tag = "1")]
    pub place: Vec<u8>,
    /// What it is.
    #[prost(enumeration = "MountKind", tag = "2")]
    pub kind: i32,
    /// Of one that shows what is found outside: an absolute path there.
    #[prost(bytes = "vec", tag = "3")]
    pub source: Vec<u8>,
    /// Its attributes (`MOUNT_ATTR_*`).
    #[prost(uint64, tag = "4")]
    pub attributes: u64,
    /// How it takes part in propagation.
    #[prost(enumeration = "Propagation", tag = "5")]
    pub propagation: i32,
    /// Of one that shows what is found outside: whether all that is mounted in that comes with it.
    #[prost(bool, tag = "6")]
    pub with_mounts: bool,
    /// Of a file system that is made: what it is called as a source.
    #[prost(bytes = "vec", tag = "7")]
    pub label: Vec<u8>,
    /// Its options, each `name=value`.
    #[prost(string, repeated, tag = "8")]
    pub options: Vec<String>,
    /// All that is in it; the first is its root.
    #[prost(message, repeated, tag = "9")]
    pub entries: Vec<Entry>,
    /// Its device number, as it was (major << 32 | minor).
    #[prost(uint64, tag = "10")]
    pub device: u64,
    /// Of one that shows what is found outside: the attributes that it has there.
    #[prost(uint64, optional, tag = "11")]
    pub outside: Option<u64>,
}

/// What a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum MountKind {
    /// Nothing that is known: damaged.
    Unknown = 0,
    /// It is there already: mounted outside too, or come with another one. Attributes or propagation are its own.
    Present = 1,
    /// A file or directory that is found outside (mount --bind).
    Bound = 2,
    /// A file system in memory (tmpfs(5)).
    Memory = 3,
    /// Pseudo-terminals of its own (devpts), none of which is there.
    Terminals = 4,
}

/// How a mount takes part in propagation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Propagation {
    /// Not at all.
    Private = 0,
    /// It gets what is mounted outside.
    Slave = 1,
    /// Copies of it would get what is mounted in it.
    Shared = 2,
    /// It has no part, and cannot be bound elsewhere.
    Unbindable = 3,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

const CHANGED_ROOT: &str = "the process has changed its root directory in it (chroot)";

/// Contents of files in memory, as spaces of the image, are numbered from here.
const FIRST_CONTENT: u64 = 3 << 40;
/// The last number that may be one of such a content.
const LAST_CONTENT: u64 = (1 << 42) - 1;

/// How the mounts of the namespace of a process come about from those outside, `here`; what is in file systems in memory is not in
/// it yet.
///
/// # Errors
/// The first mount that cannot be made again, and why.
pub(super) fn describe(
    here: &[Mount],
    process: &ProcessDirectory,
) -> std::result::Result<MountTree, String> {
    // It is shown what is below its own root alone.
    let root = process.link("root").map_err(|error| error.to_string())?;
    if root != b"/" {
        return Err(CHANGED_ROOT.into());
    }
    let there = process.mountinfo().map_err(|error| error.to_string())?;
    compare::describe(here, &there)
}

/// Adds what is in file systems in memory to what the calling process, which is in the namespace, tells of it.
///
/// # Errors
/// Those of the system; what is there that cannot be made again.
pub(super) fn look(mut tree: MountTree) -> io::Result<MountTree> {
    for mounted in &mut tree.mounts {
        let place = path_of(&mounted.place);
        let found = match mounted.kind() {
            MountKind::Memory => memory::look(place),
            MountKind::Terminals => expect_no_terminals(place).map(|()| Vec::new()),
            _ => continue,
        };
        mounted.entries = found
            .map_err(|error| io::Error::other(format!("{}: {error}", printable(&mounted.place))))?;
    }
    Ok(tree)
}

/// Terminals come back in the machine's own file system for them alone.
fn expect_no_terminals(place: &Path) -> io::Result<()> {
    let mut entries = std::fs::read_dir(place)?;
    let is_terminal = |entry: io::Result<std::fs::DirEntry>| {
        entry.map_or(true, |entry| entry.file_name() != "ptmx")
    };
    match entries.any(is_terminal) {
        true => Err(io::Error::other("there are pseudo-terminals in it")),
        false => Ok(()),
    }
}

/// Whether files of a process, which lives in the namespace, are found by their paths from outside too, as a restart opens them.
///
/// # Errors
/// The first that is not, and why.
pub(super) fn check_files(
    directory: &ProcessDirectory,
    tree: &MountTree,
) -> std::result::Result<(), String> {
    let Ok(root) = directory.link("root") else {
        return Ok(());
    };
    let base = fs_context::base(directory, &root).ok().flatten();
    let base = base.ok_or(CHANGED_ROOT)?;
    let mut paths: BTreeSet<Vec<u8>> = directory.link("exe").into_iter().collect();
    for area in directory.maps().unwrap_or_default() {
        if let cryonaut_procfs::AreaName::File {
            path,
            deleted: false,
        } = area.name
        {
            paths.insert(path);
        }
    }
    let descriptors = std::fs::read_dir(directory.path().join("fd"));
    for entry in descriptors.into_iter().flatten().flatten() {
        if let Ok(link) = std::fs::read_link(entry.path()) {
            paths.insert(link.as_os_str().as_bytes().to_vec());
        }
    }
    for path in paths {
        // What lies in /proc, and terminals, are not found by their paths.
        let elsewhere = !path.starts_with(b"/")
            || [&b"/proc/"[..], b"/dev/pts/", b"/memfd:"]
                .iter()
                .any(|start| path.starts_with(start));
        let there = std::fs::metadata(under(&base, &path));
        let (false, Ok(there)) = (elsewhere, there) else {
            continue;
        };
        let here = std::fs::metadata(path_of(&path));
        let is_device = there.rdev() != 0;
        let same = here.is_ok_and(|here| match is_device {
            true => (here.rdev(), here.mode()) == (there.rdev(), there.mode()),
            false => (here.dev(), here.ino()) == (there.dev(), there.ino()),
        });
        if !same {
            return Err(format!(
                "the process has {} open or mapped, which is found at that path in it alone, not outside",
                printable(&path)
            ));
        }
        let is_below = |mounted: &Mounted| path_of(&mounted.place).starts_with(path_of(&path));
        if there.is_dir() && tree.mounts.iter().any(is_below) {
            return Err(format!(
                "the process has directory {} open, below which other things are mounted than outside",
                printable(&path)
            ));
        }
    }
    Ok(())
}

impl MountTree {
    /// A file system of its own that another namespace has too: where it is mounted.
    pub(super) fn shared_with(&self, other: &Self) -> Option<&[u8]> {
        let own =
            |mounted: &&Mounted| matches!(mounted.kind(), MountKind::Memory | MountKind::Terminals);
        let is_there = |mounted: &&Mounted| {
            let mut others = other.mounts.iter().filter(own);
            others.any(|other| other.device == mounted.device)
        };
        let mut all = self.mounts.iter().filter(own);
        all.find(is_there).map(|mounted| mounted.place.as_slice())
    }

    /// Names the contents of its files in memory, read by way of a process that lives there, as what is to be copied. `next` counts
    /// the contents of the image.
    ///
    /// # Errors
    /// When a file may not be read.
    pub(super) fn collect(
        &mut self,
        directory: &ProcessDirectory,
        next: &mut u64,
        collection: &mut Collection,
    ) -> Result<()> {
        let root = directory.path().join("root");
        for mounted in &mut self.mounts {
            let place = under(&root, &mounted.place);
            for entry in &mut mounted.entries {
                entry.collect((&place, &mounted.place), FIRST_CONTENT + *next, collection)?;
                *next += u64::from(entry.content != 0);
            }
        }
        Ok(())
    }

    /// Refuses what no namespace can have had.
    pub(super) fn check(&self) -> Result<()> {
        let is_path = |path: &[u8]| path.starts_with(b"/") && !path.contains(&0);
        let sound = |mounted: &Mounted| {
            is_path(&mounted.place)
                && (mounted.kind() != MountKind::Bound || is_path(&mounted.source))
                && mounted.kind() != MountKind::Unknown
                && !mounted.label.contains(&0)
                && mounted.options.iter().all(|option| !option.contains('\0'))
                && memory::are_sound(&mounted.entries)
        };
        match self.mounts.iter().all(sound) && self.taken_away.iter().all(|path| is_path(path)) {
            true => Ok(()),
            false => Err(damaged("a mount namespace")),
        }
    }

    /// What it shows of the machine and the machine does not have, but for what the job's own processes give it.
    pub(super) fn missing(&self) -> Option<&[u8]> {
        let bound = |mounted: &&Mounted| {
            let source = path_of(&mounted.source);
            mounted.kind() == MountKind::Bound
                && !source.starts_with("/proc")
                && std::fs::symlink_metadata(source).is_err()
        };
        let found = self.mounts.iter().find(bound);
        found.map(|mounted| mounted.source.as_slice())
    }

    /// Has the calling process, which is alone in a namespace that has just been made, make of it what this one was. It becomes
    /// `user`, a user and a group who exist there, before.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn set_up(&self, image: &SeekableImage, user: Option<(u32, u32)>) -> io::Result<()> {
        if let Some((user, group)) = user {
            task::become_user(user, group)?;
        }
        // What is done here must not be seen outside.
        let all = match self.propagation() {
            Propagation::Slave => vec![Propagation::Slave],
            other => vec![Propagation::Private, other],
        };
        for propagation in all {
            spawn::mount(c"none", c"/", None, libc::MS_REC | propagation.flag())?;
        }
        let about = |mounted: &Mounted, error: io::Error| {
            io::Error::other(format!("mounting {}: {error}", printable(&mounted.place)))
        };
        // All that is found outside is looked up before anything covers it.
        let mut made = Vec::new();
        for mounted in &self.mounts {
            let new = mounted.make(image).map_err(|error| about(mounted, error))?;
            made.push((mounted, new));
        }
        for place in self.taken_away.iter().rev() {
            // It may be mounted no more.
            let _ = mount::detach(path_of(place));
        }
        let old = open_place(Path::new("/"))?;
        let mut root = None;
        for (mounted, new) in made {
            let done = match &root {
                None if mounted.place == b"/" && new.is_some() => mounted.attach(new, old.as_fd()),
                root => {
                    let base = root.as_ref().unwrap_or(&old);
                    mount::stand_in(base.as_fd())
                        .and_then(|()| open_place(mounted.relative()))
                        .and_then(|place| mounted.attach(new, place.as_fd()))
                }
            };
            let attached = done.map_err(|error| about(mounted, error))?;
            if mounted.place == b"/" && attached.is_some() {
                root = attached;
            }
        }
        match root {
            Some(root) => mount::become_root(root.as_fd()),
            None => Ok(()),
        }
    }
}

impl Mounted {
    /// Its place, from the root of the namespace.
    fn relative(&self) -> &Path {
        let path = self.place.strip_prefix(b"/").unwrap_or(&self.place);
        match path {
            [] => Path::new("."),
            path => path_of(path),
        }
    }

    /// A mount that is attached nowhere yet; none where it is there already.
    fn make(&self, image: &SeekableImage) -> io::Result<Option<OwnedFd>> {
        match self.kind() {
            MountKind::Bound => {
                let source = open_place(path_of(&self.source))?;
                let extent = match self.with_mounts {
                    true => Extent::WithMounts,
                    false => Extent::Alone,
                };
                mount::copy_of(source.as_fd(), extent).map(Some)
            }
            MountKind::Memory => {
                let made = self.make_file_system(c"tmpfs")?;
                memory::fill(&made, &self.entries, image)?;
                Ok(Some(made))
            }
            MountKind::Terminals => self.make_file_system(c"devpts").map(Some),
            MountKind::Present | MountKind::Unknown => Ok(None),
        }
    }

    /// What becomes of its attributes: a new one gets its own, another one what it had of its own. A restart may find others where
    /// it shows the machine, which not everybody may take away.
    fn changes(&self) -> Changes {
        let Some(outside) = self.outside else {
            return Changes::of_attributes(self.attributes, attribute::ALL);
        };
        let mut changed = self.attributes ^ outside;
        if changed & attribute::ACCESS_TIME != 0 {
            changed |= attribute::ACCESS_TIME;
        }
        let clear = changed & (outside | attribute::ACCESS_TIME);
        Changes::of_attributes(self.attributes & changed, clear)
    }

    fn make_file_system(&self, kind: &CStr) -> io::Result<OwnedFd> {
        let text = |text: &[u8]| CString::new(text).map_err(io::Error::other);
        let mut options = Vec::new();
        for option in &self.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            options.push((text(name.as_bytes())?, text(value.as_bytes())?));
        }
        mount::new_file_system(kind, &text(&self.label)?, &options)
    }

    /// Attaches it, and gives it its attributes; gives a new one back.
    fn attach(
        &self,
        new: Option<OwnedFd>,
        place: std::os::fd::BorrowedFd<'_>,
    ) -> io::Result<Option<OwnedFd>> {
        let mount = new.as_ref().map_or(place, AsFd::as_fd);
        mount::change(mount, self.changes())?;
        if let Some(new) = &new {
            mount::attach(new.as_fd(), place)?;
        }
        // What is attached to a shared mount has become shared.
        let propagation = self.propagation().flag();
        mount::change(mount, Changes::of_propagation(propagation))?;
        Ok(new)
    }
}

/// What is at a path, to be mounted on or copied.
fn open_place(path: &Path) -> io::Result<OwnedFd> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    Ok(options.open(path)?.into())
}
