//! The files of an image laid over this machine's own tree, for one job alone.
//!
//! `cryo restart` enters a mount namespace of its own (an ordinary user a user namespace first) and makes the embedded files that
//! differ from this machine's appear in it: so all that follows, from the plan to the job's own system calls, finds them at
//! their paths, and the job inherits the namespace. Contents are in memory (tmpfs) and go with the last process that sees them,
//! however it ends; nothing is made on a disk. See `Tree` for how they appear.

mod tree;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use cryonaut_image::{RecordSet, SeekableImage};
use cryonaut_launch::{LaunchError, UserNamespace};
use cryonaut_sys::{file, spawn};

use self::tree::Tree;
use crate::error::Attempt;
use crate::host::{Changed, Grown};
use crate::reference;
use crate::resource::embedded::EmbeddedFile;
use crate::resource::file::{RegularFile, path_of};
use crate::resource::fs_context::FsContextRecord;
use crate::resource::memory::{FileIdentity, identity, printable};
use crate::{Error, Result};

/// What mountinfo shows as the source of the file systems with embedded files.
pub const SOURCE: &CStr = c"cryonaut-embedded";

/// How files that differ here are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Those that changed.
    pub changed: Changed,
    /// Those that grew.
    pub grown: Grown,
}

/// The mount namespace that the calling process has entered, with files of an image in it.
#[derive(Debug)]
pub struct View {
    mounts: File,
    /// What the user should know.
    pub remarks: Vec<String>,
}

impl View {
    /// The namespace: what holds this keeps its mounts.
    pub fn mounts(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }
}

/// The embedded files that a restart here would use, by path: where this machine has none, or others.
///
/// # Errors
/// When their records are damaged.
pub fn needed(records: &RecordSet, choice: Choice) -> Result<Vec<EmbeddedFile>> {
    let mut files = Vec::new();
    for file in records.all::<EmbeddedFile>()? {
        if is_needed(&file, file.checked()?, choice) {
            files.push(file);
        }
    }
    files.sort_by(|one, other| path(one).cmp(path(other)));
    files.dedup_by(|one, other| path(one) == path(other));
    Ok(files)
}

/// The paths of [`needed`] files.
///
/// # Errors
/// As there.
pub fn provided(records: &RecordSet, choice: Choice) -> Result<BTreeSet<Vec<u8>>> {
    let files = needed(records, choice)?;
    Ok(files.iter().map(|file| path(file).to_vec()).collect())
}

fn path(file: &EmbeddedFile) -> &[u8] {
    file.identity.as_ref().map_or(&[], |found| &found.path)
}

fn is_needed(file: &EmbeddedFile, then: &FileIdentity, choice: Choice) -> bool {
    let Some(now) = identity(&then.path, Path::new("/")) else {
        return true;
    };
    match then.mode & libc::S_IFMT {
        libc::S_IFDIR => !std::fs::metadata(path_of(&then.path)).is_ok_and(|found| found.is_dir()),
        libc::S_IFLNK => {
            let here = std::fs::read_link(path_of(&then.path)).ok();
            let leads = |target: &Path| resolved(path_of(&then.path), target);
            !file.only_if_missing
                && here.is_none_or(|here| leads(&here) != leads(path_of(&file.target)))
        }
        _ => {
            let grown =
                file.open && choice.grown != Grown::Refuse && reference::has_grown(then, &now);
            let same = || reference::difference(then, &now).is_none();
            !(file.only_if_missing || choice.changed == Changed::Allow || grown || same())
        }
    }
}

/// Where a symbolic link at `link` leads, by its words alone.
fn resolved(link: &Path, target: &Path) -> PathBuf {
    let mut path = link.parent().unwrap_or(Path::new("/")).to_owned();
    for part in target.components() {
        match part {
            Component::RootDir | Component::Prefix(_) => path = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
        }
    }
    path
}

/// Lays the embedded files that are needed here over this machine's tree, for the calling process and those that it will start;
/// it must have one thread. An ordinary user's process is in a user namespace of its own then, without capabilities. Gives
/// nothing where no file is needed, and then nothing was changed. `stop` is asked again and again whether it is to be given up.
///
/// # Errors
/// [`Error::NotPermitted`] where the system forbids it, [`Error::Refused`] where a place cannot be laid out, [`Error::Interrupted`],
/// and when the image is damaged. The calling process may be in the new namespace then.
pub fn enter(
    image: &SeekableImage,
    records: &RecordSet,
    choice: Choice,
    stop: &dyn Fn() -> bool,
) -> Result<Option<View>> {
    let files = needed(records, choice)?;
    if files.is_empty() {
        return Ok(None);
    }
    let all = records.all::<EmbeddedFile>()?;
    let mut remarks = vec![told(&files)];
    let places = places(records)?;
    remarks.extend(in_memory(&files, &places));
    let here = std::env::current_dir();
    let user = enter_namespace()?;
    let mut tree = Tree::new((image, stop), &all, user, &files);
    for file in &files {
        tree.place(file)?;
    }
    remarks.extend(tree.finish(&places)?);
    if user == UserNamespace::Fresh {
        // From here on everything is as for an ordinary user: the job gets namespaces of its own.
        spawn::drop_capabilities().attempt(|| "giving up capabilities".into())?;
    }
    if let Ok(here) = here {
        // By its path, which may lead to one that was laid out anew.
        let _ = std::env::set_current_dir(here);
    }
    const MOUNTS: &str = "/proc/self/ns/mnt";
    let mounts = File::open(MOUNTS).attempt(|| format!("opening {MOUNTS}"))?;
    Ok(Some(View { mounts, remarks }))
}

fn enter_namespace() -> Result<UserNamespace> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let start = Instant::now();
    loop {
        match cryonaut_launch::enter_private_mounts() {
            // A thread that was waited for may not be quite gone.
            Err(LaunchError::Namespaces { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) && start.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                return Err(Error::NotPermitted(
                    format!("files of the image cannot be laid over those of this machine: {error}"),
                    "write them to their places (cryo extract IMAGE /), or `cryo doctor` tells what this machine permits".into(),
                ));
            }
            Ok(user) => return Ok(user),
        }
    }
}

fn told(files: &[EmbeddedFile]) -> String {
    let contents: BTreeSet<(u64, u64)> = files
        .iter()
        .map(|file| (file.content, file.stored))
        .collect();
    // What an image says of itself need not be possible.
    let stored = contents.iter().map(|(_, stored)| *stored);
    let bytes = stored.fold(0, u64::saturating_add);
    let regular = |file: &&EmbeddedFile| {
        file.identity
            .as_ref()
            .is_some_and(|found| found.mode & libc::S_IFMT == libc::S_IFREG)
    };
    let names: Vec<String> = files
        .iter()
        .filter(regular)
        .map(|file| printable(path(file)))
        .collect();
    let mut text = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text.push_str(&format!(" and {} more", names.len() - 3));
    }
    if names.is_empty() {
        text = "directories and links".into();
    }
    format!(
        "taken from the image, for this job alone, since this machine has none or others: {text} ({bytes} bytes in memory until it ends)"
    )
}

/// The directories that the job works in: those that it is in, and those of files that it writes.
fn places(records: &RecordSet) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for context in records.all::<FsContextRecord>()? {
        found.insert(path_of(&context.working_directory).to_owned());
    }
    for file in records.all::<RegularFile>()? {
        let written = file
            .identity
            .as_ref()
            .filter(|_| file.writes() && file.kept == 0);
        let directory = written.and_then(|identity| path_of(&identity.path).parent());
        found.extend(directory.map(Path::to_owned));
    }
    Ok(found)
}

/// The directories that the job works in and that do not exist here: only the topmost of each.
fn in_memory(files: &[EmbeddedFile], places: &BTreeSet<PathBuf>) -> Option<String> {
    let is_directory = |file: &&EmbeddedFile| {
        file.identity
            .as_ref()
            .is_some_and(|found| found.mode & libc::S_IFMT == libc::S_IFDIR)
    };
    let mut topmost: Vec<&Path> = Vec::new();
    for file in files.iter().filter(is_directory) {
        let path = path_of(path(file));
        let concerns = places.iter().any(|place| place.starts_with(path));
        if concerns && !topmost.iter().any(|above| path.starts_with(above)) {
            topmost.push(path);
        }
    }
    let names: Vec<String> = topmost
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} exists in memory only: what the job writes there goes with it (make the directory, or use cryo extract, before a restart to keep it)",
            names.join(", ")
        )
    })
}

/// Whether the caller could make files in a directory.
fn may_write(directory: &Path) -> bool {
    file::may_access(directory, libc::W_OK | libc::X_OK)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn links_lead_where_their_words_say() {
        for (link, target, leads) in [
            ("/lib", "usr/lib", "/usr/lib"),
            ("/a/b", "../c", "/c"),
            ("/a/b", "/d/./e", "/d/e"),
            ("/a", "../../x", "/x"),
        ] {
            assert_eq!(
                resolved(Path::new(link), Path::new(target)),
                Path::new(leads)
            );
        }
    }

    #[test]
    fn only_what_differs_here_is_needed() {
        let directory =
            std::env::temp_dir().join(format!("cryonaut-needed-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let file_path = directory.join("file");
        std::fs::write(&file_path, "content").unwrap();
        let same = EmbeddedFile {
            identity: identity(file_path.as_os_str().as_bytes(), Path::new("/")),
            ..Default::default()
        };
        let at = |path: &Path, mode: u32| EmbeddedFile {
            identity: Some(FileIdentity {
                path: path.as_os_str().as_bytes().to_vec(),
                mode,
                ..Default::default()
            }),
            target: b"elsewhere".to_vec(),
            ..Default::default()
        };
        let changed = at(&file_path, libc::S_IFREG);
        let mut records = RecordSet::new();
        records.push(&same).unwrap();
        records.push(&at(&directory, libc::S_IFDIR)).unwrap();
        assert!(needed(&records, Choice::default()).unwrap().is_empty());
        records = RecordSet::new();
        records.push(&changed).unwrap();
        records
            .push(&at(&directory.join("none"), libc::S_IFDIR))
            .unwrap();
        records
            .push(&at(&directory.join("link"), libc::S_IFLNK))
            .unwrap();
        assert_eq!(needed(&records, Choice::default()).unwrap().len(), 3);
        let allow = Choice {
            changed: Changed::Allow,
            ..Choice::default()
        };
        assert_eq!(needed(&records, allow).unwrap().len(), 2);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
