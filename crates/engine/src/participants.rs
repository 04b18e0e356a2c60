//! Programs that take part by libcryo: the dialogue over their boards (see `cryonaut_participant::board`, docs/libcryo.md).
//!
//! A board is found by its size among the anonymous areas of a process, and known by its beginning. It is the program's own memory:
//! nothing that it says is believed further than it harms the program itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryonaut_participant::board::{
    DETAILS, FORWARD_ERROR, FORWARDED, GENERATION, HEAD, LEASE, OPENS_SOCKETS, OUTCOME, Outcome,
    PLACE_OFFSET, REQUEST, SIZE, Snapshot, State, VERDICT, omissions,
};
use cryonaut_procfs::{Area, AreaName, ProcessDirectory};
use cryonaut_sys::task;

use crate::dialogue::{Customs, Details, Dialogue, code};
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::notify::catches;
use crate::target::{Scope, Target, TargetProcess};
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
) -> Vec<Board> {
    let mut bytes = vec![0; SIZE];
    let boards = areas.filter(|area| is_candidate(area)).filter_map(|area| {
        read(area.start, &mut bytes).then_some(())?;
        let head = Snapshot::read(&bytes, area.start)?;
        let (ranges, descriptors) = omissions(&bytes);
        (head.process == inner).then(|| Board {
            head,
            ranges,
            descriptors: descriptors.into_iter().collect(),
        })
    });
    boards.collect()
}

/// The boards of a process that runs, of which each library has its own; none if it has none, or cannot be read.
pub(crate) fn of_running(process: &TargetProcess) -> Vec<Board> {
    if process.is_zombie() {
        return Vec::new();
    }
    let areas = process.directory.maps().unwrap_or_default();
    if !areas.iter().any(is_candidate) {
        return Vec::new();
    }
    let Ok(memory) = process.directory.open_file("mem") else {
        return Vec::new();
    };
    find(process.inner_pid(), areas.iter(), |address, bytes| {
        memory.read_exact_at(bytes, address).is_ok()
    })
}

/// The boards of a frozen process.
fn of_frozen(process: &FrozenProcess) -> Vec<Board> {
    let areas = process.areas.iter().map(|area| &area.area);
    find(process.inner, areas, |address, bytes| {
        process.read(address, bytes).is_ok()
    })
}

/// Whether any process of a job that runs is to be told of checkpoints, or left out of them.
pub fn are_in(target: &Target) -> bool {
    let mut boards = target.processes.iter().flat_map(of_running);
    boards.any(|board| board.head.wants_notice() || board.head.wants_out())
}

/// The boards of all processes of a frozen job, by their pids as we see them.
pub(crate) fn of_all(frozen: &Frozen) -> BTreeMap<i32, Vec<Board>> {
    let boards = frozen
        .alive()
        .map(|process| (process.pid, of_frozen(process)))
        .filter(|(_, boards)| !boards.is_empty());
    boards.collect()
}

/// The descriptors of a process with these boards that are not saved: it opens them again itself, or the image is written there.
pub(crate) fn omitted(
    boards: &[Board],
    directory: &ProcessDirectory,
    dialogue: &Dialogue,
) -> BTreeSet<i32> {
    let marked = boards.iter().flat_map(|board| &board.descriptors);
    let mut numbers: BTreeSet<i32> = marked.copied().collect();
    let opens_sockets = boards
        .iter()
        .any(|board| board.head.wishes & OPENS_SOCKETS != 0);
    if opens_sockets && dialogue.customs == Customs::Blcr {
        let is_socket = |number: &i32| {
            let link = directory.descriptor_link(*number);
            link.is_ok_and(|link| link.starts_with(b"socket:"))
        };
        let all = directory.descriptors().unwrap_or_default();
        numbers.extend(all.into_iter().filter(is_socket));
    }
    if let Some(destination) = dialogue.destination {
        let leads_there = |number: &i32| {
            let path = format!("/proc/{}/fd/{number}", directory.pid());
            let status = std::fs::metadata(path);
            status.is_ok_and(|status| (status.dev(), status.ino()) == destination)
        };
        let all = directory.descriptors().unwrap_or_default();
        numbers.extend(all.into_iter().filter(leads_there));
    }
    numbers
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
    fn of(process: &TargetProcess) -> Vec<Self> {
        let boards = of_running(process).into_iter();
        boards
            .filter_map(|board| Self::with(process, board))
            .collect()
    }

    fn with(process: &TargetProcess, board: Board) -> Option<Self> {
        if !board.head.wants_notice() {
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

    fn ask(&mut self, request: u32, details: &Details) {
        let asked = write_details(&self.memory, self.head.address, details)
            .and_then(|()| self.write(OUTCOME, Outcome::Pending as u32))
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
    fn tell(&self, request: u32, outcome: Outcome, cause: u32) {
        if self.last_request() != Some(request) {
            return;
        }
        let told = self
            .write(VERDICT, cause)
            .and_then(|()| self.write(OUTCOME, outcome as u32));
        if told.is_ok() {
            self.wake();
        }
    }

    /// Whether it has part in another checkpoint.
    fn is_busy(&self) -> bool {
        self.look().is_some_and(|now| {
            now.state != State::Idle || self.last_request() != Some(now.answered)
        })
    }

    /// What it wants to have taken in as well, if it waits for that.
    fn forward(&self) -> Option<(u32, i32, u32)> {
        let now = self.look().filter(|_| self.asked)?;
        let (asked, done) = now.forwards;
        (asked != done).then_some((now.forward.0, now.forward.1, asked))
    }

    /// Answers that.
    fn answer_forward(&self, number: u32, error: i32) {
        let _ = self
            .write(FORWARD_ERROR, error as u32)
            .and_then(|()| self.write(FORWARDED, number));
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
    fn advance(&mut self, request: u32, dialogue: &Dialogue) -> Standing {
        let Some(now) = self.look().filter(|_| !self.has_ended()) else {
            return match dialogue.customs {
                Customs::Own => self.end(),
                // It is no part of the job any more.
                Customs::Blcr => Standing::Ready,
            };
        };
        if !self.asked {
            match now.state {
                State::Idle if self.last_request() == Some(now.answered) => {
                    self.ask(request, &dialogue.details);
                }
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
        match now.state {
            State::Later | State::Never if now.code != 0 => dialogue.note(now.code),
            State::Later => dialogue.note(code::LATER),
            State::Never => dialogue.note(code::NEVER),
            _ => {}
        }
        if now.state == State::Never {
            dialogue.end();
        }
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
    /// Those that are left out without being asked, by their pids as we see them.
    out: BTreeSet<i32>,
    request: u32,
    dialogue: Arc<Dialogue>,
}

impl Participants {
    /// Finds those of the job that are to be told; asks nothing yet.
    pub fn of(target: &Target) -> Self {
        let mut found = Self {
            all: Vec::new(),
            out: BTreeSet::new(),
            request: unique(),
            dialogue: Arc::clone(&target.dialogue),
        };
        found.add(&target.processes);
        found
    }

    fn add(&mut self, processes: &[TargetProcess]) {
        for process in processes {
            let wants_out = |board: &Board| board.head.wants_out();
            if of_running(process).iter().any(wants_out) {
                self.out.insert(process.pid);
            } else {
                self.all.extend(Participant::of(process));
            }
        }
    }

    /// Refuses those that have part in another checkpoint, where these are not waited for.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse_busy(&self) -> Result<()> {
        if self.dialogue.customs != Customs::Blcr {
            return Ok(());
        }
        let mut refusals = Refusals::default();
        for participant in self.all.iter().filter(|one| one.is_busy()) {
            self.dialogue.note(libc::EBUSY as u32);
            refusals.push(participant.refusal(
                "its part in checkpoints".into(),
                "another checkpoint of it is being made".into(),
                "try again when that is over",
            ));
        }
        refusals.into_result()
    }

    /// Takes in what participants want to have saved too; gives those among it that are to be told as well.
    pub fn take_in_forwarded(&mut self, target: &Target) -> Vec<i32> {
        let wanted: Vec<_> = self
            .all
            .iter()
            .enumerate()
            .filter_map(|(index, one)| Some((index, one.forward()?)))
            .collect();
        let mut new = Vec::new();
        for (index, (scope, named, number)) in wanted {
            let error = match self.take_in(target, index, (scope, named)) {
                Ok(pids) => {
                    new.extend(pids);
                    0
                }
                Err(error) => error,
            };
            self.all[index].answer_forward(number, error);
        }
        new
    }

    /// Takes in one scope; gives the pids of its participants, or an error number.
    fn take_in(
        &mut self,
        target: &Target,
        asker: usize,
        (scope, named): (u32, i32),
    ) -> std::result::Result<Vec<i32>, i32> {
        let asker = &self.all[asker];
        let (named, scope) = scope_of(scope, outer(asker, named)?)?;
        let found = Target::find(named, scope).map_err(|error| match error {
            Error::NotPermitted(..) => libc::EPERM,
            _ => libc::ESRCH,
        })?;
        if found.processes.iter().any(|one| one.seclusion().is_some()) {
            return Err(libc::EPERM);
        }
        let known = target.pids();
        let mut more = Self {
            dialogue: Arc::clone(&self.dialogue),
            ..Self::default()
        };
        let is_new = |process: &TargetProcess| {
            !known.contains(&process.pid) && self.all.iter().all(|one| one.pid != process.pid)
        };
        let new: Vec<_> = found.processes.into_iter().filter(is_new).collect();
        more.add(&new);
        if more.all.iter().any(Participant::is_busy) {
            return Err(libc::EBUSY);
        }
        self.dialogue.taken_in().push((named, scope));
        self.out.extend(more.out);
        let pids = more.all.iter().map(|one| one.pid).collect();
        for mut participant in more.all {
            participant.advance(self.request, &self.dialogue);
            self.all.push(participant);
        }
        Ok(pids)
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
            participant.advance(self.request, &self.dialogue);
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
            match participant.advance(self.request, &self.dialogue) {
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
            match participant.advance(self.request, &self.dialogue) {
                Standing::Busy => {
                    self.dialogue.note(libc::ETIMEDOUT as u32);
                    refusals.push(participant.lateness(grace));
                }
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
        let wanted = wanted.map(|participant| participant.pid);
        wanted.chain(self.out.iter().copied()).collect()
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
        let boards = frozen.boards.iter();
        let boards = boards.flat_map(|(pid, boards)| boards.iter().map(move |board| (pid, board)));
        for (pid, board) in boards {
            let head = &board.head;
            let stands = self.all.iter().any(|known| known.pid == *pid)
                && head.answered == self.request
                && head.state == State::Ready;
            if head.wants_notice() && !stands || head.wants_out() {
                let name = frozen.processes.iter().find(|process| process.pid == *pid);
                let name = name.map(FrozenProcess::name).unwrap_or_default();
                refusals.add(
                    (*pid, &*name),
                    "its callbacks",
                    "it began to take part, or to leave itself out, or gave up waiting, while the checkpoint was being made",
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
                participant.tell(self.request, outcome, self.dialogue.code());
            }
        }
    }

    /// Tells all how it ended.
    pub fn tell(&self, outcome: Outcome) {
        for participant in &self.all {
            participant.tell(self.request, outcome, self.dialogue.code());
        }
    }

    /// The same, for one whose own death may have cost it its ways in: once nobody traces them any more.
    pub fn tell_when_untraced(&self, outcome: Outcome, whom: &dyn Fn(i32) -> bool) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        for participant in self.all.iter().filter(|one| whom(one.pid)) {
            let traced = || {
                let status = participant.directory.status();
                status.is_ok_and(|status| status.tracer_pid != 0)
            };
            while traced() && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            participant.tell(self.request, outcome, self.dialogue.code());
        }
    }
}

/// What BLCR's numbers of scopes mean: the scope, and a process to find it by; or an error number.
///
/// # Errors
/// EINVAL for no such scope, ESRCH where there is nobody in it.
pub fn scope_of(scope: u32, named: i32) -> std::result::Result<(i32, Scope), i32> {
    let member = |belongs: &dyn Fn(&cryonaut_procfs::stat::Stat) -> bool| {
        let all = cryonaut_procfs::system::all_stats().map_err(|_| libc::ESRCH)?;
        let found = all.into_iter().find(belongs);
        found.map(|stat| stat.pid).ok_or(libc::ESRCH)
    };
    if named <= 0 {
        return Err(libc::ESRCH);
    }
    // Any thread stands for its process.
    let process = || {
        let directory = ProcessDirectory::open(named).map_err(|_| libc::ESRCH)?;
        directory
            .status()
            .map(|status| status.tgid)
            .map_err(|_| libc::ESRCH)
    };
    match scope {
        0 => Ok((process()?, Scope::Process)),
        1 => Ok((member(&|stat| stat.pgrp == named)?, Scope::Group)),
        2 => Ok((member(&|stat| stat.session == named)?, Scope::Session)),
        3 => Ok((process()?, Scope::Tree)),
        _ => Err(libc::EINVAL),
    }
}

/// The process that a participant calls `inner`, as we see it.
fn outer(participant: &Participant, inner: i32) -> std::result::Result<i32, i32> {
    if participant.head.process == participant.pid {
        return Ok(inner);
    }
    let namespace = participant.directory.namespace("pid").ok();
    let is_meant = |pid: &i32| {
        let process = TargetProcess::read(*pid);
        process.is_ok_and(|process| {
            process.inner_pid() == inner && process.directory.namespace("pid").ok() == namespace
        })
    };
    let all = cryonaut_procfs::system::all_pids().map_err(|_| libc::ESRCH)?;
    all.into_iter().find(is_meant).ok_or(libc::ESRCH)
}

fn write_details(memory: &File, board: u64, details: &Details) -> std::io::Result<()> {
    let (numbers, place) = details.bytes();
    memory.write_all_at(&numbers, board + DETAILS as u64)?;
    memory.write_all_at(&place, board + PLACE_OFFSET as u64)
}

/// A number that differs from those that other calls gave, here and in other processes; never 0.
fn unique() -> u32 {
    let now = task::clock(libc::CLOCK_MONOTONIC).unwrap_or_default() as u64;
    let mixed = (now / 64).wrapping_mul(0x9e37_79b9) ^ u64::from(std::process::id()) << 20;
    (mixed as u32).max(1)
}

/// Waits until the callbacks of all participants have come back after a checkpoint or a restart, for so long at most. Gives the error
/// number that one of them has failed with; 0 if all is well.
pub fn await_finished(target: &Target, limit: Duration) -> u32 {
    const PAUSE: Duration = Duration::from_millis(2);
    let start = Instant::now();
    let mut failed = 0;
    for participant in target.processes.iter().flat_map(Participant::of) {
        // Who has ended has nothing more to say.
        while let Some(now) = participant.look().filter(|_| !participant.has_ended()) {
            let answered = participant.last_request() == Some(now.answered);
            if now.state == State::Idle && answered {
                failed = failed.max(now.code);
                break;
            }
            if start.elapsed() > limit {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    failed
}

/// Tells a process in its new life where it is: writes to its board in a process being rebuilt.
///
/// # Errors
/// When the memory is not there.
pub(crate) fn announce(pid: i32, board: u64, generation: u64, details: &Details) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let what = || format!("process {pid}: telling it of its new life");
    let memory = File::options().write(true).open(path).attempt(what)?;
    let at = |offset: usize| board + offset as u64;
    write_details(&memory, board, details)
        .and_then(|()| memory.write_all_at(&generation.to_ne_bytes(), at(GENERATION)))
        .and_then(|()| {
            let outcome = Outcome::Restarted as u32;
            memory.write_all_at(&outcome.to_ne_bytes(), at(OUTCOME))
        })
        .attempt(what)
}
