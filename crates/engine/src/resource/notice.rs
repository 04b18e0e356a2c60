//! Signals that tell programs of their checkpoint and restart (`cryo run --notify`).
//!
//! No state of the kernel: which signals were asked for, and which processes caught the one for *restart* (SigCgt of
//! /proc/PID/status) and so have it pending when their new life begins. What is told at the checkpoint itself is in `notify`. A
//! process that had stopped itself to say that it was ready is recorded as running: in its new life nobody else would wake it.

use std::fmt;
use std::time::Duration;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::notify::{Notices, Notification, catches};
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// The signals by which the job's programs are told, 0 for what they are not told of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NoticesRecord {
    /// The signal before a checkpoint.
    #[prost(int32, tag = "1")]
    pub checkpoint: i32,
    /// The signal at the beginning of a restarted life.
    #[prost(int32, tag = "2")]
    pub restart: i32,
    /// The signal when a checkpoint is over and the same life goes on.
    #[prost(int32, tag = "3")]
    pub continued: i32,
    /// The processes that caught the signal for restart.
    #[prost(int32, repeated, tag = "4")]
    pub restarted: Vec<i32>,
    /// The time that programs have to get ready for a checkpoint, in milliseconds.
    #[prost(uint64, tag = "5")]
    pub grace: u64,
}

impl Record for NoticesRecord {
    const KIND: Kind = Kind {
        name: "notices",
        version: 1,
    };
}

/// What an image says of how its programs are told.
///
/// # Errors
/// When the record is damaged.
pub fn recorded(records: &RecordSet) -> Result<Notification> {
    let record = records.all::<NoticesRecord>()?.into_iter().next();
    let record = record.unwrap_or_default();
    let signal = |number: i32| match number {
        0 => Ok(None),
        1..=64 => Ok(Some(number)),
        _ => Err(Error::Failed(format!(
            "the image is damaged: programs are told by signal {number}"
        ))),
    };
    Ok(Notification {
        notices: Notices {
            checkpoint: signal(record.checkpoint)?,
            restart: signal(record.restart)?,
            continued: signal(record.continued)?,
        },
        grace: Duration::from_millis(record.grace),
    })
}

/// The resource.
pub struct NoticeSignals;

impl Resource for NoticeSignals {
    fn name(&self) -> &'static str {
        "notices"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[NoticesRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {
        // What cryo itself was asked for cannot be in the way.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let Notification { notices, grace } = frozen.notification;
        if notices.is_empty() {
            return Ok(());
        }
        let caught = frozen.alive().filter(|process| {
            let signal = notices.restart;
            signal.is_some_and(|signal| catches(&process.status, signal))
        });
        let restarted = caught.map(|process| process.inner).collect();
        collection.put(&NoticesRecord {
            checkpoint: notices.checkpoint.unwrap_or(0),
            restart: notices.restart.unwrap_or(0),
            continued: notices.continued.unwrap_or(0),
            restarted,
            grace: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let Some(signal) = recorded(records)?.notices.restart else {
            return Ok(());
        };
        let processes = records.all::<ProcessRecord>()?;
        for process in records
            .all::<NoticesRecord>()?
            .into_iter()
            .flat_map(|record| record.restarted)
        {
            let alive = |known: &&ProcessRecord| known.pid == process && known.zombie.is_none();
            let Some(known) = processes.iter().find(alive) else {
                return Err(Error::Failed(format!(
                    "the image is damaged: process {process}, which is to be told of the restart, is not in it"
                )));
            };
            // SIGCONT would wake one that somebody else has stopped.
            if known.stopped.is_none() || signal != libc::SIGCONT {
                plan.step(Stage::Restrict, process, TellOfRestart { process, signal });
            }
        }
        Ok(())
    }
}

/// Makes the signal for restart pending.
struct TellOfRestart {
    process: i32,
    signal: i32,
}

impl fmt::Display for TellOfRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tell it of the restart by signal {}", self.signal)
    }
}

impl Action for TellOfRestart {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut list = CallList::new();
        let arguments = [self.process.into(), self.signal.into()];
        let told = list.call(libc::SYS_kill, &arguments);
        let outcomes = rebuild.run(self.process, &list)?;
        outcomes.result(told).map(drop).attempt(|| {
            format!(
                "process {}: telling it of the restart by signal {}",
                self.process, self.signal
            )
        })
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Programs that are told of checkpoint, restart and continue by signals (--notify)",
    level: Level::Restored,
    how: "those that catch the signal for restart have it pending when their new life begins; one that had stopped itself to say \
          that it was ready runs on",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip() {
        let record = NoticesRecord {
            checkpoint: libc::SIGUSR1,
            restart: 40,
            continued: 0,
            restarted: vec![7, 9],
            grace: 1500,
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(set.all::<NoticesRecord>().unwrap(), [record]);
        let Notification { notices, grace } = recorded(&set).unwrap();
        assert_eq!(grace, Duration::from_millis(1500));
        assert_eq!(notices.checkpoint, Some(libc::SIGUSR1));
        assert_eq!(notices.restart, Some(40));
        assert_eq!(notices.continued, None);
        assert!(recorded(&RecordSet::new()).unwrap().notices.is_empty());
    }

    #[test]
    fn damaged_records_are_found() {
        for damaged in [
            NoticesRecord {
                restart: 65,
                ..NoticesRecord::default()
            },
            NoticesRecord {
                checkpoint: -1,
                ..NoticesRecord::default()
            },
        ] {
            let mut set = RecordSet::new();
            set.push(&damaged).unwrap();
            assert!(recorded(&set).is_err());
        }
    }
}
