//! Finding a file of which only inode number, file system and handle are known: what inotify(7) and fanotify(7) show of what they
//! watch.
//!
//! A file is sought among what the job has open and mapped and where it works; by its handle, which takes CAP_DAC_READ_SEARCH;
//! and last by walking directories, for a bounded time and only while the job runs. Nothing here opens a file that it might
//! disturb: places are looked at by lstat(2), and no directory is listed whose listing would be reported to the job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::file::{OVERLAYFS, file_system};
use cryonaut_sys::{spawn, watch};

use super::facts::{Description, Job, Motion, Place};
use super::owner::Owner;
use crate::resource::memory::under;

/// How long all walks of one run may take together.
const WALKING: Duration = Duration::from_secs(2);

/// What a listing of a watched directory would report: access, opening, closing.
const LISTING: u32 = libc::IN_ACCESS | libc::IN_OPEN | libc::IN_CLOSE_NOWRITE;

/// A file that is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sought {
    /// Its inode number.
    pub inode: u64,
    /// Its file system: the kernel's internal device number (major << 20 | minor).
    pub device: u64,
    /// Its handle for open_by_handle_at(2): type and bytes.
    pub handle: Option<(i32, Vec<u8>)>,
}

/// How a file was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// By this path, as the process sees it.
    Path(Vec<u8>),
    /// It has no path, but is behind an open file description of the job.
    Object(u64),
}

/// A file's identity as stat(2) and fdinfo both tell it.
type Identity = (u64, u64);

/// Places where files were found, by what they are sought by: so that a frozen job need not wait for a walk.
static REMEMBERED: Mutex<BTreeMap<Identity, Vec<u8>>> = Mutex::new(BTreeMap::new());
/// The time that walks have taken so far.
static WALKED: Mutex<Duration> = Mutex::new(Duration::ZERO);

/// Seeks the files that a description watches. A job that stands still is not kept waiting: what has to be walked for was found
/// while it ran.
pub(super) fn seek(
    sought: &[Sought],
    description: &Description,
    job: &Job<'_>,
) -> Vec<Option<Found>> {
    let mut search = Search {
        sought,
        found: vec![None; sought.len()],
        description,
        job,
        owner: job.owner(description.first()),
        probe: None,
    };
    search.among_descriptors();
    search.among_places();
    search.by_handle();
    if job.motion == Motion::Running {
        search.by_walking();
    }
    search.found
}

struct Search<'a> {
    sought: &'a [Sought],
    found: Vec<Option<Found>>,
    description: &'a Description,
    job: &'a Job<'a>,
    owner: &'a Owner<'a>,
    /// An inotify instance of our own, whose fdinfo names files as the job's does.
    probe: Option<OwnedFd>,
}

impl Search<'_> {
    fn missing(&self) -> Vec<usize> {
        let missing = |&index: &usize| self.found[index].is_none();
        (0..self.sought.len()).filter(missing).collect()
    }

    /// Whether the file at a path as we see it is the one sought.
    fn is_at(&mut self, index: usize, path: &Path) -> bool {
        let sought = &self.sought[index];
        let Ok(there) = std::fs::symlink_metadata(path) else {
            return false;
        };
        let numbered_alike = there.ino() == sought.inode;
        if numbered_alike && there.dev() == device(sought.device) {
            return true;
        }
        // Some file systems (btrfs, overlay) tell stat(2) other devices than they have, an overlay also other inode numbers.
        (numbered_alike || is_overlay(path))
            && self.probe(path, libc::IN_DONT_FOLLOW) == Some((sought.device, sought.inode))
    }

    /// Whether the file that a link of /proc leads to is the one sought.
    fn is_behind(&mut self, index: usize, link: &Path) -> bool {
        let Sought {
            device: of, inode, ..
        } = self.sought[index];
        let is_alike = |file: std::fs::Metadata| (file.dev(), file.ino()) == (device(of), inode);
        std::fs::metadata(link).is_ok_and(is_alike)
            || is_overlay(link) && self.probe(link, 0) == Some((of, inode))
    }

    /// What fdinfo calls the file at a path, which is followed as these flags of inotify_add_watch(2) say.
    fn probe(&mut self, path: &Path, follow: u32) -> Option<Identity> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        if self.probe.is_none() {
            self.probe = Some(watch::inotify().ok()?);
        }
        let probe = self.probe.as_ref()?;
        let mask = libc::IN_DELETE_SELF | follow;
        let number = watch::add_watch(probe.as_fd(), &path, mask).ok()?;
        let own = ProcessDirectory::open(std::process::id() as i32).ok()?;
        let shown = own.fdinfo(probe.as_raw_fd()).ok()?.inotify_watches;
        let _ = watch::remove_watch(probe.as_fd(), number);
        let shown = shown.iter().find(|watch| watch.descriptor == number)?;
        Some((shown.device, shown.inode))
    }

    /// Takes a path, as the process sees it, if the file sought is there.
    fn try_path(&mut self, index: usize, path: &[u8]) {
        if path.starts_with(b"/") && self.is_at(index, &self.owner.reach(path)) {
            self.remember(index, path.to_vec());
        }
    }

    fn remember(&mut self, index: usize, path: Vec<u8>) {
        let Sought { device, inode, .. } = self.sought[index];
        if let Ok(mut remembered) = REMEMBERED.lock() {
            remembered.insert((device, inode), path.clone());
        }
        self.found[index] = Some(Found::Path(path));
    }

    /// Looks at what the job has open.
    fn among_descriptors(&mut self) {
        let job = self.job;
        for index in self.missing() {
            let sought = self.sought[index].inode;
            let own = self.description.object;
            let alike = |candidate: &&Description| {
                candidate.object != own
                    && candidate.facts.place != Place::Nameless
                    && candidate
                        .facts
                        .info
                        .inode
                        .is_none_or(|inode| inode == sought)
            };
            for candidate in job.descriptions.iter().filter(alike) {
                let slot = candidate.first();
                let link = format!("/proc/{}/fd/{}", job.owner(slot).pid, slot.number);
                if !self.is_behind(index, link.as_ref()) {
                    continue;
                }
                if candidate.facts.place == Place::Leads {
                    self.try_path(index, &candidate.facts.link);
                }
                if self.found[index].is_none() {
                    self.found[index] = Some(Found::Object(candidate.object));
                }
                break;
            }
        }
    }

    /// Looks where files were found before, and at the directories and mapped files of the job.
    fn among_places(&mut self) {
        for index in self.missing() {
            let Sought { device, inode, .. } = self.sought[index];
            let before = REMEMBERED.lock().ok();
            let before = before.and_then(|remembered| remembered.get(&(device, inode)).cloned());
            if let Some(path) = before {
                self.try_path(index, &path);
            }
        }
        if self.missing().is_empty() {
            return;
        }
        for place in self.places() {
            for index in self.missing() {
                self.try_path(index, &place);
            }
        }
    }

    /// The files and directories that the job's processes work with.
    fn places(&self) -> BTreeSet<Vec<u8>> {
        let mut places = BTreeSet::new();
        for owner in &self.job.owners {
            let directory = owner.directory();
            let links = ["cwd", "root", "exe"];
            places.extend(links.iter().filter_map(|link| directory.link(link).ok()));
            for area in directory.maps().unwrap_or_default() {
                if let cryonaut_procfs::AreaName::File { path, .. } = area.name {
                    places.insert(path);
                }
            }
        }
        let open = self.job.descriptions.iter();
        places.extend(open.map(|description| description.facts.link.clone()));
        places.retain(|place| place.starts_with(b"/"));
        places
    }

    /// The mounts of a file system, as we see their mount points.
    fn mount_points(&self, of: u64) -> Vec<PathBuf> {
        let directory = self.owner.directory();
        let root = directory.path().join("root");
        let mounts = directory.mountinfo().unwrap_or_default();
        mounts
            .iter()
            // Files of /proc are not to be found by looking: they are made when somebody looks.
            .filter(|mount| mount.file_system != b"proc")
            .filter(|mount| libc::makedev(mount.device.major, mount.device.minor) == device(of))
            .map(|mount| under(&root, &mount.mount_point))
            .collect()
    }

    fn devices(&self) -> BTreeSet<u64> {
        let missing = self.missing().into_iter();
        missing.map(|index| self.sought[index].device).collect()
    }

    /// Asks the file systems for what their handles stand for.
    fn by_handle(&mut self) {
        for of in self.devices() {
            for mount_point in self.mount_points(of) {
                let on_it = |index: &usize| self.sought[*index].device == of;
                let missing: Vec<usize> = self.missing().into_iter().filter(on_it).collect();
                if missing.is_empty() {
                    break;
                }
                let handles: Vec<_> = missing
                    .iter()
                    .map(|&index| self.sought[index].handle.as_ref())
                    .collect();
                for (index, path) in missing.iter().zip(paths_of(&mount_point, &handles)) {
                    if let Some(path) = path {
                        self.try_path(*index, &path);
                    }
                }
            }
        }
    }

    /// Looks through directories: near the job first, then through the file systems that the files are on.
    fn by_walking(&mut self) {
        if self.missing().is_empty() {
            return;
        }
        let start = Instant::now();
        let Ok(mut walked) = WALKED.lock() else {
            return;
        };
        let until = start + WALKING.saturating_sub(*walked);
        let mut near: Vec<PathBuf> = Vec::new();
        for place in self.places() {
            let reached = self.owner.reach(&place);
            near.extend(reached.ancestors().map(Path::to_path_buf));
        }
        near.sort_unstable();
        near.dedup();
        near.retain(|path| path.is_dir());
        // The deepest first: that is closest to what the program works with.
        near.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        let secret = self.reported();
        for directory in &near {
            self.walk(directory, Depth::Itself, &secret, until);
        }
        for directory in near.iter().filter(|path| path.components().count() > 2) {
            self.walk(directory, Depth::All, &secret, until);
        }
        for of in self.devices() {
            for mount_point in self.mount_points(of) {
                for index in self.missing() {
                    if self.is_at(index, &mount_point) {
                        self.take(index, &mount_point);
                    }
                }
                self.walk(&mount_point, Depth::All, &secret, until);
            }
        }
        *walked += start.elapsed();
    }

    /// The directories whose listing is reported to the job.
    fn reported(&self) -> BTreeSet<Identity> {
        let watches = self.job.descriptions.iter();
        let watches = watches.flat_map(|description| &description.facts.info.inotify_watches);
        watches
            .filter(|watch| watch.mask & LISTING != 0)
            .map(|watch| (device(watch.device), watch.inode))
            .collect()
    }

    /// Looks for what is missing in a directory, and in those below it on the same mount.
    fn walk(&mut self, from: &Path, depth: Depth, secret: &BTreeSet<Identity>, until: Instant) {
        let identity = |path: &Path| {
            let metadata = std::fs::symlink_metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let Some((device, _)) = std::fs::metadata(from)
            .ok()
            .map(|top| (top.dev(), top.ino()))
        else {
            return;
        };
        // What is listed is reported to those who watch the directory above, too.
        if from
            .parent()
            .and_then(identity)
            .is_some_and(|above| secret.contains(&above))
        {
            return;
        }
        let overlay = is_overlay(from);
        let mut waiting = VecDeque::from([from.to_path_buf()]);
        while let Some(directory) = waiting.pop_front() {
            let missing = self.missing();
            if missing.is_empty() || Instant::now() > until {
                return;
            }
            let wanted: BTreeMap<u64, usize> = missing
                .iter()
                .map(|&index| (self.sought[index].inode, index))
                .collect();
            let is_there = std::fs::metadata(&directory)
                .is_ok_and(|here| here.dev() == device && !secret.contains(&(device, here.ino())));
            let Some(entries) = is_there.then(|| std::fs::read_dir(&directory)) else {
                continue;
            };
            for entry in entries.into_iter().flatten().flatten() {
                let mut index = wanted.get(&entry.ino());
                if index.is_none() && overlay {
                    let (_, inode) = self.probe(&entry.path(), libc::IN_DONT_FOLLOW).unzip();
                    index = inode.and_then(|inode| wanted.get(&inode));
                }
                if let Some(&index) = index
                    && self.found[index].is_none()
                    && self.is_at(index, &entry.path())
                {
                    self.take(index, &entry.path());
                }
                if depth == Depth::All && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push_back(entry.path());
                }
            }
        }
    }

    /// Takes a path as we see it.
    fn take(&mut self, index: usize, path: &Path) {
        let base = self.owner.reach(b"/");
        let root = self.owner.directory().path().join("root");
        let inside = path
            .strip_prefix(&root)
            .or_else(|_| path.strip_prefix(&base));
        if let Ok(inside) = inside {
            let path = Path::new("/").join(inside);
            self.try_path(index, path.as_os_str().as_bytes());
        }
    }
}

/// How far a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// The directory itself.
    Itself,
    /// All below it.
    All,
}

/// Whether a path leads to a file on an overlay, which may number files otherwise for stat(2) than within the kernel.
fn is_overlay(path: &Path) -> bool {
    file_system(path).is_ok_and(|found| found.kind == OVERLAYFS)
}

/// The device number that stat(2) tells for the kernel's internal one.
pub(super) fn device(internal: u64) -> u64 {
    libc::makedev((internal >> 20) as u32, (internal & 0xf_ffff) as u32)
}

/// Where the files behind handles of a file system are, in the words of d_path. A thread does it that works in the mount's
/// directory: opening that directory would be seen by those who watch it.
fn paths_of(mount_point: &Path, handles: &[Option<&(i32, Vec<u8>)>]) -> Vec<Option<Vec<u8>>> {
    let nothing = vec![None; handles.len()];
    let Ok(directory) = CString::new(mount_point.as_os_str().as_bytes()) else {
        return nothing;
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            spawn::unshare(libc::CLONE_FS)?;
            spawn::change_directory(&directory)?;
            let path = |handle: &Option<&(i32, Vec<u8>)>| {
                let (kind, bytes) = (*handle)?;
                let opened = watch::open_by_handle(*kind, bytes).ok()?;
                let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
                let path = std::fs::read_link(link).ok()?;
                Some(path.into_os_string().into_vec())
            };
            std::io::Result::Ok(handles.iter().map(path).collect())
        });
        thread.join().ok().and_then(Result::ok).unwrap_or(nothing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_in_two_ways() {
        assert_eq!(device(0xfe0_0000), libc::makedev(254, 0));
        assert_eq!(device(0x1b), libc::makedev(0, 27));
        assert_eq!(device(0x80_0001), libc::makedev(8, 1));
    }

    #[test]
    fn a_handle_leads_to_its_path() {
        let directory = std::env::temp_dir().canonicalize().unwrap();
        let probe = watch::inotify().unwrap();
        let name = CString::new(directory.as_os_str().as_bytes()).unwrap();
        watch::add_watch(probe.as_fd(), &name, libc::IN_DELETE_SELF).unwrap();
        let own = ProcessDirectory::open(std::process::id() as i32).unwrap();
        let shown = own.fdinfo(probe.as_raw_fd()).unwrap().inotify_watches;
        let handle = shown[0]
            .handle_type
            .map(|kind| (kind, shown[0].handle.clone()));
        let found = paths_of(&directory, &[handle.as_ref()]);
        // Only root may open a handle, and not every file system has any.
        if let Some(path) = &found[0] {
            assert_eq!(path, directory.as_os_str().as_bytes());
        }
    }
}
