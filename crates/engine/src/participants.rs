//! Programs that take part by libcryo: the dialogue over their boards (see `cryonaut_participant::board`, docs/libcryo.md).
//!
//! A board is found by its size among the anonymous areas of a process, and known by its beginning. It is the program's own memory:
//! nothing that it says is believed further than it harms the program itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cryonaut_participant::board::{
    GENERATION, HEAD, LEASE, OUTCOME, Outcome, REQUEST, SIZE, Snapshot, State, omissions,
};
use cryonaut_procfs::{Area, AreaName, ProcessDirectory};
use cryonaut_sys::task;

use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::notify::catches;
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusal, Refusals, Result};

/// What a frozen process says of itself.
#[derive(Clone, Debug)]
pub struct Board {
    /// What stands at its beginning.
    pub head: Snapshot,
    /// Ranges of memory that are left out: first address, end.
    pub ranges: Vec<(u64, u64)>,
    /// Descriptors that are left out.
    pub descriptors: BTreeSet<i32>,
}

/// Whether an area can be a board.
fn is_candidate(area: &Area) -> bool {
    let named = matches!(area.name, AreaName::Anonymous | AreaName::AnonNamed { .. });
    let permissions = area.permissions;
    named
        && area.length() == SIZE as u64
        && permissions.read
        && permissions.write
        && !permissions.shared
}

/// The board of the process that calls itself `inner`, among these areas.
fn find<'a>(
    inner: i32,
    areas: impl Iterator<Item = &'a Area>,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Option<Board> {
    let mut bytes = vec![0; SIZE];
    areas.filter(|area| is_candidate(area)).find_map(|area| {
        read(area.start, &mut bytes).then_some(())?;
        let head = Snapshot::read(&bytes, area.start)?;
        let (ranges, descriptors) = omissions(&bytes);
        (head.process == inner).then(|| Board {
            head,
            ranges,
            descriptors: descriptors.into_iter().collect(),
        })
    })
}

/// The board of a process that runs; none if it has none, or cannot be read.
pub(crate) fn of_running(process: &TargetProcess) -> Option<Board> {
    if process.is_zombie() {
        return None;
    }
    let areas = process.directory.maps().ok()?;
    if !areas.iter().any(is_candidate) {
        return None;
    }
    let memory = process.directory.open_file("mem").ok()?;
    find(process.inner_pid(), areas.iter(), |address, bytes| {
        memory.read_exact_at(bytes, address).is_ok()
    })
}

/// The board of a frozen process.
pub(crate) fn of_frozen(process: &FrozenProcess) -> Option<Board> {
    let areas = process.areas.iter().map(|area| &area.area);
    find(process.inner, areas, |address, bytes| {
        process.read(address, bytes).is_ok()
    })
}

/// Whether any process of a job that runs is to be told of checkpoints.
pub(crate) fn are_in(target: &Target) -> bool {
    let mut boards = target.processes.iter().filter_map(of_running);
    boards.any(|board| board.head.wants_notice)
}

/// The boards of all processes of a frozen job, by their pids as we see them.
pub(crate) fn of_all(frozen: &Frozen) -> BTreeMap<i32, Board> {
    let boards = frozen
        .alive()
        .filter_map(|process| Some((process.pid, of_frozen(process)?)));
    boards.collect()
}

/// A process that is asked.
#[derive(Debug)]
struct Participant {
    pid: i32,
    name: String,
    directory: ProcessDirectory,
    memory: File,
    /// The thread that is woken, as we see it.
    waiter: i32,
    head: Snapshot,
    asked: bool,
    /// What it was seen doing last.
    last: State,
    callback: String,
}

/// What is known of a participant that was asked.
enum Standing {
    /// It is getting ready.
    Busy,
    /// It is ready.
    Ready,
    /// It has refused, or has ended.
    Refused(Refusal),
}

impl Participant {
    fn of(process: &TargetProcess) -> Option<Self> {
        let board = of_running(process)?;
        if !board.head.wants_notice {
            return None;
        }
        // Our own way in, which stays with this program even if its pid goes to another.
        let path = format!("/proc/{}/mem", process.reached_by());
        let memory = File::options().read(true).write(true).open(path).ok()?;
        let participant = Self {
            pid: process.pid,
            name: process.name(),
            // The first thread may have ended.
            directory: ProcessDirectory::open(process.reached_by()).ok()?,
            memory,
            waiter: waiter(process, board.head.waiter)?,
            last: State::Idle,
            asked: false,
            callback: String::new(),
            head: board.head,
        };
        participant.look().is_some().then_some(participant)
    }

    fn look(&self) -> Option<Snapshot> {
        let mut bytes = [0; HEAD];
        self.memory
            .read_exact_at(&mut bytes, self.head.address)
            .ok()?;
        Snapshot::read(&bytes, self.head.address)
    }

    fn write(&self, offset: usize, value: u32) -> std::io::Result<()> {
        let bytes = value.to_ne_bytes();
        self.memory
            .write_all_at(&bytes, self.head.address + offset as u64)
    }

    /// Wakes the thread that waits. It never dies of that: the signal goes to that thread alone, and only if the program handles it.
    fn wake(&self) {
        let status = self.directory.status();
        if status.is_ok_and(|status| catches(&status, self.head.signal)) {
            let _ = task::signal_thread(self.pid, self.waiter, self.head.signal);
        }
    }

    fn ask(&mut self, request: u32) {
        let asked = self
            .write(OUTCOME, Outcome::Pending as u32)
            .and_then(|()| self.write(REQUEST, request));
        self.asked = asked.is_ok();
        self.wake();
    }

    /// What it was asked last, by anybody.
    fn last_request(&self) -> Option<u32> {
        let mut last = [0; 4];
        let place = self.head.address + REQUEST as u64;
        self.memory.read_exact_at(&mut last, place).ok()?;
        Some(u32::from_ne_bytes(last))
    }

    /// Tells it how this request ended; not if it is another one's request that it is busy with.
    fn tell(&self, request: u32, outcome: Outcome) {
        if self.last_request() == Some(request) && self.write(OUTCOME, outcome as u32).is_ok() {
            self.wake();
        }
    }

    fn refusal(&self, object: String, reason: String, remedy: &str) -> Refusal {
        Refusal {
            pid: self.pid,
            process: self.name.clone(),
            object,
            reason,
            remedy: remedy.into(),
        }
    }

    fn has_ended(&self) -> bool {
        let state = self.directory.stat().map(|stat| stat.state);
        state.map_or(true, |state| matches!(state, 'Z' | 'X'))
    }

    /// Where it stands; asks it as soon as it has finished what another asked.
    fn advance(&mut self, request: u32) -> Standing {
        let Some(now) = self.look().filter(|_| !self.has_ended()) else {
            return self.end();
        };
        if !self.asked {
            match now.state {
                State::Idle if self.last_request() == Some(now.answered) => self.ask(request),
                // It has not seen yet what another asked, and must not be taken away from that.
                State::Idle => self.wake(),
                _ => {}
            }
            return Standing::Busy;
        }
        if now.answered != request {
            return Standing::Busy;
        }
        self.last = now.state;
        self.callback.clone_from(&now.name);
        let reason = |otherwise: &str| match now.reason.as_str() {
            "" => otherwise.to_owned(),
            reason => reason.to_owned(),
        };
        match now.state {
            State::Ready | State::LeftOut => Standing::Ready,
            State::Later => Standing::Refused(self.refusal(
                self.object(),
                format!(
                    "it puts the checkpoint off: {}",
                    reason("it gave no reason")
                ),
                "try again later",
            )),
            State::Never => Standing::Refused(self.refusal(
                self.object(),
                format!(
                    "the program cannot be checkpointed: {}",
                    reason("it gave no reason")
                ),
                "let it come to its end",
            )),
            _ => Standing::Busy,
        }
    }

    /// It is gone: while it was getting ready, or otherwise, which is no matter of ours.
    fn end(&self) -> Standing {
        if !self.asked || matches!(self.last, State::Ready | State::LeftOut) {
            return Standing::Ready;
        }
        let when = match self.last {
            State::InCallback => "in this callback",
            _ => "while it was getting ready",
        };
        Standing::Refused(self.refusal(
            self.object(),
            format!("the process ended, or became another program, {when}"),
            "see what the program itself says, and repair it; if it came to its end as it should, try again",
        ))
    }

    fn object(&self) -> String {
        match self.callback.as_str() {
            "" => "its callbacks".into(),
            name => format!("its callback \"{name}\""),
        }
    }

    /// Why it has not got ready in time.
    fn lateness(&self, grace: Duration) -> Refusal {
        let stopped = self.directory.stat().is_ok_and(|stat| stat.state == 'T');
        let more = "try again, give it more time (--grace), or repair the program";
        if stopped {
            return self.refusal(
                self.object(),
                "the process is stopped, and its callbacks cannot run".into(),
                "let it go on (kill -CONT), then make the checkpoint",
            );
        }
        match (self.asked, self.last) {
            (true, State::InCallback) => self.refusal(
                self.object(),
                format!("it has not come back within {grace:?}"),
                more,
            ),
            (true, State::Entering) => self.refusal(
                "a critical section".into(),
                format!("a thread has not left it within {grace:?}"),
                more,
            ),
            (true, _) => self.refusal(
                "its part in checkpoints".into(),
                format!("it has not answered within {grace:?}"),
                more,
            ),
            (false, _) => self.refusal(
                self.object(),
                format!("callbacks of an earlier checkpoint still run after {grace:?}"),
                more,
            ),
        }
    }
}

/// The thread that a process calls `inner`, as we see it.
fn waiter(process: &TargetProcess, inner: i32) -> Option<i32> {
    let directory = ProcessDirectory::open(process.pid).ok()?;
    let threads = directory.threads().ok()?;
    if process.status.namespace_pid.len() <= 1 {
        return threads.contains(&inner).then_some(inner);
    }
    threads.into_iter().find(|tid| {
        let status = directory.task(*tid).and_then(|task| task.status());
        status.is_ok_and(|status| status.namespace_pid.last() == Some(&inner))
    })
}

/// The participants of a job during one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Participants {
    all: Vec<Participant>,
    request: u32,
}

impl Participants {
    /// Finds those of the job that are to be told; asks nothing yet.
    pub fn of(target: &Target) -> Self {
        let all = target.processes.iter().filter_map(Participant::of);
        Self {
            all: all.collect(),
            request: unique(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Refuses where callbacks cannot run at all.
    pub fn refuse_suspended(&self) -> Result<()> {
        let refusals = self.all.iter().map(|participant| {
            participant.refusal(
                "its callbacks".into(),
                "the job is suspended, and they cannot run".into(),
                "resume it first (cryo resume)",
            )
        });
        let refusals: Vec<_> = refusals.collect();
        if refusals.is_empty() {
            return Ok(());
        }
        Err(Error::Refused(refusals))
    }

    /// Asks all to get ready.
    pub fn ask(&mut self) {
        for participant in &mut self.all {
            participant.advance(self.request);
        }
    }

    /// Whether all are ready. It tells them that we are still here.
    ///
    /// # Errors
    /// [`Error::Refused`] as soon as any of them refuses.
    pub fn are_ready(&mut self) -> Result<bool> {
        let mut ready = true;
        let mut refusals = Refusals::default();
        for participant in &mut self.all {
            let _ = participant.write(LEASE, unique());
            match participant.advance(self.request) {
                Standing::Busy => ready = false,
                Standing::Ready => {}
                Standing::Refused(refusal) => refusals.push(refusal),
            }
        }
        refusals.into_result()?;
        Ok(ready)
    }

    /// Refuses because of those that have not got ready in time.
    ///
    /// # Errors
    /// [`Error::Refused`], unless all have got ready at the last moment.
    pub fn refuse_late(&mut self, grace: Duration) -> Result<()> {
        let mut refusals = Refusals::default();
        for participant in &mut self.all {
            match participant.advance(self.request) {
                Standing::Busy => refusals.push(participant.lateness(grace)),
                Standing::Refused(refusal) => refusals.push(refusal),
                Standing::Ready => {}
            }
        }
        refusals.into_result()
    }

    /// Those that are to be left out, by their pids as we see them.
    pub fn left_out(&self) -> BTreeSet<i32> {
        let wanted = self
            .all
            .iter()
            .filter(|participant| participant.last == State::LeftOut);
        wanted.map(|participant| participant.pid).collect()
    }

    /// That the frozen job is what was made ready: all that are to be told of checkpoints were told of this one, and are still at
    /// their barrier.
    ///
    /// # Errors
    /// [`Error::Refused`] where one has begun to take part, or has given up waiting, meanwhile.
    pub fn check(&self, frozen: &Frozen) -> Result<()> {
        let mut refusals = Refusals::default();
        let left_out = self.left_out();
        for process in frozen.alive() {
            if left_out.contains(&process.stat.ppid) {
                refusals.add(
                    (process.pid, &*process.name()),
                    "its parent",
                    "it was born by a process that leaves itself out, while the checkpoint was being made",
                    "try again",
                );
            }
        }
        for (pid, board) in &frozen.boards {
            let head = &board.head;
            let stands = self.all.iter().any(|known| known.pid == *pid)
                && head.answered == self.request
                && head.state == State::Ready;
            if head.wants_notice && !stands {
                let name = frozen.processes.iter().find(|process| process.pid == *pid);
                let name = name.map(FrozenProcess::name).unwrap_or_default();
                refusals.add(
                    (*pid, &*name),
                    "its callbacks",
                    "it began to take part, or gave up waiting, while the checkpoint was being made",
                    "try again",
                );
            }
        }
        refusals.into_result()
    }

    /// Tells those that left themselves out how it ended.
    pub fn tell_left_out(&self, outcome: Outcome) {
        for participant in &self.all {
            if participant.last == State::LeftOut {
                participant.tell(self.request, outcome);
            }
        }
    }

    /// Tells all how it ended.
    pub fn tell(&self, outcome: Outcome) {
        for participant in &self.all {
            participant.tell(self.request, outcome);
        }
    }

    /// The same, for one whose own death may have cost it its ways in: once nobody traces them any more.
    pub fn tell_when_untraced(&self, outcome: Outcome) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        for participant in &self.all {
            let traced = || {
                let status = participant.directory.status();
                status.is_ok_and(|status| status.tracer_pid != 0)
            };
            while traced() && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            participant.tell(self.request, outcome);
        }
    }
}

/// A number that differs from those that other calls gave, here and in other processes; never 0.
fn unique() -> u32 {
    let now = task::clock(libc::CLOCK_MONOTONIC).unwrap_or_default() as u64;
    let mixed = (now / 64).wrapping_mul(0x9e37_79b9) ^ u64::from(std::process::id()) << 20;
    (mixed as u32).max(1)
}

/// Tells a process in its new life where it is: writes to its board in a process being rebuilt.
///
/// # Errors
/// When the memory is not there.
pub(crate) fn announce(pid: i32, board: u64, generation: u64) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let what = || format!("process {pid}: telling it of its new life");
    let memory = File::options().write(true).open(path).attempt(what)?;
    let at = |offset: usize| board + offset as u64;
    memory
        .write_all_at(&generation.to_ne_bytes(), at(GENERATION))
        .and_then(|()| {
            let outcome = Outcome::Restarted as u32;
            memory.write_all_at(&outcome.to_ne_bytes(), at(OUTCOME))
        })
        .attempt(what)
}
