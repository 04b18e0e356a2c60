//! Writing the files that an image embeds to a directory: `cryo extract`.
//!
//! An image may come from anybody. Each name of a path is opened by itself, below the directory, and no symbolic link is ever
//! followed: so nothing is made outside of it, whatever the image says and whoever changes the directory meanwhile.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use cryonaut_image::SeekableImage;
use cryonaut_sys::file::{change_owner, link_target, own_path, set_modified};
use cryonaut_sys::task::effective_ids;

use crate::error::Attempt;
use crate::pattern::Pattern;
use crate::reference;
use crate::resource::embedded::EmbeddedFile;
use crate::resource::kept_file;
use crate::resource::memory::{FileIdentity, printable};
use crate::{Error, Refusals, Result};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files that were written.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already, with the same content.
    pub there: usize,
}

/// Writes the embedded files that one of the patterns stands for (all, without any) below `directory`, which is made if need
/// be. As root they get their owners. Set-user-id bits are left off.
///
/// # Errors
/// [`crate::Error::Refused`] before anything is written, where something else is in the place of a file; [`crate::Error::Failed`] when the
/// disk is full: the file that did not fit is taken away again, those before it stay.
pub fn extract(image: &SeekableImage, directory: &Path, patterns: &[Pattern]) -> Result<Extracted> {
    let mut files = image.records()?.all::<EmbeddedFile>()?;
    let mut wanted = Vec::new();
    // Also those that no pattern stands for: what is wanted may lie in them.
    let is_directory = |file: &&EmbeddedFile| kind(file) == libc::S_IFDIR;
    let directories = files.iter().filter(is_directory);
    let directories = directories
        .map(|file| (path_of(file).to_vec(), file.clone()))
        .collect();
    for file in files.drain(..) {
        let path = &file.checked()?.path;
        if patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(path)) {
            wanted.push(file);
        }
    }
    wanted.sort_by(|one, other| path_of(one).cmp(path_of(other)));
    std::fs::create_dir_all(directory).attempt(|| format!("making {}", directory.display()))?;
    let root = enter(directory, libc::O_DIRECTORY)
        .attempt(|| format!("opening {}", directory.display()))?;
    let into = Into {
        root,
        image,
        directories,
    };
    let mut refusals = Refusals::default();
    let mut missing = Vec::new();
    let mut done = Extracted::default();
    for file in &wanted {
        match into.there(file)? {
            There::Nothing => missing.push(file),
            There::Same => done.there += usize::from(kind(file) == libc::S_IFREG),
            There::Other(reason) => refusals.add_for_job(
                printable(&file.checked()?.path),
                reason,
                "move it away, or extract to an empty directory",
            ),
        }
    }
    refusals.into_result()?;
    let mut made = Made::new();
    for file in missing {
        into.write(file, &mut made)?;
        if kind(file) == libc::S_IFREG {
            done.files += 1;
            done.bytes += file.checked()?.size;
        }
    }
    // Last, since a directory may be one that its owner may not write to.
    for (path, node) in made.iter().rev() {
        if let Some(file) = into.directories.get(path) {
            into.settle_directory(file, *node)?;
        }
    }
    Ok(done)
}

/// Directories that were made, by their path in the image, with device and inode number.
type Made = BTreeMap<Vec<u8>, (u64, u64)>;

fn path_of(file: &EmbeddedFile) -> &[u8] {
    file.identity.as_ref().map_or(&[], |found| &found.path)
}

fn kind(file: &EmbeddedFile) -> u32 {
    file.identity
        .as_ref()
        .map_or(0, |found| found.mode & libc::S_IFMT)
}

/// What is in the place of a file.
enum There {
    Nothing,
    Same,
    Other(&'static str),
}

struct Into<'a> {
    root: OwnedFd,
    image: &'a SeekableImage,
    /// The directories of the image, by path.
    directories: BTreeMap<Vec<u8>, EmbeddedFile>,
}

fn enter(path: &Path, flags: i32) -> std::io::Result<OwnedFd> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH | flags);
    Ok(options.open(path)?.into())
}

/// The names of a path below the directory.
fn names(identity: &FileIdentity) -> Vec<&std::ffi::OsStr> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&identity.path));
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

impl Into<'_> {
    /// The directory that a file is to be in, and its name; `missing` makes a directory that is not there.
    fn parent(
        &self,
        identity: &FileIdentity,
        mut missing: impl FnMut(&Path, &Path) -> std::io::Result<()>,
    ) -> std::io::Result<(OwnedFd, PathBuf)> {
        let names = names(identity);
        let mut directory = self.root.try_clone()?;
        let mut path = PathBuf::from("/");
        let (last, above) = names.split_last().ok_or(ErrorKind::InvalidInput)?;
        for name in above {
            let place = own_path(directory.as_fd()).join(name);
            path.push(name);
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            directory = match enter(&place, flags) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing(&place, &path)?;
                    enter(&place, flags)?
                }
                entered => entered?,
            };
        }
        let place = own_path(directory.as_fd()).join(last);
        Ok((directory, place))
    }

    fn there(&self, file: &EmbeddedFile) -> Result<There> {
        let identity = file.checked()?;
        if identity.path == b"/" {
            return Ok(There::Same);
        }
        let absent = |_: &Path, _: &Path| Err(ErrorKind::NotFound.into());
        let (_directory, place) = match self.parent(identity, absent) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(There::Nothing),
            Err(_) => {
                return Ok(There::Other(
                    "on the way to it something is no directory: a symbolic link is not followed",
                ));
            }
        };
        let Ok(now) = std::fs::symlink_metadata(&place) else {
            return Ok(There::Nothing);
        };
        let same = match kind(file) {
            libc::S_IFDIR => now.is_dir(),
            libc::S_IFLNK => std::fs::read_link(&place)
                .is_ok_and(|target| target.as_os_str().as_bytes() == file.target),
            _ => {
                now.is_file()
                    && now.len() == identity.size
                    && identity.content_hash.as_deref()
                        == reference::content_hash(&place)
                            .as_ref()
                            .map(|hash| &hash[..])
            }
        };
        Ok(match same {
            true => There::Same,
            false => There::Other("something else is in its place"),
        })
    }

    fn write(&self, file: &EmbeddedFile, made: &mut Made) -> Result<()> {
        let identity = file.checked()?;
        let text = printable(&identity.path);
        let writing = || format!("writing {text}");
        let mut make_directory = |place: &Path, path: &[u8]| {
            // One that the image does not know is like any new one; others are closed until they are whole.
            let known = self.directories.contains_key(path);
            let mode = if known { 0o700 } else { 0o777 };
            DirBuilder::new().mode(mode).create(place)?;
            let opened = File::from(enter(place, libc::O_DIRECTORY | libc::O_NOFOLLOW)?);
            let found = opened.metadata()?;
            made.insert(path.to_vec(), (found.dev(), found.ino()));
            Ok::<_, std::io::Error>(())
        };
        let missing =
            |place: &Path, path: &Path| make_directory(place, path.as_os_str().as_bytes());
        let (_directory, place) = self.parent(identity, missing).attempt(writing)?;
        match kind(file) {
            libc::S_IFDIR => {
                // One that something below it has needed is there by now.
                if std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
                    return Ok(());
                }
                make_directory(&place, &identity.path).attempt(writing)?;
            }
            libc::S_IFLNK => {
                let target = std::ffi::OsStr::from_bytes(&file.target);
                std::os::unix::fs::symlink(target, &place).attempt(writing)?;
                let made = enter_link(&place).attempt(writing)?;
                give_owner(made.as_fd(), file).attempt(writing)?;
            }
            _ => {
                let mut options = File::options();
                options.read(true).write(true).mode(0o600).create_new(true);
                let opened = options.open(&place).attempt(writing)?;
                if let Err(error) = self.fill(&opened, file, &text) {
                    let _ = std::fs::remove_file(&place);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn fill(&self, opened: &File, file: &EmbeddedFile, text: &str) -> Result<()> {
        let identity = file.checked()?;
        let writing = || format!("writing {text}");
        match file.content {
            0 => opened.set_len(identity.size).attempt(writing)?,
            content => kept_file::fill(self.image, (content, identity.size), opened, text)?,
        }
        let place = own_path(opened.as_fd());
        give_owner(opened.as_fd(), file).attempt(writing)?;
        opened
            .set_permissions(Permissions::from_mode(identity.mode & 0o777))
            .attempt(writing)?;
        set_modified(&place, identity.modified).attempt(writing)
    }

    /// Gives a directory that was made its owner and mode.
    fn settle_directory(&self, file: &EmbeddedFile, node: (u64, u64)) -> Result<()> {
        let identity = file.checked()?;
        let text = printable(&identity.path);
        let settling = || format!("setting the mode of {text}");
        let absent = |_: &Path, _: &Path| Err(ErrorKind::NotFound.into());
        let (_directory, place) = self.parent(identity, absent).attempt(settling)?;
        let opened = enter(&place, libc::O_DIRECTORY | libc::O_NOFOLLOW).attempt(settling)?;
        let place = own_path(opened.as_fd());
        let found = std::fs::metadata(&place).attempt(settling)?;
        if (found.dev(), found.ino()) != node {
            return Err(Error::Failed(format!(
                "{text}: somebody has put another directory in its place meanwhile"
            )));
        }
        give_owner(opened.as_fd(), file).attempt(settling)?;
        let mode = identity.mode & 0o1777;
        std::fs::set_permissions(&place, Permissions::from_mode(mode)).attempt(settling)
    }
}

/// As root, the owner that it had, whatever its name leads to by now.
fn give_owner(made: BorrowedFd<'_>, file: &EmbeddedFile) -> std::io::Result<()> {
    match effective_ids().0 {
        0 => change_owner(made, file.user, file.group),
        _ => Ok(()),
    }
}

/// A link that was just made, itself.
fn enter_link(place: &Path) -> std::io::Result<OwnedFd> {
    let opened = enter(place, libc::O_NOFOLLOW)?;
    // Somebody may have put another file in its place.
    match link_target(&own_path(opened.as_fd())) {
        Ok(_) => Ok(opened),
        Err(_) => Err(ErrorKind::NotFound.into()),
    }
}
