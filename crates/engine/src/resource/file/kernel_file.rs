//! Files and directories of /proc and /sys, which are the kernel's own doing: by name, flags, position.
//!
//! /proc/PID/fd shows the name, in which processes and threads of the job are called by their ids. They have the same ids
//! after a restart, so the name means the same; a process of the job opens the file once all threads are born, since what
//! /proc shows depends on which mount of it is asked, and by whom. Files of a process that has ended are opened as those of
//! another one, which then ends. Files of a process outside the job are refused. The position is restored where the file
//! has one. Files of process 1 are taken for what they are named by: whoever is init where the job is restarted. A descriptor
//! of a namespace that a process of the job is in is opened by the name of that, too, /proc/PID/ns/NAME; of another namespace
//! it is refused. Not preserved: the content, which is what the kernel has to say then, and the pid in the name of a file of a
//! process that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::pidfd;
use cryonaut_tracee::CallList;

use super::facts::{Description, FdFacts, Job, Place};
use super::{
    DescriptorKind, DescriptorTable, SETTABLE, SlotRecord, give_late, holders, options, path_of,
    refused,
};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// The process that every pid namespace has.
pub(crate) const INIT: i32 = 1;
/// What the kernel adds to the name of a file that is gone.
const DELETED: &[u8] = b" (deleted)";

/// An open file or directory of /proc or /sys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KernelFile {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Position in bytes; for a directory what the file system uses.
    #[prost(uint64, tag = "3")]
    pub position: u64,
    /// Its name, with the ids that processes have in their own namespace; for a file of a process that has ended what
    /// follows its directory, with `/` before it, or nothing.
    #[prost(bytes = "vec", tag = "4")]
    pub path: Vec<u8>,
    /// The process or thread that it is about has ended.
    #[prost(bool, tag = "5")]
    pub gone: bool,
    /// The type bits of its `st_mode`.
    #[prost(uint32, tag = "6")]
    pub file_type: u32,
}

impl Record for KernelFile {
    const KIND: Kind = Kind {
        name: "file.kernel",
        version: 1,
    };
}

impl KernelFile {
    fn is_place(&self) -> bool {
        self.flags as i32 & libc::O_PATH != 0
    }

    /// Flags to open it with. A link at the end of its name is what is meant.
    fn opening_flags(&self) -> u32 {
        let made = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_ASYNC;
        let flags = self.flags & !(made as u32) | libc::O_NOCTTY as u32;
        if self.is_place() {
            flags | libc::O_NOFOLLOW as u32
        } else {
            flags
        }
    }
}

/// What a file of /proc or /sys is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// The machine, or a process of the job: the name in the job's own terms.
    Name(Vec<u8>),
    /// A process or thread that has ended: what follows its directory.
    Gone(Vec<u8>),
    /// A process outside the job.
    Outside(i32),
    /// A namespace that no process of the job is in.
    Namespace,
}

/// The objects that are opened only once threads are born; slots get them then.
///
/// # Errors
/// When the records are damaged.
pub(super) fn late(records: &RecordSet) -> Result<BTreeSet<u64>> {
    Ok(records
        .all::<KernelFile>()?
        .iter()
        .filter(|file| !file.gone)
        .map(|file| file.object)
        .collect())
}

/// The kind.
pub(super) struct KernelFiles;

impl DescriptorKind for KernelFiles {
    fn kinds(&self) -> &'static [Kind] {
        const { &[KernelFile::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        let link = facts.is_place() && facts.file_type() == libc::S_IFLNK;
        let named = refused::is_kernel_file(&facts.link)
            && (link || matches!(facts.file_type(), libc::S_IFREG | libc::S_IFDIR));
        named || namespace_kind(&facts.link).is_some()
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let mut refuse = |reason: String, remedy: &str| {
            let label = job.owner(description.first()).label();
            refusals.add(label, job.name(description), reason, remedy);
        };
        match about(description, job) {
            About::Outside(pid) => {
                let whose = match ProcessDirectory::open(pid).and_then(|other| other.stat()) {
                    Ok(stat) => format!("process {pid} ({})", printable(&stat.comm)),
                    Err(_) => format!("process {pid}"),
                };
                refuse(
                    format!("it is about {whose}, which is not in the job"),
                    "take that process into the job as well, or close the file before the checkpoint",
                );
            }
            About::Name(_)
                if matches!(description.facts.place, Place::Deleted | Place::Elsewhere) =>
            {
                refuse(
                    "what it was about is gone from there".into(),
                    "close it before the checkpoint",
                );
            }
            About::Namespace => refuse(
                "it is a namespace that no process of the job is in".into(),
                "close it before the checkpoint",
            ),
            About::Name(_) | About::Gone(_) => {}
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let facts = &description.facts;
            let (path, gone) = match about(description, job) {
                About::Name(path) => (path, false),
                About::Gone(rest) => (rest, true),
                About::Outside(pid) => {
                    return Err(Error::Failed(format!(
                        "{}: process {pid} is not in the job any more",
                        job.name(description)
                    )));
                }
                About::Namespace => {
                    return Err(Error::Failed(format!(
                        "{}: no process of the job is in that namespace any more",
                        job.name(description)
                    )));
                }
            };
            collection.put(&KernelFile {
                object: description.object,
                flags: facts.flags(),
                position: facts.info.position.max(0) as u64,
                path,
                gone,
                file_type: facts.file_type(),
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let files = records.all::<KernelFile>()?;
        if files.is_empty() {
            return Ok(());
        }
        let holders = holders(records)?;
        let mut slots: BTreeMap<u64, Vec<(i32, SlotRecord)>> = BTreeMap::new();
        for table in records.all::<DescriptorTable>()? {
            for slot in table.slots {
                let of_object = slots.entry(slot.object).or_default();
                of_object.push((table.process, slot));
            }
        }
        for file in files {
            if file.gone {
                let needs = vec![Token::Process(0)];
                plan.linked_step(Stage::Objects, 0, needs, vec![], OpenGone { file });
                continue;
            }
            if !refused::is_kernel_file(&file.path) {
                return Err(Error::Failed(
                    "the image is damaged: a file of /proc or /sys with another name".into(),
                ));
            }
            if id_in(&file.path).is_none() {
                check(&file, holders.get(&file.object).copied(), plan);
            }
            if let Some(slots) = slots.remove(&file.object) {
                let process = slots[0].0;
                plan.step(Stage::Task, process, Open { file, slots });
            }
        }
        Ok(())
    }
}

/// What a description is about.
fn about(description: &Description, job: &Job<'_>) -> About {
    let facts = &description.facts;
    if let Some(kind) = namespace_kind(&facts.link) {
        return namespace(&facts.link, kind, job);
    }
    let leads = facts.place == Place::Leads;
    let path = match facts.link.strip_suffix(DELETED) {
        Some(path) if !leads => path,
        _ => &facts.link,
    };
    let Some((id, rest)) = id_in(path) else {
        return About::Name(path.to_vec());
    };
    let task = id_before(rest, b"/task/");
    if !leads {
        let rest = task.map_or(rest, |(_, rest)| rest);
        return About::Gone(rest.to_vec());
    }
    // In another mount of procfs than ours processes have the ids of the pid namespace that it is of: the job's own.
    let ours = is_ours(description, job);
    let found = if ours {
        job.inner(id)
    } else {
        job.owners
            .iter()
            .any(|owner| owner.inner == id)
            .then_some(id)
    };
    let process = match found {
        Some(process) => process,
        None if id == INIT => INIT,
        None => return About::Outside(id),
    };
    let mut name = format!("/proc/{process}").into_bytes();
    match task {
        Some((task, rest)) => {
            let task = if ours { job.inner(task) } else { Some(task) };
            name.extend(format!("/task/{}", task.unwrap_or(0)).into_bytes());
            name.extend(rest);
        }
        None => name.extend(rest),
    }
    About::Name(name)
}

/// The kind of namespace that a link of the form `net:[4026531840]` leads to.
fn namespace_kind(link: &[u8]) -> Option<&'static str> {
    const KINDS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let (kind, number) = str::from_utf8(link).ok()?.split_once(":[")?;
    let number = number.strip_suffix(']')?;
    number.parse::<u64>().ok()?;
    KINDS.into_iter().find(|known| *known == kind)
}

/// The name of a namespace by a process of the job that is in it, or has its children born in it.
fn namespace(link: &[u8], kind: &str, job: &Job<'_>) -> About {
    for name in [kind.to_owned(), format!("{kind}_for_children")] {
        for owner in job.owners.iter().filter(|owner| !owner.is_thread()) {
            let own = owner.directory().link(&format!("ns/{name}"));
            if own.is_ok_and(|own| own == link) {
                return About::Name(format!("/proc/{}/ns/{name}", owner.inner).into_bytes());
            }
        }
    }
    About::Namespace
}

/// The process or thread that a name below /proc is about, and what follows.
pub(crate) fn id_in(path: &[u8]) -> Option<(i32, &[u8])> {
    id_before(path, b"/proc/")
}

/// The number that follows `beginning`, and what comes after.
pub(crate) fn id_before<'a>(path: &'a [u8], beginning: &[u8]) -> Option<(i32, &'a [u8])> {
    let rest = path.strip_prefix(beginning)?;
    let end = rest
        .iter()
        .position(|&byte| byte == b'/')
        .unwrap_or(rest.len());
    let id = str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((id, &rest[end..]))
}

/// Whether a description is on our own mount of procfs.
fn is_ours(description: &Description, job: &Job<'_>) -> bool {
    let slot = description.first();
    let file = format!("/proc/{}/fd/{}", job.owner(slot).pid, slot.number);
    // Links of /proc/PID/fd lead to what is open, also where that is a link itself.
    let device = |path: &str| std::fs::metadata(path).map(|found| found.dev()).ok();
    device(&file) == device("/proc")
}

/// Refuses a file that is not here or may not be opened.
fn check(file: &KernelFile, holder: Option<(i32, i32)>, plan: &mut Plan) {
    let (process, number) = holder.unwrap_or_default();
    let what = format!("descriptor {number}, file {}", printable(&file.path));
    let there = std::fs::symlink_metadata(path_of(&file.path));
    let same_type = |found: std::fs::FileType| match file.file_type {
        libc::S_IFDIR => found.is_dir(),
        libc::S_IFLNK => found.is_symlink(),
        _ => !found.is_dir() && !found.is_char_device(),
    };
    let (reason, remedy) = match there {
        Ok(found) if same_type(found.file_type()) => {
            let opened = options(file.opening_flags()).open(path_of(&file.path));
            match opened {
                Err(error) if !file.is_place() => (
                    format!("it cannot be opened: {error}"),
                    "restart as a user who may open it",
                ),
                _ => return,
            }
        }
        Ok(_) => (
            "it is something else here".into(),
            "restart on a machine that has it",
        ),
        Err(error) => (
            format!("it is not here: {error}"),
            "restart on a machine that has it",
        ),
    };
    plan.refusals.add((process, ""), what, reason, remedy);
}

/// Has a process open a file and gives it to all slots.
struct Open {
    file: KernelFile,
    slots: Vec<(i32, SlotRecord)>,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KernelFile { path, position, .. } = &self.file;
        write!(f, "open {} at {position}", printable(path))
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let opened = open_in(rebuild, self.slots[0].0, &self.file)?;
        give_late(rebuild, self.file.object, opened, &self.slots)
    }
}

/// Has a process open a file, and takes that from it.
fn open_in(rebuild: &Rebuild<'_>, process: i32, file: &KernelFile) -> Result<OwnedFd> {
    let what = || format!("process {process}: opening {}", printable(&file.path));
    let mut list = CallList::new();
    let path = list.path(&file.path);
    let flags = u64::from(file.opening_flags());
    let open = list.call(
        libc::SYS_openat,
        &[libc::AT_FDCWD.into(), path.into(), flags.into(), 0.into()],
    );
    let outcomes = rebuild.run(process, &list)?;
    let number = outcomes.result(open).attempt(what)?;
    let mut list = CallList::new();
    let seek = list.call(
        libc::SYS_lseek,
        &[number.into(), file.position.into(), libc::SEEK_SET.into()],
    );
    let sought = rebuild.run(process, &list)?.result(seek);
    let (pid, tid) = rebuild.whereabouts(process)?;
    // PIDFD_THREAD (Linux 6.9), for a thread with a table of its own.
    let thread = if pid == tid { 0 } else { libc::O_EXCL as u32 };
    let target = pidfd::open_with(tid, thread).attempt(what)?;
    let taken = pidfd::get_descriptor(target.as_fd(), number as i32).attempt(what)?;
    let mut list = CallList::new();
    list.call(libc::SYS_close, &[number.into()]);
    rebuild.run(process, &list)?;
    if file.is_place() {
        return Ok(taken);
    }
    match sought {
        // Where there is no seeking a position means nothing.
        Err(error) if error.raw_os_error() != Some(libc::ESPIPE) && file.position != 0 => {
            Err(error).attempt(what)
        }
        _ => Ok(taken),
    }
}

/// Opens a file of a process that then ends.
struct OpenGone {
    file: KernelFile,
}

impl fmt::Display for OpenGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = printable(&self.file.path);
        write!(f, "open /proc/PID{rest} of a process that ends")
    }
}

impl Action for OpenGone {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let file = &self.file;
        let opened = rebuild.short_life(0, |pid| {
            let what = || format!("opening a file of process {pid}, which is to end");
            let status = ProcessDirectory::open(pid)?.status()?;
            let inner = status.namespace_pid.last().copied().unwrap_or(pid);
            // By way of the job's own mount of procfs: it is to lead nowhere else.
            let mut path = format!("/proc/{pid}/root/proc/{inner}").into_bytes();
            path.extend(&file.path);
            let mut opened = options(file.opening_flags())
                .open(path_of(&path))
                .attempt(what)?;
            if !file.is_place() {
                use std::io::{Seek, SeekFrom};
                // What cannot be read any more has no position that could be told apart from another.
                let _ = opened.seek(SeekFrom::Start(file.position));
                super::set_flags(opened.as_fd(), file.flags & SETTABLE as u32).attempt(what)?;
            }
            Ok(OwnedFd::from(opened))
        })?;
        rebuild.objects.insert(file.object, opened);
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Files and directories of /proc and /sys: of the job's processes and threads, of ended ones, of the machine",
        level: Level::Restored,
        how: "opened again by name, at their position; what they say is what the kernel has to say then",
    },
    Support {
        what: "Descriptors of the namespaces that the job's processes are in",
        level: Level::Restored,
        how: "those that the same processes are in then; of other namespaces they are refused",
    },
    Support {
        what: "Files of /proc that are about a process outside the job",
        level: Level::Refused,
        how: "take the process into the job, or close the file",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let file = KernelFile {
            object: 3,
            flags: 2,
            position: 17,
            path: b"/proc/7/maps".to_vec(),
            gone: false,
            file_type: libc::S_IFREG,
        };
        let gone = KernelFile {
            object: 4,
            path: b"/status".to_vec(),
            gone: true,
            ..file.clone()
        };
        records.push(&file).unwrap();
        records.push(&gone).unwrap();
        assert_eq!(records.all::<KernelFile>().unwrap(), [file, gone]);
        assert_eq!(late(&records).unwrap(), BTreeSet::from([3]));
    }

    #[test]
    fn whom_a_name_is_about() {
        assert_eq!(namespace_kind(b"net:[4026532181]"), Some("net"));
        assert_eq!(namespace_kind(b"pipe:[17]"), None);
        assert_eq!(namespace_kind(b"net:[x]"), None);
        assert_eq!(id_in(b"/proc/17/status"), Some((17, &b"/status"[..])));
        assert_eq!(id_in(b"/proc/17"), Some((17, &b""[..])));
        assert_eq!(id_in(b"/proc/self"), None);
        assert_eq!(id_in(b"/proc"), None);
        assert_eq!(id_in(b"/sys/17"), None);
        assert_eq!(
            id_before(b"/task/18/comm", b"/task/"),
            Some((18, &b"/comm"[..]))
        );
    }
}
