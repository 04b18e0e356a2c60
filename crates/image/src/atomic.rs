//! A file that appears under its name complete, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::ImageError;

/// Names tried for the temporary file before giving up.
const ATTEMPTS: u32 = 64;

/// A file being written that takes the place of `path` only when it is [committed](Self::commit).
///
/// It has mode 0600. Until then it has no name (`O_TMPFILE` of open(2)), or where the file system cannot do that a
/// name of the form `.NAME.tmp` beside the final one; an earlier file at `path` stays as it is. Dropping it without
/// commit leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// Name of the file in the directory, if it has one yet.
    temporary: Option<OsString>,
    /// Whether it has the name that it is to have.
    named: bool,
}

impl AtomicFile {
    /// Begins a file that is to be named `path`. If that is a symbolic link, the file it points to will be replaced.
    ///
    /// # Errors
    /// [`ImageError::NotAFile`] if `path` is a directory, a device or the like, or names no file;
    /// [`ImageError::Io`] if the directory cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let target = resolve(path)?;
        let refuse = || {
            not_a_file(
                path,
                "it names no file; give the name that the image shall have",
            )
        };
        let name = target.file_name().ok_or_else(refuse)?.to_owned();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = rustix::fs::openat(
            CWD,
            parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open the directory", parent))?;
        let (file, temporary) = match create_nameless(&directory) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                let (file, temporary) = create_named(&directory, &name)
                    .map_err(failed("create a file for the image", &target))?;
                (file, Some(temporary))
            }
            Err(error) => return Err(failed("create a file for the image", &target)(error)),
        };
        Ok(Self {
            file: File::from(file),
            directory,
            name,
            path: target,
            temporary,
            named: false,
        })
    }

    /// The path the file will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, open for reading and writing, as for verifying it before the commit.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Waits until what was written is on the medium (fsync(2)).
    ///
    /// # Errors
    /// [`ImageError::Io`], as when the medium is full or fails.
    pub fn sync(&self) -> Result<(), ImageError> {
        self.file.sync_all().map_err(ImageError::io(format!(
            "bring {} to the medium",
            self.path.display()
        )))
    }

    /// Makes the file durable and gives it its name, in place of a file that has it now. When this returns, file and
    /// name survive a power failure.
    ///
    /// # Errors
    /// [`ImageError::Io`]; an earlier file at the path is still there then, except where the error is in bringing the
    /// directory to the medium.
    pub fn commit(mut self) -> Result<(), ImageError> {
        self.publish()
    }

    /// As [`AtomicFile::commit`], of a file that stays at hand: [`AtomicFile::withdraw`] takes its name away again.
    ///
    /// # Errors
    /// As [`AtomicFile::commit`].
    pub fn publish(&mut self) -> Result<(), ImageError> {
        self.sync()?;
        if self.temporary.is_none() {
            match link(&self.file, &self.directory, &self.name) {
                Ok(()) => {
                    self.named = true;
                    return self.sync_directory();
                }
                // linkat(2) replaces nothing, so the file gets another name, from which it can be renamed.
                Err(Errno::EXIST) => self.link_temporary()?,
                Err(error) => return Err(failed("give the image its name", &self.path)(error)),
            }
        }
        if let Some(temporary) = &self.temporary {
            rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name)
                .map_err(failed("give the image its name", &self.path))?;
            self.temporary = None;
            self.named = true;
        }
        self.sync_directory()
    }

    /// Whether it has its name: [`AtomicFile::publish`] got that far.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.named
    }

    /// Takes its name away from a file that has it, if no other file has that name by now.
    ///
    /// # Errors
    /// [`ImageError::Io`], when it cannot be removed.
    pub fn withdraw(&mut self) -> Result<(), ImageError> {
        if !self.named {
            return Ok(());
        }
        let remove = || {
            let own = rustix::fs::fstat(&self.file)?;
            let found = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
            if (own.st_dev, own.st_ino) != (found.st_dev, found.st_ino) {
                return Ok(());
            }
            rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())
        };
        match remove() {
            Ok(()) | Err(Errno::NOENT) => {
                self.named = false;
                Ok(())
            }
            Err(error) => Err(failed("remove", &self.path)(error)),
        }
    }

    fn link_temporary(&mut self) -> Result<(), ImageError> {
        let named = first_free(&self.name, |candidate| {
            link(&self.file, &self.directory, candidate)
        });
        let ((), temporary) = named.map_err(failed("give the image a name", &self.path))?;
        self.temporary = Some(temporary);
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), ImageError> {
        match rustix::fs::fsync(&self.directory) {
            // Some network file systems have nothing to do for a directory and say so (fsync(2)).
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(failed("bring to the medium the directory of", &self.path)(
                error,
            )),
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody can be told if this fails, and the file is only in the way, not wrong.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl AsFd for AtomicFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the file at `path` really is, if it is one or there is none yet.
fn resolve(path: &Path) -> Result<PathBuf, ImageError> {
    let look = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map(Some)
            .or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            })
    };
    let inspect = || format!("inspect {}", path.display());
    let ends_with_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let Some(found) = look(path).map_err(ImageError::io(inspect()))? else {
        return if ends_with_slash {
            Err(not_a_file(
                path,
                "it names a directory; add the image's name",
            ))
        } else {
            Ok(path.to_owned())
        };
    };
    let (target, kind) = if found.is_symlink() {
        let target = path.canonicalize().map_err(ImageError::io(format!(
            "follow the symbolic link {}",
            path.display()
        )))?;
        let found = look(&target)
            .map_err(ImageError::io(inspect()))?
            .unwrap_or(found);
        (target, found.file_type())
    } else {
        (path.to_owned(), found.file_type())
    };
    if kind.is_dir() {
        Err(not_a_file(path, "it is a directory; add the image's name"))
    } else if kind.is_file() {
        Ok(target)
    } else {
        // Renaming over a device or a socket would destroy it.
        Err(not_a_file(
            path,
            "it exists and is not a regular file; write to standard output to fill it",
        ))
    }
}

fn not_a_file(path: &Path, why: &str) -> ImageError {
    ImageError::NotAFile {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(Errno) -> ImageError + use<> {
    let action = format!("{action} {}", path.display());
    move |error| ImageError::io(action)(error.into())
}

fn create_nameless(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)?;
    // Without /proc, or where it is closed to this process, the file could not be given a name later.
    match rustix::fs::stat(own_path(&file)) {
        Ok(_) => Ok(file),
        Err(_) => Err(Errno::OPNOTSUPP),
    }
}

fn create_named(directory: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, OsString), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    first_free(name, |candidate| {
        rustix::fs::openat(directory, candidate, flags, Mode::RUSR | Mode::WUSR)
    })
}

/// The path through which a nameless file can be linked without privilege (open(2), `O_TMPFILE`).
fn own_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn link(file: &File, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::linkat(
        CWD,
        own_path(file),
        directory,
        name,
        AtFlags::SYMLINK_FOLLOW,
    )
}

/// Tries temporary names for a file `name` until one is free.
fn first_free<T>(
    name: &OsStr,
    mut attempt: impl FnMut(&OsStr) -> Result<T, Errno>,
) -> Result<(T, OsString), Errno> {
    for number in 0..ATTEMPTS {
        let candidate = temporary_name(name, number);
        match attempt(&candidate) {
            Ok(value) => return Ok((value, candidate)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

/// `.NAME.tmp`; where that is taken `.NAME.PID-NUMBER.tmp`.
fn temporary_name(name: &OsStr, number: u32) -> OsString {
    // File names have at most 255 bytes; a longer one could not be made longer still.
    let name = if name.len() > 200 {
        OsStr::new("cryonaut")
    } else {
        name
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    if number > 0 {
        temporary.push(format!(".{}-{number}", std::process::id()));
    }
    temporary.push(".tmp");
    temporary
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as it is made where `O_TMPFILE` is not supported.
    fn named(directory: &Path) -> AtomicFile {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty()).unwrap();
        let name = OsString::from("image");
        let (file, temporary) = create_named(&opened, &name).unwrap();
        AtomicFile {
            file: File::from(file),
            directory: opened,
            path: directory.join(&name),
            name,
            named: false,
            temporary: Some(temporary),
        }
    }

    #[test]
    fn a_file_with_a_temporary_name_is_renamed_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, "earlier").unwrap();
        let count = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut file = named(directory.path());
        let other = named(directory.path());
        file.write_all(b"new").unwrap();
        assert_eq!(count(), 3);
        drop(other);
        assert_eq!(count(), 2);
        assert!(directory.path().join(".image.tmp").exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier");
        file.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_published_file_can_be_withdrawn_but_not_another_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut file = AtomicFile::create(&path).unwrap();
        file.withdraw().unwrap();
        file.write_all(b"new").unwrap();
        file.publish().unwrap();
        assert!(file.is_published());
        file.write_all(b"er").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "newer");
        file.withdraw().unwrap();
        assert!(!path.exists() && !file.is_published());
        let mut file = AtomicFile::create(&path).unwrap();
        file.publish().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        file.withdraw().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another");
    }

    #[test]
    fn a_commit_that_fails_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = named(directory.path());
        std::fs::create_dir(directory.path().join("image")).unwrap();
        assert!(matches!(file.commit(), Err(ImageError::Io { .. })));
        assert!(!directory.path().join(".image.tmp").exists());
    }
}
