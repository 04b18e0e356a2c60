//! Freezing: every task of the job stands still under our hands. Dropping [`Frozen`] lets the job run on.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cryonaut_procfs::smaps::SmapsArea;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::stat::Stat;
use cryonaut_procfs::status::Status;
use cryonaut_sys::{RemotePtr, pidfd, ptrace, task};
use cryonaut_tracee::{CallList, Guest, Outcomes, Running, Stop, Stopped, find_room, read_exact};

use crate::error::Attempt;
use crate::target::{Scope, Target, TargetProcess};
use crate::{Error, Result};

/// How long a task may take to stop before the checkpoint is given up (a parent in vfork waits for its child, unstoppable).
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often the job is searched for tasks that appeared meanwhile.
const PASSES: usize = 50;

/// One stopped task of a frozen process.
#[derive(Debug)]
pub struct FrozenTask {
    /// The stopped task.
    pub stopped: Stopped,
    /// Its id in its own pid namespace.
    pub inner: i32,
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
    /// Its tasks, the leader first; none for a zombie.
    pub tasks: Vec<FrozenTask>,
    /// Its memory areas, without what `cryo` put there.
    pub areas: Vec<SmapsArea>,
    guest: Option<Guest>,
}

impl FrozenProcess {
    /// Its name, printable.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
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
        if self.guest.is_none() {
            let areas: Vec<_> = self.areas.iter().map(|area| area.area.clone()).collect();
            let room = find_room(self.pid, &areas)?;
            let task = &mut self.tasks[0];
            let caught = self.status.signals_caught;
            self.guest = Some(Guest::enter(self.pid, &mut task.stopped, (inner, task.inner), room, caught)?);
        }
        let guest = self.guest.as_ref().expect("just entered");
        let task = &mut self.tasks[index];
        Ok(guest.run(&mut task.stopped, (inner, task.inner), list)?)
    }

    /// Reads its memory.
    ///
    /// # Errors
    /// When any byte cannot be read.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        Ok(read_exact(self.pid, RemotePtr::new(address), buffer)?)
    }

    /// Removes what `cryo` put into the process.
    fn leave(&mut self) -> Result<()> {
        if let Some(guest) = self.guest.take() {
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
}

impl Frozen {
    /// Stops every task of the job, including those that appear meanwhile.
    ///
    /// # Errors
    /// [`Error::NotPermitted`]; [`Error::Failed`] when a task does not stop in time or the job keeps growing. The job runs on.
    pub fn freeze(target: &Target) -> Result<Self> {
        let mut seized: BTreeMap<i32, BTreeMap<i32, Running>> = BTreeMap::new();
        let mut stopped: BTreeMap<i32, BTreeMap<i32, Stopped>> = BTreeMap::new();
        let mut pids: Vec<i32> = target.processes.iter().filter(|p| !p.is_zombie()).map(|p| p.pid).collect();
        // First attach to all, which disturbs nobody, then stop them as one.
        for &pid in &pids {
            seize_new(pid, seized.entry(pid).or_default(), stopped.get(&pid))?;
        }
        let since = Instant::now();
        for _ in 0..PASSES {
            for task in seized.values().flat_map(BTreeMap::values) {
                ignore_gone(task.interrupt())?;
            }
            for (pid, tasks) in std::mem::take(&mut seized) {
                for (tid, task) in tasks {
                    match task.stopped(STOP_LIMIT) {
                        Ok(task) => drop(stopped.entry(pid).or_default().insert(tid, task)),
                        Err(cryonaut_tracee::Error::Gone(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            pids = current_pids(target, pids)?;
            for &pid in &pids {
                let mut new = BTreeMap::new();
                seize_new(pid, &mut new, stopped.get(&pid))?;
                if !new.is_empty() {
                    seized.insert(pid, new);
                }
            }
            if seized.is_empty() {
                return Self::assemble(target, pids, stopped, since);
            }
        }
        Err(Error::Failed("the job creates tasks faster than they can be stopped: try again".into()))
    }

    fn assemble(
        target: &Target,
        pids: Vec<i32>,
        mut stopped: BTreeMap<i32, BTreeMap<i32, Stopped>>,
        since: Instant,
    ) -> Result<Self> {
        let mut all: Vec<i32> = pids;
        all.extend(target.processes.iter().filter(|p| p.is_zombie()).map(|p| p.pid));
        let mut processes = Vec::new();
        let own = std::process::id() as i32;
        let found = Target::find(target.named, target.scope)?;
        for process in found.processes {
            if process.pid == own {
                continue;
            }
            let tasks = stopped.remove(&process.pid);
            match (tasks, process.is_zombie()) {
                (Some(tasks), false) => processes.push(frozen_process(process, tasks)?),
                (None, true) | (Some(_), true) => processes.push(frozen_process(process, BTreeMap::new())?),
                (None, false) => {
                    return Err(Error::Failed(format!("process {} appeared while the job was stopped", process.pid)));
                }
            }
        }
        Ok(Self { processes, scope: target.scope, named: target.named, since })
    }

    /// Lets the job go as asked for, after removing everything from it.
    ///
    /// # Errors
    /// When a part of the job has ended meanwhile; the rest goes on.
    pub fn release(mut self, afterwards: Afterwards) -> Result<Duration> {
        let mut outcome = Ok(());
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
            // Children first would show parents their deaths; all are still stopped, so nobody sees an order.
            for process in &self.processes {
                if let Some(pidfd) = &process.pidfd {
                    use std::os::fd::AsFd;
                    let _ = pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
                }
            }
            for process in &mut self.processes {
                process.guest = None;
                for task in process.tasks.drain(..) {
                    task.stopped.forget();
                }
            }
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

    /// The process that the image calls `inner`.
    pub fn process(&self, inner: i32) -> Option<&FrozenProcess> {
        self.processes.iter().find(|process| process.inner == inner)
    }

    /// The processes that are alive.
    pub fn alive(&self) -> impl Iterator<Item = &FrozenProcess> {
        self.processes.iter().filter(|process| !process.is_zombie())
    }

    /// The processes that are alive, to work in.
    pub fn alive_mut(&mut self) -> impl Iterator<Item = &mut FrozenProcess> {
        self.processes.iter_mut().filter(|process| !process.is_zombie())
    }
}

fn ignore_gone(result: cryonaut_tracee::Result<()>) -> Result<()> {
    match result {
        Ok(()) | Err(cryonaut_tracee::Error::Gone(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Attaches to the tasks of a process that are not in hand yet.
fn seize_new(
    pid: i32,
    into: &mut BTreeMap<i32, Running>,
    stopped: Option<&BTreeMap<i32, Stopped>>,
) -> Result<()> {
    let Ok(directory) = ProcessDirectory::open(pid) else { return Ok(()) };
    let threads = match directory.threads() {
        Ok(threads) => threads,
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for tid in threads {
        if stopped.is_some_and(|tasks| tasks.contains_key(&tid)) {
            continue;
        }
        match Running::seize(tid, ptrace::FOLLOW_TASKS | ptrace::MARK_SYSTEM_CALLS) {
            Ok(task) => drop(into.insert(tid, task)),
            Err(cryonaut_tracee::Error::Gone(_)) => {}
            Err(error) => {
                let status = directory.task(tid).and_then(|task| task.status());
                match status {
                    Ok(status) if status.tracer_pid == std::process::id() as i32 => {
                        into.insert(tid, Running::attached_by_kernel(tid));
                    }
                    Ok(status) if matches!(status.state, 'Z' | 'X') => {}
                    Err(error) if error.is_gone() => {}
                    _ => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// The live processes of the job as they are now.
fn current_pids(target: &Target, mut known: Vec<i32>) -> Result<Vec<i32>> {
    if let Ok(now) = Target::find(target.named, target.scope) {
        for process in now.processes {
            if !process.is_zombie() && !known.contains(&process.pid) {
                known.push(process.pid);
            }
        }
    }
    known.retain(|pid| ProcessDirectory::open(*pid).is_ok());
    Ok(known)
}

fn frozen_process(process: TargetProcess, tasks: BTreeMap<i32, Stopped>) -> Result<FrozenProcess> {
    let TargetProcess { pid, directory, stat, status } = process;
    let inner = status.namespace_pid.last().copied().unwrap_or(pid);
    let nested = status.namespace_pid.len() > 1;
    let mut frozen = Vec::with_capacity(tasks.len());
    for (tid, stopped) in tasks {
        let inner = if nested {
            directory.task(tid)?.status()?.namespace_pid.last().copied().unwrap_or(tid)
        } else {
            tid
        };
        frozen.push(FrozenTask { stopped, inner });
    }
    frozen.sort_by_key(|task| (task.stopped.tid() != pid, task.inner));
    if let Some(first) = frozen.first()
        && first.stopped.tid() != pid
    {
        return Err(Error::Failed(format!("process {pid}: its first thread has ended while others run on")));
    }
    let alive = !frozen.is_empty();
    let pidfd = alive.then(|| pidfd::open(pid).attempt(|| format!("opening process {pid}"))).transpose()?;
    let areas = if alive { directory.smaps()? } else { Vec::new() };
    for task in &mut frozen {
        abort_restartable_sequence(pid, &mut task.stopped)?;
    }
    Ok(FrozenProcess { pid, inner, pidfd, directory, stat, status, tasks: frozen, areas, guest: None })
}

/// A task inside a restartable sequence goes to its abort handler, as it would at any preemption (rseq(2)): its registers and
/// our calls in it are then no part of the sequence.
fn abort_restartable_sequence(pid: i32, task: &mut Stopped) -> Result<()> {
    let Ok(rseq) = ptrace::rseq_configuration(task.tid()) else { return Ok(()) };
    if rseq.address == 0 {
        return Ok(());
    }
    let word = |address: u64| -> Option<u64> {
        let mut bytes = [0; 8];
        read_exact(pid, RemotePtr::new(address), &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let Some(sequence) = word(rseq.address + 8).filter(|&address| address != 0) else { return Ok(()) };
    if let (Some(start), Some(length), Some(abort)) = (word(sequence + 8), word(sequence + 16), word(sequence + 24)) {
        let rip = task.registers().rip;
        if rip.wrapping_sub(start) < length {
            task.move_to(abort)?;
        }
    }
    Ok(())
}

/// The stop that a process was found in, for its record: the signal of a job-control stop.
pub(crate) fn job_stop(process: &FrozenProcess) -> Option<i32> {
    process.tasks.first().and_then(|task| match task.stopped.stop() {
        Stop::Group(signal) => Some(signal),
        Stop::Trap => None,
    })
}
