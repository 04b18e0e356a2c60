//! Where a process stands in the file system: working directory, root directory, umask.
//!
//! Shown by the links /proc/PID/cwd and /proc/PID/root, and Umask in /proc/PID/status. Directories are kept by path, not by
//! content: they must exist where the job is restarted. Threads share all three unless they have called unshare(CLONE_FS), and
//! processes may share them too (CLONE_FS): see [`super::sharing`]. A working directory in /proc is entered by its name where its
//! process is in the job. That of a process that has ended is entered as that of a child, which then ends: what is not preserved is
//! the pid in the name that getcwd no longer gives.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_tracee::CallList;

use super::file::kernel_file;
use super::kept_file::Use;
use super::kept_file::find::removed_directory;
use super::memory::printable;
use super::process::ProcessRecord;
use super::sharing::Shared;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::namespace::in_mount_namespaces;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// CAP_SYS_CHROOT (include/uapi/linux/capability.h).
const CHANGE_ROOT: u64 = 1 << 18;

/// Directories and umask of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsContextRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its working directory, an absolute path as `cryo` sees it, also for a process with another root.
    #[prost(bytes = "vec", tag = "2")]
    pub working_directory: Vec<u8>,
    /// Its root directory, an absolute path as `cryo` sees it.
    #[prost(bytes = "vec", tag = "3")]
    pub root: Vec<u8>,
    /// Permission bits that files which it makes do not get, 0 to 0o777.
    #[prost(uint32, tag = "4")]
    pub umask: u32,
    /// The thread that does not share them with its process; 0 for the process itself.
    #[prost(int32, tag = "5")]
    pub task: i32,
    /// The kept file that the working directory is, by its number, where it was removed; otherwise 0.
    #[prost(uint64, tag = "10")]
    pub kept_working_directory: u64,
    /// The kept file that the root directory is, by its number, where it was removed; otherwise 0.
    #[prost(uint64, tag = "11")]
    pub kept_root: u64,
    /// The working directory is that of a process or thread that has ended, or lies below it: what follows `/proc/PID`.
    #[prost(bytes = "vec", optional, tag = "12")]
    pub ended: Option<Vec<u8>>,
}

impl Record for FsContextRecord {
    const KIND: Kind = Kind {
        name: "fs-context",
        version: 1,
    };
}

/// The resource.
pub struct FsContext;

impl Resource for FsContext {
    fn name(&self) -> &'static str {
        "working directories"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[FsContextRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let members: Vec<_> = target.processes.iter().map(|one| one.inner_pid()).collect();
        let alive: Vec<_> = target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
            .collect();
        for process in alive {
            let label = process.label();
            // A process that has ended meanwhile is none of the job any more.
            let _ = directories(&process.directory, (&label, &members), refusals);
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        let members: Vec<_> = frozen.processes.iter().map(|one| one.inner).collect();
        for process in frozen.alive() {
            let label = (process.pid, process.name());
            let mut put = |task: i32, directory: &ProcessDirectory, umask: Option<u32>| {
                let Directories {
                    working_directory,
                    root,
                    ended,
                } = directories(directory, (&label, &members), &mut refusals)?;
                let umask = umask.ok_or_else(|| {
                    Error::Failed(format!(
                        "process {}: this kernel does not show its umask (Linux 4.7 does)",
                        process.pid
                    ))
                })?;
                let here = directory.pid();
                let kept = |how| collection.kept.of(how).map(|(id, file)| (id, &file.path));
                let (kept_working_directory, working_directory) =
                    match kept(Use::WorkingDirectory(here)) {
                        Some((id, path)) => (id, path.clone()),
                        None => (0, working_directory),
                    };
                let (kept_root, root) = match kept(Use::RootDirectory(here)) {
                    Some((id, path)) => (id, path.clone()),
                    None => (0, root),
                };
                collection.put(&FsContextRecord {
                    process: process.inner,
                    working_directory,
                    root,
                    umask,
                    task,
                    kept_working_directory,
                    kept_root,
                    ended,
                })
            };
            if frozen.sharing.holds(Shared::FsContext, process.pid) {
                put(0, &process.directory, process.status.umask)?;
            }
            for task in &process.tasks {
                let tid = task.stopped.tid();
                let apart = frozen.sharing.of_task(Shared::FsContext, process.pid, tid) == tid;
                if apart && tid != process.pid {
                    let directory = ProcessDirectory::open(tid)?;
                    put(task.inner, &directory, directory.status()?.umask)?;
                }
            }
        }
        refusals.into_result()
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        let elsewhere = in_mount_namespaces(records)?;
        for record in records.all::<FsContextRecord>()? {
            check(&record)?;
            let process = processes
                .iter()
                .find(|process| process.pid == record.process);
            let name = process
                .map(|process| String::from_utf8_lossy(&process.name))
                .unwrap_or_default();
            // Its directories come with its mount namespace otherwise.
            if !elsewhere.contains(&record.process) {
                check_directories(&record, &name, host, plan);
            }
            plan.step(Stage::Restrict, record.process, EnterDirectories { record });
        }
        Ok(())
    }
}

/// Where a process stands, as far as its links tell.
struct Directories {
    working_directory: Vec<u8>,
    root: Vec<u8>,
    /// As in the record.
    ended: Option<Vec<u8>>,
}

/// Reads working and root directory of a process, and refuses one that its path does not lead to, or that is about a process outside
/// the job, whose processes are `members`.
fn directories(
    directory: &ProcessDirectory,
    ((pid, name), members): (&(i32, String), &[i32]),
    refusals: &mut Refusals,
) -> Result<Directories> {
    let mut shown = |link: &str, what: &str| {
        let path = directory.link(link);
        if let Err(error) = &path
            && error.errno() == Some(libc::ENAMETOOLONG)
        {
            refusals.add(
                (*pid, name),
                format!("its {what}"),
                "its path is longer than 4095 bytes, and the kernel neither shows nor takes such a one",
                "have the program change to a directory further up, or move that one, or one above it",
            );
        }
        path
    };
    let root = shown("root", "root directory");
    let working_directory = shown("cwd", "working directory");
    let (root, working_directory) = (root?, working_directory?);
    let base = base(directory, &root)?;
    let mut ended = None;
    for (link, what, path) in [
        ("root", "root directory", &root),
        ("cwd", "working directory", &working_directory),
    ] {
        let mut refuse = |reason: &str, remedy: &str| {
            let object = format!("its {what} {}", printable(path));
            refusals.add((*pid, name), object, reason, remedy);
        };
        let Some(base) = &base else {
            refuse(
                "it has changed its root inside a mount namespace of its own, so no path leads there",
                "checkpoint it from inside its container",
            );
            continue;
        };
        let is_root = link == "root";
        let link = directory.path().join(link);
        if leads_to(base, path, &link) {
            if let Some(other) = outsider(base, path, members) {
                refuse(
                    &format!("it is about process {other}, which is not in the job"),
                    "take that process into the job as well, or have the program change to another directory",
                );
            }
            continue;
        }
        let below = about_ended(path);
        if !is_root && below.is_some() {
            ended = below;
        } else if removed_directory(&link, path).is_none() {
            refuse(
                "its path leads there no more: it was removed or renamed, or is hidden by a mount or by permissions",
                "have the program change to a directory that exists",
            );
        }
    }
    Ok(Directories {
        working_directory,
        root,
        ended,
    })
}

/// What follows the directory of its process, or of its thread, in a name below /proc that leads nowhere any more.
fn about_ended(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let (_, rest) = kernel_file::id_in(path)?;
    let below = kernel_file::id_before(rest, b"/task/").map_or(rest, |(_, below)| below);
    Some(below.to_vec())
}

/// The process outside the job, if it is one, that a name below /proc is about. Init is whoever it is after a restart.
fn outsider(base: &Path, path: &[u8], members: &[i32]) -> Option<i32> {
    let (id, _) = kernel_file::id_in(path)?;
    // Threads have directories that only those who know their ids find.
    let has = |process: &i32| base.join(format!("proc/{process}/task/{id}")).exists();
    (id != kernel_file::INIT && !members.iter().any(has)).then_some(id)
}

/// What the paths of a process' links are relative to: our root, or that of its own mount namespace; none when that cannot be
/// reached. The kernel words these paths for the reader (d_path in fs/d_path.c): a root that the process itself has changed to
/// does not matter.
pub(crate) fn base(directory: &ProcessDirectory, root: &[u8]) -> Result<Option<PathBuf>> {
    let own = ProcessDirectory::open(std::process::id() as i32)?;
    let namespace = directory.namespace("mnt")?;
    Ok(if own.namespace("mnt")? == namespace {
        Some(PathBuf::from("/"))
    } else if root == b"/" {
        Some(directory.path().join("root"))
    } else {
        // An ancestor that started it there and has not changed its root, such as the init of its namespace, shows the way.
        ancestor_at_root(directory, namespace)?.map(|ancestor| ancestor.path().join("root"))
    })
}

/// The nearest ancestor in the mount namespace that has its root.
fn ancestor_at_root(
    directory: &ProcessDirectory,
    namespace: u64,
) -> Result<Option<ProcessDirectory>> {
    let mut parent = directory.stat()?.ppid;
    while parent > 0 {
        let Ok(ancestor) = ProcessDirectory::open(parent) else {
            return Ok(None);
        };
        if ancestor
            .namespace("mnt")
            .is_ok_and(|other| other == namespace)
            && ancestor.link("root").is_ok_and(|root| root == b"/")
        {
            return Ok(Some(ancestor));
        }
        let Ok(stat) = ancestor.stat() else {
            return Ok(None);
        };
        parent = stat.ppid;
    }
    Ok(None)
}

/// Whether `path` under `base` is the directory behind `link`. Comparing the two tells more than the word `(deleted)` in the
/// link's text, which may be part of a name.
fn leads_to(base: &Path, path: &[u8], link: &Path) -> bool {
    let Some(relative) = path.strip_prefix(b"/") else {
        return false;
    };
    let identity = |path: &Path| {
        std::fs::metadata(path)
            .map(|found| (found.dev(), found.ino()))
            .ok()
    };
    let found = identity(&base.join(OsStr::from_bytes(relative)));
    found.is_some() && found == identity(link)
}

/// Refuses records that no process can have had.
fn check(record: &FsContextRecord) -> Result<()> {
    let is_path = |path: &[u8]| path.starts_with(b"/") && !path.contains(&0);
    let is_below = |path: &Vec<u8>| path.is_empty() || is_path(path);
    if is_path(&record.working_directory)
        && is_path(&record.root)
        && record.ended.as_ref().is_none_or(is_below)
        && record.umask <= 0o777
    {
        Ok(())
    } else {
        Err(Error::Failed(format!(
            "the image is damaged: process {} stands nowhere",
            record.process
        )))
    }
}

fn check_directories(record: &FsContextRecord, name: &str, host: &Host, plan: &mut Plan) {
    let both = [
        ("root directory", &record.root),
        ("working directory", &record.working_directory),
    ];
    let kept = [record.kept_root, record.kept_working_directory];
    for ((what, path), _) in both.into_iter().zip(kept).filter(|(_, kept)| *kept == 0) {
        // What lies in /proc comes with the processes themselves.
        if path.starts_with(b"/proc/") || host.provides(path) {
            continue;
        }
        // The dot at the end asks for the permission to enter it too.
        let entered = Path::new(OsStr::from_bytes(path)).join(".");
        if let Err(error) = std::fs::metadata(entered) {
            plan.refusals.add(
                (record.process, name),
                format!("its {what} {}", printable(path)),
                format!("it cannot be entered here: {error}"),
                "make that directory, or tell where it is now: --relocate OLD=NEW, with the beginning of its path then and now",
            );
        }
    }
    // In a fresh pid namespace an ordinary user has all capabilities over a user namespace.
    let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
    if record.root != b"/" && host.shares_pids && capabilities & CHANGE_ROOT == 0 {
        plan.refusals.add(
            (record.process, name),
            format!("its root directory {}", printable(&record.root)),
            "changing the root takes CAP_SYS_CHROOT, which this user lacks here",
            "restart as root, or with --pids namespace",
        );
    }
}

/// Enters the working directory while the root is still ours, then the root; both stay as they are then.
struct EnterDirectories {
    record: FsContextRecord,
}

impl fmt::Display for EnterDirectories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.record.ended {
            Some(below) => write!(
                f,
                "enter /proc/PID{} of a child that ends",
                printable(below)
            )?,
            None => write!(f, "enter {}", printable(&self.record.working_directory))?,
        }
        if self.record.root != b"/" {
            write!(f, " with root {}", printable(&self.record.root))?;
        }
        write!(f, ", umask {:03o}", self.record.umask)
    }
}

impl Action for EnterDirectories {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        let kept = |rebuild: &mut Rebuild<'_>, file, index| match file {
            0 => Ok(None),
            kept => rebuild.give_kept(process, kept, index).map(Some),
        };
        let below = kept(rebuild, self.record.kept_working_directory, 0)?;
        let above = kept(rebuild, self.record.kept_root, 1)?;
        match &self.record.ended {
            None => self.enter(rebuild, &self.record.working_directory, below, above),
            Some(rest) => {
                let process = self.record.process;
                rebuild.short_life_of_child(process, |rebuild, child| {
                    let mut path = format!("/proc/{child}").into_bytes();
                    path.extend(rest);
                    self.enter(rebuild, &path, below, above)
                })
            }
        }
    }
}

impl EnterDirectories {
    /// Enters a working directory by its path, or by the descriptor `below`, and the root likewise, by the descriptor `above`.
    fn enter(
        &self,
        rebuild: &Rebuild<'_>,
        working_directory: &[u8],
        below: Option<i32>,
        above: Option<i32>,
    ) -> Result<()> {
        let FsContextRecord {
            process,
            root,
            umask,
            task,
            ..
        } = &self.record;
        let mut list = CallList::new();
        let entering = |list: &mut CallList| match below {
            Some(number) => list.call(libc::SYS_fchdir, &[number.into()]),
            None => {
                let path = list.path(working_directory);
                list.call(libc::SYS_chdir, &[path.into()])
            }
        };
        let mut calls = vec![(
            "entering its working directory",
            working_directory,
            entering(&mut list),
        )];
        let what = "changing its root to";
        if let Some(number) = above {
            // It can only be entered, and made the root where one stands. Then back to where it stood.
            let here = list.path(b".");
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let back = [libc::AT_FDCWD.into(), here.into(), flags.into()];
            let back = list.call(libc::SYS_openat, &back);
            list.call(libc::SYS_fchdir, &[number.into()]);
            calls.push((what, root, list.call(libc::SYS_chroot, &[here.into()])));
            list.call(libc::SYS_fchdir, &[back.into()]);
            list.call(libc::SYS_close, &[back.into()]);
        } else if root != b"/" {
            let path = list.path(root);
            calls.push((what, root, list.call(libc::SYS_chroot, &[path.into()])));
        }
        for number in below.into_iter().chain(above) {
            list.call(libc::SYS_close, &[number.into()]);
        }
        list.call(libc::SYS_umask, &[u64::from(*umask).into()]);
        let task = if *task == 0 { process } else { task };
        let outcomes = rebuild.run_in_task(*process, *task, &list)?;
        for (what, path, call) in calls {
            outcomes
                .result(call)
                .attempt(|| format!("process {process}: {what} {}", printable(path)))?;
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Working directory, root directory (chroot), umask",
    level: Level::Restored,
    how: "by path; a directory that does not exist where the job is restarted is a refusal there; also a working directory in /proc, of a process of the job or of one that has ended",
}];

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> FsContextRecord {
        FsContextRecord {
            process: 7,
            working_directory: b"/srv/\xff".to_vec(),
            root: b"/".to_vec(),
            umask: 0o027,
            task: 0,
            kept_working_directory: 0,
            kept_root: 0,
            ended: None,
        }
    }

    #[test]
    fn record_round_trip() {
        let mut set = RecordSet::new();
        set.push(&record()).unwrap();
        assert_eq!(set.all::<FsContextRecord>().unwrap(), [record()]);
    }

    #[test]
    fn damaged_records_are_found() {
        assert!(check(&record()).is_ok());
        assert!(
            check(&FsContextRecord {
                working_directory: b"relative".to_vec(),
                ..record()
            })
            .is_err()
        );
        assert!(
            check(&FsContextRecord {
                root: b"/a\0b".to_vec(),
                ..record()
            })
            .is_err()
        );
        assert!(
            check(&FsContextRecord {
                ended: Some(b"x".to_vec()),
                ..record()
            })
            .is_err()
        );
        assert!(
            check(&FsContextRecord {
                umask: 0o1000,
                ..record()
            })
            .is_err()
        );
    }

    #[test]
    fn steps_say_where_they_go() {
        let chrooted = FsContextRecord {
            root: b"/srv".to_vec(),
            working_directory: b"/srv/a".to_vec(),
            ..record()
        };
        assert_eq!(
            EnterDirectories { record: chrooted }.to_string(),
            "enter /srv/a with root /srv, umask 027"
        );
        let ended = FsContextRecord {
            working_directory: b"/proc/9/fd".to_vec(),
            ended: Some(b"/fd".to_vec()),
            ..record()
        };
        assert_eq!(
            EnterDirectories { record: ended }.to_string(),
            "enter /proc/PID/fd of a child that ends, umask 027"
        );
    }

    #[test]
    fn names_of_processes_that_have_ended() {
        assert_eq!(about_ended(b"/proc/17 (deleted)"), Some(vec![]));
        assert_eq!(about_ended(b"/proc/17/fd"), Some(b"/fd".to_vec()));
        assert_eq!(
            about_ended(b"/proc/17/task/18/net (deleted)"),
            Some(b"/net".to_vec())
        );
        assert_eq!(about_ended(b"/srv/17 (deleted)"), None);
        let own = std::process::id() as i32;
        let directory = format!("/proc/{own}/fd").into_bytes();
        assert_eq!(outsider(Path::new("/"), &directory, &[own]), None);
        assert_eq!(outsider(Path::new("/"), &directory, &[1]), Some(own));
        assert_eq!(outsider(Path::new("/"), b"/proc/1", &[own]), None);
        assert_eq!(outsider(Path::new("/"), b"/proc/sys", &[own]), None);
    }

    #[test]
    fn a_removed_directory_is_no_refusal() {
        let place =
            std::env::temp_dir().join(format!("cryo-fs-context-{} (deleted)", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .current_dir(&place)
            .spawn()
            .unwrap();
        let directory = ProcessDirectory::open(child.id() as i32).unwrap();
        let label = (child.id() as i32, "sleep".to_owned());
        let mut refusals = Refusals::default();
        let who = (&label, &[child.id() as i32][..]);
        let found = directories(&directory, who, &mut refusals).unwrap();
        assert_eq!(found.working_directory, place.as_os_str().as_bytes());
        assert_eq!((found.root, found.ended), (b"/".to_vec(), None));
        assert_eq!(refusals.list(), []);
        std::fs::remove_dir(&place).unwrap();
        directories(&directory, who, &mut refusals).unwrap();
        assert_eq!(refusals.list(), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
