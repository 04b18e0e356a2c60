//! How embedded files appear in the mount namespace that the caller has entered.
//!
//! A file that this machine has otherwise is mounted over: that place alone changes. To make something appear that is not there,
//! its directory is laid out anew: a tmpfs over it, in which each entry of the old one is mounted (links are made again), so that
//! what there was stays what it is, and can be written to; beside them the new entries are made. Below a directory that was
//! missing everything is in that tmpfs.
//!
//! Everything is made through descriptors of these file systems, never along a path: so a link in the image, or on this machine,
//! cannot lead the making of a file out of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cryonaut_image::SeekableImage;
use cryonaut_launch::UserNamespace;
use cryonaut_sys::file::{self, own_path};
use cryonaut_sys::mount::{self, Extent};

use super::{SOURCE, may_write, resolved};
use crate::error::Attempt;
use crate::resource::embedded::EmbeddedFile;
use crate::resource::file::path_of;
use crate::resource::kept_file;
use crate::resource::memory::printable;
use crate::{Error, Refusal, Result};

/// The tree as it is being laid out.
pub(super) struct Tree<'a> {
    image: &'a SeekableImage,
    /// Whether it is to be given up.
    stop: &'a dyn Fn() -> bool,
    /// All embedded files of the image, those not needed among them.
    all: &'a [EmbeddedFile],
    user: UserNamespace,
    /// Device numbers of the file systems that were made here.
    devices: BTreeSet<u64>,
    /// Files that are to be mounted over.
    over: Vec<EmbeddedFile>,
    /// Directories laid out anew in which the user could make files.
    laid_out: Vec<PathBuf>,
    /// Room for what is needed of the image, in bytes, which each file system that is made here has.
    room: u64,
    /// What cannot be shown in directories laid out anew, and why.
    hidden: Vec<String>,
}

/// Besides what is needed of the image a directory laid out anew has room for what the job makes in it: this part of the memory.
const PART_FOR_JOB: u64 = 8;
/// What a file or directory takes at least, in bytes: a page.
const LEAST: u64 = 4096;

/// What is made.
enum Entry<'a> {
    Directory(&'a EmbeddedFile),
    Link(&'a Path),
    Content(&'a EmbeddedFile),
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        (image, stop): (&'a SeekableImage, &'a dyn Fn() -> bool),
        all: &'a [EmbeddedFile],
        user: UserNamespace,
        needed: &[EmbeddedFile],
    ) -> Self {
        let size = |file: &EmbeddedFile| {
            let size = file.identity.as_ref().map_or(0, |found| found.size);
            // Holes take nothing.
            size.min(file.stored).saturating_add(2 * LEAST)
        };
        let room = needed.iter().map(size).fold(0, u64::saturating_add);
        Self {
            room,
            hidden: Vec::new(),
            image,
            stop,
            all,
            user,
            devices: BTreeSet::new(),
            over: Vec::new(),
            laid_out: Vec::new(),
        }
    }

    /// Makes a file appear. Directories must come before what is in them.
    pub(super) fn place(&mut self, file: &EmbeddedFile) -> Result<()> {
        self.expect_wanted()?;
        let identity = file.checked()?;
        let path = path_of(&identity.path);
        let there = std::fs::symlink_metadata(path);
        match identity.mode & libc::S_IFMT {
            libc::S_IFDIR => self.make(path, &Entry::Directory(file)),
            libc::S_IFLNK => {
                let target = path_of(&file.target);
                if there.is_ok_and(|there| there.is_dir()) {
                    // All of that directory would vanish: what the image has behind the link appears in it instead.
                    return self.alias(path, &resolved(path, target));
                }
                self.make(path, &Entry::Link(target))
            }
            _ if there.is_ok_and(|there| there.is_file()) => {
                self.over.push(file.clone());
                Ok(())
            }
            _ => self.make(path, &Entry::Content(file)),
        }
    }

    fn expect_wanted(&self) -> Result<()> {
        match (self.stop)() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Makes what is embedded below `target` reachable in the directory `place` too, by links.
    fn alias(&mut self, place: &Path, target: &Path) -> Result<()> {
        let below = self.all.iter().filter_map(|file| {
            let identity = file.identity.as_ref()?;
            let path = path_of(&identity.path);
            (path.parent() == Some(target)).then(|| (path.to_owned(), identity.mode))
        });
        for (path, mode) in below.collect::<Vec<_>>() {
            let alias = place.join(path.file_name().unwrap_or_default());
            let there = std::fs::symlink_metadata(&alias);
            let is_directory = mode & libc::S_IFMT == libc::S_IFDIR;
            if is_directory && there.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
                self.alias(&alias, &path)?;
            } else {
                self.make(&alias, &Entry::Link(&path))?;
            }
        }
        Ok(())
    }

    /// Makes an entry; what has its name gives way.
    fn make(&mut self, path: &Path, entry: &Entry<'_>) -> Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let mut directory = self.open_directory(parent)?;
        if !self.is_ours(&directory)? {
            self.lay_out(parent, &directory)?;
            directory = self.open_directory(parent)?;
        }
        let place = own_path(directory.as_fd()).join(name);
        clear(&place).attempt(|| format!("making room for {}", path.display()))?;
        let making = || format!("making {} in memory", path.display());
        match entry {
            Entry::Directory(file) => {
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&place)
                    .attempt(making)?;
                self.settle(&place, file)
            }
            Entry::Link(target) => std::os::unix::fs::symlink(target, &place).attempt(making),
            Entry::Content(file) => self.fill(&place, file),
        }
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        open_place(path, libc::O_DIRECTORY).attempt(|| format!("looking at {}", path.display()))
    }

    fn is_ours(&self, directory: &OwnedFd) -> Result<bool> {
        let found = std::fs::metadata(own_path(directory.as_fd()))
            .attempt(|| "looking at a directory".into())?;
        Ok(self.devices.contains(&found.dev()))
    }

    /// A new file system with room for so much more than the image needs; what is made on it is ours.
    fn new_memory(&mut self, more: u64) -> Result<OwnedFd> {
        let size = self.room.saturating_add(more);
        let made =
            mount::new_tmpfs(SOURCE, size).attempt(|| "making a file system in memory".into())?;
        let found = std::fs::metadata(own_path(made.as_fd()))
            .attempt(|| "looking at a file system".into())?;
        self.devices.insert(found.dev());
        Ok(made)
    }

    /// Lays out a directory anew, with what it has.
    fn lay_out(&mut self, path: &Path, old: &OwnedFd) -> Result<()> {
        let from = own_path(old.as_fd());
        let laying = || format!("laying out {} in memory", path.display());
        let entries = std::fs::read_dir(&from)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<std::io::Result<Vec<_>>>()
            })
            .map_err(|error| cannot_list(path, &error))?;
        let attributes = std::fs::metadata(&from).attempt(laying)?;
        if may_write(path) {
            self.laid_out.push(path.to_owned());
        }
        let listed = entries.len() as u64 * LEAST;
        let made = self.new_memory(listed + total_memory() / PART_FOR_JOB)?;
        mount::attach(made.as_fd(), old.as_fd()).attempt(laying)?;
        let to = own_path(made.as_fd());
        for name in entries {
            self.expect_wanted()?;
            let showing = || format!("showing {}", path.join(&name).display());
            match show(&from, &to, &name) {
                // It has been taken away since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    clear(&to.join(&name)).attempt(showing)?;
                }
                Err(error) if is_beyond_reach(&error) => {
                    clear(&to.join(&name)).attempt(showing)?;
                    let what = printable(path.join(&name).as_os_str().as_bytes());
                    self.hidden.push(format!("{what} ({error})"));
                }
                shown => shown.attempt(showing).map_err(too_large)?,
            }
        }
        if self.user == UserNamespace::Shared {
            let owner = (Some(attributes.uid()), Some(attributes.gid()));
            std::os::unix::fs::chown(&to, owner.0, owner.1).attempt(laying)?;
        }
        std::fs::set_permissions(&to, attributes.permissions()).attempt(laying)?;
        if path == Path::new("/") {
            mount::become_root(made.as_fd())
                .attempt(|| "making the new root directory the root".into())?;
        }
        Ok(())
    }

    /// Makes a file with its content.
    fn fill(&self, place: &Path, file: &EmbeddedFile) -> Result<()> {
        let identity = file.checked()?;
        let text = format!("file {}", path_of(&identity.path).display());
        let mut options = File::options();
        options.read(true).write(true).mode(0o600).create_new(true);
        let made = options
            .open(place)
            .attempt(|| format!("making {text} in memory"))?;
        if file.content != 0 {
            let part = (file.content, identity.size);
            kept_file::fill_unless(self.image, part, &made, &text, self.stop).map_err(too_large)?;
        } else {
            made.set_len(identity.size)
                .attempt(|| format!("making {text} in memory"))?;
        }
        self.settle(place, file)
    }

    /// Owner, mode and time of last change.
    fn settle(&self, place: &Path, file: &EmbeddedFile) -> Result<()> {
        let identity = file.checked()?;
        let settling = || {
            format!(
                "setting the attributes of {}",
                path_of(&identity.path).display()
            )
        };
        if self.user == UserNamespace::Shared {
            // Without a capability it stays the user's own, as every file of theirs here.
            let _ = std::os::unix::fs::lchown(place, Some(file.user), Some(file.group));
        }
        let mode = std::fs::Permissions::from_mode(identity.mode & 0o1777);
        std::fs::set_permissions(place, mode).attempt(settling)?;
        file::set_modified(place, identity.modified).attempt(settling)
    }

    /// Mounts over the files that are there; gives what the user should know of the directories that the job works in.
    pub(super) fn finish(mut self, places: &BTreeSet<PathBuf>) -> Result<Vec<String>> {
        let over = std::mem::take(&mut self.over);
        if !over.is_empty() {
            self.mount_over(&over)?;
        }
        let told = self.laid_out.iter().filter(|path| places.contains(*path)).map(|path| {
            format!(
                "directory {} was laid out anew for this job: new files that it makes there are in memory and go with it",
                path.display()
            )
        });
        let hidden = self.hidden.iter().map(|what| {
            format!("{what} cannot be reached from here: for this job it does not exist")
        });
        Ok(told.chain(hidden).collect())
    }

    fn mount_over(&mut self, over: &[EmbeddedFile]) -> Result<()> {
        // Looked up before anything covers them.
        let mut places = Vec::new();
        for file in over {
            let path = path_of(&file.checked()?.path);
            places.push(
                open_place(path, libc::O_NOFOLLOW)
                    .attempt(|| format!("looking at {}", path.display()))?,
            );
        }
        // Mounts can be copied from what is attached somewhere. Over the root directory nobody's paths lead there.
        let store = self.new_memory(0)?;
        let root =
            open_place(Path::new("/"), libc::O_DIRECTORY).attempt(|| "looking at /".into())?;
        mount::attach(store.as_fd(), root.as_fd())
            .attempt(|| "attaching a file system in memory".into())?;
        let directory = own_path(store.as_fd());
        for (index, (file, place)) in over.iter().zip(&places).enumerate() {
            let path = path_of(&file.checked()?.path);
            let made = directory.join(index.to_string());
            self.expect_wanted()?;
            self.fill(&made, file)?;
            let mounting = || format!("mounting the image's {} over the one here", path.display());
            let opened = open_place(&made, libc::O_NOFOLLOW).attempt(mounting)?;
            let copy = mount::copy_of(opened.as_fd(), Extent::Alone).attempt(mounting)?;
            mount::attach(copy.as_fd(), place.as_fd()).attempt(mounting)?;
        }
        mount::detach(&directory).attempt(|| "detaching a file system in memory".into())
    }
}

fn open_place(path: &Path, flags: i32) -> std::io::Result<OwnedFd> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH | flags);
    Ok(options.open(path)?.into())
}

/// Takes away an entry of a file system of ours, with what is mounted there.
fn clear(place: &Path) -> std::io::Result<()> {
    let Ok(mut there) = std::fs::symlink_metadata(place) else {
        return Ok(());
    };
    if !there.is_symlink() && mount::detach(place).is_ok() {
        there = std::fs::symlink_metadata(place)?;
    }
    match there.is_dir() {
        true => std::fs::remove_dir(place),
        false => std::fs::remove_file(place),
    }
}

/// Makes an entry of the directory `from` appear in `to`.
fn show(from: &Path, to: &Path, name: &OsStr) -> std::io::Result<()> {
    let (old, new) = (from.join(name), to.join(name));
    let kind = std::fs::symlink_metadata(&old)?.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(std::fs::read_link(&old)?, &new);
    }
    let extent = match kind.is_dir() {
        true => {
            std::fs::create_dir(&new)?;
            Extent::WithMounts
        }
        false => {
            File::options().write(true).create_new(true).open(&new)?;
            Extent::Alone
        }
    };
    let copy = mount::copy_of(open_place(&old, libc::O_NOFOLLOW)?.as_fd(), extent)?;
    mount::attach(copy.as_fd(), open_place(&new, libc::O_NOFOLLOW)?.as_fd())
}

/// Whether what is mounted there answers nobody, or not us: a FUSE file system of another user, one whose server has gone.
fn is_beyond_reach(error: &std::io::Error) -> bool {
    let known = [
        libc::EACCES,
        libc::ENOTCONN,
        libc::ESTALE,
        libc::EIO,
        libc::ETIMEDOUT,
        libc::EHOSTDOWN,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| known.contains(&number))
}

/// The machine's memory, in bytes; a little where it cannot be told.
fn total_memory() -> u64 {
    const UNKNOWN: u64 = 1 << 30;
    let text = std::fs::read("/proc/meminfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.map_or(UNKNOWN, |kilobytes| kilobytes << 10)
}

fn cannot_list(path: &Path, error: &std::io::Error) -> Error {
    Error::Refused(vec![Refusal {
        pid: 0,
        process: String::new(),
        object: format!("directory {}", path.display()),
        reason: format!("files of the image are to appear in it, and what is there now may not be listed: {error}"),
        remedy: "restart as a user who may list it, or write the files to their places first (cryo extract)".into(),
    }])
}

/// The same error, with the way out where memory was too small.
fn too_large(error: Error) -> Error {
    match error {
        Error::Failed(text) => Error::Failed(format!(
            "{text}; files of the image are kept in memory, which has no room for them: cryo extract writes them to a disk instead"
        )),
        other => other,
    }
}
