//! Which System V objects are the job's, what they hold, and what stands in the way of saving them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cryonaut_procfs::maps::AreaName;
use cryonaut_procfs::sysvipc::{self, SystemVObject};
use cryonaut_procfs::{ProcessDirectory, system};
use cryonaut_sys::{ipc, message_queue, mount, spawn, task};

use super::Identity;
use super::limits::{self, IpcLimit};
use super::queue::{MessageQueue, TypedMessage};
use super::segment::{self, FoundSegment, SharedSegment};
use super::semaphore::SemaphoreSet;
use super::visitor::Visitor;
use crate::freeze::Frozen;
use crate::resource::sharing::Shared;
use crate::target::Target;
use crate::{Error, Refusal, Refusals, Result};

/// How far objects are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only what stands in the way; the job runs.
    Obstacles,
    /// All they hold.
    Everything,
}

/// What is known of the job.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The /proc directory of one of its processes.
    pub directory: Option<ProcessDirectory>,
    /// Whether it has an IPC namespace that is not ours.
    pub own: bool,
    /// Its processes, as we see them: pid in their own namespace, name.
    processes: BTreeMap<i32, (i32, String)>,
    /// Its tasks, by process.
    tasks: Vec<(i32, i32)>,
    /// Its users.
    users: BTreeSet<u32>,
    /// When its first process was started, in seconds since 1970.
    since: u64,
    /// How many mappings it has of each segment; none where that is not known.
    attachments: Option<BTreeMap<i32, u64>>,
}

impl Facts {
    /// A job that runs; nothing where it has nothing to do with System V objects.
    pub(super) fn of_target(target: &Target) -> Result<Option<Self>> {
        let living = target.processes.iter().filter(|one| !one.is_zombie());
        let mut facts = Self::default();
        for process in living {
            let label = (process.inner_pid(), process.name());
            facts.add(
                process.pid,
                label,
                (process.status.uid[1], process.stat.starttime),
            );
            facts.tasks.push((process.pid, process.reached_by()));
            if facts.directory.is_none() {
                facts.directory = Some(ProcessDirectory::open(process.pid)?);
            }
        }
        facts.worth_a_look()
    }

    /// A job that stands still.
    pub(super) fn of_frozen(frozen: &Frozen) -> Result<Option<Self>> {
        let mut facts = Self::default();
        let mut attachments = BTreeMap::new();
        for process in frozen.alive() {
            let label = (process.inner, process.name());
            facts.add(
                process.pid,
                label,
                (process.status.uid[1], process.stat.starttime),
            );
            let tasks = process.tasks.iter();
            facts
                .tasks
                .extend(tasks.map(|task| (process.pid, task.stopped.tid())));
            if facts.directory.is_none() {
                facts.directory = Some(ProcessDirectory::open(process.pid)?);
            }
            // Memory that several processes share counts once.
            if !frozen.sharing.holds(Shared::Memory, process.pid) {
                continue;
            }
            for area in &process.areas {
                if let AreaName::SystemV { .. } = area.area.name {
                    *attachments.entry(area.area.inode as i32).or_insert(0) += 1;
                }
            }
        }
        facts.attachments = Some(attachments);
        facts.worth_a_look()
    }

    fn add(&mut self, pid: i32, label: (i32, String), (user, started): (u32, u64)) {
        /// Clock ticks of /proc/PID/stat in a second (USER_HZ) on every processor supported today.
        const TICKS: u64 = 100;
        let boot = system::boot_time().unwrap_or(0);
        // The file's time of boot is rounded.
        let started = (boot + started / TICKS).saturating_sub(1);
        self.since = match self.processes.is_empty() {
            true => started,
            false => self.since.min(started),
        };
        self.processes.insert(pid, label);
        self.users.insert(user);
    }

    fn worth_a_look(mut self) -> Result<Option<Self>> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let here = ProcessDirectory::open(spawn::own_pid())?;
        // A kernel without IPC namespaces has one for all.
        self.own = match (directory.namespace("ipc"), here.namespace("ipc")) {
            (Ok(there), Ok(here)) => there != here,
            _ => false,
        };
        let attached = self
            .attachments
            .as_ref()
            .is_some_and(|known| !known.is_empty());
        if !self.own && !attached && Tables::read()?.is_empty() {
            return Ok(None);
        }
        Ok(Some(self))
    }

    /// Whether an object of which nothing else is known may be the job's: one that its users created since it was started, where
    /// `others`, who created or used it, do not live outside.
    fn may_have_created(&self, object: &SystemVObject, others: &[i32]) -> bool {
        let recent = self.users.contains(&object.creator) && object.changed >= self.since;
        self.own || recent && !others.iter().any(|&pid| self.is_outside(pid))
    }

    /// Whether this is a living process outside of the job.
    fn is_outside(&self, pid: i32) -> bool {
        pid != 0 && !self.is_ours(pid) && ProcessDirectory::open(pid).is_ok()
    }

    fn is_ours(&self, process: i32) -> bool {
        self.processes.contains_key(&process)
    }

    fn count(&self, segment: &sysvipc::Segment) -> u64 {
        let known = self.attachments.as_ref();
        known
            .and_then(|known| known.get(&segment.object.identifier))
            .copied()
            .unwrap_or(0)
    }
}

/// The objects of the calling process' IPC namespace.
#[derive(Debug, Default)]
struct Tables {
    segments: Vec<sysvipc::Segment>,
    semaphores: Vec<sysvipc::SemaphoreSet>,
    queues: Vec<sysvipc::MessageQueue>,
}

impl Tables {
    fn read() -> Result<Self> {
        Ok(Self {
            segments: system::segments()?,
            semaphores: system::semaphore_sets()?,
            queues: system::message_queues()?,
        })
    }

    fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.semaphores.is_empty() && self.queues.is_empty()
    }
}

/// What the visitor found.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Findings {
    /// The job's segments.
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<FoundSegment>,
    /// Its semaphores.
    #[prost(message, repeated, tag = "2")]
    pub semaphores: Vec<SemaphoreSet>,
    /// Its queues.
    #[prost(message, repeated, tag = "3")]
    pub queues: Vec<MessageQueue>,
    /// What stands in the way.
    #[prost(message, repeated, tag = "4")]
    pub obstacles: Vec<Obstacle>,
    /// A set that semop(2) was done on: one that is surely of the job's, or else any.
    #[prost(int32, optional, tag = "5")]
    pub operated: Option<i32>,
    /// Whether it surely is one of the job's.
    #[prost(bool, tag = "6")]
    pub operated_ours: bool,
    /// Why nothing could be found.
    #[prost(string, tag = "7")]
    pub error: String,
    /// The changed limits of a namespace of its own.
    #[prost(message, repeated, tag = "8")]
    pub limits: Vec<IpcLimit>,
    /// The names of POSIX message queues in a namespace of its own.
    #[prost(message, repeated, tag = "9")]
    pub names: Vec<QueueName>,
}

/// A name of a POSIX message queue.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueName {
    /// It, without the slash before it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The queue's inode number.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
}

/// Why an object cannot be saved.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Obstacle {
    /// The object.
    #[prost(string, tag = "1")]
    pub object: String,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// What to do.
    #[prost(string, tag = "3")]
    pub remedy: String,
    /// Whether it may pass in a moment.
    #[prost(bool, tag = "4")]
    pub passing: bool,
}

/// The outcome of a look.
pub(super) struct Survey {
    /// What was found.
    pub findings: Findings,
    /// Who has the segments attached.
    pub visitor: Visitor,
    undo: Vec<Refusal>,
}

/// Looks at the job's objects from within its IPC namespace.
///
/// # Errors
/// When no process can get there.
pub(super) fn look(facts: &Facts, depth: Depth) -> Result<Survey> {
    let directory = facts
        .directory
        .as_ref()
        .ok_or_else(|| Error::Failed("the job has no process".into()))?;
    let (visitor, mut findings) = Visitor::send(directory, facts.own, || find(facts, depth))?;
    refuse_unopened_queues(facts, &mut findings);
    let undo = undo(facts, &findings, &visitor);
    Ok(Survey {
        findings,
        visitor,
        undo,
    })
}

impl Survey {
    /// Whether all that stands in the way may pass in a moment.
    pub(super) fn is_unsettled(&self) -> bool {
        let found = &self.findings.obstacles;
        !found.is_empty() && found.iter().all(|found| found.passing) && self.undo.is_empty()
    }

    /// Adds what stands in the way.
    pub(super) fn refuse(&self, refusals: &mut Refusals) {
        for found in &self.findings.obstacles {
            refusals.add_for_job(&found.object, &found.reason, &found.remedy);
        }
        self.undo
            .iter()
            .for_each(|undo| refusals.push(undo.clone()));
    }
}

/// Processes that may have changes to be undone (SEM_UNDO). The kernel has a list for them with each process that ever had one, and
/// for each with threads (`copy_semundo` in ipc/sem.c); kcmp(2) says of a process that it has the list that the visitor has: none.
/// One with threads is believed to have made use of its list only where the job is known to use semaphores.
fn undo(facts: &Facts, findings: &Findings, visitor: &Visitor) -> Vec<Refusal> {
    let Some(set) = findings.operated else {
        return Vec::new();
    };
    let mut threads: BTreeMap<i32, usize> = BTreeMap::new();
    for (process, _) in &facts.tasks {
        *threads.entry(*process).or_default() += 1;
    }
    let mut found = Refusals::default();
    for &(process, task) in &facts.tasks {
        let alike = task::compare(task::Compare::SemaphoreUndo, (task, 0), (visitor.pid(), 0));
        let has_list = alike.is_ok_and(|order| order.is_ne());
        if !has_list || (!findings.operated_ours && threads[&process] > 1) {
            continue;
        }
        let name = facts.processes.get(&process).map_or("", |known| &known.1);
        found.add(
            (process, name),
            format!("System V semaphores (set {set})"),
            "its end may undo changes that it made to semaphores (SEM_UNDO), and the kernel shows nobody which",
            "have the program use semaphores without SEM_UNDO, or POSIX semaphores, or remove the set first",
        );
    }
    found.list().to_vec()
}

/// POSIX message queues that nobody has open cannot be saved: only descriptors lead to their messages.
fn refuse_unopened_queues(facts: &Facts, findings: &mut Findings) {
    if findings.names.is_empty() {
        return;
    }
    let mut open = BTreeSet::new();
    for process in facts.processes.keys() {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let file = std::fs::metadata(descriptor.path());
            open.extend(file.ok().filter(is_queue).map(|file| file.ino()));
        }
    }
    for QueueName { name, inode } in &findings.names {
        if !open.contains(inode) {
            findings.obstacles.push(Obstacle {
                object: format!("the POSIX message queue /{name}"),
                reason: "no process of the job has it open".into(),
                remedy: "have a process keep it open, or remove it (mq_unlink)".into(),
                // One that is made or removed just now.
                passing: true,
            });
        }
    }
}

/// Whether a file may be a message queue: all have the same size.
fn is_queue(file: &std::fs::Metadata) -> bool {
    file.is_file() && file.len() == message_queue::FILE_SIZE
}

/// What the calling process' IPC namespace has, in a word, that a fresh one has not.
///
/// # Errors
/// Where it cannot be looked at.
pub(crate) fn contents() -> io::Result<Option<&'static str>> {
    let Tables {
        segments,
        semaphores,
        queues,
    } = Tables::read().map_err(io::Error::other)?;
    let names = match queue_directory() {
        Ok(directory) => names_in(&directory),
        // A kernel without POSIX message queues.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        Err(error) => return Err(error),
    };
    let there = [
        (!segments.is_empty(), "System V shared memory"),
        (!semaphores.is_empty(), "System V semaphores"),
        (!queues.is_empty(), "System V message queues"),
        (!names.is_empty(), "POSIX message queues"),
        (
            !limits::changed().is_empty(),
            "changed limits (/proc/sys/kernel/shmmax and the like)",
        ),
    ];
    let found = there.into_iter().find(|(is_there, _)| *is_there);
    Ok(found.map(|(_, what)| what))
}

/// The names of the POSIX message queues of this process' namespace, where it may list them.
fn queue_names() -> Vec<QueueName> {
    queue_directory().map_or_else(|_| Vec::new(), |directory| names_in(&directory))
}

fn queue_directory() -> io::Result<OwnedFd> {
    mount::message_queues().or_else(|_| {
        // In a user namespace of the job's it has a say in its own mounts only.
        spawn::unshare(spawn::namespace::MOUNT)?;
        mount::message_queues()
    })
}

fn names_in(directory: &OwnedFd) -> Vec<QueueName> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let file = entry.metadata().ok()?;
        Some(QueueName {
            name: entry.file_name().to_string_lossy().into_owned(),
            inode: file.ino(),
        })
    });
    named.collect()
}

/// Finds the job's objects; the calling process is in its namespace, and attaches the segments.
fn find(facts: &Facts, depth: Depth) -> Result<Findings> {
    let tables = Tables::read()?;
    let mut findings = Findings::default();
    if facts.own {
        findings.limits = limits::changed();
        findings.names = queue_names();
    }
    for segment in &tables.segments {
        find_segment(facts, depth, segment, &mut findings);
    }
    if let Some(known) = &facts.attachments {
        let there = |id: &i32| {
            tables
                .segments
                .iter()
                .any(|one| one.object.identifier == *id)
        };
        for identifier in known.keys().filter(|id| !there(id)) {
            findings.obstacles.push(Obstacle {
                object: format!("the System V segment {identifier}"),
                reason: "it is of another IPC namespace than the one that the job is in".into(),
                remedy: "have the program detach it before it changes the namespace".into(),
                passing: false,
            });
        }
    }
    for set in &tables.semaphores {
        find_set(facts, set, &mut findings);
    }
    for queue in &tables.queues {
        find_queue(facts, depth, queue, &mut findings);
    }
    note_huge_pages(&mut findings)?;
    Ok(findings)
}

fn find_segment(facts: &Facts, depth: Depth, segment: &sysvipc::Segment, findings: &mut Findings) {
    let object = &segment.object;
    let attached = facts.count(segment);
    let creator = [segment.creating_process];
    let unattended = segment.attachments == 0 && facts.may_have_created(object, &creator);
    if !(facts.own || attached > 0 || facts.is_ours(segment.creating_process) || unattended) {
        return;
    }
    let name = format!("the System V segment {}", object.identifier);
    if facts.attachments.is_some() && segment.attachments > attached {
        findings.obstacles.push(Obstacle {
            object: name,
            reason: "a process outside of the job has it attached too".into(),
            remedy: "checkpoint both together, or have the other detach it".into(),
            // It may be another cryo that looks at it.
            passing: attached == 0,
        });
        return;
    }
    if depth == Depth::Obstacles {
        return;
    }
    let record = SharedSegment {
        identity: Some(Identity::of(object)),
        size: segment.size,
        marked: object.mode & ipc::SEGMENT_MARKED != 0,
        locked: object.mode & ipc::SEGMENT_LOCKED != 0,
        huge_page: 0,
    };
    match ipc::attach_segment(object.identifier) {
        Ok(address) => findings.segments.push(FoundSegment {
            record: Some(record),
            address,
            there: vec![u64::from(segment.swap > 0)],
        }),
        Err(error) => findings.obstacles.push(unreadable(name, &error)),
    }
}

/// Which segments have huge pages shows only where they are attached; then it is known which of their pages exist.
fn note_huge_pages(findings: &mut Findings) -> Result<()> {
    if findings.segments.is_empty() {
        return Ok(());
    }
    let areas = ProcessDirectory::open(spawn::own_pid())?.smaps()?;
    for found in &mut findings.segments {
        let area = areas.iter().find(|area| area.area.start == found.address);
        let Some(record) = &mut found.record else {
            continue;
        };
        let size = area.map_or(0, |area| area.kernel_page_size * 1024);
        record.huge_page = if size > cryonaut_sys::PAGE_SIZE {
            size
        } else {
            0
        };
        let in_swap = found.there == [1];
        let what = || "finding the pages of a shared memory segment".to_owned();
        found.there =
            crate::error::Attempt::attempt(segment::there(record, found.address, in_swap), what)?;
    }
    Ok(())
}

fn find_set(facts: &Facts, set: &sysvipc::SemaphoreSet, findings: &mut Findings) {
    let object = &set.object;
    let identifier = object.identifier;
    let last: std::io::Result<Vec<i32>> = (0..set.count as i32)
        .map(|number| task::last_semaphore_user(identifier, number))
        .collect();
    let used = last
        .as_ref()
        .is_ok_and(|last| last.iter().any(|pid| facts.is_ours(*pid)));
    let users = last.as_deref().unwrap_or_default();
    let ours = used || facts.may_have_created(object, users);
    let surely = used || facts.own;
    if set.operated != 0 && (surely || findings.operated.is_none()) {
        findings.operated = Some(identifier);
        findings.operated_ours |= surely;
    }
    if !ours {
        return;
    }
    let name = format!("System V semaphores (set {identifier})");
    let values = ipc::semaphore_values(identifier, set.count as usize);
    let (last, values) = match (last, values) {
        (Ok(last), Ok(values)) => (last, values),
        (Err(error), _) | (_, Err(error)) => {
            findings.obstacles.push(unreadable(name, &error));
            return;
        }
    };
    let outside = last.iter().find(|&&pid| used && facts.is_outside(pid));
    if let Some(&pid) = outside {
        findings.obstacles.push(shared_with(name, pid));
        return;
    }
    let inner = |pid: i32| facts.processes.get(&pid).map_or(0, |known| known.0);
    findings.semaphores.push(SemaphoreSet {
        identity: Some(Identity::of(object)),
        values: values.into_iter().map(u32::from).collect(),
        processes: last.into_iter().map(inner).collect(),
        operated: set.operated != 0,
    });
}

fn find_queue(facts: &Facts, depth: Depth, queue: &sysvipc::MessageQueue, findings: &mut Findings) {
    let object = &queue.object;
    let users = [queue.sender, queue.receiver];
    let used = users.iter().any(|pid| facts.is_ours(*pid));
    if !(used || facts.may_have_created(object, &users)) {
        return;
    }
    let name = format!("the System V message queue {}", object.identifier);
    if let Some(&pid) = users.iter().find(|&&pid| used && facts.is_outside(pid)) {
        findings.obstacles.push(shared_with(name, pid));
        return;
    }
    let capacity = match ipc::queue_capacity(object.identifier) {
        Ok(capacity) => capacity,
        Err(error) => {
            findings.obstacles.push(unreadable(name, &error));
            return;
        }
    };
    let count = match depth {
        Depth::Obstacles => 0,
        Depth::Everything => queue.messages as usize,
    };
    let mut messages = Vec::new();
    for index in 0..count {
        match ipc::copy_of_message(object.identifier, index, queue.bytes as usize) {
            Ok(Some((kind, text))) => messages.push(TypedMessage { kind, text }),
            Ok(None) => break,
            Err(error) => {
                findings.obstacles.push(unreadable(name, &error));
                return;
            }
        }
    }
    findings.queues.push(MessageQueue {
        identity: Some(Identity::of(object)),
        capacity,
        messages,
    });
}

fn shared_with(object: String, pid: i32) -> Obstacle {
    Obstacle {
        object,
        reason: format!("process {pid}, outside of the job, uses it too"),
        remedy: "checkpoint both together, or start the job with `cryo run --namespaces`".into(),
        passing: false,
    }
}

fn unreadable(object: String, error: &std::io::Error) -> Obstacle {
    let (reason, remedy) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            "this kernel lets nobody read messages without taking them (CONFIG_CHECKPOINT_RESTORE)"
                .into(),
            "checkpoint while the queue is empty",
        ),
        _ => (
            format!("it cannot be read: {error}"),
            "give its owner permission to read it, or checkpoint as root",
        ),
    };
    Obstacle {
        object,
        reason,
        remedy: remedy.into(),
        passing: false,
    }
}
