//! Telling programs of a checkpoint by plain signals, before and after it.
//!
//! A process that catches the signal for *checkpoint* is told, and has a bounded time to get ready; it says that it is by stopping
//! itself (SIGSTOP, as `kill -STOP $$` does). Afterwards it is woken and told *continue*; in a restarted life it is told *restart*
//! instead (see `resource/notice`). Nobody gets a signal that it does not catch (SigCgt of /proc/PID/status): others would die of
//! it.
//!
//! A process that has stopped itself must not stay so because `cryo` was killed: a guardian stands by from before the first signal,
//! and wakes whoever was told.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryonaut_launch::registry::ProcessIdentity;
pub use cryonaut_launch::registry::{Notices, Notification};
use cryonaut_participant::board::Outcome;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::status::Status;
use cryonaut_sys::{pidfd, task};

use crate::freeze::Afterwards;
use crate::guardian::Guardian;
use crate::participants::Participants;
use crate::target::{Target, TargetProcess};
use crate::{Error, Result};

/// Whether a process catches a signal.
pub(crate) fn catches(status: &Status, signal: i32) -> bool {
    (1..=64).contains(&signal) && status.signals_caught & (1 << (signal - 1)) != 0
}

/// The time that programs have to get ready if nobody has said another.
const GRACE: Duration = Duration::from_secs(10);

/// A process that is told.
#[derive(Debug)]
struct Told {
    pid: i32,
    name: String,
    process: OwnedFd,
    directory: ProcessDirectory,
}

impl Told {
    /// The process that has this pid now; none if it has ended.
    fn of(pid: i32, name: String) -> Option<Self> {
        Some(Self {
            pid,
            name,
            process: pidfd::open(pid).ok()?,
            directory: ProcessDirectory::open(pid).ok()?,
        })
    }

    /// Its state as /proc/PID/stat has it; none if it has ended.
    fn state(&self) -> Option<char> {
        let state = self.directory.stat().ok()?.state;
        (!matches!(state, 'Z' | 'X')).then_some(state)
    }

    fn catches(&self, signal: i32) -> bool {
        let status = self.directory.status();
        status.is_ok_and(|status| catches(&status, signal))
    }

    fn is_younger_than(&self, time: Duration) -> bool {
        /// Of the clock in which /proc tells times, in a second (USER_HZ).
        const TICKS: u64 = 100;
        let (Ok(stat), Ok(now)) = (self.directory.stat(), task::clock(libc::CLOCK_BOOTTIME)) else {
            return true;
        };
        let born = i128::from(stat.starttime) * i128::from(1_000_000_000 / TICKS);
        now - born < time.as_nanos() as i128
    }

    /// Whether it has stopped itself, has ended, or has become another program, which knows of nothing.
    fn is_ready(&self, signal: i32) -> bool {
        self.state().is_none_or(|state| state == 'T') || !self.catches(signal)
    }

    /// Sends the signal if it is caught; an error only means that the process has ended.
    fn tell(&self, signal: i32) {
        if self.catches(signal) {
            let _ = pidfd::send_signal(self.process.as_fd(), signal);
        }
    }

    /// Whether SIGCONT is for it. To one that has not stopped itself that means nothing, unless it catches SIGCONT without having
    /// asked to be told by it: then it counts whether it is stopped. One that was let go a moment ago is so only in a moment.
    fn wants_waking(&self, continued: Option<i32>) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        if !self.catches(libc::SIGCONT) || continued == Some(libc::SIGCONT) {
            return true;
        }
        let start = Instant::now();
        while self.state().is_some_and(|state| state != 'T') {
            if start.elapsed() > MOMENT {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until nobody traces it: what a tracer that has just died leaves behind goes a moment after it.
    fn await_untraced(&self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        while start.elapsed() < PATIENCE
            && self
                .directory
                .status()
                .is_ok_and(|status| status.tracer_pid != 0)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Processes that were told of a checkpoint, and stand by for it. Dropping it tells them that life goes on.
#[derive(Debug)]
pub struct Notified {
    told: Vec<Told>,
    participants: Participants,
    continued: Option<i32>,
    guardian: Option<Guardian>,
    /// Over those that were taken in later.
    more_guardians: Vec<Guardian>,
    remarks: Vec<String>,
}

impl Notified {
    /// Tells all processes of the job that catch the signal, and waits until each has stopped itself or ended, or the time is over.
    /// Those that job control had stopped before are not told: they could not get ready. Processes that take part by libcryo are
    /// asked at the same time, and waited for until all are ready.
    ///
    /// # Errors
    /// [`Error::Withdrawn`] by a participant, or because of one that is not ready in time; [`Error::Refused`] before anybody was told;
    /// [`Error::Interrupted`]. Those that were told are told to go on.
    pub fn tell(target: &Target, stop: &AtomicBool) -> Result<Self> {
        Self::tell_with(Participants::of(target), target, stop)
    }

    /// The same without those who take part by libcryo: a suspension is no checkpoint.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn tell_by_signals(target: &Target, stop: &AtomicBool) -> Result<Self> {
        Self::tell_with(Participants::default(), target, stop)
    }

    fn tell_with(participants: Participants, target: &Target, stop: &AtomicBool) -> Result<Self> {
        let Notification { notices, grace } = target.notification;
        participants.refuse_busy()?;
        let mut notified = Self {
            told: Vec::new(),
            participants,
            continued: notices.continued,
            guardian: None,
            more_guardians: Vec::new(),
            remarks: Vec::new(),
        };
        if target.suspension.is_some() {
            // Who is suspended runs no handler.
            notified.participants.refuse_suspended()?;
            return Ok(notified);
        }
        let signal = notices.checkpoint;
        notified.told = signal.map_or_else(Vec::new, |signal| to_be_told(target, signal));
        if notified.told.is_empty() && notified.participants.is_empty() {
            return Ok(notified);
        }
        let (told, continued) = (&notified.told, notices.continued);
        let participants = &notified.participants;
        notified.guardian = Some(Guardian::standing_by(|| {
            participants.tell_when_untraced(Outcome::Failed, &|_| true);
            for process in told {
                process.await_untraced();
            }
            go_on(told, continued, Afterwards::LeaveRunning);
        })?);
        for process in &notified.told {
            signal.into_iter().for_each(|signal| process.tell(signal));
        }
        notified.participants.ask();
        let grace = match grace {
            Duration::ZERO => GRACE,
            grace => grace,
        };
        let ready = notified.await_ready((signal.unwrap_or(0), grace), target, stop);
        if ready.is_err() && target.dialogue.ends() {
            // Before anybody is told otherwise.
            kill_all(target);
        }
        ready.map_err(Error::once_told)?;
        Ok(notified)
    }

    fn await_ready(
        &mut self,
        (signal, grace): (i32, Duration),
        target: &Target,
        stop: &AtomicBool,
    ) -> Result<()> {
        const LONGEST: Duration = Duration::from_millis(20);
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let new = self.participants.take_in_forwarded(target);
            if !new.is_empty() {
                let participants = &self.participants;
                let is_new = |pid: i32| new.contains(&pid);
                self.more_guardians.push(Guardian::standing_by(|| {
                    participants.tell_when_untraced(Outcome::Failed, &is_new);
                })?);
            }
            let participants = self.participants.are_ready()?;
            if participants && self.told.iter().all(|process| process.is_ready(signal)) {
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let left = grace.saturating_sub(start.elapsed());
            if left.is_zero() {
                if !participants {
                    self.participants.refuse_late(grace)?;
                }
                break;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST);
        }
        let late = self.told.iter().filter(|process| !process.is_ready(signal));
        self.remarks = late
            .map(|process| {
                format!(
                    "process {} ({}) was told of the checkpoint and did not stop itself to say that it was ready: it was given all of \
                     the time ({grace:?}); should it stop itself only now, wake it by `kill -CONT {0}`",
                    process.pid, process.name
                )
            })
            .collect();
        Ok(())
    }

    /// The processes that were told, by their pids as we see them.
    pub fn pids(&self) -> BTreeSet<i32> {
        self.told.iter().map(|told| told.pid).collect()
    }

    /// Leaves them waiting for a *continue* that somebody else owes them from here on: who they are is noted.
    pub(crate) fn leave_waiting(mut self) {
        for guardian in self.more_guardians.drain(..).chain(self.guardian.take()) {
            // One that cannot be told wakes them, which those who are held by then sleep through.
            let _ = guardian.dismiss();
        }
    }

    /// An error that comes now, as it is to be told.
    pub(crate) fn judge(&self, error: Error) -> Error {
        match &self.guardian {
            Some(_) => error.once_told(),
            None => error,
        }
    }

    /// What the user should know.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The processes that want to be left out, by their pids as we see them.
    pub(crate) fn left_out(&self) -> BTreeSet<i32> {
        self.participants.left_out()
    }

    /// That everybody who takes part still stands ready, now that the job is frozen.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) fn check(&self, frozen: &crate::freeze::Frozen) -> Result<()> {
        self.participants.check(frozen)
    }

    /// The checkpoint is over: they are told so, and those that stopped themselves are woken unless the whole job is to stay
    /// stopped. Of a job that is killed only those are told that left themselves out.
    pub fn finish(mut self, afterwards: Afterwards) {
        self.end(afterwards, Outcome::Continued);
    }

    fn end(&mut self, afterwards: Afterwards, outcome: Outcome) {
        if let Some(guardian) = self.guardian.take() {
            if afterwards == Afterwards::Kill {
                self.participants.tell_left_out(outcome);
            } else {
                self.participants.tell(outcome);
                go_on(&self.told, self.continued, afterwards);
            }
            // One that cannot be told does what has been done already.
            for guardian in self.more_guardians.drain(..).chain([guardian]) {
                let _ = guardian.dismiss();
            }
        }
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.end(Afterwards::LeaveRunning, Outcome::Failed);
    }
}

/// The processes of the job that catch `signal` and are not stopped. A process that was just born has the handlers of its parent,
/// loses them a moment later, and would die of the signal then: the young ones are looked at again when they are older.
fn to_be_told(target: &Target, signal: i32) -> Vec<Told> {
    const MOMENT: Duration = Duration::from_millis(100);
    let find = |process: &TargetProcess| {
        let told = Told::of(process.pid, process.name())?;
        let wanted = told.catches(signal) && !matches!(told.state(), None | Some('T'));
        wanted.then_some(told)
    };
    let mut told: Vec<Told> = target.processes.iter().filter_map(find).collect();
    if told.iter().any(|process| process.is_younger_than(MOMENT)) {
        std::thread::sleep(MOMENT);
        told.retain(|process| process.catches(signal));
    }
    told
}

/// Ends the whole job, as BLCR does for one that says of itself that it can never be checkpointed.
fn kill_all(target: &Target) {
    let known = target.again();
    let target = known.as_ref().unwrap_or(target);
    for process in &target.processes {
        // An error only means that it has ended.
        let _ = pidfd::open(process.pid)
            .and_then(|process| pidfd::send_signal(process.as_fd(), libc::SIGKILL));
    }
}

/// Tells processes that were left waiting that life goes on, and wakes them.
pub(crate) fn go_on_later(waiting: &[ProcessIdentity], continued: Option<i32>) {
    let find = |identity: &ProcessIdentity| {
        let told = Told::of(identity.pid, String::new())?;
        // The descriptor is open: it is the right one, or another that has its number now.
        identity.is_alive().then_some(told)
    };
    let told: Vec<Told> = waiting.iter().filter_map(find).collect();
    go_on(&told, continued, Afterwards::LeaveRunning);
}

/// Tells them that life goes on, and wakes those that stopped themselves. The signal comes first, so that its handler runs before
/// anything else does.
fn go_on(told: &[Told], continued: Option<i32>, afterwards: Afterwards) {
    for process in told {
        // SIGCONT comes below, to those that are to be woken; whoever wakes the others sends it.
        if let Some(signal) = continued.filter(|signal| *signal != libc::SIGCONT) {
            process.tell(signal);
        }
        if afterwards == Afterwards::LeaveRunning && process.wants_waking(continued) {
            let _ = pidfd::send_signal(process.process.as_fd(), libc::SIGCONT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_caught_signals_are_sent() {
        let status = Status {
            signals_caught: 1 << (libc::SIGUSR1 - 1) | 1 << 63,
            ..Status::default()
        };
        assert!(catches(&status, libc::SIGUSR1));
        assert!(catches(&status, 64));
        assert!(!catches(&status, libc::SIGUSR2));
        assert!(!catches(&status, 0));
        assert!(!catches(&status, 65));
    }
}
