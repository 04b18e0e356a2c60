//! Mounts that a job's namespace was born with, and that are gone here since: a disk that was unplugged. They are in the way of
//! a job that uses them only.

use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use cryonaut_procfs::{AreaName, Mount, ProcessDirectory};
use cryonaut_sys::spawn;

use crate::resource::file::path_of;

/// What a restart cannot give back of the mounts around a job.
#[derive(Debug, Default)]
pub(super) struct Unmounted {
    gone: Vec<Mount>,
    /// All mounts of the namespace, in the order in which they were made.
    all: Vec<Mount>,
}

/// What a process uses of a mount that is gone, and where that is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) what: String,
    pub(super) mount_point: Vec<u8>,
}

impl Unmounted {
    /// These of all mounts of a namespace.
    pub(super) fn new(gone: Vec<Mount>, all: Vec<Mount>) -> Self {
        Self { gone, all }
    }

    /// The first thing found that a process, or one of its threads, uses.
    pub(super) fn used_by(&self, directory: &ProcessDirectory) -> Option<Use> {
        if self.gone.is_empty() {
            return None;
        }
        let tids = directory.threads().unwrap_or_default();
        // Threads may have directories and descriptors of their own.
        let threads = tids
            .iter()
            .filter_map(|&tid| ProcessDirectory::open(tid).ok());
        self.mapped(directory)
            .or_else(|| threads.into_iter().find_map(|thread| self.held(&thread)))
    }

    /// What a thread has open, and where it stands.
    fn held(&self, thread: &ProcessDirectory) -> Option<Use> {
        const PLACES: [(&str, &str); 3] = [
            ("exe", "its program"),
            ("cwd", "its working directory"),
            ("root", "its root directory"),
        ];
        let place = |&(link, what): &(&str, &str)| self.at(mount_of(thread, link)?, what.into());
        let descriptor = |number: i32| {
            let shown = thread.fdinfo(number).ok()?;
            let watched = shown.inotify_watches.iter().find_map(|watch| {
                let mut alone = self.gone.iter().filter(|mount| self.is_alone(mount));
                alone.find(|mount| {
                    let device = mount.device;
                    u64::from(device.major) << 20 | u64::from(device.minor) == watch.device
                })
            });
            let what = format!("its descriptor {number}");
            watched
                .map(|mount| used(mount, &what))
                .or_else(|| self.at(shown.mount_id, what))
        };
        PLACES.iter().find_map(place).or_else(|| {
            let mut numbers = thread.descriptors().unwrap_or_default().into_iter();
            numbers.find_map(descriptor)
        })
    }

    /// A file in its memory, which shows its path and its device, but not its mount.
    fn mapped(&self, directory: &ProcessDirectory) -> Option<Use> {
        let areas = directory.maps().unwrap_or_default();
        areas.iter().find_map(|area| {
            let AreaName::File { path, .. } = &area.name else {
                return None;
            };
            let covers = |mount: &&Mount| is_below(path, &mount.mount_point);
            // Of several the innermost, and of those the last.
            let innermost = self.all.iter().filter(covers);
            let innermost = innermost.max_by_key(|mount| mount.mount_point.len());
            let mut gone = self.gone.iter();
            let mount = gone.find(|mount| {
                innermost.is_some_and(|found| found.id == mount.id)
                    || mount.device == area.device && self.is_alone(mount)
            })?;
            Some(used(mount, "a file in its memory"))
        })
    }

    fn at(&self, id: i32, what: String) -> Option<Use> {
        let mount = self.gone.iter().find(|mount| mount.id == id)?;
        Some(used(mount, &what))
    }

    /// Whether nothing else that is mounted shows files of the same file system.
    fn is_alone(&self, mount: &Mount) -> bool {
        let mut others = self.all.iter().filter(|other| other.device == mount.device);
        others.all(|other| self.gone.iter().any(|gone| gone.id == other.id))
    }
}

fn used(mount: &Mount, what: &str) -> Use {
    Use {
        what: what.into(),
        mount_point: mount.mount_point.clone(),
    }
}

/// Whether a path is a directory itself or lies below it.
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path_of(path).starts_with(path_of(directory))
}

/// The mount that a link of a process leads to.
fn mount_of(thread: &ProcessDirectory, link: &str) -> Option<i32> {
    let place = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{}/{link}", thread.pid()))
        .ok()?;
    let own = ProcessDirectory::open(spawn::own_pid()).ok()?;
    own.fdinfo(place.as_raw_fd())
        .ok()
        .map(|shown| shown.mount_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_below_whole_names() {
        assert!(is_below(b"/data/x", b"/data") && is_below(b"/data", b"/data"));
        assert!(is_below(b"/data/x", b"/") && !is_below(b"/database", b"/data"));
    }

    #[test]
    fn a_process_uses_its_own_root() {
        let own = ProcessDirectory::open(spawn::own_pid()).unwrap();
        assert_eq!(Unmounted::default().used_by(&own), None);
        let all = own.mountinfo().unwrap();
        let root = mount_of(&own, "root").unwrap();
        let gone: Vec<Mount> = all
            .iter()
            .filter(|mount| mount.id == root)
            .cloned()
            .collect();
        let found = Unmounted::new(gone, all).used_by(&own);
        assert_eq!(found.map(|found| found.mount_point), Some(b"/".to_vec()));
    }
}
