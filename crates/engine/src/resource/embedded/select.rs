//! Which files are embedded: those that records name, those that the rules add, those that the user names, those that are
//! nowhere else; with the symbolic links and directories on the way to them.

use std::collections::{BTreeMap, VecDeque};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use cryonaut_image::RecordSet;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::maps::AreaName;

use super::{Embedding, Extent, carried, rules};
use crate::resource::file::{OpenDirectory, RegularFile};
use crate::resource::fs_context::{self, FsContextRecord};
use crate::resource::memory::{AddressSpace, under};
use crate::{Error, Result};

/// File systems of the kernel's own, and devices: never embedded.
const OF_THE_KERNEL: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];
/// Symbolic links that are followed at most (`MAXSYMLINKS` of the kernel).
const MOST_LINKS: usize = 40;

/// A file that goes into the image.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) metadata: Metadata,
    /// What a symbolic link leads to.
    pub(super) target: Vec<u8>,
    pub(super) open: bool,
    pub(super) only_if_missing: bool,
}

/// How a file came to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// The job maps or executes it, works in it, or a rule names it.
    Used,
    /// The job has it open.
    Open,
    /// A rule names it, and any other such file would do.
    IfMissing,
    /// The user names it.
    Included,
}

/// The files that are chosen, by their paths.
pub(super) struct Selection<'a> {
    embedding: &'a Embedding,
    base: PathBuf,
    pub(super) chosen: BTreeMap<Vec<u8>, Chosen>,
}

impl<'a> Selection<'a> {
    /// # Errors
    /// When no path leads to the job's files.
    pub(super) fn new(embedding: &'a Embedding, job: &[&ProcessDirectory]) -> Result<Self> {
        let mut base = None;
        for directory in job {
            let Ok(root) = directory.link("root") else {
                continue;
            };
            base = fs_context::base(directory, &root)?;
            if base.is_some() {
                break;
            }
        }
        let lost = || Error::Failed("the files of the job cannot be reached from here".into());
        Ok(Self {
            embedding,
            base: base.ok_or_else(lost)?,
            chosen: BTreeMap::new(),
        })
    }

    /// The path as seen from here of what the job names `path`.
    pub(super) fn reach(&self, path: &[u8]) -> PathBuf {
        under(&self.base, path)
    }

    /// Files by reference, as records name them.
    pub(super) fn references(&mut self, records: &RecordSet) -> Result<()> {
        for space in records.all::<AddressSpace>()? {
            let mapped = space.areas.iter().filter(|area| area.kept == 0);
            let executable = space
                .executable
                .iter()
                .filter(|_| space.kept_executable == 0);
            for file in mapped
                .filter_map(|area| area.file.as_ref())
                .chain(executable)
            {
                self.add(&file.path, Demand::Used);
            }
        }
        for file in records.all::<RegularFile>()? {
            if let Some(identity) = file.identity.filter(|_| file.kept == 0) {
                self.add(&identity.path, Demand::Open);
            }
        }
        for directory in records.all::<OpenDirectory>()? {
            if let Some(identity) = directory.identity.filter(|_| directory.kept == 0) {
                self.add(&identity.path, Demand::Used);
            }
        }
        for context in records.all::<FsContextRecord>()? {
            self.add(&context.working_directory, Demand::Used);
            self.add(&context.root, Demand::Used);
        }
        Ok(())
    }

    /// The same of a job that runs, as far as its directories of /proc tell.
    pub(super) fn references_of_running(&mut self, job: &[&ProcessDirectory]) {
        for directory in job {
            for area in directory.maps().unwrap_or_default() {
                if let AreaName::File {
                    path,
                    deleted: false,
                } = &area.name
                {
                    self.add(path, Demand::Used);
                }
            }
            for name in ["exe", "cwd", "root"] {
                self.add(&directory.link(name).unwrap_or_default(), Demand::Used);
            }
            for number in directory.descriptors().unwrap_or_default() {
                let link = directory.descriptor_link(number).unwrap_or_default();
                self.add(&link, Demand::Open);
            }
        }
    }

    /// What no record names.
    pub(super) fn all_else(&mut self, job: &[&ProcessDirectory]) {
        if self.embedding.extent == Extent::SelfContained {
            rules::apply(self, job);
        }
        let embedding = self.embedding;
        for pattern in &embedding.include {
            // One that begins with a star stands for any of the files that are there anyway.
            if let Some(beginning) = pattern.beginning() {
                self.include(beginning, pattern);
            }
        }
        if let Some(first) = job.first() {
            let base = self.base.clone();
            let mounts = carried::mounts_of_view(first);
            carried::carried(&mounts, &base, &mut |path| self.carry(path));
        }
    }

    /// Chooses what lies at a path itself, whatever the user wants: it is nowhere else.
    fn carry(&mut self, path: &[u8]) {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let way = self.way(&path[..end.max(1)]).unwrap_or_default();
        let itself = self.look(path).map(|found| (path.to_vec(), found));
        let plain = |found: &Chosen| {
            let kind = found.metadata.file_type();
            kind.is_file() || kind.is_dir() || kind.is_symlink()
        };
        for (path, found) in way
            .into_iter()
            .chain(itself)
            .filter(|(_, found)| plain(found))
        {
            self.chosen.entry(path).or_insert(found);
        }
    }

    fn include(&mut self, path: &Path, pattern: &crate::pattern::Pattern) {
        let bytes = path.as_os_str().as_bytes();
        let place = self.reach(bytes);
        if pattern.matches(bytes) {
            self.add(bytes, Demand::Included);
        }
        let is_directory = std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir());
        if !is_directory || of_the_kernel(bytes) {
            return;
        }
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            self.include(&path.join(entry.file_name()), pattern);
        }
    }

    /// Chooses what a path leads to, with all symbolic links and directories on the way; gives its real path. Nothing where it is
    /// not there, or not wanted.
    pub(super) fn add(&mut self, path: &[u8], demand: Demand) -> Option<Vec<u8>> {
        if !path.starts_with(b"/") {
            return None;
        }
        let way = self.way(path)?;
        let (real, last) = way.last()?;
        let embedding = self.embedding;
        let stands = |path: &[u8]| {
            embedding
                .exclude
                .iter()
                .any(|pattern| pattern.matches(path))
        };
        let wanted = match demand {
            Demand::Included => !stands(path) && !stands(real),
            _ => embedding.wants(path) && embedding.wants(real),
        };
        let kind = last.metadata.file_type();
        if !wanted || !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return None;
        }
        let real = real.clone();
        for (path, found) in way {
            let is_last = path == real;
            let chosen = self.chosen.entry(path).or_insert(Chosen {
                only_if_missing: is_last && demand == Demand::IfMissing,
                ..found
            });
            if is_last {
                chosen.open |= demand == Demand::Open;
                chosen.only_if_missing &= demand == Demand::IfMissing;
            }
        }
        Some(real)
    }

    /// All that lies on the way to what a path leads to, that last.
    fn way(&self, path: &[u8]) -> Option<Vec<(Vec<u8>, Chosen)>> {
        let mut left: VecDeque<Vec<u8>> = names(path);
        let mut done = PathBuf::from("/");
        let mut way = vec![(b"/".to_vec(), self.look(b"/")?)];
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == b".." {
                done.pop();
                continue;
            }
            let next = done.join(std::ffi::OsStr::from_bytes(&name));
            let bytes = next.as_os_str().as_bytes().to_vec();
            if of_the_kernel(&bytes) {
                return None;
            }
            let found = self.look(&bytes)?;
            let kind = found.metadata.file_type();
            let target = found.target.clone();
            way.push((bytes, found));
            if kind.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                if target.starts_with(b"/") {
                    done = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    left.push_front(name);
                }
                if left.is_empty() {
                    // It leads to a directory that was passed already.
                    break;
                }
            } else if kind.is_dir() {
                done = next;
            } else if !left.is_empty() {
                return None;
            }
        }
        Some(way)
    }

    fn look(&self, path: &[u8]) -> Option<Chosen> {
        let place = self.reach(path);
        let metadata = std::fs::symlink_metadata(&place).ok()?;
        let target = match metadata.is_symlink() {
            true => std::fs::read_link(&place)
                .ok()?
                .into_os_string()
                .as_bytes()
                .to_vec(),
            false => Vec::new(),
        };
        Some(Chosen {
            metadata,
            target,
            open: false,
            only_if_missing: false,
        })
    }
}

/// Whether a path leads into a file system of the kernel's own, or to devices.
pub(super) fn of_the_kernel(path: &[u8]) -> bool {
    OF_THE_KERNEL.iter().any(|root| {
        path.strip_prefix(*root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// The names of a path, without those that mean nothing.
fn names(path: &[u8]) -> VecDeque<Vec<u8>> {
    Path::new(std::ffi::OsStr::from_bytes(path))
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            Component::ParentDir => Some(b"..".to_vec()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_directories_on_the_way_are_chosen_too() {
        let root = std::env::temp_dir().join(format!("cryonaut-select-{}", std::process::id()));
        std::fs::create_dir_all(root.join("usr/lib/deep")).unwrap();
        std::fs::write(root.join("usr/lib/deep/file"), "x").unwrap();
        let link =
            |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(name)).unwrap();
        link("usr/lib", "lib");
        link("/lib/deep/file", "usr/alias");
        link("loop", "loop");
        let embedding = Embedding {
            extent: Extent::SelfContained,
            ..Embedding::default()
        };
        let mut selection = Selection {
            embedding: &embedding,
            base: root.clone(),
            chosen: BTreeMap::new(),
        };
        let real = selection.add(b"/usr/alias", Demand::Used);
        assert_eq!(real.as_deref(), Some(&b"/usr/lib/deep/file"[..]));
        let paths: Vec<&[u8]> = selection.chosen.keys().map(Vec::as_slice).collect();
        let expected = [
            "/",
            "/lib",
            "/usr",
            "/usr/alias",
            "/usr/lib",
            "/usr/lib/deep",
            "/usr/lib/deep/file",
        ];
        assert_eq!(paths, expected.map(str::as_bytes));
        assert_eq!(selection.add(b"/loop", Demand::Used), None);
        assert_eq!(selection.add(b"/proc/self/exe", Demand::Used), None);
        assert_eq!(selection.add(b"/none", Demand::Used), None);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
