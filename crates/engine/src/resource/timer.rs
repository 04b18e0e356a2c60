//! Timers: those of setitimer(2) and those of timer_create(2).
//!
//! The first are asked of the process itself (getitimer(2)). Which of the second exist is in /proc/PID/timers, the time that
//! each has left is asked of the process (timer_gettime(2)). A timer comes back with its id and the time that it had left at
//! the checkpoint; clocks of processor time start at 0 again, the time left on them is kept. Not preserved: the absolute
//! time that a timer was set for (after a jump of the wall clock, as between checkpoint and restart, it expires later than
//! that), and the overrun count (timer_getoverrun(2) starts at 0).
//!
//! A timer that has expired with its signal still pending comes back so that it expires at once: the new pending signal is its
//! own again, the kernel sets it anew when the signal is taken, and counts overruns from the restart on (so periods, too, are
//! counted from there).

mod listed;
mod measured;
mod step;
mod times;

use cryonaut_image::{Kind, Record, RecordSet};

use super::process::ProcessRecord;
use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};
use listed::{describe_all, tasks_of};
use measured::find_measured;
use step::{ArmTimers, ArmTrapping, CreateTimers};
pub(super) use times::{is_expiry, is_from_timer};
use times::{note_expired, read_times};

/// `SIGEV_THREAD_ID`.
const NOTIFY_THREAD: i32 = 4;
/// `SIGEV_NONE`.
const NOTIFY_NOBODY: i32 = 1;
/// Timers that are handled in one list.
const AT_ONCE: usize = 400;
/// Where ids cannot be chosen they are counted up to; this many take about a second.
const LARGEST_COUNTED_ID: i32 = 1_000_000;
/// CAP_WAKE_ALARM (include/uapi/linux/capability.h).
const WAKE_ALARM: u64 = 1 << 35;
const REALTIME_ALARM: i32 = 8;
const BOOTTIME_ALARM: i32 = 9;

/// A timer of setitimer(2) that is set.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IntervalTimer {
    /// `ITIMER_REAL` 0, `ITIMER_VIRTUAL` 1, `ITIMER_PROF` 2.
    #[prost(int32, tag = "1")]
    pub which: i32,
    /// Time between expiries in microseconds, 0 for a single one.
    #[prost(uint64, tag = "2")]
    pub interval: u64,
    /// Time left to the next expiry in microseconds; 0 when it has expired and its signal was pending: the kernel sets it anew
    /// only when that is taken (posixtimer_rearm_itimer in kernel/time/itimer.c).
    #[prost(uint64, tag = "3")]
    pub left: u64,
}

/// A timer of timer_create(2).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PosixTimer {
    /// Its id, unique in the process.
    #[prost(int32, tag = "1")]
    pub id: i32,
    /// Its clock: `CLOCK_*`, or negative for a clock of processor time (ids in it are those of the job's own namespace).
    #[prost(sint32, tag = "2")]
    pub clock: i32,
    /// The signal that it sends.
    #[prost(int32, tag = "3")]
    pub signal: i32,
    /// The value sent along, `sigev_value`.
    #[prost(fixed64, tag = "4")]
    pub value: u64,
    /// `SIGEV_*`, with SIGEV_THREAD_ID (4) as a bit.
    #[prost(int32, tag = "5")]
    pub notify: i32,
    /// With SIGEV_THREAD_ID the task notified, in its own namespace; otherwise 0.
    #[prost(int32, tag = "6")]
    pub target: i32,
    /// The task that must create it: the one whose processor time it measures, else the process' leader.
    #[prost(int32, tag = "7")]
    pub creator: i32,
    /// Time between expiries in nanoseconds, 0 for a single one.
    #[prost(uint64, tag = "8")]
    pub interval: u64,
    /// Time left to the next expiry in nanoseconds, 0 when it is not set.
    #[prost(uint64, tag = "9")]
    pub left: u64,
    /// Whether it has expired with its signal still pending, and so is to expire at once.
    #[prost(bool, tag = "10")]
    pub expired: bool,
}

/// The timers of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TimersRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Timers of setitimer(2) that are set.
    #[prost(message, repeated, tag = "2")]
    pub interval_timers: Vec<IntervalTimer>,
    /// Timers of timer_create(2).
    #[prost(message, repeated, tag = "3")]
    pub timers: Vec<PosixTimer>,
}

impl Record for TimersRecord {
    const KIND: Kind = Kind {
        name: "timers",
        version: 1,
    };
}

/// The resource.
pub struct Timers;

impl Resource for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[TimersRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let label = process.label();
            match process.directory.timers() {
                Ok(timers) if timers.is_empty() => {}
                Ok(timers) => {
                    let tasks = tasks_of(process);
                    describe_all(&timers, (&label, process.inner_pid()), &tasks, refusals);
                }
                Err(error) if error.is_missing() && process.directory.exists() => refusals
                    .add_for_job(
                        "timers",
                        "this kernel does not show them (/proc/PID/timers is missing)",
                        "use a kernel with CONFIG_CHECKPOINT_RESTORE",
                    ),
                Err(_) => {}
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        for process in frozen.alive_mut() {
            let listed = process.directory.timers()?;
            let tasks: Vec<_> = process
                .tasks
                .iter()
                .map(|task| (task.stopped.tid(), task.inner))
                .collect();
            let label = (process.pid, process.name());
            let mut timers = describe_all(&listed, (&label, process.inner), &tasks, &mut refusals);
            let mut interval_timers = read_times(process, &mut timers)?;
            note_expired(process, &mut timers, &mut interval_timers)?;
            find_measured(process, &mut timers, &mut refusals)?;
            if !interval_timers.is_empty() || !timers.is_empty() {
                collection.put(&TimersRecord {
                    process: process.inner,
                    interval_timers,
                    timers,
                })?;
            }
        }
        refusals.into_result()
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
        for record in records.all::<TimersRecord>()? {
            let process = processes
                .iter()
                .find(|process| process.pid == record.process);
            let tasks = process
                .map(|process| process.tasks.as_slice())
                .unwrap_or_default();
            let name = process
                .map(|process| String::from_utf8_lossy(&process.name))
                .unwrap_or_default();
            check(&record, tasks)?;
            for timer in &record.timers {
                let label = (record.process, name.as_ref());
                if matches!(timer.clock, REALTIME_ALARM | BOOTTIME_ALARM)
                    && capabilities & WAKE_ALARM == 0
                {
                    plan.refusals.add(
                        label,
                        format!("its timer {}", timer.id),
                        "it can wake the machine, which takes CAP_WAKE_ALARM; this user lacks it",
                        "restart as root",
                    );
                }
                if timer.id > LARGEST_COUNTED_ID && !cryonaut_sys::task::may_choose_timer_ids() {
                    plan.refusals.add(
                        label,
                        format!("its timer {}", timer.id),
                        "this kernel gives out ids in order, and it would take long to come to that one",
                        "restart under Linux 6.15 or later, where ids can be chosen",
                    );
                }
            }
            if !record.timers.is_empty() {
                plan.step(
                    Stage::Attach,
                    record.process,
                    CreateTimers {
                        record: record.clone(),
                    },
                );
            }
            // As late as can be, so that nothing expires while the job is built.
            let (trapping, timers): (Vec<_>, Vec<_>) = record
                .timers
                .into_iter()
                .filter(PosixTimer::is_set)
                .partition(|timer| timer.signal == libc::SIGTRAP);
            let process = record.process;
            if !timers.is_empty() || !record.interval_timers.is_empty() {
                let record = TimersRecord { timers, ..record };
                plan.step(Stage::Restrict, process, ArmTimers { record });
            }
            if !trapping.is_empty() {
                plan.step(
                    Stage::Release,
                    process,
                    ArmTrapping {
                        process,
                        timers: trapping,
                    },
                );
            }
        }
        Ok(())
    }
}

/// Refuses records that no process can have had.
fn check(record: &TimersRecord, tasks: &[i32]) -> Result<()> {
    let mut ids: Vec<i32> = record.timers.iter().map(|timer| timer.id).collect();
    ids.sort_unstable();
    let distinct =
        ids.windows(2).all(|pair| pair[0] != pair[1]) && ids.first().is_none_or(|id| *id >= 0);
    let known = |timer: &PosixTimer| {
        tasks.contains(&timer.creator) && (timer.target == 0 || tasks.contains(&timer.target))
    };
    let possible = record
        .interval_timers
        .iter()
        .all(|timer| (0..3).contains(&timer.which));
    if distinct && possible && record.timers.iter().all(known) {
        Ok(())
    } else {
        Err(Error::Failed(format!(
            "the image is damaged: process {} has impossible timers",
            record.process
        )))
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Timers of setitimer and alarm",
        level: Level::Restored,
        how: "with the time that they had left",
    },
    Support {
        what: "Timers of timer_create, also on clocks of processor time and with a thread to notify",
        level: Level::Partly,
        how: "with their ids and the time that they had left; one whose signal is pending keeps that and counts its period and \
              overruns from the restart; timer_getoverrun starts at 0",
    },
    Support {
        what: "Timers set for a time of day (TIMER_ABSTIME on CLOCK_REALTIME)",
        level: Level::Partly,
        how: "with the time that was left at the checkpoint: they expire later than that time of day, by as long as the job \
              was not running",
    },
    Support {
        what: "Timers of a thread's processor time (CLOCK_THREAD_CPUTIME_ID) in a program with several threads",
        level: Level::Restored,
        how: "measuring the thread that created them, whichever they notify; refused when that has ended, or while the signal of \
              a single expiry is pending",
    },
    Support {
        what: "Timers on the processor time of another process, on that of a thread in ticks, or on the clock of a device",
        level: Level::Refused,
        how: "delete them before the checkpoint",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip() {
        let timer = PosixTimer {
            id: 5,
            clock: -6,
            signal: 34,
            value: !0,
            notify: NOTIFY_THREAD,
            target: 9,
            creator: 9,
            interval: 1,
            left: u64::MAX,
            expired: true,
        };
        let record = TimersRecord {
            process: 9,
            interval_timers: vec![IntervalTimer {
                which: 2,
                interval: 0,
                left: 1,
            }],
            timers: vec![timer],
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(
            set.all::<TimersRecord>().unwrap(),
            std::slice::from_ref(&record)
        );
        assert!(check(&record, &[9]).is_ok());
        assert!(check(&record, &[8]).is_err());
        assert!(
            check(
                &TimersRecord {
                    timers: vec![timer, timer],
                    ..record
                },
                &[9]
            )
            .is_err()
        );
    }
}
