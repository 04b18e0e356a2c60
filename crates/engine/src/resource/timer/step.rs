//! The steps that rebuild timers: created early with their ids, set as late as can be.

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_tracee::{BufferId, CallId, CallList};

use super::times::{MICROSECONDS, NANOSECONDS, SPEC_SIZE, encode_event, encode_spec};
use super::{AT_ONCE, LARGEST_COUNTED_ID, NOTIFY_NOBODY, PosixTimer, TimersRecord};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;
use crate::resource::signal;
use crate::{Error, Result};

const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;

/// Creates timers with the ids that they had, not set.
pub struct CreateTimers {
    pub(super) record: TimersRecord,
}

impl fmt::Display for CreateTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create {} timers", self.record.timers.len())
    }
}

impl Action for CreateTimers {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        let by_id: BTreeMap<i32, &PosixTimer> = self
            .record
            .timers
            .iter()
            .map(|timer| (timer.id, timer))
            .collect();
        let mut batch = Batch::new(rebuild, process);
        if choose_ids(rebuild, process, Choice::Ours)? {
            for timer in by_id.values() {
                batch.create(timer)?;
            }
            batch.flush()?;
            return choose_ids(rebuild, process, Choice::Kernels).map(drop);
        }
        // The kernel counts from 0: ids that are not wanted are used up by timers that go at once.
        let last = by_id.keys().next_back().copied().unwrap_or(-1);
        if last > LARGEST_COUNTED_ID {
            return Err(Error::Failed(format!(
                "process {process}: timer {last} cannot get its id under this kernel"
            )));
        }
        for id in 0..=last {
            match by_id.get(&id) {
                Some(timer) => batch.create(timer)?,
                None => batch.skip(id)?,
            }
        }
        batch.flush()
    }
}

/// Who chooses the id of a new timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Kernels,
    Ours,
}

/// prctl(2), PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15); whether the kernel knows it.
fn choose_ids(rebuild: &Rebuild<'_>, process: i32, choice: Choice) -> Result<bool> {
    let mut list = CallList::new();
    let on = u64::from(choice == Choice::Ours);
    let call = list.call(
        libc::SYS_prctl,
        &[PR_TIMER_CREATE_RESTORE_IDS.into(), on.into()],
    );
    Ok(rebuild.run(process, &list)?.result(call).is_ok())
}

/// Timers on their way into a process.
struct Batch<'a, 'b> {
    rebuild: &'a Rebuild<'b>,
    pub(super) process: i32,
    task: i32,
    list: CallList,
    expected: Vec<(CallId, BufferId, i32)>,
}

impl<'a, 'b> Batch<'a, 'b> {
    fn new(rebuild: &'a Rebuild<'b>, process: i32) -> Self {
        Self {
            rebuild,
            process,
            task: process,
            list: CallList::new(),
            expected: Vec::new(),
        }
    }

    fn create(&mut self, timer: &PosixTimer) -> Result<()> {
        self.add(timer).map(drop)
    }

    /// Uses up an id.
    fn skip(&mut self, id: i32) -> Result<()> {
        let clock = libc::CLOCK_MONOTONIC;
        self.add(&PosixTimer {
            id,
            clock,
            notify: NOTIFY_NOBODY,
            creator: self.task,
            ..PosixTimer::default()
        })?;
        self.list.call(libc::SYS_timer_delete, &[id.into()]);
        Ok(())
    }

    fn add(&mut self, timer: &PosixTimer) -> Result<()> {
        if timer.creator != self.task || self.expected.len() >= AT_ONCE {
            self.flush()?;
            self.task = timer.creator;
        }
        let event = self.list.bytes(&encode_event(timer));
        let id = self.list.bytes(&timer.id.to_le_bytes());
        let arguments = [timer.clock.into(), event.into(), id.into()];
        self.expected.push((
            self.list.call(libc::SYS_timer_create, &arguments),
            id,
            timer.id,
        ));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let list = std::mem::take(&mut self.list);
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = self.rebuild.run_in_task(self.process, self.task, &list)?;
        for (call, buffer, id) in self.expected.drain(..) {
            let what = || format!("process {}: creating timer {id}", self.process);
            outcomes.result(call).attempt(what)?;
            if outcomes.buffer(buffer) != id.to_le_bytes() {
                return Err(Error::Failed(format!(
                    "{}: the kernel gave it another id",
                    what()
                )));
            }
        }
        Ok(())
    }
}

impl PosixTimer {
    pub(super) fn is_set(&self) -> bool {
        self.left != 0 || self.expired
    }

    /// Arguments of timer_settime(2): flags and `struct itimerspec`.
    fn setting(&self) -> (i32, [u8; SPEC_SIZE]) {
        // A clock of processor time stands still while its process waits: only a time in its past comes at once.
        let flags = if self.expired && self.clock < 0 {
            libc::TIMER_ABSTIME
        } else {
            0
        };
        let left = if self.expired { 1 } else { self.left };
        (flags, encode_spec(self.interval, left, NANOSECONDS))
    }
}

/// Sets the timers to the time that they had left.
pub struct ArmTimers {
    pub(super) record: TimersRecord,
}

impl fmt::Display for ArmTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "set {} timers",
            self.record.timers.len() + self.record.interval_timers.len()
        )
    }
}

impl Action for ArmTimers {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut list = CallList::new();
        let mut calls: Vec<(String, CallId)> = Vec::new();
        for timer in &self.record.interval_timers {
            let spec = list.bytes(&encode_spec(
                timer.interval,
                timer.left.max(1),
                MICROSECONDS,
            ));
            let call = list.call(
                libc::SYS_setitimer,
                &[timer.which.into(), spec.into(), 0.into()],
            );
            calls.push((format!("interval timer {}", timer.which), call));
        }
        for timer in &self.record.timers {
            let (flags, spec) = timer.setting();
            let spec = list.bytes(&spec);
            let call = list.call(
                libc::SYS_timer_settime,
                &[timer.id.into(), flags.into(), spec.into(), 0.into()],
            );
            calls.push((format!("timer {}", timer.id), call));
            if calls.len() >= AT_ONCE {
                self.run(rebuild, &std::mem::take(&mut list), &mut calls)?;
            }
        }
        self.run(rebuild, &list, &mut calls)
    }
}

impl ArmTimers {
    fn run(
        &self,
        rebuild: &Rebuild<'_>,
        list: &CallList,
        calls: &mut Vec<(String, CallId)>,
    ) -> Result<()> {
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(self.record.process, list)?;
        for (what, call) in calls.drain(..) {
            outcomes
                .result(call)
                .attempt(|| format!("process {}: setting {what}", self.record.process))?;
        }
        Ok(())
    }
}

/// Sets timers that send SIGTRAP, which a stub must not get while it runs lists.
pub struct ArmTrapping {
    pub(super) process: i32,
    pub(super) timers: Vec<PosixTimer>,
}

impl fmt::Display for ArmTrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} timers that send SIGTRAP", self.timers.len())
    }
}

impl Action for ArmTrapping {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        signal::block_trap(rebuild, self.process)?;
        for timer in &self.timers {
            let (flags, spec) = timer.setting();
            let arguments = |data| [timer.id as u64, flags as u64, data, 0, 0, 0];
            let whom = (self.process, self.process);
            rebuild.call_directly(
                whom,
                "setting a timer",
                libc::SYS_timer_settime,
                &spec,
                arguments,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_timers_expire_at_once() {
        let timer = PosixTimer {
            clock: 1,
            interval: 5,
            left: 4,
            ..PosixTimer::default()
        };
        assert_eq!(timer.setting(), (0, encode_spec(5, 4, NANOSECONDS)));
        let expired = PosixTimer {
            expired: true,
            ..timer
        };
        assert_eq!(expired.setting(), (0, encode_spec(5, 1, NANOSECONDS)));
        let of_processor = PosixTimer {
            clock: -6,
            ..expired
        };
        assert_eq!(
            of_processor.setting(),
            (libc::TIMER_ABSTIME, encode_spec(5, 1, NANOSECONDS))
        );
        assert!(!PosixTimer { left: 0, ..timer }.is_set());
        assert!(PosixTimer { left: 0, ..expired }.is_set());
    }
}
