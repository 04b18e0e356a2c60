//! What is in a file system in memory that a job has mounted for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use cryonaut_image::SeekableImage;
use cryonaut_sys::file;
use cryonaut_sys::mount::{self, Extent};

use super::{FIRST_CONTENT, LAST_CONTENT, open_place};
use crate::collect::{Collection, Space};
use crate::resource::file::path_of;
use crate::resource::kept_file::{self, ExtendedAttribute};
use crate::resource::memory::{device_number, printable, under};
use crate::{Error, Result};

/// A file or directory in memory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// Its path, from the root of the file system; empty for that root.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// `st_mode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Its owner, as the user namespace that the mount namespace belongs to names users.
    #[prost(uint32, tag = "3")]
    pub user: u32,
    /// Its group, likewise.
    #[prost(uint32, tag = "4")]
    pub group: u32,
    /// Time of last modification, in ns since 1970.
    #[prost(int64, tag = "5")]
    pub modified: i64,
    /// What a symbolic link leads to; of another name of a file, the first one.
    #[prost(bytes = "vec", tag = "6")]
    pub target: Vec<u8>,
    /// The number of a device node (major << 32 | minor).
    #[prost(uint64, tag = "7")]
    pub node: u64,
    /// The space with the content of a file; 0 for an empty one.
    #[prost(uint64, tag = "8")]
    pub content: u64,
    /// Size in bytes.
    #[prost(uint64, tag = "9")]
    pub size: u64,
    /// Its extended attributes.
    #[prost(message, repeated, tag = "10")]
    pub attributes: Vec<ExtendedAttribute>,
    /// The number of its inode, as it was.
    #[prost(uint64, tag = "11")]
    pub inode: u64,
    /// Whether it is another name of a file that comes before.
    #[prost(bool, tag = "12")]
    pub is_other_name: bool,
}

/// Lists what is in the file system that is mounted last at a place, whatever is mounted in it.
///
/// # Errors
/// Those of the system; a socket.
pub(super) fn look(place: &Path) -> io::Result<Vec<Entry>> {
    let place = open_place(place)?;
    // A copy of the mount shows what lies below others.
    let copy = mount::copy_of(place.as_fd(), Extent::Alone)?;
    mount::stand_in(copy.as_fd())?;
    let mut seen = BTreeMap::new();
    let mut entries = vec![Entry::of(Path::new(""), &mut seen)?];
    let mut index = 0;
    while let Some(entry) = entries.get(index) {
        if entry.mode & libc::S_IFMT == libc::S_IFDIR {
            let directory = path_of(&entry.path).to_owned();
            for found in std::fs::read_dir(standing(&directory))? {
                let path = directory.join(found?.file_name());
                entries.push(Entry::of(&path, &mut seen)?);
            }
        }
        index += 1;
    }
    Ok(entries)
}

/// A path from where this process stands.
fn standing(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

impl Entry {
    /// What is at a path from where this process stands; `seen` has those that have several names.
    fn of(path: &Path, seen: &mut BTreeMap<u64, Vec<u8>>) -> io::Result<Self> {
        let place = standing(path);
        let found = std::fs::symlink_metadata(place)?;
        let bytes = path.as_os_str().as_bytes().to_vec();
        let entry = Self {
            mode: found.mode(),
            user: found.uid(),
            group: found.gid(),
            modified: found.mtime() * 1_000_000_000 + found.mtime_nsec(),
            inode: found.ino(),
            ..Self::default()
        };
        if !found.is_dir() && found.nlink() > 1 {
            if let Some(first) = seen.get(&found.ino()) {
                return Ok(Self {
                    path: bytes,
                    target: first.clone(),
                    is_other_name: true,
                    ..entry
                });
            }
            seen.insert(found.ino(), bytes.clone());
        }
        let mut entry = entry;
        match found.mode() & libc::S_IFMT {
            libc::S_IFREG => entry.size = found.size(),
            libc::S_IFLNK => {
                let target = std::fs::read_link(place)?;
                entry.target = target.as_os_str().as_bytes().to_vec();
            }
            libc::S_IFCHR | libc::S_IFBLK => entry.node = device_number(found.rdev()),
            libc::S_IFSOCK => {
                return Err(io::Error::other(format!(
                    "there is a socket in it: {}",
                    printable(&bytes)
                )));
            }
            _ => {}
        }
        if !found.is_symlink() {
            let attributes = file::extended_attributes(place).unwrap_or_default();
            let kept = attributes.into_iter();
            entry.attributes = kept
                .map(|(name, value)| ExtendedAttribute { name, value })
                .collect();
        }
        Ok(Self {
            path: bytes,
            ..entry
        })
    }

    /// Names the content of a file as what is to be copied, as space `space`. The file system is mounted at `place`, which the
    /// namespace calls by the other path.
    pub(super) fn collect(
        &mut self,
        (place, called): (&Path, &[u8]),
        space: u64,
        collection: &mut Collection,
    ) -> Result<()> {
        let is_file = self.mode & libc::S_IFMT == libc::S_IFREG;
        if !is_file || self.size == 0 || self.is_other_name {
            return Ok(());
        }
        let path = under(place, &self.path);
        let name = under(path_of(called), &self.path);
        let refused = |reason: String, remedy: &str| {
            Error::Refused(vec![crate::Refusal {
                pid: 0,
                process: String::new(),
                object: format!("file {}", name.display()),
                reason,
                remedy: remedy.into(),
            }])
        };
        let same = |found: &Metadata| found.ino() == self.inode && found.is_file();
        let seen = std::fs::symlink_metadata(&path);
        if !seen.is_ok_and(|found| same(&found)) {
            return Err(refused(
                "it lies in a mount namespace of the job's own, hidden by what is mounted over it"
                    .into(),
                "unmount that, or take the file away before",
            ));
        }
        let file = kept_file::open(&path).map_err(|error| {
            refused(
                format!("it lies in memory, in a mount namespace of the job's own, and cannot be read: {error}"),
                "make it readable for its owner (chmod u+r), or checkpoint as root",
            )
        })?;
        self.content = space;
        let ranges = kept_file::data(&file)?;
        collection.contents.insert(space, file);
        collection.spaces.push(Space {
            id: space,
            pid: 0,
            ranges,
            same: Vec::new(),
        });
        Ok(())
    }

    /// Makes it where this process stands.
    fn make(&self, image: &SeekableImage) -> io::Result<()> {
        let path = path_of(&self.path);
        let target = path_of(&self.target);
        if self.is_other_name {
            return std::fs::hard_link(target, path);
        }
        match self.mode & libc::S_IFMT {
            // The root is there.
            libc::S_IFDIR if self.path.is_empty() => {}
            libc::S_IFDIR => std::fs::create_dir(path)?,
            libc::S_IFLNK => std::os::unix::fs::symlink(target, path)?,
            libc::S_IFREG => {
                let mut options = File::options();
                options.read(true).write(true).create_new(true).mode(0o600);
                let made = options.open(path)?;
                match self.content {
                    0 => made.set_len(self.size)?,
                    content => {
                        let part = (content, self.size);
                        kept_file::fill_unless(image, part, &made, "a file in memory", &|| false)
                            .map_err(io::Error::other)?;
                    }
                }
            }
            _ => {
                let device = ((self.node >> 32) as u32, self.node as u32);
                file::make_node(path, self.mode, device)?;
            }
        }
        self.settle(standing(path))
    }

    /// Owner, mode, attributes, time of last change; that of directories comes when all is in them.
    fn settle(&self, path: &Path) -> io::Result<()> {
        let now = std::fs::symlink_metadata(path)?;
        if (now.uid(), now.gid()) != (self.user, self.group) {
            let ids = (Some(self.user), Some(self.group));
            std::os::unix::fs::lchown(path, ids.0, ids.1)?;
        }
        if self.mode & libc::S_IFMT == libc::S_IFLNK {
            return Ok(());
        }
        let mode = std::fs::Permissions::from_mode(self.mode & 0o7777);
        std::fs::set_permissions(path, mode)?;
        for attribute in &self.attributes {
            file::set_extended_attribute(path, &attribute.name, &attribute.value)?;
        }
        file::set_modified(path, self.modified)
    }
}

/// Whether entries can be those of one file system: the root first, directories before what is in them, and nothing that leads out.
pub(super) fn are_sound(entries: &[Entry]) -> bool {
    let (mut directories, mut files) = (BTreeSet::new(), BTreeSet::new());
    entries.iter().enumerate().all(|(index, entry)| {
        let path = path_of(&entry.path);
        let is_directory = entry.mode & libc::S_IFMT == libc::S_IFDIR;
        let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
        let placed = match path.parent() {
            None => index == 0 && is_directory && entry.path.is_empty(),
            Some(parent) => path.components().all(normal) && directories.contains(parent),
        };
        let known = !entry.is_other_name || files.contains(path_of(&entry.target));
        let kept = entry.content == 0 || (FIRST_CONTENT..=LAST_CONTENT).contains(&entry.content);
        let new = !directories.contains(path) && files.insert(path);
        if is_directory {
            directories.insert(path);
        }
        let texts = [&entry.path, &entry.target];
        placed && known && kept && new && texts.iter().all(|text| !text.contains(&0))
    })
}

/// Makes all that was in a file system in memory, which is attached nowhere yet.
pub(super) fn fill(made: &OwnedFd, entries: &[Entry], image: &SeekableImage) -> io::Result<()> {
    mount::stand_in(made.as_fd())?;
    for entry in entries {
        entry.make(image).map_err(|error| {
            io::Error::other(format!("making {}: {error}", printable(&entry.path)))
        })?;
    }
    let is_directory = |entry: &&Entry| entry.mode & libc::S_IFMT == libc::S_IFDIR;
    for entry in entries.iter().filter(is_directory) {
        let path = path_of(&entry.path);
        file::set_modified(standing(path), entry.modified)?;
    }
    Ok(())
}
