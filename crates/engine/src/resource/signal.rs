//! Signals: actions, and what is pending for the process and for each of its tasks.
//!
//! Actions are asked of the process itself (rt_sigaction(2)); pending signals are read by PTRACE_PEEKSIGINFO without taking
//! them, those that the kernel holds without a `siginfo_t` from SigPnd and ShdPnd of /proc/PID/status. Masks of blocked
//! signals and alternate stacks belong to a task and are saved there. The pending signal of an expired timer is the timer's:
//! the new timer sends it again (see `timer`). SIGTRAP comes last, as stubs need it. Not preserved: the `siginfo_t` of a pending
//! SIGSTOP, which nothing can keep pending (the process stops again); the place that a timer's signal had among pending ones of
//! its number; process and user numbers inside a `siginfo_t` stay what they were.

mod action;
mod pending;
mod step;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::ptrace::RawSiginfo;
use cryonaut_sys::task;

use super::limits::{PENDING_SIGNALS, name_of};
use super::process::ProcessRecord;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};
use action::{actions_of, settable};
use pending::{bit, pending_of, signal_of};
pub(super) use step::block_trap;
use step::{FinishTrap, QueueSignals, SetActions};

/// Signals are numbered 1 to this (_NSIG of the kernel).
const SIGNAL_COUNT: i32 = 64;

/// What one process does upon a signal. Actions that are the default in every respect are not stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalAction {
    /// The signal's number, 1 to 64.
    #[prost(int32, tag = "1")]
    pub signal: i32,
    /// Address of the handler; 0 is SIG_DFL, 1 SIG_IGN.
    #[prost(uint64, tag = "2")]
    pub handler: u64,
    /// `SA_*`, among them SA_RESTORER.
    #[prost(uint64, tag = "3")]
    pub flags: u64,
    /// Address of the code that a handler returns to.
    #[prost(uint64, tag = "4")]
    pub restorer: u64,
    /// Signals blocked while the handler runs; bit 0 is signal 1.
    #[prost(fixed64, tag = "5")]
    pub mask: u64,
}

/// Signals that are pending for one task alone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskSignals {
    /// The task's id in its own namespace.
    #[prost(int32, tag = "1")]
    pub task: i32,
    /// Their `siginfo_t` in order of arrival, without the zero bytes at the end.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub pending: Vec<Vec<u8>>,
}

/// Signal state of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalsRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The actions that are not the default.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<SignalAction>,
    /// `siginfo_t` of the signals pending for the process as a whole, as in [`TaskSignals::pending`].
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub pending: Vec<Vec<u8>>,
    /// Signals pending for single tasks; only tasks that have some.
    #[prost(message, repeated, tag = "4")]
    pub tasks: Vec<TaskSignals>,
}

impl Record for SignalsRecord {
    const KIND: Kind = Kind {
        name: "signals",
        version: 1,
    };
}

/// The resource.
pub struct Signals;

impl Resource for Signals {
    fn name(&self) -> &'static str {
        "signals"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[SignalsRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {
        // Everything that the kernel shows comes back; who shares actions is seen in `sharing`.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive_mut() {
            // Pending signals first: nothing has been run in the process for them yet.
            let (pending, tasks) = pending_of(process)?;
            let actions = actions_of(process)?;
            collection.put(&SignalsRecord {
                process: process.inner,
                actions,
                pending,
                tasks,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let mut total = 0;
        let records_of_signals = records.all::<SignalsRecord>()?;
        for record in &records_of_signals {
            check(record)?;
            total += record.pending.len()
                + record
                    .tasks
                    .iter()
                    .map(|task| task.pending.len())
                    .sum::<usize>();
        }
        let limit = task::limit(0, PENDING_SIGNALS)
            .attempt(|| "reading the limit of pending signals".into())?;
        if total as u64 > limit.soft {
            plan.refusals.add_for_job(
                format!("its {total} pending signals"),
                format!("{} is {} here", name_of(PENDING_SIGNALS), limit.soft),
                "raise that limit (`ulimit -i`) and restart again",
            );
        }
        let processes = records.all::<ProcessRecord>()?;
        for process in processes
            .iter()
            .filter(|process| process.zombie.is_none())
            .map(|process| process.pid)
        {
            let record = records_of_signals
                .iter()
                .find(|record| record.process == process);
            let actions = record
                .map(|record| record.actions.clone())
                .unwrap_or_default();
            // After zombies have ended: a parent that ignores SIGCHLD would have them vanish.
            plan.step(Stage::Attach, process, SetActions { process, actions });
            if let Some(record) =
                record.filter(|record| !(record.pending.is_empty() && record.tasks.is_empty()))
            {
                // After zombies too: the signal of their end is drained, a saved one must stay.
                plan.step(
                    Stage::Restrict,
                    process,
                    QueueSignals {
                        record: record.clone(),
                    },
                );
            }
            if let Some(last) = record.and_then(FinishTrap::of) {
                plan.step(Stage::Release, process, last);
            }
        }
        Ok(())
    }
}

/// Refuses records that no process can have had.
fn check(record: &SignalsRecord) -> Result<()> {
    let damaged = |what: &str| {
        Err(Error::Failed(format!(
            "the image is damaged: process {} {what}",
            record.process
        )))
    };
    if record
        .actions
        .iter()
        .any(|action| settable().all(|signal| signal != action.signal))
    {
        return damaged("has an action for a signal that can have none");
    }
    let pending = record
        .tasks
        .iter()
        .flat_map(|task| &task.pending)
        .chain(&record.pending);
    for information in pending {
        let signal = signal_of(information);
        if information.len() > size_of::<RawSiginfo>()
            || bit(signal) == 0
            || signal == libc::SIGKILL
        {
            return damaged("has a pending signal that cannot be pending");
        }
    }
    Ok(())
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Signal actions: handlers, flags, masks, ignored signals, SA_NOCLDWAIT",
        level: Level::Restored,
        how: "all 62 that can be set, in the new life at the same addresses",
    },
    Support {
        what: "Pending signals of processes and threads, also real-time signals in a queue",
        level: Level::Restored,
        how: "in order and with their siginfo; process ids in it stay those of the time when they were sent; signals of \
              timers come after others of their number",
    },
    Support {
        what: "A pending SIGSTOP",
        level: Level::Partly,
        how: "the process stops when it is released, as it was about to",
    },
    Support {
        what: "Signal actions shared by processes (CLONE_SIGHAND without CLONE_THREAD)",
        level: Level::Refused,
        how: "use threads, or processes that share nothing",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip() {
        let record = SignalsRecord {
            process: 7,
            actions: vec![SignalAction {
                signal: libc::SIGUSR1,
                handler: 0x7fff_1234_5678,
                flags: 0x0400_0004,
                restorer: 0x7fff_0000_1000,
                mask: !0,
            }],
            pending: vec![vec![10, 0, 0, 0, 0, 0, 0, 0, 0x80], vec![64]],
            tasks: vec![TaskSignals {
                task: 8,
                pending: vec![vec![34, 0, 0, 0, 0, 0, 0, 0, 0xff]],
            }],
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(
            set.all::<SignalsRecord>().unwrap(),
            std::slice::from_ref(&record)
        );
        check(&record).unwrap();
    }

    #[test]
    fn damaged_records_are_found() {
        let kill = SignalAction {
            signal: libc::SIGKILL,
            ..SignalAction::default()
        };
        let damaged = [
            SignalsRecord {
                actions: vec![kill],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![9]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![10; 129]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                tasks: vec![TaskSignals {
                    task: 1,
                    pending: vec![vec![65]],
                }],
                ..SignalsRecord::default()
            },
        ];
        assert!(damaged.iter().all(|record| check(record).is_err()));
    }
}
