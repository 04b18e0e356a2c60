//! Where files without a name are made again, and whether this host and user can make a kept file.

use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cryonaut_sys::file::{self, HUGETLBFS};

use super::node;
use super::{KeptFile, Needs, Standing, damaged, may_own, text};
use crate::Result;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::file::path_of;

/// Whether a file may lie where programs cannot be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Execution {
    /// It is executed.
    Needed,
    /// It only has content.
    NotNeeded,
}

/// The directories in which a file without a name may be made, the best first: that where it was, then those for temporary files.
pub(super) fn directories(path: &Path, execution: Execution) -> Vec<PathBuf> {
    let old = path.parent().map(Path::to_path_buf);
    let chosen = std::env::var_os("TMPDIR").map(PathBuf::from);
    let common = ["/var/tmp", "/tmp"].map(PathBuf::from);
    old.into_iter()
        .chain(chosen)
        .chain(common)
        .filter(|directory| directory.is_absolute())
        .filter(|directory| file::may_access(directory, libc::W_OK | libc::X_OK))
        .filter(|directory| {
            execution == Execution::NotNeeded
                || file::file_system(directory).is_ok_and(|found| !found.no_execution)
        })
        .collect()
}

/// Refuses what this host or user cannot make.
pub(super) fn check(file: &KeptFile, needs: &Needs, host: &Host, plan: &mut Plan) -> Result<()> {
    let identity = file.identity()?;
    let path = path_of(&identity.path);
    let what = text(file);
    let mut refuse = |reason: String, remedy: &str| {
        plan.refusals
            .add((needs.process, ""), what.clone(), reason, remedy);
    };
    let plain = file.file_type() == libc::S_IFREG;
    let special = [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFSOCK].contains(&file.file_type());
    let known = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFIFO, libc::S_IFLNK];
    if !(special || known.contains(&file.file_type()))
        || (!plain && file.standing() != Standing::Nameless)
    {
        return Err(damaged());
    }
    if special && !node::can_be(file) {
        refuse(
            "only root may make it again, and /dev has no node of this device".into(),
            "restart as root, or where /dev has this device",
        );
    }
    if needs.described && !file.partial && !may_own(host, file) {
        refuse(
            format!(
                "it belongs to user {} and group {}, to whom this user may give nothing",
                file.user, file.group
            ),
            "restart as that user or root, or have the file be yours with --allow-changed",
        );
    }
    let is_huge = file.huge_page != 0;
    if is_huge && (!file.huge_page.is_power_of_two() || file.huge_page < cryonaut_sys::PAGE_SIZE) {
        return Err(damaged());
    }
    match file.standing() {
        Standing::Unknown => return Err(damaged()),
        Standing::Memory => {
            if !identity.path.starts_with(b"/memfd:") {
                return Err(damaged());
            }
        }
        Standing::Nameless => {
            let execution = execution(needs);
            let usable = directories(path, execution);
            let room = |directory: &PathBuf| {
                file::file_system(directory).is_ok_and(|found| found.free >= file.stored)
            };
            if file.huge_page == 0 && !usable.iter().any(room) {
                refuse(
                    format!(
                        "neither its old directory nor one for temporary files can be written and has room for {} bytes",
                        file.stored
                    ),
                    "set TMPDIR to a directory with room on a file system where programs may be executed",
                );
            }
        }
        Standing::Named => {
            if !path.is_absolute() {
                return Err(damaged());
            }
            let directory = path.parent().unwrap_or(path);
            let there = std::fs::symlink_metadata(path);
            if there.as_ref().is_ok_and(|there| !there.is_file()) {
                refuse(
                    "it is no regular file any more".into(),
                    "move away what is in its place",
                );
            } else if there.is_err() && !file::may_access(directory, libc::W_OK | libc::X_OK) {
                refuse(
                    "it does not exist here, and its directory cannot be written".into(),
                    "make its directory, or restart as a user who may write there",
                );
            }
        }
    }
    Ok(())
}

/// What a file's place must allow.
pub(super) fn execution(needs: &Needs) -> Execution {
    if needs.executed {
        Execution::Needed
    } else {
        Execution::NotNeeded
    }
}

/// Makes an empty file without a name, open for reading and writing. `unnamed` makes one that may be
/// given a name later (O_TMPFILE).
///
/// # Errors
/// When no directory takes it.
pub(super) fn make_nameless(
    file: &KeptFile,
    execution: Execution,
    unnamed: impl Fn(&Path) -> std::io::Result<File>,
) -> std::io::Result<File> {
    let identity = file.identity.clone().unwrap_or_default();
    let path = path_of(&identity.path);
    let mut last = IoError::from(ErrorKind::NotFound);
    for directory in directories(path, execution) {
        let is_huge = file::file_system(&directory).is_ok_and(|found| found.kind == HUGETLBFS);
        if is_huge != (file.huge_page != 0) {
            continue;
        }
        let made = if file.linkable {
            unnamed(&directory)
        } else {
            let name = path.file_name().unwrap_or(path.as_os_str());
            make_and_remove(&directory, name)
        };
        match made {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Makes what has no content and no name: `make` makes it at a path, `open` opens it there.
///
/// # Errors
/// When no directory takes it.
pub(super) fn make_bare(
    file: &KeptFile,
    make: impl Fn(&Path) -> std::io::Result<()>,
    open: impl Fn(&Path) -> std::io::Result<File>,
) -> std::io::Result<File> {
    let identity = file.identity.clone().unwrap_or_default();
    let path = path_of(&identity.path);
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut last = IoError::from(ErrorKind::NotFound);
    for directory in directories(path, Execution::NotNeeded) {
        let made = free_path(&directory, name, &make);
        let opened = made.and_then(|path| {
            let opened = open(&path);
            std::fs::remove_file(&path)?;
            opened
        });
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes something in a directory, by its name where that is free.
pub(super) fn free_path(
    directory: &Path,
    name: &std::ffi::OsStr,
    make: impl Fn(&Path) -> std::io::Result<()>,
) -> std::io::Result<PathBuf> {
    for attempt in 0..100 {
        let path = if attempt == 0 {
            directory.join(name)
        } else {
            directory.join(beside(name, attempt))
        };
        match make(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Makes a file and removes its name. It has the name that it had where that is free, since /proc shows it.
fn make_and_remove(directory: &Path, name: &std::ffi::OsStr) -> std::io::Result<File> {
    let made = std::cell::RefCell::new(None);
    let path = free_path(directory, name, |path| {
        let file = options().create_new(true).open(path)?;
        made.replace(Some(file));
        Ok(())
    })?;
    std::fs::remove_file(path)?;
    made.into_inner().ok_or_else(|| ErrorKind::NotFound.into())
}

/// A name for a file that is made beside another.
pub(super) fn beside(name: &std::ffi::OsStr, attempt: u32) -> std::ffi::OsString {
    const LONGEST: usize = 255;
    let end = format!(".cryo-{}-{attempt}", std::process::id());
    let name = name.as_bytes();
    let kept = &name[..name.len().min(LONGEST - 1 - end.len())];
    let all = [b".", kept, end.as_bytes()].concat();
    std::ffi::OsStr::from_bytes(&all).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::memory::FileIdentity;

    #[test]
    fn a_file_without_a_name_has_had_its_own_if_that_is_free() {
        let directory = std::env::temp_dir().join(format!("cryonaut-kept-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("file");
        let file = KeptFile {
            identity: Some(FileIdentity {
                path: path.as_os_str().as_bytes().to_vec(),
                ..FileIdentity::default()
            }),
            ..KeptFile::default()
        };
        let shown = |file: &File| {
            use std::os::fd::AsFd;
            std::fs::read_link(cryonaut_sys::file::own_path(file.as_fd())).unwrap()
        };
        let made = make_nameless(&file, Execution::NotNeeded, |_| unreachable!()).unwrap();
        let wanted = format!("{} (deleted)", path.display());
        assert_eq!(shown(&made), Path::new(&wanted));
        std::fs::write(&path, "another").unwrap();
        let made = make_nameless(&file, Execution::NotNeeded, |_| unreachable!()).unwrap();
        assert!(shown(&made).starts_with(&directory));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        std::fs::remove_dir_all(&directory).unwrap();
        // The directory has gone: another takes it.
        assert!(make_nameless(&file, Execution::NotNeeded, |_| unreachable!()).is_ok());
    }

    #[test]
    fn names_beside_others_are_short_enough() {
        let long = "x".repeat(255);
        assert!(beside(std::ffi::OsStr::new(&long), 99).len() <= 255);
    }
}
