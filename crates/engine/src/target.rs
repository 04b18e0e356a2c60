//! What is to be checkpointed: the processes in scope, read from /proc while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{ProcessIdentity, Suspension};
use cryonaut_procfs::stat::Stat;
use cryonaut_procfs::status::Status;
use cryonaut_procfs::{ProcError, ProcessDirectory};
use cryonaut_sys::pidfd;
use cryonaut_sys::terminal::pseudo::session_of;

use crate::dialogue::Dialogue;
use crate::notify::Notification;
use crate::reference::Hashing;
use crate::resource::embedded::Embedding;
use crate::{Error, Refusals, Result};

/// Which processes around the named one belong to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// It and all its descendants.
    #[default]
    Tree,
    /// It alone.
    Process,
    /// Its process group.
    Group,
    /// Its session, and those on pseudo-terminals whose masters are in it, or in one of these.
    Session,
    /// Every process of its pid namespace but the namespace's init.
    Namespace,
}

/// How children that are not in scope look to their parents in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Cut {
    /// There must be none.
    #[default]
    Refused,
    /// As if they had just been killed (SIGKILL).
    Killed,
    /// As if there had never been any: waiting for them finds no child.
    Gone,
}

/// One process of a [`Target`].
#[derive(Debug)]
pub struct TargetProcess {
    /// Its pid, as we see it.
    pub pid: i32,
    /// Its /proc directory.
    pub directory: ProcessDirectory,
    /// /proc/PID/stat at the time of the look.
    pub stat: Stat,
    /// /proc/PID/status at the time of the look.
    pub status: Status,
}

impl TargetProcess {
    /// Reads a process.
    ///
    /// # Errors
    /// When it has ended or may not be read.
    pub fn read(pid: i32) -> Result<Self> {
        let directory = ProcessDirectory::open(pid)?;
        let mut process = Self {
            pid,
            stat: directory.stat()?,
            status: directory.status()?,
            directory,
        };
        if process.is_zombie() && process.stat.num_threads > 1 {
            process.look_through_thread();
        }
        Ok(process)
    }

    /// Looks at a process whose first thread has ended through another one: the first one's files show nothing any more.
    fn look_through_thread(&mut self) {
        let threads = self.directory.threads().unwrap_or_default();
        let alive = threads.into_iter().filter(|tid| *tid != self.pid);
        for tid in alive {
            let look = |directory: ProcessDirectory| {
                Ok((directory.stat()?, directory.status()?, directory))
            };
            let Ok((stat, status, directory)) = ProcessDirectory::open(tid).and_then(look) else {
                continue;
            };
            if !matches!(stat.state, 'Z' | 'X') {
                let leader = &self.stat;
                self.stat = Stat {
                    pid: leader.pid,
                    comm: leader.comm.clone(),
                    exit_signal: leader.exit_signal,
                    exit_code: leader.exit_code,
                    ..stat
                };
                self.status = Status {
                    namespace_pid: self.status.namespace_pid.clone(),
                    ..status
                };
                self.directory = directory;
                return;
            }
        }
    }

    /// The task through which its memory and files are reached: its first, or another where that has ended.
    pub fn reached_by(&self) -> i32 {
        self.directory.pid()
    }

    /// Its name, printable.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
    }

    /// Whether it has ended and waits for its parent to take notice.
    pub fn is_zombie(&self) -> bool {
        matches!(self.stat.state, 'Z' | 'X')
    }

    /// Whether all of its threads have ended.
    fn has_only_its_end(&self) -> bool {
        self.is_zombie() && self.stat.num_threads <= 1
    }

    /// Whether it has ended since it was read, or has given up its memory and is about to: from then on the kernel shows what it
    /// has to root alone (`task_dump_owner` in fs/proc/base.c).
    fn is_ending(&self) -> bool {
        const EXITING: u32 = 0x4;
        match self.directory.stat() {
            Ok(now) => matches!(now.state, 'Z' | 'X') || now.flags & EXITING != 0,
            Err(error) => error.is_gone(),
        }
    }

    /// Why this user may not look into it, and the way out; none for who may.
    pub fn seclusion(&self) -> Option<(String, &'static str)> {
        let denied = |error: ProcError| error.is_denied();
        if !self.directory.descriptors().is_err_and(denied) || self.is_ending() {
            return None;
        }
        let own = cryonaut_sys::spawn::effective_user();
        let other = self.status.uid.iter().find(|&&user| user != own);
        Some(match other {
            Some(other) => (
                format!("it runs as user {other}, and you are user {own}: the kernel lets nobody else look into it"),
                "make the checkpoint as that user, or as root",
            ),
            // ptrace(2), "Ptrace access mode checking".
            None => (
                "it has made itself unreadable (PR_SET_DUMPABLE), has more capabilities than you, or is a program that you may not read: the kernel lets only root look into it".into(),
                "make the checkpoint as root",
            ),
        })
    }

    /// Its pid in its own namespace.
    pub fn inner_pid(&self) -> i32 {
        self.status
            .namespace_pid
            .last()
            .copied()
            .unwrap_or(self.pid)
    }

    /// What refusals call it.
    pub fn label(&self) -> (i32, String) {
        (self.pid, self.name())
    }
}

/// What becomes of sockets whose peer is outside the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum External {
    /// The checkpoint is refused.
    Refuse,
    /// TCP connections go on, where this user may take them along (CAP_NET_ADMIN); with all others the checkpoint is refused.
    Keep(Firewall),
    /// A restart shows them as if the peer had closed.
    Close,
    /// A restart connects them again to the address that they were connected to.
    Reconnect,
}

impl Default for External {
    fn default() -> Self {
        Self::Keep(Firewall::Holds)
    }
}

impl External {
    /// Whether a checkpoint is refused because of a socket that cannot be kept.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Refuse | Self::Keep(_))
    }

    /// Whether connections go on.
    pub fn keeps(self) -> bool {
        matches!(self, Self::Keep(_))
    }
}

/// What the firewall of this machine does for connections that go on, while the job is nowhere but on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// It drops their segments. Otherwise the kernel would tell the peer that there is no such connection.
    Holds,
    /// Nothing.
    Idle,
}

/// How closely a running job is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Inspection {
    /// At everything: for somebody who asks what stands in the way.
    #[default]
    Complete,
    /// What would take long of a large job is left until it stands still, where it is looked at in any case: what is refused then
    /// is refused before anything is changed.
    BeforeFreeze,
}

/// Processes that work for this one: the `cryo` that waits for it, its guardian.
static COLLEAGUES: RwLock<BTreeSet<i32>> = RwLock::new(BTreeSet::new());

/// Leaves a process out of every target as this one is: the `cryo` that has this process do its work, or what stands by for it.
pub fn leave_out(pid: i32) {
    let mut colleagues = COLLEAGUES.write().unwrap_or_else(PoisonError::into_inner);
    colleagues.insert(pid);
}

/// Takes back what [`leave_out`] said of a process that has ended.
pub(crate) fn leave_out_no_more(pid: i32) {
    let mut colleagues = COLLEAGUES.write().unwrap_or_else(PoisonError::into_inner);
    colleagues.remove(&pid);
}

/// Whether a process is this `cryo`, or works for it.
pub(crate) fn is_own(pid: i32) -> bool {
    let colleagues = COLLEAGUES.read().unwrap_or_else(PoisonError::into_inner);
    pid == std::process::id() as i32 || colleagues.contains(&pid)
}

/// The processes that make up a job, parents before children.
#[derive(Debug)]
pub struct Target {
    /// The processes, parents before children.
    pub processes: Vec<TargetProcess>,
    /// What was asked for.
    pub scope: Scope,
    /// The process that was named.
    pub named: i32,
    /// When that started: a later process with its number is another.
    pub(crate) started: u64,
    /// How closely resources look at it.
    pub inspection: Inspection,
    /// Whether the files that the job uses are hashed.
    pub hashing: Hashing,
    /// What becomes of sockets whose peer is outside.
    pub external: External,
    /// What becomes of children that are not in scope.
    pub cut: Cut,
    /// How programs are told of checkpoints, for the image to tell.
    pub notification: Notification,
    /// Which files by reference go into the image.
    pub embedding: Arc<Embedding>,
    /// The suspension that it is in, and stays in.
    pub suspension: Option<Suspension>,
    /// Processes in scope that are no part of it: they wanted that.
    pub left_out: BTreeSet<i32>,
    /// What is said to programs that take part, and what they say.
    pub dialogue: Arc<Dialogue>,
}

impl Target {
    /// Finds the processes in scope around `pid`, leaving out this `cryo`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a process that does not exist, a kernel thread, pid 1, or `cryo` itself alone.
    pub fn find(pid: i32, scope: Scope) -> Result<Self> {
        if pid <= 0 {
            return Err(Error::Usage(format!(
                "{pid} is not a process id: give a positive number or a job's name"
            )));
        }
        let named = match TargetProcess::read(pid) {
            Ok(named) => named,
            Err(error @ Error::NotPermitted(..)) => return Err(error),
            Err(_) => {
                return Err(Error::Usage(format!(
                    "there is no process {pid}: `ps` lists the ones that run"
                )));
            }
        };
        if named.status.tgid != pid {
            let leader = named.status.tgid;
            return Err(Error::Usage(format!(
                "{pid} is a thread of process {leader}: give the process"
            )));
        }
        const KERNEL_THREAD: u32 = 0x0020_0000;
        if named.stat.flags & KERNEL_THREAD != 0 {
            return Err(Error::Usage(format!(
                "{pid} ({}) is a kernel thread, not a program",
                named.name()
            )));
        }
        if pid == 1 {
            return Err(Error::Usage(
                "process 1 is this system's init, which everything else depends on: name the program that you mean".into(),
            ));
        }
        if scope == Scope::Session {
            check_leader(&named)?;
        }
        let started = start_of(pid)?;
        let mut found = BTreeMap::new();
        match scope {
            Scope::Process => drop(found.insert(pid, named)),
            Scope::Tree => descend(named, &mut found)?,
            Scope::Group | Scope::Session | Scope::Namespace => {
                let namespace = named.directory.namespace("pid").ok();
                let belongs = |process: &TargetProcess| match scope {
                    Scope::Group => process.stat.pgrp == named.stat.pgrp,
                    Scope::Session => process.stat.session == named.stat.session,
                    _ => {
                        process.inner_pid() != 1
                            && process.directory.namespace("pid").ok() == namespace
                    }
                };
                for other in cryonaut_procfs::system::all_pids()? {
                    if let Ok(process) = TargetProcess::read(other)
                        && process.stat.flags & KERNEL_THREAD == 0
                        && belongs(&process)
                    {
                        found.insert(other, process);
                    }
                }
            }
        }
        if scope == Scope::Session {
            add_inner_sessions(&mut found)?;
        }
        let before = found.len();
        found.retain(|pid, _| !is_own(*pid));
        let contained_self = found.len() < before;
        if found.is_empty() {
            let what = if contained_self {
                "only this cryo itself"
            } else {
                "no process"
            };
            return Err(Error::Usage(format!(
                "there is {what} in scope: nothing to checkpoint"
            )));
        }
        if found.values().all(TargetProcess::has_only_its_end) {
            return Err(Error::Usage(format!(
                "process {pid} has ended and waits for its parent to notice: nothing to checkpoint"
            )));
        }
        Ok(Self::of(parents_first(found), scope, (pid, started)))
    }

    /// These processes as one that nothing special is wanted of; `named` is the one that was named, and its start time.
    pub(crate) fn of(
        processes: Vec<TargetProcess>,
        scope: Scope,
        (named, started): (i32, u64),
    ) -> Self {
        Self {
            processes,
            scope,
            named,
            started,
            inspection: Inspection::default(),
            hashing: Hashing::None,
            external: External::default(),
            cut: Cut::default(),
            notification: Notification::default(),
            embedding: Arc::default(),
            suspension: None,
            left_out: BTreeSet::new(),
            dialogue: Arc::default(),
        }
    }

    /// Finds the processes again, as they are now.
    ///
    /// # Errors
    /// As [`Target::find`]; when the named process has ended, though another may have its number now.
    pub fn again(&self) -> Result<Self> {
        self.expect_same()?;
        let mut found = Self::find(self.named, self.scope)?;
        for (named, scope) in self.dialogue.taken_in().iter() {
            found.take_in(*named, *scope);
        }
        found
            .processes
            .retain(|process| !self.left_out.contains(&process.pid));
        Ok(Self {
            inspection: self.inspection,
            hashing: self.hashing,
            external: self.external,
            cut: self.cut,
            notification: self.notification,
            embedding: Arc::clone(&self.embedding),
            suspension: self.suspension.clone(),
            left_out: self.left_out.clone(),
            dialogue: Arc::clone(&self.dialogue),
            ..found
        })
    }

    /// Adds the processes around another one. Those that have ended, or cannot be looked at any more, are not missed.
    fn take_in(&mut self, named: i32, scope: Scope) {
        let Ok(other) = Self::find(named, scope) else {
            return;
        };
        let own = std::mem::take(&mut self.processes);
        let all = other.processes.into_iter().chain(own);
        let all = all.map(|process| (process.pid, process));
        self.processes = parents_first(all.collect());
    }

    /// The process that was named, as no later one is.
    pub fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.named,
            start_time: self.started,
        }
    }

    fn expect_same(&self) -> Result<()> {
        match start_of(self.named)? == self.started {
            true => Ok(()),
            false => Err(ended(self.named)),
        }
    }

    /// Whether every thread of a process is to be looked at while it runs.
    pub fn looks_at_threads(&self, process: &TargetProcess) -> bool {
        const FEW: i64 = 64;
        self.inspection == Inspection::Complete || i64::from(process.stat.num_threads) <= FEW
    }

    /// The pids of the job.
    pub fn pids(&self) -> BTreeSet<i32> {
        self.processes.iter().map(|process| process.pid).collect()
    }

    /// The pids of the processes that are alive.
    pub fn live_pids(&self) -> Vec<i32> {
        self.processes
            .iter()
            .filter(|process| !process.is_zombie())
            .map(|process| process.pid)
            .collect()
    }

    /// The pids in scope as they are now, dead or alive, of which some may end before they are looked at.
    ///
    /// # Errors
    /// When /proc cannot be read, and as [`Target::again`].
    pub fn pids_now(&self) -> Result<Vec<i32>> {
        self.expect_same()?;
        let mut pids = match self.scope {
            Scope::Process => vec![self.named],
            Scope::Tree => {
                let mut pids = descendants(self.named)?;
                pids.push(self.named);
                pids
            }
            Scope::Group | Scope::Session | Scope::Namespace => Self::find(self.named, self.scope)?
                .processes
                .iter()
                .map(|process| process.pid)
                .collect(),
        };
        for (named, scope) in self.dialogue.taken_in().iter() {
            // Who has ended is not missed.
            if let Ok(other) = Self::find(*named, *scope) {
                pids.extend(other.pids());
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|&pid| !is_own(pid) && !self.left_out.contains(&pid));
        Ok(pids)
    }

    /// Everything that stands in the way, found without disturbing anything.
    pub fn refusals(&self) -> Refusals {
        let mut refusals = Refusals::default();
        for resource in crate::resource::REGISTRY {
            resource.inspect(self, &mut refusals);
        }
        self.without_ended(&refusals)
    }

    /// What was found of a process that has ended meanwhile is void: some of what /proc shows goes before the process does.
    fn without_ended(&self, found: &Refusals) -> Refusals {
        let mut kept = Refusals::default();
        for refusal in found.list() {
            let process = self
                .processes
                .iter()
                .find(|process| process.pid == refusal.pid);
            if !process.is_some_and(|process| has_ended(&process.directory)) {
                kept.add(
                    (refusal.pid, &refusal.process),
                    &refusal.object,
                    &refusal.reason,
                    &refusal.remedy,
                );
            }
        }
        kept
    }
}

/// A session goes by its leader, so that nobody saves a larger one than was meant; once that has ended, by any member.
fn check_leader(named: &TargetProcess) -> Result<()> {
    let (pid, session) = (named.stat.pid, named.stat.session);
    let leader = (session > 0 && session != pid).then(|| TargetProcess::read(session).ok());
    match leader.flatten() {
        Some(leader) => Err(Error::Usage(format!(
            "process {pid} ({}) is no session leader: it is in session {session}, of {}; give {session} with --session, or leave \
             --session out for the process and its children",
            named.name(),
            leader.name()
        ))),
        None => Ok(()),
    }
}

/// When a process started.
fn start_of(pid: i32) -> Result<u64> {
    let identity = ProcessIdentity::of(pid).map_err(|_| ended(pid))?;
    Ok(identity.start_time)
}

fn ended(pid: i32) -> Error {
    Error::Usage(format!("process {pid} has ended meanwhile"))
}

/// Whether a process is gone, waits for its parent to take notice of its end, or is just ending.
pub(crate) fn has_ended(directory: &ProcessDirectory) -> bool {
    /// include/linux/sched.h
    const EXITING: u32 = 0x4;
    /// In which all threads of a process that is ending are surely seen to go.
    const PATIENCE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    loop {
        let Ok(stat) = directory.stat() else {
            return !directory.exists();
        };
        if stat.flags & EXITING == 0 && !matches!(stat.state, 'Z' | 'X') {
            return false;
        }
        // Its first thread has ended: the others follow, or run on without it.
        if stat.num_threads <= 1 {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Adds the sessions on terminals whose master is in the job: what script(1) or a terminal emulator has started in them.
fn add_inner_sessions(found: &mut BTreeMap<i32, TargetProcess>) -> Result<()> {
    let mut looked_at = BTreeSet::new();
    loop {
        let new = found
            .values()
            .filter(|process| looked_at.insert(process.pid));
        let mut sessions: BTreeSet<i32> = new.flat_map(inner_sessions).collect();
        sessions.retain(|session| found.values().all(|other| other.stat.session != *session));
        if sessions.is_empty() {
            return Ok(());
        }
        for stat in cryonaut_procfs::system::all_stats()? {
            if sessions.contains(&stat.session)
                && let Ok(process) = TargetProcess::read(stat.pid)
            {
                found.insert(stat.pid, process);
            }
        }
    }
}

/// The sessions on pseudo-terminals whose masters a process has open, as far as it may be looked into.
fn inner_sessions(process: &TargetProcess) -> Vec<i32> {
    let numbers = process.directory.descriptors().unwrap_or_default();
    let is_master = |number: &i32| {
        let link = process.directory.descriptor_link(*number);
        link.is_ok_and(|link| link.ends_with(b"/ptmx"))
    };
    let masters: Vec<i32> = numbers.into_iter().filter(is_master).collect();
    if masters.is_empty() {
        return Vec::new();
    }
    let Ok(opened) = pidfd::open(process.pid) else {
        return Vec::new();
    };
    let session = |number: i32| {
        let master = pidfd::get_descriptor(opened.as_fd(), number).ok()?;
        session_of(master.as_fd()).ok()?
    };
    let sessions = masters.into_iter().filter_map(session);
    sessions.filter(|session| *session > 0).collect()
}

/// Adds a process and its descendants.
fn descend(process: TargetProcess, found: &mut BTreeMap<i32, TargetProcess>) -> Result<()> {
    for pid in descendants(process.pid)? {
        if let Ok(process) = TargetProcess::read(pid) {
            found.insert(pid, process);
        }
    }
    found.insert(process.pid, process);
    Ok(())
}

/// The pids of all descendants of a process. Not every kernel has /proc/PID/task/TID/children; without it, and for a process with
/// many threads, one look at all processes is cheaper than one at each thread.
fn descendants(ancestor: i32) -> Result<Vec<i32>> {
    const MANY: usize = 32;
    let listed = std::path::Path::new("/proc/thread-self/children").exists();
    let mut by_parent: Option<BTreeMap<i32, Vec<i32>>> = None;
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let directory = ProcessDirectory::open(pid).ok().filter(|directory| {
            listed
                && directory
                    .threads()
                    .is_ok_and(|threads| threads.len() < MANY)
        });
        if let Some(directory) = directory {
            found.extend(directory.all_children().unwrap_or_default());
            continue;
        }
        if by_parent.is_none() {
            let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for stat in cryonaut_procfs::system::all_stats()? {
                children.entry(stat.ppid).or_default().push(stat.pid);
            }
            by_parent = Some(children);
        }
        let children = by_parent.as_mut().and_then(|all| all.remove(&pid));
        found.extend(children.unwrap_or_default());
    }
    found.remove(0);
    Ok(found)
}

/// Orders processes so that each comes after its parent, and siblings by number.
pub(crate) fn parents_first(mut found: BTreeMap<i32, TargetProcess>) -> Vec<TargetProcess> {
    let mut ordered = Vec::with_capacity(found.len());
    let mut waiting: Vec<i32> = found
        .values()
        .filter(|p| !found.contains_key(&p.stat.ppid))
        .map(|p| p.pid)
        .rev()
        .collect();
    while let Some(pid) = waiting.pop() {
        let Some(process) = found.remove(&pid) else {
            continue;
        };
        waiting.extend(
            found
                .values()
                .filter(|p| p.stat.ppid == pid)
                .map(|p| p.pid)
                .rev(),
        );
        ordered.push(process);
    }
    ordered
}
