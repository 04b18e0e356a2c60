//! The files of named sockets: where one is, and a place to make one anew.

use std::ffi::{CString, OsStr};
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cryonaut_sys::socket;

use super::record::{SocketFile, UnixSocket, readable};
use crate::error::Attempt;
use crate::resource::file::facts::{Description, Job};
use crate::resource::file::owner::Owner;
use crate::resource::file::path_of;
use crate::resource::file::socket::SocketFacts;
use crate::{Error, Result};

/// Finds the file that a socket of the job was bound to. The kernel tells root where it is now, whatever happened to it; anybody
/// else has to look where it was made: by the name, and for another name in the same directory. None when it cannot be told
/// whether it still exists.
///
/// # Errors
/// When it cannot be looked at.
pub fn find(
    description: &Description,
    socket: BorrowedFd<'_>,
    facts: &SocketFacts,
    job: &Job<'_>,
) -> Result<Option<SocketFile>> {
    let listed = job.listing().of(facts.inode);
    let inode = listed.and_then(|listed| listed.file).unwrap_or(0);
    let owners = || {
        let slots = description.slots.iter();
        slots
            .map(|slot| job.owner(*slot))
            .filter(|owner| !owner.is_flight())
            .chain(job.processes())
    };
    if let Ok(place) = socket::bound_file(socket) {
        let shown = std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
            .attempt(|| "finding the file of a socket".into())?;
        let here = std::fs::metadata(format!("/proc/self/fd/{}", place.as_raw_fd()))
            .attempt(|| "finding the file of a socket".into())?;
        let shown = shown.as_os_str().as_bytes();
        let there = owners().next().map(|owner| owner.reach(shown));
        let leads = there
            .and_then(|path| std::fs::symlink_metadata(path).ok())
            .is_some_and(|there| there.ino() == here.ino() && there.dev() == here.dev());
        return Ok(Some(described(&here, leads.then(|| shown.to_vec()))));
    }
    let name = listed.map_or(&[][..], |listed| listed.name.as_slice());
    for owner in owners() {
        if let Some(found) = look(owner, name, inode) {
            return Ok(Some(found));
        }
    }
    Ok(name.starts_with(b"/").then(SocketFile::default))
}

/// Looks for a socket file where a process may have bound it.
fn look(owner: &Owner<'_>, name: &[u8], inode: u64) -> Option<SocketFile> {
    let link = match name.starts_with(b"/") {
        true => "root",
        false => "cwd",
    };
    let top = owner.directory().link(link).ok()?;
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let path = Path::new(OsStr::from_bytes(&top)).join(OsStr::from_bytes(name));
    let matches = |path: &Path| {
        let there = std::fs::symlink_metadata(owner.reach(path.as_os_str().as_bytes())).ok()?;
        (there.file_type().is_socket() && there.ino() == inode)
            .then(|| described(&there, Some(path.as_os_str().as_bytes().to_vec())))
    };
    if let Some(found) = matches(&path) {
        return Some(found);
    }
    let directory = path.parent()?;
    let entries = std::fs::read_dir(owner.reach(directory.as_os_str().as_bytes())).ok()?;
    entries
        .flatten()
        .find_map(|entry| matches(&directory.join(entry.file_name())))
}

fn described(file: &std::fs::Metadata, path: Option<Vec<u8>>) -> SocketFile {
    SocketFile {
        path,
        mode: file.mode(),
        user: file.uid(),
        group: file.gid(),
        modified: file.mtime() * 1_000_000_000 + file.mtime_nsec(),
    }
}

/// A directory in which a socket is bound: its own name leads there for who takes the directory for the root of all. Removed with
/// everything in it when it is dropped.
#[derive(Debug)]
pub struct Place {
    top: PathBuf,
    /// The root directory, for the time of the bind(2), of the process that binds.
    pub root: Vec<u8>,
    /// Its working directory, seen from that root.
    pub directory: Vec<u8>,
    /// Where the socket file comes to be.
    pub file: PathBuf,
}

impl Place {
    /// Makes a place for a name, beside the place where its file is to end.
    ///
    /// # Errors
    /// When no directory can be made there.
    pub fn make(name: &[u8], file: Option<&SocketFile>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let what = || {
            format!(
                "making a directory to bind the socket {} in",
                readable(name)
            )
        };
        let end = file.and_then(|file| file.path.as_deref()).map(path_of);
        let beside = match end.and_then(Path::parent) {
            Some(parent) => parent.to_path_buf(),
            None => std::env::temp_dir(),
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Until it is in its place anybody who could guess the name might connect.
        let secret = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        let top = beside.join(format!(".cryo-sockets-{count}-{secret:x}"));
        std::fs::DirBuilder::new()
            .mode(0o711)
            .create(&top)
            .attempt(what)?;
        let mut place = Self {
            root: top.as_os_str().as_bytes().to_vec(),
            directory: b"/".to_vec(),
            file: PathBuf::new(),
            top,
        };
        let path = path_of(name);
        let working = if name.starts_with(b"/") {
            place.top.clone()
        } else {
            // Deep enough for every `..` of the name.
            let ups = path.components().count();
            let mut deep = place.top.clone();
            for _ in 0..ups {
                deep.push("d");
                place.directory.extend_from_slice(b"d/");
            }
            deep
        };
        place.file = working.join(path.strip_prefix("/").unwrap_or(path));
        let mut directories = vec![working];
        directories.extend(place.file.parent().map(Path::to_path_buf));
        for directory in directories {
            std::fs::create_dir_all(directory).attempt(what)?;
        }
        Ok(place)
    }

    /// The directory of the socket file, and its name in there.
    pub fn parts(&self) -> (&Path, &OsStr) {
        (
            self.file.parent().unwrap_or(Path::new("/")),
            self.file.file_name().unwrap_or_default(),
        )
    }

    /// Gives the socket file its owner, mode and time, and moves it to where it belongs; or deletes it.
    ///
    /// # Errors
    /// When any of that is not permitted.
    pub fn finish(self, socket: &UnixSocket) -> Result<()> {
        let Some((file, end)) = socket
            .file
            .as_ref()
            .and_then(|file| Some((file, file.path.as_deref()?)))
        else {
            return Ok(());
        };
        let what = || format!("putting the socket file {} in its place", readable(end));
        let now = std::fs::symlink_metadata(&self.file).attempt(what)?;
        if (now.uid(), now.gid()) != (file.user, file.group) {
            std::os::unix::fs::lchown(&self.file, Some(file.user), Some(file.group))
                .attempt(what)?;
        }
        let mode = std::fs::Permissions::from_mode(file.mode & 0o7777);
        std::fs::set_permissions(&self.file, mode).attempt(what)?;
        let path = CString::new(self.file.as_os_str().as_bytes())
            .map_err(|_| Error::Failed(format!("{}: a zero byte in its name", what())))?;
        socket::set_modified(&path, file.modified).attempt(what)?;
        std::fs::rename(&self.file, path_of(end)).attempt(what)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_place_of_its_own() {
        for (name, directory) in [
            (&b"/run/x/s"[..], "/"),
            (b"s", "/d/"),
            (b"../../x/s", "/d/d/d/d/"),
        ] {
            let place = Place::make(name, None).unwrap();
            assert_eq!(place.directory, directory.as_bytes());
            let (parent, last) = place.parts();
            assert!(parent.is_dir() && parent.starts_with(&place.top));
            assert_eq!(last, "s");
            let top = place.top.clone();
            drop(place);
            assert!(!top.exists());
        }
    }
}
