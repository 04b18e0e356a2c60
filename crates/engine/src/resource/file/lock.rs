//! File locks: flock(2), POSIX record locks, locks of open file descriptions, and leases (fcntl(2)).
//!
//! /proc/PID/fdinfo shows each held lock at the descriptors whose description it was set through: locks of processes (POSIX)
//! at those of their process only, the others at all. At a restart the processes set them again, each through a descriptor
//! of its own, when all slots are filled and before any task runs; so nobody in the job can come in between, and what
//! somebody outside the job has locked meanwhile is a refusal that names the holder. A call that waits for a lock is issued
//! again when its task runs (see `thread`). A lease that is being broken is broken again by opening the file from here; the
//! signal of that is taken away, since the job had it in its former life.
//! Not preserved: the order in which several tasks wait for one lock (a checkpoint changes it for the running job, too), for
//! how long a lease has been breaking, and the process that /proc/locks names for a lock whose setter has passed it on and
//! let go. Delegations (F_SETDELEG) are refused. A POSIX lock needs no descriptor to be found: closing the last one has
//! released it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::locks::parse_line;
use cryonaut_procfs::{
    FileLock, LeaseState, LockAccess, LockFamily, Mount, ProcessDirectory, system,
};
use cryonaut_sys::task::{self, Compare};
use cryonaut_tracee::{CallId, CallList};

use super::facts::{Description, Job, Slot};
use super::{Aspect, Count, object, path_of, reopen};
use crate::collect::Collection;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// fcntl(2): a lock of an open file description (include/uapi/asm-generic/fcntl.h).
const F_OFD_SETLK: i32 = 37;
/// `struct flock` on 64-bit machines: type and whence (2 bytes each), then from byte 8 start, length, pid.
const FLOCK_BYTES: usize = 32;
/// Locks that one list of calls sets.
const AT_ONCE: usize = 500;

/// What kind of lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum LockKind {
    /// Unknown: the image is damaged.
    Unknown = 0,
    /// flock(2).
    Flock = 1,
    /// fcntl(2) `F_SETLK`, of the process.
    Posix = 2,
    /// fcntl(2) `F_OFD_SETLK`, of the open file description.
    Description = 3,
    /// fcntl(2) `F_SETLEASE`.
    Lease = 4,
}

/// What a lock permits its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum Permits {
    /// Nothing.
    Nothing = 0,
    /// Reading: the lock is shared.
    Reading = 1,
    /// Writing: the lock is exclusive.
    Writing = 2,
}

/// A lock that a process or an open file description holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeldLock {
    /// The open file description that it was set through.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// The process that is to set it again: its owner if it is a process', otherwise one that has the description, the one
    /// that set it if it still has it.
    #[prost(int32, tag = "2")]
    pub process: i32,
    /// The number of the descriptor through which that process sets it.
    #[prost(int32, tag = "3")]
    pub number: i32,
    /// What kind of lock it is.
    #[prost(enumeration = "LockKind", tag = "4")]
    pub kind: i32,
    /// What it permits its holder.
    #[prost(enumeration = "Permits", tag = "5")]
    pub permits: i32,
    /// First byte; 0 for locks of whole files.
    #[prost(uint64, tag = "6")]
    pub start: u64,
    /// Last byte; absent for the end of the file, wherever that is.
    #[prost(uint64, optional, tag = "7")]
    pub last: Option<u64>,
    /// For a lease that is being broken, what its holder is to reduce it to; absent otherwise.
    #[prost(enumeration = "Permits", optional, tag = "8")]
    pub reduced_to: Option<i32>,
    /// The file's path, as its process sees it; empty for a file without one.
    #[prost(bytes = "vec", tag = "9")]
    pub path: Vec<u8>,
}

impl Record for HeldLock {
    const KIND: Kind = Kind {
        name: "file.lock",
        version: 1,
    };
}

impl HeldLock {
    /// Whether a lock of somebody else's on the same file keeps this one from being set.
    fn conflicts(&self, other: &FileLock) -> bool {
        let same_family = match self.kind() {
            LockKind::Flock => other.family == LockFamily::Flock,
            // Both are record locks, and keep each other out.
            LockKind::Posix | LockKind::Description => {
                matches!(other.family, LockFamily::Posix | LockFamily::Description)
            }
            LockKind::Lease | LockKind::Unknown => false,
        };
        let (last, other_last) = (self.last.unwrap_or(u64::MAX), other.end.unwrap_or(u64::MAX));
        same_family
            && !other.waits
            && (self.permits() == Permits::Writing || other.access == LockAccess::Write)
            && self.start <= other_last
            && other.start <= last
    }

    /// What a person calls it.
    fn name(&self) -> String {
        let what = match self.kind() {
            LockKind::Flock => "lock (flock)",
            LockKind::Posix => "record lock",
            LockKind::Description => "record lock of its description",
            LockKind::Lease => "lease",
            LockKind::Unknown => "lock",
        };
        match (self.kind(), self.start, self.last) {
            (LockKind::Posix | LockKind::Description, start, last)
                if (start, last) != (0, None) =>
            {
                let last = last.map_or("the end".into(), |last| last.to_string());
                format!("{what} on bytes {start} to {last}")
            }
            _ => what.into(),
        }
    }

    /// The lock as the kernel takes it.
    fn flock(&self) -> [u8; FLOCK_BYTES] {
        let mut bytes = [0; FLOCK_BYTES];
        let length = self.last.map_or(0, |last| last - self.start + 1);
        bytes[..2].copy_from_slice(&(self.lock_type() as u16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn lock_type(&self) -> i32 {
        if self.permits() == Permits::Writing {
            libc::F_WRLCK
        } else {
            libc::F_RDLCK
        }
    }

    /// Adds the call that sets it.
    fn call(&self, list: &mut CallList) -> CallId {
        let number = self.number.into();
        match self.kind() {
            LockKind::Flock | LockKind::Unknown => {
                let exclusive = self.permits() == Permits::Writing;
                let shared = if exclusive {
                    libc::LOCK_EX
                } else {
                    libc::LOCK_SH
                };
                list.call(libc::SYS_flock, &[number, (shared | libc::LOCK_NB).into()])
            }
            LockKind::Lease => {
                let kind = self.lock_type().into();
                list.call(libc::SYS_fcntl, &[number, libc::F_SETLEASE.into(), kind])
            }
            LockKind::Posix | LockKind::Description => {
                let command = if self.kind() == LockKind::Posix {
                    libc::F_SETLK
                } else {
                    F_OFD_SETLK
                };
                let lock = list.bytes(&self.flock());
                list.call(libc::SYS_fcntl, &[number, command.into(), lock.into()])
            }
        }
    }
}

/// What is known of a description's locks, wherever they are shown.
pub(super) fn has_lease(description: &Description) -> bool {
    description
        .locks
        .iter()
        .filter_map(|(_, line)| parse_line(line).ok())
        .any(|lock| matches!(lock.family, LockFamily::Lease(_)))
}

/// The files whose leases are held now by a job that is about to leave: opening one would break its lease.
///
/// # Errors
/// When the records are damaged.
pub(super) fn leased(records: &RecordSet, host: &Host) -> Result<BTreeSet<Vec<u8>>> {
    if host.leaving.is_empty() {
        return Ok(BTreeSet::new());
    }
    let leases = records.all::<HeldLock>()?.into_iter();
    let leases = leases.filter(|lock| lock.kind() == LockKind::Lease);
    Ok(leases.map(|lock| lock.path).collect())
}

/// The aspect.
pub(super) struct Locks;

impl Aspect for Locks {
    fn kinds(&self) -> &'static [Kind] {
        const { &[HeldLock::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, job: &Job<'_>, refusals: &mut Refusals) {
        for description in &job.descriptions {
            for (slot, line) in &description.locks {
                let unknown = match parse_line(line) {
                    Ok(lock) => lock.family == LockFamily::Other,
                    Err(_) => true,
                };
                if unknown {
                    refusals.add(
                        job.owner(*slot).label(),
                        job.name(description),
                        format!(
                            "a lock of a kind that is not saved is held through it ({})",
                            printable(line)
                        ),
                        "release it before the checkpoint",
                    );
                }
            }
        }
    }

    fn collect(&self, job: &Job<'_>, collection: &mut Collection) -> Result<()> {
        for description in &job.descriptions {
            for lock in held(description, job) {
                collection.put(&lock)?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let mut by_process: BTreeMap<i32, Vec<HeldLock>> = BTreeMap::new();
        let locks = records.all::<HeldLock>()?;
        if locks.is_empty() {
            return Ok(());
        }
        let mut taken = Taken::look();
        taken.locks.retain(|lock| stays(lock, host));
        let mut keys = BTreeMap::new();
        for lock in locks {
            if !is_possible(&lock) {
                return Err(Error::Failed(format!(
                    "the image is damaged: an impossible lock of process {}",
                    lock.process
                )));
            }
            let key = keys
                .entry(lock.path.clone())
                .or_insert_with(|| taken.key(&lock.path));
            if let Some(other) = key.and_then(|key| taken.conflict(&lock, key)) {
                plan.refusals.add(
                    (lock.process, ""),
                    format!("descriptor {}, file {}", lock.number, printable(&lock.path)),
                    format!(
                        "its {} cannot be had back: {}",
                        lock.name(),
                        holder(other.pid)
                    ),
                    "end that process, or wait until it lets go",
                );
            }
            check_lease(&lock, host, plan);
            by_process.entry(lock.process).or_default().push(lock);
        }
        for (process, locks) in by_process {
            plan.step(Stage::Restrict, process, SetLocks { process, locks });
        }
        Ok(())
    }
}

/// The locks that are to be set through a description.
fn held(description: &Description, job: &Job<'_>) -> Vec<HeldLock> {
    let path = &description.facts.link;
    let path = if path.starts_with(b"/") {
        path.clone()
    } else {
        Vec::new()
    };
    let mut found: Vec<HeldLock> = Vec::new();
    for (slot, line) in &description.locks {
        let Ok(shown) = parse_line(line) else {
            continue;
        };
        let through = if shown.family == LockFamily::Posix {
            (posix_setter(job, *slot, shown.pid), slot.number)
        } else {
            let setter = |slot: &&Slot| job.owner(**slot).pid == shown.pid;
            let slots = &description.slots;
            let slot = slots.iter().find(setter).unwrap_or(&slots[0]);
            (job.owner(*slot).inner, slot.number)
        };
        let lock = record(&shown, description, path.clone(), through);
        // Every slot of the process or description shows it.
        let again = |other: &HeldLock| {
            HeldLock {
                number: other.number,
                ..lock.clone()
            } == *other
        };
        if !found.iter().any(again) {
            found.push(lock);
        }
    }
    found
}

/// Who is to set a POSIX lock that a table's slot shows: of the processes that share the table the one that had set it.
fn posix_setter(job: &Job<'_>, slot: Slot, pid: i32) -> i32 {
    let owner = job.owner(slot);
    let shares = || {
        task::compare(Compare::Descriptors, (owner.pid, 0), (pid, 0))
            .is_ok_and(|order| order == Ordering::Equal)
    };
    match job.members.get(&pid) {
        Some(&inner) if owner.pid != pid && !owner.is_thread() && shares() => inner,
        _ => owner.inner,
    }
}

fn record(
    shown: &FileLock,
    description: &Description,
    path: Vec<u8>,
    (process, number): (i32, i32),
) -> HeldLock {
    let kind = match shown.family {
        LockFamily::Flock => LockKind::Flock,
        LockFamily::Posix => LockKind::Posix,
        LockFamily::Description => LockKind::Description,
        LockFamily::Lease(_) => LockKind::Lease,
        LockFamily::Other => LockKind::Unknown,
    };
    let shows = match shown.access {
        LockAccess::Read => Permits::Reading,
        LockAccess::Write => Permits::Writing,
        LockAccess::None => Permits::Nothing,
    };
    let breaking = shown.family == LockFamily::Lease(LeaseState::Breaking);
    let permits = match (breaking, shows) {
        (false, shows) => shows,
        // While it is being broken, only what will be left is shown. What is to be reduced to reading was for writing. One that
        // is to be given up may have been either; a descriptor that does not write had no use for more than reading.
        (true, Permits::Reading) => Permits::Writing,
        (true, _) if description.facts.writes() => Permits::Writing,
        (true, _) => Permits::Reading,
    };
    HeldLock {
        object: description.object,
        process,
        number,
        kind: kind as i32,
        permits: permits as i32,
        start: shown.start,
        last: shown.end,
        reduced_to: breaking.then_some(shows as i32),
        path,
    }
}

/// Whether a process can have had such a lock.
fn is_possible(lock: &HeldLock) -> bool {
    let ends = lock
        .last
        .is_none_or(|last| lock.start <= last && last < i64::MAX as u64);
    let starts = lock.start <= i64::MAX as u64;
    ends && starts
        && lock.kind() != LockKind::Unknown
        && lock.permits() != Permits::Nothing
        && lock.number >= 0
}

/// Only a file's owner and root may take a lease on it (CAP_LEASE).
fn check_lease(lock: &HeldLock, host: &Host, plan: &mut Plan) {
    if lock.kind() != LockKind::Lease || host.user == 0 {
        return;
    }
    let Ok(file) = std::fs::metadata(path_of(&lock.path)) else {
        return;
    };
    if file.uid() != host.user {
        plan.refusals.add(
            (lock.process, ""),
            format!("descriptor {}, file {}", lock.number, printable(&lock.path)),
            "it had a lease on the file, and only the file's owner may take one",
            "restart as the file's owner or as root",
        );
    }
}

/// The locks that are held on this machine.
struct Taken {
    locks: Vec<FileLock>,
    mounts: Vec<Mount>,
}

/// What /proc/locks calls a file.
type FileKey = ((u32, u32), u64);

impl Taken {
    /// Looks. What cannot be read is not taken: setting the locks tells then.
    fn look() -> Self {
        let own = ProcessDirectory::open(std::process::id() as i32);
        Self {
            locks: system::locks().unwrap_or_default(),
            mounts: own.and_then(|own| own.mountinfo()).unwrap_or_default(),
        }
    }

    /// What /proc/locks calls the file at a path: the device of its mount, which on overlay and btrfs is not what stat(2) says.
    fn key(&self, path: &[u8]) -> Option<FileKey> {
        let place = std::fs::File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path_of(path))
            .ok()?;
        let own = ProcessDirectory::open(std::process::id() as i32).ok()?;
        let shown = own.fdinfo(place.as_raw_fd()).ok()?;
        let inode = match shown.inode {
            Some(inode) => inode,
            None => place.metadata().ok()?.ino(),
        };
        let mount = self
            .mounts
            .iter()
            .find(|mount| mount.id == shown.mount_id)?;
        Some(((mount.device.major, mount.device.minor), inode))
    }

    /// A lock on a file that keeps another from being set.
    fn conflict(&self, lock: &HeldLock, key: FileKey) -> Option<&FileLock> {
        self.locks.iter().find(|other| {
            ((other.device.major, other.device.minor), other.inode) == key && lock.conflicts(other)
        })
    }
}

/// Whether a lock will still be held when the job is restarted, as far as that can be told: processes that are leaving (the job
/// itself, before it is killed) take theirs with them, and of locks that no living process is named for they may be the holders.
fn stays(lock: &FileLock, host: &Host) -> bool {
    let named = || lock.pid > 0 && ProcessDirectory::open(lock.pid).is_ok();
    host.leaving.is_empty() || (!host.leaving.contains(&lock.pid) && named())
}

/// Who holds a lock, in words.
fn holder(pid: i32) -> String {
    if pid <= 0 {
        return "it is locked through an open file description, and the kernel does not tell whose"
            .into();
    }
    match ProcessDirectory::open(pid).and_then(|process| process.stat()) {
        Ok(stat) => format!("process {pid} ({}) holds a lock", printable(&stat.comm)),
        Err(_) => format!("a lock is held that process {pid} set, which has ended since"),
    }
}

/// Has a process set its locks.
struct SetLocks {
    process: i32,
    locks: Vec<HeldLock>,
}

impl fmt::Display for SetLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {}", Count(self.locks.len(), "file lock"))
    }
}

impl Action for SetLocks {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for locks in self.locks.chunks(AT_ONCE) {
            let mut list = CallList::new();
            let calls: Vec<CallId> = locks.iter().map(|lock| lock.call(&mut list)).collect();
            let outcomes = rebuild.run(self.process, &list)?;
            for (call, lock) in calls.into_iter().zip(locks) {
                outcomes
                    .result(call)
                    .map_err(|error| failure(lock, &error))?;
            }
        }
        for lock in &self.locks {
            if let Some(left) = lock.reduced_to {
                break_lease(
                    rebuild,
                    lock,
                    Permits::try_from(left).unwrap_or(Permits::Nothing),
                )?;
            }
        }
        Ok(())
    }
}

/// Why a lock could not be set; who is in the way, if anybody is.
fn failure(lock: &HeldLock, error: &std::io::Error) -> Error {
    let HeldLock {
        process, number, ..
    } = lock;
    let what = format!(
        "process {process}: taking the {} through descriptor {number} ({}) back",
        lock.name(),
        printable(&lock.path)
    );
    let taken = Taken::look();
    let other = taken
        .key(&lock.path)
        .and_then(|key| taken.conflict(lock, key));
    Error::Failed(match (error.raw_os_error(), lock.kind(), other) {
        (Some(libc::EAGAIN | libc::EACCES), _, Some(other)) => {
            format!("{what}: {}", holder(other.pid))
        }
        (Some(libc::EAGAIN), LockKind::Lease, None) => {
            format!("{what}: somebody else has the file open")
        }
        (Some(libc::EAGAIN), _, None) => {
            format!("{what}: it is held by a process that this pid namespace does not show")
        }
        _ => format!("{what}: {error}"),
    })
}

/// Opens a leased file as its breaker did, and takes the signal away that the holder gets.
fn break_lease(rebuild: &Rebuild<'_>, lock: &HeldLock, left: Permits) -> Result<()> {
    let access = if left == Permits::Reading {
        libc::O_RDONLY
    } else {
        libc::O_WRONLY
    };
    let what = format!(
        "process {}: breaking its lease on {}",
        lock.process,
        printable(&lock.path)
    );
    let file = object(rebuild, lock.object)?;
    match reopen(file, (access | libc::O_NONBLOCK) as u32) {
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => {}
        Err(error) => return Err(Error::Failed(format!("{what}: {error}"))),
        Ok(_) => return Err(Error::Failed(format!("{what}: nothing was in the way"))),
    }
    rebuild.drain_signal(lock.process, libc::SIGIO)
}

const SUPPORT: &[Support] = &[
    Support {
        what: "File locks: flock, POSIX record locks, locks of open file descriptions (OFD)",
        level: Level::Restored,
        how: "set again by their holders before the job runs; what somebody else has locked meanwhile is a refusal that names the holder",
    },
    Support {
        what: "Tasks that wait for a file lock",
        level: Level::Restored,
        how: "they ask again; in which order several get it is not kept",
    },
    Support {
        what: "Leases (F_SETLEASE)",
        level: Level::Restored,
        how: "one that is being broken is broken again, and its holder has the whole time for it (/proc/sys/fs/lease-break-time)",
    },
    Support {
        what: "Delegations (F_SETDELEG)",
        level: Level::Refused,
        how: "not saved; release them before the checkpoint",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::file::tests::host;
    use std::fs::File;

    fn posix(start: u64, last: Option<u64>, permits: Permits) -> HeldLock {
        HeldLock {
            object: 3,
            process: 7,
            number: 5,
            kind: LockKind::Posix as i32,
            permits: permits as i32,
            start,
            last,
            ..HeldLock::default()
        }
    }

    fn shown(line: &str) -> FileLock {
        parse_line(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_lock_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let lock = HeldLock {
            reduced_to: Some(Permits::Nothing as i32),
            path: b"/a/b".to_vec(),
            ..posix(3, Some(9), Permits::Writing)
        };
        records.push(&lock).unwrap();
        assert_eq!(records.all::<HeldLock>().unwrap(), [lock]);
    }

    #[test]
    fn what_keeps_a_lock_out() {
        let lock = posix(10, Some(19), Permits::Reading);
        assert!(lock.conflicts(&shown("1: POSIX  ADVISORY  WRITE 9 00:2a:3 19 EOF")));
        assert!(lock.conflicts(&shown("1: OFDLCK ADVISORY  WRITE -1 00:2a:3 0 10")));
        assert!(!lock.conflicts(&shown("1: POSIX  ADVISORY  READ 9 00:2a:3 0 EOF")));
        assert!(!lock.conflicts(&shown("1: POSIX  ADVISORY  WRITE 9 00:2a:3 20 EOF")));
        assert!(!lock.conflicts(&shown("1: FLOCK  ADVISORY  WRITE 9 00:2a:3 0 EOF")));
        assert!(!lock.conflicts(&shown("1: -> POSIX  ADVISORY  WRITE 9 00:2a:3 0 EOF")));
        let exclusive = posix(10, Some(19), Permits::Writing);
        assert!(exclusive.conflicts(&shown("1: POSIX  ADVISORY  READ 9 00:2a:3 0 EOF")));
    }

    #[test]
    fn impossible_locks_are_damage() {
        assert!(is_possible(&posix(0, None, Permits::Writing)));
        assert!(!is_possible(&posix(9, Some(3), Permits::Writing)));
        assert!(!is_possible(&posix(0, None, Permits::Nothing)));
        assert!(!is_possible(&posix(u64::MAX, None, Permits::Reading)));
        assert!(!is_possible(&posix(0, Some(u64::MAX), Permits::Reading)));
        let mut records = RecordSet::new();
        records.push(&posix(0, None, Permits::Nothing)).unwrap();
        assert!(Locks.plan(&records, &host(), &mut Plan::default()).is_err());
    }

    #[test]
    fn a_lock_that_somebody_has_is_refused_with_the_holder() {
        let path = std::env::temp_dir().join(format!("cryonaut-lock-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let lock = HeldLock {
            kind: LockKind::Flock as i32,
            path: path.to_str().unwrap().as_bytes().to_vec(),
            ..posix(0, None, Permits::Writing)
        };
        let mut records = RecordSet::new();
        records.push(&lock).unwrap();
        let planned = || {
            let mut plan = Plan::default();
            Locks.plan(&records, &host(), &mut plan).unwrap();
            plan
        };
        let plan = planned();
        assert!(plan.refusals.list().is_empty(), "nobody has it");
        assert_eq!(
            plan.ordered().unwrap()[0].to_string(),
            "Restrict [7] set 1 file lock"
        );
        file.lock().unwrap();
        let leaving = Host {
            leaving: [std::process::id() as i32].into(),
            ..host()
        };
        let mut plan = Plan::default();
        Locks.plan(&records, &leaving, &mut plan).unwrap();
        assert!(
            plan.refusals.list().is_empty(),
            "who leaves takes it with them"
        );
        let plan = planned();
        let reason = &plan.refusals.list()[0].reason;
        assert!(
            reason.contains(&format!("process {}", std::process::id())),
            "{reason}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn ranges_as_the_kernel_takes_them() {
        let bytes = posix(10, Some(14), Permits::Writing).flock();
        assert_eq!(
            (bytes[0], bytes[8], bytes[16]),
            (libc::F_WRLCK as u8, 10, 5)
        );
        let bytes = posix(10, None, Permits::Reading).flock();
        assert_eq!(
            (bytes[0], bytes[8], bytes[16]),
            (libc::F_RDLCK as u8, 10, 0)
        );
    }
}
