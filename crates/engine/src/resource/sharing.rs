//! What tasks have in common beyond the usual: processes that share a descriptor table (CLONE_FILES), a working directory and
//! umask (CLONE_FS), signal actions (CLONE_SIGHAND) or memory (CLONE_VM), and threads that share less than usual (unshare(2)).
//!
//! Only kcmp(2) shows it. It orders objects, so that n tasks take n log n comparisons; a thread is compared with its process
//! first. Each object is saved once, by the resource that it belongs to, for its *holder*: the first task that has it. At a
//! restart it is shared by being born: the kernel lets a new process share with the process that bears it, which is its parent,
//! or one that makes it a sibling (CLONE_PARENT). What no such birth leads to is refused. Not preserved: I/O contexts (CLONE_IO),
//! which only tell the block layer who belongs together.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::task::{self, Compare};

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::Plan;
use crate::rebuild::Sibling;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusals, Result};

/// A task whose objects are not its own (a process) or not those of its process (a thread). Each field names the first task
/// that has the object, 0 stands for the usual.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SharingRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The task: the process' own number for all of its threads that are not recorded by themselves.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// Who has its descriptor table.
    #[prost(int32, tag = "3")]
    pub descriptors: i32,
    /// Who has its working directory, root directory and umask.
    #[prost(int32, tag = "4")]
    pub fs_context: i32,
    /// Who has its signal actions.
    #[prost(int32, tag = "5")]
    pub handlers: i32,
    /// Who has its memory.
    #[prost(int32, tag = "6")]
    pub memory: i32,
}

impl Record for SharingRecord {
    const KIND: Kind = Kind {
        name: "sharing",
        version: 1,
    };
}

/// A kind of object that tasks may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// The table of descriptors.
    Descriptors,
    /// Working directory, root directory, umask.
    FsContext,
    /// Signal actions.
    Handlers,
    /// Memory.
    Memory,
}

impl Shared {
    const ALL: [Shared; 4] = [
        Shared::Descriptors,
        Shared::FsContext,
        Shared::Handlers,
        Shared::Memory,
    ];

    /// The flag of clone(2) that shares it.
    pub fn flag(self) -> u64 {
        let flag = match self {
            Shared::Descriptors => libc::CLONE_FILES,
            Shared::FsContext => libc::CLONE_FS,
            Shared::Handlers => libc::CLONE_SIGHAND,
            Shared::Memory => libc::CLONE_VM,
        };
        flag as u64
    }

    fn compare(self) -> Compare {
        match self {
            Shared::Descriptors => Compare::Descriptors,
            Shared::FsContext => Compare::FileSystem,
            Shared::Handlers => Compare::SignalActions,
            Shared::Memory => Compare::Memory,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Shared::Descriptors => "descriptor table (CLONE_FILES)",
            Shared::FsContext => "working directory and umask (CLONE_FS)",
            Shared::Handlers => "signal actions (CLONE_SIGHAND)",
            Shared::Memory => "memory (CLONE_VM)",
        }
    }
}

/// A live process, for finding what it shares.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// The process.
    pub process: i32,
    /// Its parent.
    pub parent: i32,
    /// The signal that its parent gets at its end.
    pub exit_signal: i32,
    /// Ids of its living tasks; the first one stands for the process.
    pub tasks: Vec<i32>,
}

/// Who has the objects of tasks that share in an unusual way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    holders: BTreeMap<(Shared, i32), i32>,
}

impl Sharing {
    /// Compares the processes of a job, parents before children.
    pub fn find(members: &[Member]) -> Self {
        let mut sharing = Self::default();
        sharing.find_tables(Shared::Descriptors, members);
        sharing.find_tables(Shared::FsContext, members);
        let mut memory = Known::new(Shared::Memory);
        for member in members {
            let holder = memory.place(member.tasks[0], member.process);
            sharing.note_process(Shared::Memory, member.process, holder);
        }
        let several: BTreeSet<i32> = sharing
            .holders
            .iter()
            .filter(|((what, _), _)| *what == Shared::Memory)
            .map(|(_, holder)| *holder)
            .collect();
        // Who shares signal actions shares memory (clone(2)).
        let mut handlers = Known::new(Shared::Handlers);
        for member in members {
            if several.contains(&sharing.of_process(Shared::Memory, member.process)) {
                let holder = handlers.place(member.tasks[0], member.process);
                sharing.note_process(Shared::Handlers, member.process, holder);
            }
        }
        sharing
    }

    /// Compares only descriptor tables.
    pub fn find_descriptors(members: &[Member]) -> Self {
        let mut sharing = Self::default();
        sharing.find_tables(Shared::Descriptors, members);
        sharing
    }

    fn find_tables(&mut self, what: Shared, members: &[Member]) {
        let mut known = Known::new(what);
        for member in members {
            let first = member.tasks[0];
            let holder = known.place(first, member.process);
            self.note_process(what, member.process, holder);
            for &task in &member.tasks[1..] {
                // One that has ended meanwhile has nothing.
                if let Some(Ordering::Less | Ordering::Greater) = compare(what, first, task) {
                    let holder = known.place(task, task);
                    self.holders.insert((what, task), holder);
                }
            }
        }
    }

    fn note_process(&mut self, what: Shared, process: i32, holder: i32) {
        if holder != process {
            self.holders.insert((what, process), holder);
        }
    }

    /// What an image says.
    ///
    /// # Errors
    /// When its records are damaged.
    pub fn of(records: &RecordSet) -> Result<Self> {
        let mut sharing = Self::default();
        for record in records.all::<SharingRecord>()? {
            let fields = [
                record.descriptors,
                record.fs_context,
                record.handlers,
                record.memory,
            ];
            for (what, holder) in Shared::ALL.into_iter().zip(fields) {
                if holder != 0 {
                    sharing.holders.insert((what, record.task), holder);
                }
            }
        }
        Ok(sharing)
    }

    /// The first task that has the object of a process.
    pub fn of_process(&self, what: Shared, process: i32) -> i32 {
        self.holders
            .get(&(what, process))
            .copied()
            .unwrap_or(process)
    }

    /// The first task that has the object of a task.
    pub fn of_task(&self, what: Shared, process: i32, task: i32) -> i32 {
        self.holders
            .get(&(what, task))
            .copied()
            .unwrap_or_else(|| self.of_process(what, process))
    }

    /// Whether a process is the first that has its object.
    pub fn holds(&self, what: Shared, process: i32) -> bool {
        self.of_process(what, process) == process
    }

    /// The threads of a process that are the first to have an object of this kind.
    pub fn apart(&self, what: Shared, process: i32, tasks: &[i32]) -> Vec<i32> {
        let apart = |task: &i32| *task != process && self.of_task(what, process, *task) == *task;
        tasks.iter().copied().filter(apart).collect()
    }

    /// How the processes that share anything are born; what no birth leads to.
    pub fn origins(&self, members: &[Member]) -> (BTreeMap<i32, Origin>, Vec<Unreachable>) {
        let mut origins = BTreeMap::new();
        let mut unreachable = Vec::new();
        for (index, member) in members.iter().enumerate() {
            let shared: Vec<(Shared, i32)> = Shared::ALL
                .into_iter()
                .map(|what| (what, self.of_process(what, member.process)))
                .filter(|(_, holder)| *holder != member.process)
                .collect();
            let Some(&(what, with)) = shared.first() else {
                continue;
            };
            let has_all = |other: &&Member| {
                shared
                    .iter()
                    .all(|&(what, holder)| self.of_process(what, other.process) == holder)
            };
            let earlier = &members[..index];
            let is_parent = |other: &&Member| other.process == member.parent;
            let is_sibling = |other: &&Member| {
                other.parent == member.parent && other.exit_signal == member.exit_signal
            };
            let parent = earlier.iter().filter(is_parent).find(has_all);
            let sibling = || earlier.iter().filter(is_sibling).find(has_all);
            let (by, sibling) = match parent {
                Some(parent) => (parent.process, Sibling::No),
                None => match sibling() {
                    Some(sibling) => (sibling.process, Sibling::Yes),
                    None => {
                        unreachable.push(Unreachable {
                            process: member.process,
                            task: member.process,
                            what,
                            with,
                        });
                        continue;
                    }
                },
            };
            let flags = shared
                .iter()
                .fold(0, |flags, (what, _)| flags | what.flag());
            origins.insert(member.process, Origin { by, sibling, flags });
        }
        (origins, unreachable)
    }

    /// How the threads of a process are born, in order: those that share as usual first, all at once.
    ///
    /// # Errors
    /// A thread that shares with tasks that cannot bear it.
    pub fn thread_births(
        &self,
        process: i32,
        tasks: &[i32],
    ) -> std::result::Result<Vec<ThreadBirths>, Unreachable> {
        let tables = |task: i32| {
            let of = |what| self.of_task(what, process, task);
            (of(Shared::Descriptors), of(Shared::FsContext))
        };
        let usual = (
            self.of_process(Shared::Descriptors, process),
            self.of_process(Shared::FsContext, process),
        );
        let mut births = vec![ThreadBirths {
            by: process,
            apart: 0,
            threads: Vec::new(),
        }];
        let mut known = vec![(process, usual)];
        for &task in tasks.iter().filter(|task| **task != process) {
            let (descriptors, fs_context) = tables(task);
            if (descriptors, fs_context) == usual {
                births[0].threads.push(task);
                continue;
            }
            let fits = |(_, has): &&(i32, (i32, i32))| {
                (descriptors == task || descriptors == has.0)
                    && (fs_context == task || fs_context == has.1)
            };
            let Some(&(by, _)) = known.iter().find(fits) else {
                let (what, with) = if descriptors == task {
                    (Shared::FsContext, fs_context)
                } else {
                    (Shared::Descriptors, descriptors)
                };
                return Err(Unreachable {
                    process,
                    task,
                    what,
                    with,
                });
            };
            let mut apart = 0;
            if descriptors == task {
                apart |= Shared::Descriptors.flag();
            }
            if fs_context == task {
                apart |= Shared::FsContext.flag();
            }
            births.push(ThreadBirths {
                by,
                apart,
                threads: vec![task],
            });
            known.push((task, (descriptors, fs_context)));
        }
        births.retain(|births| !births.threads.is_empty());
        Ok(births)
    }

    /// All that no birth leads to.
    fn unreachable(&self, members: &[Member]) -> Vec<Unreachable> {
        if self.holders.is_empty() {
            return Vec::new();
        }
        let (_, mut unreachable) = self.origins(members);
        let threads = members
            .iter()
            .filter_map(|member| self.thread_births(member.process, &member.tasks).err());
        unreachable.extend(threads);
        unreachable
    }
}

/// Objects of one kind met so far, in the kernel's order: the task that is compared, and what its holder is called.
struct Known {
    what: Shared,
    sorted: Vec<(i32, i32)>,
}

impl Known {
    fn new(what: Shared) -> Self {
        Self {
            what,
            sorted: Vec::new(),
        }
    }

    /// Takes in the object of `task`; its holder, which is called `name` if the object is new.
    fn place(&mut self, task: i32, name: i32) -> i32 {
        let place = self.sorted.binary_search_by(|&(other, _)| {
            compare(self.what, other, task).unwrap_or(Ordering::Less)
        });
        match place {
            Ok(found) => self.sorted[found].1,
            Err(place) => {
                self.sorted.insert(place, (task, name));
                name
            }
        }
    }
}

/// How the kernel orders the objects of two tasks. What cannot be compared (a task has ended) is not shared.
fn compare(what: Shared, first: i32, second: i32) -> Option<Ordering> {
    task::compare(what.compare(), (first, 0), (second, 0)).ok()
}

/// How a process that shares something is born.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The process that bears it.
    pub by: i32,
    /// Whether that is its parent or its sibling.
    pub sibling: Sibling,
    /// `CLONE_*` for what both share.
    pub flags: u64,
}

/// Threads that are born alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadBirths {
    /// The task that bears them.
    pub by: i32,
    /// `CLONE_*` for what they do not share with it, of which they begin with a copy.
    pub apart: u64,
    /// Their ids.
    pub threads: Vec<i32>,
}

/// A task that shares something in a way that no birth leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Its process.
    pub process: i32,
    /// The task.
    pub task: i32,
    /// What it shares.
    pub what: Shared,
    /// With whom.
    pub with: i32,
}

impl Unreachable {
    fn refuse(&self, name: &str, refusals: &mut Refusals) {
        let what = self.what.name();
        if self.task == self.process {
            refusals.add(
                (self.process, name),
                format!("its {what}"),
                format!(
                    "it shares it with {}, and only a parent, or siblings that are told of their end by the same signal, can be \
                     made to share again",
                    self.with
                ),
                "wait until one of them has ended or called exec",
            );
        } else {
            refusals.add(
                (self.process, name),
                format!("the {what} of its thread {}", self.task),
                format!(
                    "the thread shares it with {}, with which it cannot be made to share again",
                    self.with
                ),
                "wait until one of them has ended",
            );
        }
    }
}

/// The live processes of a target, with those of their threads that are to be looked at.
pub fn members_of(target: &Target) -> Vec<Member> {
    target
        .processes
        .iter()
        .filter(|process| !process.is_zombie())
        .filter_map(|process| {
            let mut tasks = process.directory.threads().ok()?;
            // The first thread, or another one where that has ended.
            let first = process.reached_by();
            tasks.retain(|task| *task != process.pid && *task != first);
            if !target.looks_at_threads(process) {
                tasks.clear();
            }
            tasks.insert(0, first);
            Some(Member {
                process: process.pid,
                parent: process.stat.ppid,
                exit_signal: process.stat.exit_signal,
                tasks,
            })
        })
        .collect()
}

/// The live processes of a frozen job, with their threads.
fn members_frozen(frozen: &[FrozenProcess]) -> Vec<Member> {
    let alive = frozen.iter().filter(|process| !process.is_zombie());
    alive
        .map(|process| Member {
            process: process.pid,
            parent: process.stat.ppid,
            exit_signal: process.stat.exit_signal,
            tasks: process
                .tasks
                .iter()
                .map(|task| task.stopped.tid())
                .collect(),
        })
        .collect()
}

/// What the processes of a frozen job share.
pub fn of_frozen(processes: &[FrozenProcess]) -> Sharing {
    Sharing::find(&members_frozen(processes))
}

/// The live processes of an image, parents before children.
pub fn members_recorded(processes: &[ProcessRecord]) -> Vec<Member> {
    let alive = processes.iter().filter(|process| process.zombie.is_none());
    alive
        .map(|process| Member {
            process: process.pid,
            parent: process.parent,
            exit_signal: process.exit_signal(),
            tasks: process.tasks.clone(),
        })
        .collect()
}

/// The resource.
pub struct Commons;

impl Resource for Commons {
    fn name(&self) -> &'static str {
        "what tasks share"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[SharingRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let members = members_of(target);
        for found in Sharing::find(&members).unreachable(&members) {
            let process = target
                .processes
                .iter()
                .find(|process| process.pid == found.process);
            let name = process.map(TargetProcess::name).unwrap_or_default();
            found.refuse(&name, refusals);
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let members = members_frozen(&frozen.processes);
        let mut refusals = Refusals::default();
        for found in frozen.sharing.unreachable(&members) {
            let process = frozen.alive().find(|process| process.pid == found.process);
            let name = process.map(FrozenProcess::name).unwrap_or_default();
            found.refuse(&name, &mut refusals);
        }
        refusals.into_result()?;
        let holders = &frozen.sharing.holders;
        if holders.is_empty() {
            return Ok(());
        }
        let tasks = frozen
            .alive()
            .flat_map(|process| process.tasks.iter().map(move |task| (process, task)));
        let inner: BTreeMap<i32, (i32, i32)> = tasks
            .map(|(process, task)| (task.stopped.tid(), (process.inner, task.inner)))
            // A process whose first thread has ended is called by its number all the same.
            .chain(
                frozen
                    .alive()
                    .map(|process| (process.pid, (process.inner, process.inner))),
            )
            .collect();
        let recorded: BTreeSet<i32> = holders.keys().map(|(_, task)| *task).collect();
        for task in recorded {
            let Some(&(process, number)) = inner.get(&task) else {
                continue;
            };
            let holder = |what| {
                let holder = holders.get(&(what, task))?;
                inner.get(holder).map(|(_, holder)| *holder)
            };
            collection.put(&SharingRecord {
                process,
                task: number,
                descriptors: holder(Shared::Descriptors).unwrap_or(0),
                fs_context: holder(Shared::FsContext).unwrap_or(0),
                handlers: holder(Shared::Handlers).unwrap_or(0),
                memory: holder(Shared::Memory).unwrap_or(0),
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, _plan: &mut Plan) -> Result<()> {
        // The births are planned with the processes.
        let processes = records.all::<ProcessRecord>()?;
        let known: BTreeSet<i32> = processes
            .iter()
            .flat_map(|process| process.tasks.iter().copied())
            .collect();
        let sharing = Sharing::of(records)?;
        let holders = sharing.holders.iter();
        for ((_, task), holder) in holders {
            if !known.contains(task) || !known.contains(holder) {
                return Err(Error::Failed(format!(
                    "the image is damaged: task {task} shares with {holder}, and one of them is not in it"
                )));
            }
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Processes that share a descriptor table, a working directory, signal actions or memory (clone with CLONE_FILES, \
               CLONE_FS, CLONE_SIGHAND, CLONE_VM)",
        level: Level::Restored,
        how: "stored once and shared again; refused between processes that are neither parent and child nor siblings",
    },
    Support {
        what: "Threads with a descriptor table or working directory of their own (unshare)",
        level: Level::Restored,
        how: "with their own; a descriptor table takes Linux 6.9 or newer",
    },
    Support {
        what: "Shared I/O contexts (CLONE_IO)",
        level: Level::Partly,
        how: "each process has its own after a restart; only the scheduling of its I/O depends on it",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn member(process: i32, parent: i32, tasks: &[i32]) -> Member {
        Member {
            process,
            parent,
            exit_signal: libc::SIGCHLD,
            tasks: tasks.to_vec(),
        }
    }

    fn sharing(holders: &[(Shared, i32, i32)]) -> Sharing {
        Sharing {
            holders: holders
                .iter()
                .map(|&(what, task, holder)| ((what, task), holder))
                .collect(),
        }
    }

    #[test]
    fn record_round_trip() {
        let record = SharingRecord {
            process: 7,
            task: 8,
            descriptors: 8,
            ..SharingRecord::default()
        };
        let mut records = RecordSet::new();
        records.push(&record).unwrap();
        assert_eq!(records.all::<SharingRecord>().unwrap(), [record]);
        let sharing = Sharing::of(&records).unwrap();
        assert_eq!(sharing.apart(Shared::Descriptors, 7, &[7, 8, 9]), [8]);
        assert_eq!(sharing.of_task(Shared::FsContext, 7, 8), 7);
    }

    #[test]
    fn who_shares_is_born_by_parent_or_sibling() {
        let members = [member(1, 0, &[1]), member(2, 1, &[2]), member(3, 1, &[3])];
        let (origins, unreachable) = sharing(&[
            (Shared::Descriptors, 2, 1),
            (Shared::Memory, 3, 2),
            (Shared::Handlers, 3, 2),
        ])
        .origins(&members);
        assert_eq!(unreachable, []);
        let flags = libc::CLONE_FILES as u64;
        let origin = |by, sibling, flags| Origin { by, sibling, flags };
        assert_eq!(origins[&2], origin(1, Sibling::No, flags));
        let flags = (libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
        assert_eq!(origins[&3], origin(2, Sibling::Yes, flags));
    }

    #[test]
    fn who_has_lost_the_process_between_is_refused() {
        let members = [member(1, 0, &[1]), member(2, 1, &[2]), member(3, 2, &[3])];
        let (_, unreachable) = sharing(&[(Shared::FsContext, 3, 1)]).origins(&members);
        assert_eq!(unreachable.len(), 1);
        assert_eq!((unreachable[0].process, unreachable[0].with), (3, 1));
    }

    #[test]
    fn threads_that_share_among_themselves_are_born_by_the_first_of_them() {
        let sharing = sharing(&[
            (Shared::Descriptors, 8, 8),
            (Shared::Descriptors, 9, 8),
            (Shared::FsContext, 9, 9),
        ]);
        let births = sharing.thread_births(7, &[7, 8, 9, 10]).unwrap();
        let of = |by, apart: i32, threads: &[i32]| ThreadBirths {
            by,
            apart: apart as u64,
            threads: threads.to_vec(),
        };
        assert_eq!(
            births,
            [
                of(7, 0, &[10]),
                of(7, libc::CLONE_FILES, &[8]),
                of(8, libc::CLONE_FS, &[9])
            ]
        );
    }

    #[test]
    fn separate_processes_share_nothing() {
        let own = std::process::id() as i32;
        let sleep = || std::process::Command::new("sleep").arg("10").spawn();
        let mut children = [sleep().unwrap(), sleep().unwrap()];
        let members: Vec<Member> = children
            .iter()
            .map(|child| member(child.id() as i32, own, &[child.id() as i32]))
            .collect();
        assert_eq!(Sharing::find(&members), Sharing::default());
        // One that is there twice shares everything with itself.
        let twice = Sharing::find(&[
            member(1, 0, &members[0].tasks),
            member(2, 1, &members[0].tasks),
        ]);
        if task::compare(Compare::Memory, (own, 0), (own, 0)).is_ok() {
            assert!(
                Shared::ALL
                    .iter()
                    .all(|what| twice.of_process(*what, 2) == 1)
            );
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
