//! Finding the files of a frozen job that are to be kept, and everything that refers to them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryonaut_procfs::maps::AreaName;
use cryonaut_procfs::smaps::{SmapsArea, VmFlag};
use cryonaut_sys::file::{self, HUGETLBFS, RAMFS, TMPFS};

use super::{Standing, Use};
use crate::freeze::{Frozen, FrozenProcess};
use crate::resource::embedded::mounts_of_view;
use crate::resource::file::{FdFacts, Job, Place, is_kernel_file, is_stateless};
use crate::resource::memory::{Files, device_number};
use crate::resource::sharing::Shared;

/// Device and inode number of a file.
pub(super) type Key = (u64, u64);

/// A file that is to be kept.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) standing: Standing,
    /// Its path, without the mark of a deleted one.
    pub(super) path: Vec<u8>,
    /// Whether a descriptor says that it was made without a name.
    pub(super) linkable: bool,
    /// Whether a descriptor of it is more than a name (O_PATH).
    pub(super) opened: bool,
    /// All that refers to it.
    pub(super) uses: Vec<Use>,
    /// Paths by which it might be opened, the best first.
    pub(super) ways: Vec<PathBuf>,
    /// Descriptors of it that can be read: (owner in the job, number).
    pub(super) readable: Vec<(usize, i32)>,
    /// Where it is mapped: indexes of process and area.
    pub(super) mapped: Vec<(usize, usize)>,
}

impl Found {
    fn new(key: Key, standing: Standing, path: &[u8]) -> Self {
        let path = if path == SHARED_MEMORY {
            SHARED_MEMORY_FILE
        } else {
            path
        };
        Self {
            key,
            standing,
            path: path.to_vec(),
            linkable: false,
            opened: false,
            uses: Vec::new(),
            ways: Vec::new(),
            readable: Vec::new(),
            mapped: Vec::new(),
        }
    }
}

/// Whether files on this file system are nowhere but in memory.
fn in_memory(kind: i64) -> bool {
    [TMPFS, RAMFS, HUGETLBFS].contains(&kind)
}

/// What the kernel calls a memory file.
const MEMORY_FILE: &[u8] = b"/memfd:";
/// What it calls the object behind shared anonymous memory, which comes back as a memory file where more than shared mappings
/// refer to it.
const SHARED_MEMORY: &[u8] = b"/dev/zero";
const SHARED_MEMORY_FILE: &[u8] = b"/memfd:/dev/zero";
/// The name that shared memory of huge pages has when it comes back.
const HUGE_MEMORY_FILE: &[u8] = b"/memfd:/anon_hugepage";

/// How a file without a name is to be made again.
fn nameless(path: &[u8]) -> Standing {
    if path.starts_with(MEMORY_FILE) || path == SHARED_MEMORY {
        Standing::Memory
    } else {
        Standing::Nameless
    }
}

/// How the file of a description has to be kept because it has no name; nothing where it has one, or is of another type.
pub(super) fn standing(facts: &FdFacts) -> Option<Standing> {
    let path = facts.deleted_path().unwrap_or(&facts.link);
    if facts.place != Place::Deleted || facts.queue || is_kernel_file(path) {
        return None;
    }
    match facts.file_type() {
        libc::S_IFREG => Some(nameless(path)),
        libc::S_IFDIR | libc::S_IFIFO | libc::S_IFLNK => Some(Standing::Nameless),
        libc::S_IFCHR if is_stateless(facts) => Some(Standing::Nameless),
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFSOCK if facts.is_place() => {
            Some(Standing::Nameless)
        }
        _ => None,
    }
}

/// The path that a directory without a name once had, and what it is, where a link of /proc leads to one.
pub(crate) fn removed_directory(link: &Path, shown: &[u8]) -> Option<(Key, Vec<u8>)> {
    let path = shown.strip_suffix(b" (deleted)")?;
    let found = std::fs::metadata(link).ok()?;
    let removed = found.is_dir() && found.nlink() == 0 && !is_kernel_file(path);
    removed.then(|| ((device_number(found.dev()), found.ino()), path.to_vec()))
}

/// Finds all files that are to be kept.
pub(super) fn find(frozen: &Frozen, job: &Job<'_>) -> Vec<Found> {
    let mut search = Search::default();
    for process in frozen.alive().take(1) {
        let mounts = mounts_of_view(&process.directory).into_iter();
        search.embedded = mounts.map(|mount| mount.device.number()).collect();
    }
    search.demands_of_descriptors(job);
    let mut files: Vec<Option<Files>> = Vec::new();
    for process in &frozen.processes {
        let mut looked_at =
            (!process.is_zombie()).then(|| Files::of(&process.directory, frozen.hashing));
        if let Some(files) = &mut looked_at {
            search.demands_of_areas(process, files);
            search.demand_of_executable(process, files);
        }
        files.push(looked_at);
    }
    search.removed_directories(frozen);
    if search.found.is_empty() {
        return Vec::new();
    }
    search.uses_of_descriptors(job);
    for (index, process) in frozen.processes.iter().enumerate() {
        if let Some(files) = &mut files[index] {
            search.uses_of_process(index, process, files);
        }
    }
    search.found.into_values().collect()
}

#[derive(Default)]
struct Search {
    found: BTreeMap<Key, Found>,
    kinds: BTreeMap<u64, i64>,
    /// Devices with files that are embedded anyway.
    embedded: BTreeSet<u64>,
}

impl Search {
    fn demand(&mut self, key: Key, standing: Standing, path: &[u8]) {
        let new = || Found::new(key, standing, path);
        self.found.entry(key).or_insert_with(new);
    }

    /// Files without a name, and files in memory that the job writes.
    fn demands_of_descriptors(&mut self, job: &Job<'_>) {
        for description in &job.descriptions {
            let facts = &description.facts;
            if let Some(standing) = standing(facts) {
                let path = facts.deleted_path().unwrap_or(&facts.link);
                self.demand(facts.file, standing, path);
            } else if facts.file_type() == libc::S_IFREG
                && facts.place == Place::Leads
                && facts.writes()
                && !facts.is_place()
                && !self.embedded.contains(&facts.file.0)
            {
                let slot = description.first();
                let path = job.owner(slot).descriptor_path(slot.number);
                let device = facts.file.0;
                let kind = *self
                    .kinds
                    .entry(device)
                    .or_insert_with(|| file::file_system(&path).map_or(0, |found| found.kind));
                if in_memory(kind) {
                    self.demand(facts.file, Standing::Named, &facts.link);
                }
            }
        }
    }

    /// Mapped files without a name, and those that the job writes by mapping them shared.
    fn demands_of_areas(&mut self, process: &FrozenProcess, files: &mut Files) {
        for area in &process.areas {
            // A private mapping of shared memory, made through /proc/PID/map_files.
            if area.area.name == AreaName::SharedAnonymous && !area.area.permissions.shared {
                self.demand(shown(area), Standing::Memory, SHARED_MEMORY);
            }
            // Shared memory of huge pages, which only a file can be.
            if area.area.name == AreaName::AnonymousHugetlb && area.area.permissions.shared {
                self.demand(shown(area), Standing::Memory, HUGE_MEMORY_FILE);
            }
            let AreaName::File { path, deleted } = &area.area.name else {
                continue;
            };
            if *deleted {
                if let Some(key) = deleted_key(process, area, path, files) {
                    self.demand(key, nameless(path), path);
                }
                continue;
            }
            let permissions = area.area.permissions;
            let may_write = permissions.write || area.flags.contains(VmFlag::MayWrite);
            if !permissions.shared || !may_write {
                continue;
            }
            let Some(found) = files
                .identity(path)
                .filter(|found| found.inode == area.area.inode)
                .filter(|found| found.mode & libc::S_IFMT == libc::S_IFREG)
            else {
                continue;
            };
            let kind = || {
                let way = files.reach(path);
                file::file_system(&way).map_or(0, |found| found.kind)
            };
            let kind = *self.kinds.entry(found.device).or_insert_with(kind);
            if permissions.write || in_memory(kind) {
                self.demand((found.device, found.inode), Standing::Named, path);
            }
        }
    }

    fn demand_of_executable(&mut self, process: &FrozenProcess, files: &mut Files) {
        let Some((key, link)) = executable(process) else {
            return;
        };
        let leads = files
            .identity(&link)
            .is_some_and(|found| (found.device, found.inode) == key);
        if let Some(path) = link.strip_suffix(b" (deleted)")
            && !leads
            && files.other_name(path, key).is_none()
        {
            self.demand(key, nameless(path), path);
        }
    }

    /// Working and root directories that were removed, of processes and of threads that have their own.
    fn removed_directories(&mut self, frozen: &Frozen) {
        for process in frozen.alive() {
            let threads = process.tasks.iter().map(|task| task.stopped.tid());
            let apart =
                |tid: &i32| frozen.sharing.of_task(Shared::FsContext, process.pid, *tid) == *tid;
            let tasks = threads.filter(|tid| *tid == process.pid || apart(tid));
            for task in tasks {
                let directory = PathBuf::from(format!("/proc/{task}"));
                for (name, how) in [
                    ("cwd", Use::WorkingDirectory(task)),
                    ("root", Use::RootDirectory(task)),
                ] {
                    let link = directory.join(name);
                    let shown = std::fs::read_link(&link).unwrap_or_default();
                    let shown = shown.as_os_str().as_bytes();
                    let Some((key, path)) = removed_directory(&link, shown) else {
                        continue;
                    };
                    self.demand(key, Standing::Nameless, &path);
                    if let Some(found) = self.found.get_mut(&key) {
                        found.uses.push(how);
                        found.ways.push(link);
                    }
                }
            }
        }
    }

    fn uses_of_descriptors(&mut self, job: &Job<'_>) {
        for description in &job.descriptions {
            let facts = &description.facts;
            let Some(found) = self.found.get_mut(&facts.file) else {
                continue;
            };
            found.uses.push(Use::Description(description.object));
            // O_TMPFILE has O_DIRECTORY in it. Only the first opening shows it; the kernel calls such a file by its number.
            let flags = facts.info.flags as i32;
            let called = format!("/#{}", facts.file.1);
            found.linkable |= flags & libc::O_TMPFILE == libc::O_TMPFILE
                || found.path.ends_with(called.as_bytes());
            found.opened |= !facts.is_place();
            let slot = description.first();
            let way = job.owner(slot).descriptor_path(slot.number);
            found.ways.push(way);
            if facts.reads() && !facts.is_place() {
                found.readable.push((slot.owner, slot.number));
            }
        }
    }

    fn uses_of_process(&mut self, index: usize, process: &FrozenProcess, files: &mut Files) {
        if let Some((key, _)) = executable(process)
            && let Some(found) = self.found.get_mut(&key)
        {
            found.uses.push(Use::Executable(process.pid));
            found.ways.push(process.directory.path().join("exe"));
        }
        for (place, area) in process.areas.iter().enumerate() {
            let (key, path) = match &area.area.name {
                AreaName::SharedAnonymous => (Some(shown(area)), SHARED_MEMORY),
                AreaName::AnonymousHugetlb => (Some(shown(area)), HUGE_MEMORY_FILE),
                AreaName::File {
                    path,
                    deleted: true,
                } => (deleted_key(process, area, path, files), path.as_slice()),
                AreaName::File { path, .. } => {
                    let found = files.identity(path);
                    let found = found.filter(|found| found.inode == area.area.inode);
                    let key = found.map(|found| (found.device, found.inode));
                    (key, path.as_slice())
                }
                _ => continue,
            };
            if let Some(found) = key.and_then(|key| self.found.get_mut(&key)) {
                found.uses.push(Use::Area(process.pid, area.area.start));
                found.mapped.push((index, place));
                found.ways.push(match found.standing {
                    Standing::Named => files.reach(path),
                    _ => process.map_file(area),
                });
            }
        }
    }
}

/// Device and inode number that maps shows of an area's file.
fn shown(area: &SmapsArea) -> Key {
    (area.area.device.number(), area.area.inode)
}

/// Device and inode number of a file without a name that is mapped; nothing where it has a name yet.
fn deleted_key(
    process: &FrozenProcess,
    area: &SmapsArea,
    path: &[u8],
    files: &mut Files,
) -> Option<Key> {
    let shown = shown(area);
    if files.other_name(path, shown).is_some() {
        return None;
    }
    // What stat(2) tells may be another device than what maps shows (btrfs, overlayfs).
    let found = std::fs::metadata(process.map_file(area));
    Some(found.map_or(shown, |found| (device_number(found.dev()), found.ino())))
}

/// Device and inode number of a process' executable, and the link that /proc shows.
fn executable(process: &FrozenProcess) -> Option<(Key, Vec<u8>)> {
    let link = process.directory.link("exe").ok()?;
    let found = std::fs::metadata(process.directory.path().join("exe")).ok()?;
    Some(((device_number(found.dev()), found.ino()), link))
}
