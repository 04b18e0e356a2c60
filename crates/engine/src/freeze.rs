//! Freezing: every task of the job stands still under our hands. Dropping [`Frozen`] lets the job run on.

mod connection;
mod end;
mod memory_limit;
mod settle;
mod suspended;
mod vfork;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::smaps::SmapsArea;
use cryonaut_procfs::stat::Stat;
use cryonaut_procfs::status::Status;
use cryonaut_sys::{RemotePtr, pidfd, ptrace, task};
use cryonaut_tracee::{
    CallList, Filtered, Guest, JOB_OPTIONS, Outcomes, Running, Stopped, Stopping, find_room,
};

use crate::checkpoint::Tracer;
use crate::dialogue::Dialogue;
use crate::error::Attempt;
use crate::guardian::{Guardian, present};
use crate::notify::Notification;
use crate::participants::Board;
use crate::reference::Hashing;
use crate::resource::embedded::Embedding;
use crate::resource::file::{KeptConnections, Parted};
use crate::resource::restriction;
use crate::resource::sharing::{self, Shared, Sharing};
use crate::suspend::Thawed;
use crate::target::{Cut, External, Scope, Target, TargetProcess, parents_first};
use crate::{Error, Result};

use settle::settle;
pub(crate) use suspended::job_stop;
use vfork::InVfork;

/// How long a task may take to stop before the checkpoint is given up.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// After this a task that does not stop is looked at.
const SOON: Duration = Duration::from_millis(50);
/// How long a job stands still for the child of a vfork, which mostly calls exec at once.
const VFORK_MOMENT: Duration = Duration::from_millis(200);
/// How often the job is searched for tasks that appeared meanwhile.
const PASSES: usize = 50;

/// One stopped task of a frozen process.
#[derive(Debug)]
pub struct FrozenTask {
    /// The stopped task.
    pub stopped: Stopped,
    /// Its id in its own pid namespace.
    pub inner: i32,
    /// Its seccomp mode: 0 none, 1 strict, 2 filters.
    pub seccomp: u32,
    /// Its status file; empty for the task that the process is looked at through.
    pub status: Vec<u8>,
}

/// One process of the frozen job.
#[derive(Debug)]
pub struct FrozenProcess {
    /// Its pid, as we see it.
    pub pid: i32,
    /// Its pid in its own namespace: what the image calls it.
    pub inner: i32,
    /// A descriptor of it; none for a zombie that must not be touched.
    pub pidfd: Option<OwnedFd>,
    /// Its /proc directory.
    pub directory: ProcessDirectory,
    /// /proc/PID/stat while frozen.
    pub stat: Stat,
    /// /proc/PID/status while frozen.
    pub status: Status,
    /// Its living tasks, the leader first unless it has ended; none for a zombie.
    pub tasks: Vec<FrozenTask>,
    /// Its memory areas, without what `cryo` put there.
    pub areas: Vec<SmapsArea>,
    memory: File,
    /// Its /proc/PID/pagemap; for a zombie nothing of use.
    pub pagemap: File,
    /// Only its suspension has stopped it (SIGSTOP): an image shows it running.
    pub suspended: bool,
    /// Shared by processes that share memory.
    guest: Arc<Mutex<Option<Guest>>>,
}

impl FrozenProcess {
    /// Its name, printable.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
    }

    /// The task through which its memory and files are reached: its first, or another where that has ended.
    pub fn reached_by(&self) -> i32 {
        self.directory.pid()
    }

    /// Whether its first thread has ended while others live on.
    pub fn has_lost_leader(&self) -> bool {
        !self.is_zombie() && self.reached_by() != self.pid
    }

    /// Whether it has ended and waits for its parent to take notice.
    pub fn is_zombie(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Makes the system calls of `list` in one of its tasks (index into `tasks`).
    ///
    /// # Errors
    /// When the process has ended, or has no room for the code.
    pub fn run(&mut self, index: usize, list: &CallList) -> Result<Outcomes> {
        let inner = self.inner;
        let caught = self.status.signals_caught;
        let mut guest = lock(&self.guest);
        let guest = match &mut *guest {
            Some(guest) => guest,
            none => {
                let areas: Vec<_> = self.areas.iter().map(|area| area.area.clone()).collect();
                let through = self.directory.pid();
                let room = find_room(through, &areas)?;
                let task = &mut self.tasks[0];
                let names = (inner, task.inner);
                let mut enter = || Guest::enter(through, &mut task.stopped, names, room);
                let entered = match enter() {
                    Err(cryonaut_tracee::Error::NoMemory(..)) => {
                        memory_limit::with_room(self.pid, enter)?
                    }
                    entered => entered,
                };
                if let Err(cryonaut_tracee::Error::NoMemory(_, cause)) = &entered {
                    return Err(memory_limit::refusal(self, cause));
                }
                none.insert(entered?)
            }
        };
        let task = &mut self.tasks[index];
        Ok(guest.run(&mut task.stopped, (inner, task.inner), caught, list)?)
    }

    /// The address of the mapping that call lists use in it, if there is one by now: a sample of what the kernel gives to new
    /// mappings of this process.
    pub fn list_memory(&self) -> Option<u64> {
        lock(&self.guest).as_ref().map(Guest::list_memory)
    }

    /// What leads to the file or object of one of its areas, for those who may open it: that takes CAP_CHECKPOINT_RESTORE or
    /// CAP_SYS_ADMIN (proc(5), /proc/PID/map_files).
    pub fn map_file(&self, area: &SmapsArea) -> PathBuf {
        let range = format!("{:x}-{:x}", area.area.start, area.area.end);
        self.directory.path().join("map_files").join(range)
    }

    /// Reads its memory.
    ///
    /// # Errors
    /// When any byte cannot be read.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        // Not by process_vm_readv: see `Access`.
        self.memory.read_exact_at(buffer, address).attempt(|| {
            format!(
                "process {}: reading its memory at {}",
                self.pid,
                RemotePtr::new(address)
            )
        })
    }

    /// Removes what `cryo` put into the process.
    fn leave(&mut self) -> Result<()> {
        let guest = lock(&self.guest).take();
        if let Some(guest) = guest {
            let task = &mut self.tasks[0];
            guest.leave(&mut task.stopped, (self.inner, task.inner))?;
        }
        Ok(())
    }
}

impl Drop for FrozenProcess {
    fn drop(&mut self) {
        // An error here means that the process has ended: there is nothing left to restore.
        let _ = self.leave();
    }
}

/// What becomes of the job after its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Afterwards {
    /// It runs on.
    #[default]
    LeaveRunning,
    /// It is left stopped, as by SIGSTOP.
    Stop,
    /// It is killed.
    Kill,
}

/// Who kills the rest of a job that was begun to be killed.
enum Watch {
    /// The guardian of its connections, which leave with it.
    Parted(Parted),
    /// One of its own.
    Guarded(Guardian),
}

/// A job of which every task stands still.
#[derive(Debug)]
pub struct Frozen {
    /// The processes, parents before children.
    pub processes: Vec<FrozenProcess>,
    /// What was asked for.
    pub scope: Scope,
    /// The process that was named, as we see it.
    pub named: i32,
    /// When the first task was asked to stop.
    pub since: Instant,
    /// Whether the files that the job uses are hashed.
    pub hashing: Hashing,
    /// What becomes of sockets whose peer is outside.
    pub external: External,
    /// How children that are not in scope look afterwards.
    pub cut: Cut,
    /// Processes in scope that wanted to be no part of it, by their pids as we see them.
    pub left_out: BTreeSet<i32>,
    /// Which files by reference go into the image.
    pub embedding: Arc<Embedding>,
    /// What its tasks share in an unusual way.
    pub sharing: Sharing,
    /// How its programs are told of checkpoints.
    pub notification: Notification,
    /// Processes that were told of this, by their pids as we see them: those among them that are stopped have stopped themselves
    /// to say that they are ready.
    pub told: BTreeSet<i32>,
    /// What programs that take part say of themselves, by their pids as we see them.
    pub(crate) boards: BTreeMap<i32, Vec<Board>>,
    /// What is said to them, and what they say.
    pub dialogue: Arc<Dialogue>,
    /// How many times the job was restarted before.
    pub generation: u64,
    /// Who traces it.
    pub tracer: Tracer,
    /// What becomes of it once it is saved.
    pub afterwards: Afterwards,
    /// Connections to outside that go on without it.
    pub(crate) kept: Option<KeptConnections>,
    /// Connections within the job that end without a trace when it is killed: process as we see it, and descriptor.
    pub connections: Vec<(i32, i32)>,
    /// The freezer that held it before, and will again.
    thawed: Option<Thawed>,
}

impl Frozen {
    /// Stops every task of the job, including those that appear meanwhile.
    ///
    /// # Errors
    /// [`Error::NotPermitted`]; [`Error::Refused`] when a process stays in vfork; [`Error::Failed`] when a task does not stop in
    /// time, the job keeps growing, or it has ended. The job runs on.
    pub fn freeze(target: &Target) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::attempt(target)? {
                Stand::Still(frozen) => return Ok(*frozen),
                Stand::Waits(parent) => {
                    tracing::info!(parent = parent.pid, "waiting for the end of a vfork");
                    parent.end_of_vfork(STOP_LIMIT.saturating_sub(start.elapsed()))?;
                }
            }
        }
    }

    fn attempt(target: &Target) -> Result<Stand> {
        let mut hold = Hold::default();
        // First attach to all, which disturbs nobody: from then on new tasks are attached by the kernel.
        let mut mark = births();
        let mut pids = target.live_pids();
        for pass in 0.. {
            let grown = hold.seize(&pids)?;
            if pass > 0 && !grown {
                break;
            }
            if pass == PASSES {
                return Err(Error::Failed(
                    "the job creates tasks faster than they can be followed: try again".into(),
                ));
            }
            mark = births();
            pids = known_and_new(target, pids);
        }
        // Then stop them as one.
        let since = Instant::now();
        for _ in 0..PASSES {
            if let Some(parent) = hold.stop_all()? {
                return Ok(Stand::Waits(parent));
            }
            let now = births();
            if std::mem::take(&mut hold.let_run) || now.is_none() || now != mark {
                mark = now;
                pids = known_and_new(target, pids);
                if hold.seize(&pids)? {
                    continue;
                }
            }
            let frozen = hold.assemble(target, pids, since)?;
            return Ok(Stand::Still(Box::new(frozen)));
        }
        Err(Error::Failed(
            "the job creates tasks faster than they can be stopped: try again".into(),
        ))
    }

    /// Lets the job go as asked for, after removing everything from it.
    ///
    /// # Errors
    /// When a part of the job has ended meanwhile; the rest goes on.
    pub fn release(mut self, afterwards: Afterwards) -> Result<Duration> {
        let mut outcome = self.go_back();
        for process in &mut self.processes {
            if afterwards == Afterwards::Kill {
                continue;
            }
            outcome = outcome.and(process.leave());
            if afterwards == Afterwards::Stop && !process.is_zombie() {
                let _ = task::kill(process.pid, libc::SIGSTOP);
            }
        }
        if afterwards == Afterwards::Kill {
            self.kill()?;
            return Ok(self.since.elapsed());
        }
        for process in &mut self.processes {
            for task in process.tasks.drain(..) {
                match task.stopped.release() {
                    Ok(()) | Err(cryonaut_tracee::Error::Gone(_)) => {}
                    Err(error) => outcome = outcome.and(Err(error.into())),
                }
            }
        }
        outcome.map(|()| self.since.elapsed())
    }

    /// Hands its connections to outside over, which go on without it, as the last thing before its image counts.
    ///
    /// # Errors
    /// As [`KeptConnections::seal`].
    pub(crate) fn seal_connections(&self) -> Result<()> {
        self.kept.as_ref().map_or(Ok(()), KeptConnections::seal)
    }

    /// Kills the whole job, by a guardian if this process dies on the way. All tasks stand still, so nobody sees an order. They have
    /// ended then: whoever restarts the job next finds its numbers free, as soon as their parents have taken notice.
    fn kill(&mut self) -> Result<()> {
        let descriptors = present(self.processes.iter().map(|process| process.pidfd.as_ref()));
        let guardian = match self.kept.take() {
            Some(kept) => Watch::Parted(kept.part()?),
            None => Watch::Guarded(Guardian::watch(&descriptors)?),
        };
        connection::cut(&self.connections, &self.processes);
        for process in descriptors {
            let _ = pidfd::send_signal(process, libc::SIGKILL);
        }
        let mut tasks = Vec::new();
        for process in &mut self.processes {
            lock(&process.guest).take();
            for task in process.tasks.drain(..) {
                tasks.push(task.stopped.tid());
                task.stopped.forget();
            }
        }
        match guardian {
            Watch::Parted(parted) => parted.dismiss()?,
            Watch::Guarded(guardian) => guardian.dismiss()?,
        }
        end::await_ends(tasks);
        Ok(())
    }

    /// The process that the image calls `inner`.
    pub fn process(&self, inner: i32) -> Option<&FrozenProcess> {
        self.processes.iter().find(|process| process.inner == inner)
    }

    /// Whether the death of its tracer in the middle of a list would hurt any of its tasks.
    pub fn is_delicate(&self) -> bool {
        let mut tasks = self.alive().flat_map(|process| &process.tasks);
        tasks.any(|task| task.stopped.is_delicate())
    }

    /// The processes that are alive.
    pub fn alive(&self) -> impl Iterator<Item = &FrozenProcess> {
        self.processes.iter().filter(|process| !process.is_zombie())
    }

    /// The processes that are alive, to work in.
    pub fn alive_mut(&mut self) -> impl Iterator<Item = &mut FrozenProcess> {
        self.processes
            .iter_mut()
            .filter(|process| !process.is_zombie())
    }
}

fn ignore_gone(result: cryonaut_tracee::Result<()>) -> Result<()> {
    match result {
        Ok(()) | Err(cryonaut_tracee::Error::Gone(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Tasks in hand while a job is being frozen, by process.
#[derive(Default)]
struct Hold {
    seized: BTreeMap<i32, BTreeMap<i32, Running>>,
    stopped: BTreeMap<i32, BTreeMap<i32, Stopped>>,
    /// All tasks taken in hand so far: each must be waited for exactly once.
    taken: BTreeSet<i32>,
    /// Whether some were let go again.
    let_run: bool,
}

/// What came of trying to stop all tasks of a job.
enum Stand {
    /// They stand still.
    Still(Box<Frozen>),
    /// One waits for its child in vfork; all others were let go.
    Waits(InVfork),
}

impl Hold {
    /// Attaches to the tasks of these processes that are not in hand yet; tells whether there were any.
    fn seize(&mut self, pids: &[i32]) -> Result<bool> {
        let mut found = false;
        for &pid in pids {
            let Ok(directory) = ProcessDirectory::open(pid) else {
                continue;
            };
            let threads = match directory.threads() {
                Ok(threads) => threads,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error.into()),
            };
            for tid in threads {
                if !self.taken.contains(&tid)
                    && let Some(task) = seize_task(&directory, tid)?
                {
                    self.taken.insert(tid);
                    self.seized.entry(pid).or_default().insert(tid, task);
                    found = true;
                }
            }
        }
        Ok(found)
    }

    /// Stops all that is attached, and what those bear on the way. A parent in vfork stops only when its child has called exec or
    /// ended: that child is let run again for a moment; if that does not help, the parent comes back.
    fn stop_all(&mut self) -> Result<Option<InVfork>> {
        for task in self.seized.values().flat_map(BTreeMap::values) {
            ignore_gone(task.interrupt())?;
        }
        let mut late = Vec::new();
        loop {
            while let Some((pid, tasks)) = self.seized.pop_first() {
                for (tid, task) in tasks {
                    late.extend(self.stop(pid, task, SOON)?.map(|task| (pid, tid, task)));
                }
            }
            let Some((pid, tid, task)) = late.pop() else {
                return Ok(None);
            };
            let children = vfork::children(pid, tid);
            if children.is_empty() {
                if self.stop(pid, task, STOP_LIMIT)?.is_some() {
                    return Err(cryonaut_tracee::Error::Unstoppable(tid).into());
                }
                continue;
            }
            for child in &children {
                self.let_run = true;
                for (tid, _) in self.stopped.remove(child).unwrap_or_default() {
                    self.taken.remove(&tid);
                }
            }
            if let Some(task) = self.stop(pid, task, VFORK_MOMENT)? {
                return Ok(Some(InVfork::new(pid, task, children)));
            }
        }
    }

    /// Waits for a task's stop; gives it back if that does not come in time.
    fn stop(&mut self, pid: i32, task: Running, limit: Duration) -> Result<Option<Running>> {
        let tid = task.tid();
        match task.stops_within(limit) {
            Ok(Stopping::Stopped(task, births)) => {
                self.stopped.entry(pid).or_default().insert(tid, task);
                births.into_iter().for_each(|birth| self.adopt(birth));
                Ok(None)
            }
            Ok(Stopping::Not(task, births)) => {
                births.into_iter().for_each(|birth| self.adopt(birth));
                Ok(Some(task))
            }
            Err(cryonaut_tracee::Error::Gone(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in a task that the kernel attached to us at its birth.
    fn adopt(&mut self, tid: i32) {
        let Ok(status) = ProcessDirectory::open(tid).and_then(|directory| directory.status())
        else {
            return;
        };
        if self.taken.insert(tid) {
            let task = Running::attached_by_kernel(tid);
            let _ = task.interrupt();
            self.seized
                .entry(status.tgid)
                .or_default()
                .insert(tid, task);
        }
    }

    fn assemble(mut self, target: &Target, mut pids: Vec<i32>, since: Instant) -> Result<Frozen> {
        pids.extend(self.stopped.keys().copied());
        pids.extend(
            target
                .processes
                .iter()
                .filter(|process| process.is_zombie())
                .map(|process| process.pid),
        );
        pids.sort_unstable();
        pids.dedup();
        let mut found = BTreeMap::new();
        let mut rest = BTreeMap::new();
        for Look {
            process,
            areas,
            memory,
            pagemap,
        } in Look::at_all(&pids)?
        {
            rest.insert(process.pid, (areas, memory, pagemap));
            found.insert(process.pid, process);
        }
        let mut processes = Vec::new();
        for process in parents_first(found) {
            let pid = process.pid;
            let (areas, memory, pagemap) = rest.remove(&pid).expect("looked at together");
            let tasks = match (self.stopped.remove(&pid), process.is_zombie()) {
                (Some(tasks), false) => tasks,
                (_, true) => BTreeMap::new(),
                (None, false) => {
                    return Err(Error::Failed(format!(
                        "process {pid} appeared while the job was stopped"
                    )));
                }
            };
            processes.push(frozen_process(
                Look {
                    process,
                    areas,
                    memory,
                    pagemap,
                },
                tasks,
            )?);
        }
        if processes.iter().all(FrozenProcess::is_zombie) {
            return Err(Error::Failed(format!(
                "process {} and all that belonged to it ended while they were being stopped: nothing to checkpoint",
                target.named
            )));
        }
        let sharing = sharing::of_frozen(&processes);
        share_guests(&mut processes, &sharing);
        Ok(Frozen {
            sharing,
            processes,
            scope: target.scope,
            named: target.named,
            since,
            hashing: target.hashing,
            external: target.external,
            cut: target.cut,
            left_out: target.left_out.clone(),
            notification: target.notification,
            told: BTreeSet::new(),
            boards: BTreeMap::new(),
            dialogue: Arc::clone(&target.dialogue),
            generation: 0,
            tracer: Tracer::default(),
            afterwards: Afterwards::default(),
            kept: None,
            embedding: Arc::clone(&target.embedding),
            connections: Vec::new(),
            thawed: None,
        })
    }
}

/// Processes that have one memory have one guest.
fn share_guests(processes: &mut [FrozenProcess], sharing: &Sharing) {
    for index in 0..processes.len() {
        let holder = sharing.of_process(Shared::Memory, processes[index].pid);
        if holder != processes[index].pid
            && let Some(holder) = processes.iter().find(|process| process.pid == holder)
        {
            processes[index].guest = Arc::clone(&holder.guest);
        }
    }
}

/// Attaches to a task, unless it has ended; one that the kernel attached to us already is ours.
fn seize_task(process: &ProcessDirectory, tid: i32) -> Result<Option<Running>> {
    match Running::seize(tid, JOB_OPTIONS) {
        Ok(task) => Ok(Some(task)),
        Err(cryonaut_tracee::Error::Gone(_)) => Ok(None),
        Err(error) => match process.task(tid).and_then(|task| task.status()) {
            Ok(status) if status.tracer_pid == std::process::id() as i32 => {
                Ok(Some(Running::attached_by_kernel(tid)))
            }
            Ok(status) if matches!(status.state, 'Z' | 'X') => Ok(None),
            // A thread alone may be traced, or somebody has begun to a moment ago.
            Ok(status) if status.tracer_pid != 0 => {
                let name = String::from_utf8_lossy(&status.name).into_owned();
                let process = (status.tgid, name.as_str());
                let found = restriction::traced(process, status.tracer_pid);
                Err(Error::Refused(vec![found]))
            }
            Err(error) if error.is_gone() => Ok(None),
            _ => Err(error.into()),
        },
    }
}

/// A mark that changes when a task is born anywhere on this machine: the number of tasks and the last pid of /proc/loadavg. While
/// it stays, nobody need look for new tasks, which on a machine with many processes takes longer than all else.
fn births() -> Option<Vec<u8>> {
    let text = std::fs::read("/proc/loadavg").ok()?;
    let at = text.iter().rposition(|&byte| byte == b'/')?;
    Some(text[at..].to_vec())
}

/// The pids known so far, and those that the job has now.
fn known_and_new(target: &Target, mut known: Vec<i32>) -> Vec<i32> {
    // The named process may have ended; what it left behind is known.
    for pid in target.pids_now().unwrap_or_default() {
        if !known.contains(&pid) {
            known.push(pid);
        }
    }
    known
}

/// What /proc tells of a frozen process, read by any thread.
struct Look {
    process: TargetProcess,
    areas: Vec<SmapsArea>,
    memory: File,
    pagemap: File,
}

impl Look {
    fn at(pid: i32) -> Result<Option<Self>> {
        let Ok(process) = TargetProcess::read(pid) else {
            return Ok(None);
        };
        let alive = !process.is_zombie();
        let areas = if alive {
            process.directory.smaps()?
        } else {
            Vec::new()
        };
        let memory = process
            .directory
            .open_file(if alive { "mem" } else { "stat" })?;
        let pagemap = process
            .directory
            .open_file(if alive { "pagemap" } else { "stat" })?;
        Ok(Some(Self {
            process,
            areas,
            memory,
            pagemap,
        }))
    }

    /// Looks at many processes with several threads: what the kernel makes of smaps takes most of the time.
    fn at_all(pids: &[i32]) -> Result<Vec<Self>> {
        let threads = crate::workers(pids.len() / 4);
        if threads <= 1 {
            return pids
                .iter()
                .filter_map(|&pid| Self::at(pid).transpose())
                .collect();
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Self>> {
            let mut looks = Vec::new();
            while let Some(&pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
                looks.extend(Self::at(pid)?);
            }
            Ok(looks)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut looks = Vec::with_capacity(pids.len());
            for worker in workers {
                looks.extend(worker.join().expect("looking does not panic")?);
            }
            Ok(looks)
        })
    }
}

fn frozen_process(look: Look, tasks: BTreeMap<i32, Stopped>) -> Result<FrozenProcess> {
    let Look {
        process:
            TargetProcess {
                pid,
                directory,
                stat,
                status,
            },
        areas,
        memory,
        pagemap,
    } = look;
    let inner = status.namespace_pid.last().copied().unwrap_or(pid);
    let nested = status.namespace_pid.len() > 1;
    let through = directory.pid();
    let mut frozen = Vec::with_capacity(tasks.len());
    for (tid, mut stopped) in tasks {
        // Known before anything is called in the task; while it stands still nobody can change it.
        let mut text = Vec::new();
        let seccomp = match status.seccomp {
            Some(mode) if tid == through => mode,
            _ => crate::resource::seccomp::mode(&directory, tid, &mut text)?,
        };
        if seccomp != 0 {
            stopped.set_filtered(Filtered::Yes);
        }
        // Kernels before 6.4 do not tell.
        stopped.set_dispatch(ptrace::user_dispatch(tid).unwrap_or_default());
        let inner = if !nested {
            tid
        } else {
            // What is known of the process may speak of a first thread that has ended.
            let own = if text.is_empty() {
                directory.task(tid)?.status()?
            } else {
                cryonaut_procfs::status::parse(&text)
                    .map_err(|error| Error::Failed(format!("thread {tid}: {error}")))?
            };
            own.namespace_pid.last().copied().unwrap_or(tid)
        };
        frozen.push(FrozenTask {
            stopped,
            inner,
            seccomp,
            status: text,
        });
    }
    frozen.sort_by_key(|task| (task.stopped.tid() != through, task.inner));
    let alive = !frozen.is_empty();
    let pidfd = alive
        .then(|| pidfd::open(pid).attempt(|| format!("opening process {pid}")))
        .transpose()?;
    let plain: Vec<_> = areas.iter().map(|area| area.area.clone()).collect();
    settle(&mut frozen, through, &plain, &memory)?;
    Ok(FrozenProcess {
        pid,
        inner,
        pidfd,
        directory,
        stat,
        status,
        tasks: frozen,
        areas,
        memory,
        pagemap,
        suspended: false,
        guest: Arc::default(),
    })
}

/// The guest of a process; nobody panics while holding it.
fn lock(guest: &Mutex<Option<Guest>>) -> MutexGuard<'_, Option<Guest>> {
    guest.lock().unwrap_or_else(PoisonError::into_inner)
}
