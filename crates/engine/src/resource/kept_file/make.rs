//! Making kept files at a restart: each once, however many descriptors and mappings refer to it.

use std::ffi::CString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_sys::file::{self, memory_file, own_path};
use cryonaut_sys::{descriptor, pidfd};
use cryonaut_tracee::CallList;

use super::node::{self, Node};
use super::place::{self, Execution};
use super::{KeptFile, Needs, Standing, content, damaged, text};
use crate::error::Attempt;
use crate::plan::{Action, Token};
use crate::rebuild::{Access, Rebuild};
use crate::resource::file::{path_of, reopen};
use crate::{Error, Result};

/// F_ADD_SEALS, F_GET_SEALS (fcntl(2)).
const ADD_SEALS: i32 = 1033;
const GET_SEALS: i32 = 1034;

/// Makes the file, with its content, and lends it to the processes that map or execute it.
#[derive(Clone)]
pub(super) struct Make {
    file: Arc<KeptFile>,
    needs: Needs,
    /// Set where the file that was found in its place is what was saved, and stays; or is a device's other node.
    stays: Arc<AtomicBool>,
}

impl Make {
    pub(super) fn new(file: KeptFile, needs: Needs) -> Result<Self> {
        file.identity()?;
        Ok(Self {
            file: Arc::new(file),
            needs,
            stays: Arc::default(),
        })
    }

    /// Whether it is a directory, which is made together with all others ([`Directories`]).
    pub(super) fn is_directory(&self) -> bool {
        self.file.file_type() == libc::S_IFDIR
    }

    /// Whether it has seals, which are put on when everything is mapped.
    pub(super) fn seals(&self) -> bool {
        self.file.standing() == Standing::Memory && self.file.seals.is_some_and(|seals| seals != 0)
    }

    fn path(&self) -> &[u8] {
        let identity = self.file.identity.as_ref();
        identity.map_or(&[], |found| &found.path)
    }

    fn size(&self) -> u64 {
        self.file.identity.as_ref().map_or(0, |found| found.size)
    }
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.file.standing() {
            Standing::Named => "put back",
            _ => "make",
        };
        if self.file.file_type() != libc::S_IFREG {
            return write!(f, "{verb} {}", text(&self.file));
        }
        write!(
            f,
            "{verb} {} of {} bytes, {} of them no holes",
            text(&self.file),
            self.size(),
            self.file.stored
        )
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let (file, text) = (&*self.file, text(&self.file));
        let made = match file.standing() {
            Standing::Memory => {
                let made = make_memory(file).attempt(|| format!("making {text}"))?;
                self.fill(rebuild, &made, &text)?;
                made
            }
            Standing::Nameless if file.file_type() == libc::S_IFIFO => {
                let make = |path: &Path| file::make_node(path, libc::S_IFIFO | 0o600, (0, 0));
                place::make_bare(file, make, name_only).attempt(|| format!("making {text}"))?
            }
            Standing::Nameless
                if matches!(
                    file.file_type(),
                    libc::S_IFCHR | libc::S_IFBLK | libc::S_IFSOCK
                ) =>
            {
                match node::make(file).attempt(|| format!("making {text}"))? {
                    Node::Made(made) => made,
                    Node::Found(found) => {
                        // It is others' too: nothing of it may change.
                        self.stays.store(true, Ordering::Relaxed);
                        found
                    }
                }
            }
            Standing::Nameless if file.file_type() == libc::S_IFLNK => {
                let target = path_of(&file.target);
                let make = |path: &Path| std::os::unix::fs::symlink(target, path);
                place::make_bare(file, make, name_only).attempt(|| format!("making {text}"))?
            }
            Standing::Nameless => {
                let execution = place::execution(&self.needs);
                let unnamed = |directory: &Path| make_unnamed(rebuild, directory);
                let made = place::make_nameless(file, execution, unnamed)
                    .attempt(|| format!("making {text}"))?;
                self.fill(rebuild, &made, &text)?;
                made
            }
            Standing::Named => self.put_back(rebuild, &text)?,
            Standing::Unknown => return Err(damaged()),
        };
        for &access in &self.needs.lent {
            // What is opened for writing cannot be executed: lending what it was made with opens nothing.
            let lent = match access {
                Access::Reading => reopen(made.as_fd(), libc::O_RDONLY as u32),
                Access::Writing => made.try_clone().map(OwnedFd::from),
            };
            let lent = lent.attempt(|| format!("opening {text}"))?;
            rebuild.lend(file.id, access, lent.as_fd())?;
        }
        rebuild.kept.insert(file.id, made.into());
        Ok(())
    }
}

/// Makes a file that never had a name (O_TMPFILE) in the progenitor: it can be linked only in the mount namespace where it was
/// opened, which is to be that of the job.
fn make_unnamed(rebuild: &Rebuild<'_>, directory: &Path) -> std::io::Result<File> {
    let mut list = CallList::new();
    let path = list.path(directory.as_os_str().as_bytes());
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    let arguments = [
        libc::AT_FDCWD.into(),
        path.into(),
        flags.into(),
        0o600.into(),
    ];
    let call = list.call(libc::SYS_openat, &arguments);
    let run = |list: &CallList| rebuild.run(0, list).map_err(std::io::Error::other);
    let number = run(&list)?.result(call)?;
    let progenitor = rebuild.built(0).map_err(std::io::Error::other)?.pid;
    let made = pidfd::open(progenitor)
        .and_then(|process| pidfd::get_descriptor(process.as_fd(), number as i32));
    let mut list = CallList::new();
    list.call(libc::SYS_close, &[number.into()]);
    run(&list)?;
    Ok(made?.into())
}

/// A descriptor that names what is at a path, itself.
pub(super) fn name_only(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
}

fn make_memory(file: &KeptFile) -> std::io::Result<File> {
    let identity = file.identity.clone().unwrap_or_default();
    let name = identity.path.strip_prefix(b"/memfd:").unwrap_or_default();
    let name = CString::new(name).map_err(std::io::Error::other)?;
    let mut common = memory_file::ALLOW_SEALING;
    if file.huge_page != 0 {
        common |= memory_file::HUGETLB | file.huge_page.ilog2() << memory_file::HUGE_SHIFT;
    }
    // Kernels before 6.3 do not know of executable ones; the last is all that `vm.memfd_noexec` may allow.
    let ways = [memory_file::EXEC, 0, memory_file::NOEXEC_SEAL];
    let mut made = Err(std::io::ErrorKind::Unsupported.into());
    for way in ways {
        made = file::make_memory_file(&name, common | way);
        if made.is_ok() {
            break;
        }
    }
    Ok(made?.into())
}

/// A file beside the one whose place it is to take. Unless it takes it, it goes when this is dropped.
struct Beside {
    path: PathBuf,
    target: PathBuf,
}

impl Beside {
    fn make(target: PathBuf) -> std::io::Result<(Self, File)> {
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let mut attempt = 0;
        loop {
            let path = directory.join(place::beside(name, attempt));
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(0o600).create_new(true);
            match options.open(&path) {
                Ok(file) => return Ok((Self { path, target }, file)),
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 100 =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take_its_place(mut self) -> std::io::Result<()> {
        std::fs::rename(&self.path, &self.target)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Make {
    /// Gives a new file its content.
    fn fill(&self, rebuild: &Rebuild<'_>, made: &File, text: &str) -> Result<()> {
        let part = (self.file.id, self.size());
        if self.file.huge_page == 0 {
            return content::fill(rebuild.image, part, made, text);
        }
        // Files of huge pages are written through mappings only.
        made.set_len(self.size())
            .attempt(|| format!("{text}: giving it {} bytes", self.size()))?;
        if self.size() == 0 {
            return Ok(());
        }
        let number = rebuild.give_spare(0, made.as_fd())?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Pages are taken as they are filled: what is a hole needs none.
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let size = self.size().next_multiple_of(self.file.huge_page);
        let arguments = [
            0.into(),
            size.into(),
            protection.into(),
            flags.into(),
            number.into(),
            0.into(),
        ];
        let at = rebuild.call(0, "mapping huge pages", libc::SYS_mmap, &arguments)?;
        let place = (rebuild.built(0)?.pid, at);
        let filled = crate::copy_in::fill(
            rebuild.image,
            self.file.id,
            place,
            rebuild.processors(),
            rebuild.stop,
        );
        rebuild.call(0, "unmapping", libc::SYS_munmap, &[at.into(), size.into()])?;
        rebuild.call(0, "closing", libc::SYS_close, &[number.into()])?;
        filled.map(drop).map_err(|error| {
            Error::Failed(format!(
                "{text}: filling huge pages failed: {error}; make more of them (vm.nr_hugepages)"
            ))
        })
    }

    /// What the path leads to where that is what was saved, or has only grown: then others who use it go on sharing it. Otherwise
    /// a new file, which takes the old one's place when the job is committed: until then nothing that anybody uses changes.
    fn put_back(&self, rebuild: &mut Rebuild<'_>, text: &str) -> Result<File> {
        let identity = self.file.identity()?;
        let (path, size) = (path_of(&identity.path), identity.size);
        let part = (self.file.id, size);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        if let Ok(now) = open
            && now.metadata().is_ok_and(|found| found.is_file())
            && content::begins_with(rebuild.image, part, &now)?
        {
            self.stays.store(true, Ordering::Relaxed);
            let copy = now.try_clone().attempt(|| format!("opening {text}"))?;
            let (what, modified) = (format!("cutting {text} back"), identity.modified);
            rebuild.after_commit.push(Box::new(move || {
                if copy.metadata().is_ok_and(|found| found.len() > size) {
                    copy.set_len(size).attempt(|| what)?;
                    // Only its owner may set the time of a file.
                    let _ = file::set_modified(&own_path(copy.as_fd()), modified);
                }
                Ok(())
            }));
            return Ok(now);
        }
        if let Ok(there) = std::fs::symlink_metadata(path) {
            self.may_replace(&there, path, text)?;
        }
        let (beside, made) = Beside::make(path.to_path_buf()).map_err(|error| {
            Error::Failed(format!(
                "{text}: it is not what it was when it was saved, and nothing can be made beside it: {error}"
            ))
        })?;
        self.fill(rebuild, &made, text)?;
        let what = format!("{text}: putting it back in its place");
        rebuild
            .after_commit
            .push(Box::new(move || beside.take_its_place().attempt(|| what)));
        Ok(made)
    }

    /// In a directory with the sticky bit only the owner of a file, or of the directory, may replace it.
    fn may_replace(&self, there: &std::fs::Metadata, path: &Path, text: &str) -> Result<()> {
        let directory = path.parent().and_then(|path| std::fs::metadata(path).ok());
        let user = cryonaut_sys::task::effective_ids().0;
        let sticky = directory.as_ref().is_some_and(|found| {
            found.mode() & libc::S_ISVTX != 0 && found.uid() != user && there.uid() != user
        });
        if sticky && user != 0 {
            return Err(Error::Failed(format!(
                "{text}: it is not what it was when it was saved, and belongs to user {}, in a directory where only that user may replace it",
                there.uid()
            )));
        }
        Ok(())
    }
}

/// Makes all removed directories, one in the other as they were, and removes them again.
pub(super) struct Directories {
    all: Vec<Make>,
}

impl Directories {
    pub(super) fn of(all: &[Make]) -> Self {
        let mut all = all.to_vec();
        // Those above come first.
        all.sort_by_key(|make| make.path().len());
        Self { all }
    }

    /// What it gives.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let all = self.all.iter();
        all.map(|make| Token::Object(make.file.id)).collect()
    }
}

impl fmt::Display for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.all.iter().map(|make| text(&make.file)).collect();
        write!(f, "make {}", all.join(", "))
    }
}

/// Directories that are there only until what needs them is open.
#[derive(Default)]
struct Scaffold {
    made: Vec<PathBuf>,
}

impl Scaffold {
    /// Makes a directory, and what lacks above it.
    fn make(&mut self, parent: &Path, name: &std::ffi::OsStr) -> std::io::Result<PathBuf> {
        let mut lacking: Vec<&Path> = parent
            .ancestors()
            .take_while(|path| !path.exists())
            .collect();
        while let Some(path) = lacking.pop() {
            make_directory(path)?;
            self.made.push(path.to_path_buf());
        }
        let path = place::free_path(parent, name, make_directory)?;
        self.made.push(path.clone());
        Ok(path)
    }
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path)
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

impl Action for Directories {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut scaffold = Scaffold::default();
        // Where those are that were made, by where they had been.
        let mut now: Vec<(PathBuf, PathBuf)> = Vec::new();
        for make in &self.all {
            let old = path_of(make.path());
            let what = || format!("making {}", text(&make.file));
            let name = old.file_name().unwrap_or(old.as_os_str());
            let above = old.parent().unwrap_or(old);
            let moved = now.iter().find(|(before, _)| before == above);
            let parent = moved.map_or(above, |(_, after)| after);
            let mut made = scaffold.make(parent, name);
            for other in place::directories(Path::new(""), Execution::NotNeeded) {
                if made.is_ok() {
                    break;
                }
                made = scaffold.make(&other, name);
            }
            let made = made.attempt(what)?;
            let open = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                .open(&made);
            rebuild
                .kept
                .insert(make.file.id, open.attempt(what)?.into());
            now.push((old.to_path_buf(), made));
        }
        Ok(())
    }
}

/// Gives a kept file owner, mode, attributes and times, once everything that opens it is open.
pub(super) struct Settle {
    make: Make,
}

impl Settle {
    pub(super) fn of(make: &Make) -> Self {
        Self { make: make.clone() }
    }
}

impl fmt::Display for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.make.file.identity.as_ref().map_or(0, |file| file.mode);
        write!(
            f,
            "give {} its owner, mode {:03o} and times",
            text(&self.make.file),
            mode & 0o7777
        )
    }
}

impl Action for Settle {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let (file, text) = (&*self.make.file, text(&self.make.file));
        let identity = file.identity()?;
        let made = rebuild.kept.get(&file.id).ok_or_else(damaged)?;
        if !self.make.stays.load(Ordering::Relaxed) {
            settle(file, identity.mode, identity.modified, made, &text)?;
        }
        // A file that is open for writing cannot be executed.
        let plain = file.file_type() == libc::S_IFREG;
        if plain && !self.make.needs.writers && !self.make.seals() {
            read_only(rebuild, file.id)?;
        }
        Ok(())
    }
}

fn settle(file: &KeptFile, mode: u32, modified: i64, made: &OwnedFd, text: &str) -> Result<()> {
    let path = own_path(made.as_fd());
    let now = std::fs::metadata(&path).attempt(|| format!("looking at {text}"))?;
    if (now.uid(), now.gid()) != (file.user, file.group) {
        // Whether that may fail was decided when the restart was planned.
        let _ = std::os::unix::fs::chown(&path, Some(file.user), Some(file.group));
    }
    let named_only = file.file_type() == libc::S_IFLNK;
    for attribute in file.attributes.iter().filter(|_| !named_only) {
        let set = file::set_extended_attribute(&path, &attribute.name, &attribute.value);
        if attribute.name.starts_with(b"user.") {
            set.attempt(|| {
                let name = String::from_utf8_lossy(&attribute.name);
                format!("{text}: setting its attribute {name}")
            })?;
        }
    }
    if file.file_type() == libc::S_IFLNK {
        return Ok(());
    }
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777);
    std::fs::set_permissions(&path, permissions).attempt(|| format!("{text}: setting its mode"))?;
    if !file.partial {
        file::set_modified(&path, modified).attempt(|| format!("{text}: setting its times"))?;
    }
    Ok(())
}

/// Holds a file no longer for writing.
fn read_only(rebuild: &mut Rebuild<'_>, kept: u64) -> Result<()> {
    let made = rebuild.kept.get(&kept).ok_or_else(damaged)?;
    let (place, reading) = (libc::O_PATH, libc::O_RDONLY);
    // One that its owner may not read can still be named.
    let held = reopen(made.as_fd(), reading as u32)
        .or_else(|_| reopen(made.as_fd(), place as u32))
        .attempt(|| "opening a kept file again".into())?;
    rebuild.kept.insert(kept, held);
    Ok(())
}

/// Puts the seals on a memory file.
pub(super) struct Seal {
    make: Make,
}

impl Seal {
    pub(super) fn of(make: &Make) -> Self {
        Self { make: make.clone() }
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seals = self.make.file.seals.unwrap_or(0);
        write!(f, "seal {} with {seals:#x}", text(&self.make.file))
    }
}

impl Action for Seal {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let (file, text) = (&*self.make.file, text(&self.make.file));
        let made = rebuild.kept.get(&file.id).ok_or_else(damaged)?;
        let wanted = i64::from(file.seals.unwrap_or(0));
        let what = || format!("sealing {text}");
        let now = descriptor::control(made.as_fd(), GET_SEALS, 0).attempt(what)?;
        if wanted & !now != 0 {
            descriptor::control(made.as_fd(), ADD_SEALS, wanted & !now).attempt(what)?;
        }
        if !self.make.needs.writers {
            read_only(rebuild, file.id)?;
        }
        Ok(())
    }
}

/// Closes what was lent to a process.
pub(super) struct Return {
    pub(super) process: i32,
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "close the files that it was lent to map them")
    }
}

impl Action for Return {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.return_lent(self.process)
    }
}

/// Holds kept files as places from now on: watches of them, which are set after that, are to hear nothing of their being closed.
pub(super) struct HoldAsPlaces;

impl fmt::Display for HoldAsPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "close the files that were kept by content")
    }
}

impl Action for HoldAsPlaces {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for held in rebuild.kept.values_mut() {
            let place = reopen(held.as_fd(), libc::O_PATH as u32);
            *held = place.attempt(|| "opening a kept file again".into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_beside_another_goes_unless_it_takes_its_place() {
        let target = std::env::temp_dir().join(format!("cryonaut-beside-{}", std::process::id()));
        std::fs::write(&target, "old").unwrap();
        let (beside, mut file) = Beside::make(target.clone()).unwrap();
        file.write_all(b"new").unwrap();
        let path = beside.path.clone();
        drop(beside);
        assert!(!path.exists());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
        let (beside, mut file) = Beside::make(target.clone()).unwrap();
        file.write_all(b"new").unwrap();
        beside.take_its_place().unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        std::fs::remove_file(&target).unwrap();
    }

    #[test]
    fn memory_files_have_their_names() {
        let file = KeptFile {
            identity: Some(crate::resource::memory::FileIdentity {
                path: b"/memfd:a name".to_vec(),
                ..Default::default()
            }),
            ..KeptFile::default()
        };
        let made = make_memory(&file).unwrap();
        let link = std::fs::read_link(own_path(made.as_fd())).unwrap();
        assert_eq!(link.to_str().unwrap(), "/memfd:a name (deleted)");
    }
}
