//! Programs that take part by libcryo: what their boards say when they are frozen, and telling them of their new life.
//!
//! Shown by the program itself, in a piece of its memory (see `participants`, which holds the dialogue before and after). Memory that
//! it leaves out is left out in `memory`, descriptors in `file`. Its callbacks for *restart* run when it is released: the thread that
//! waits for the outcome finds it on the board, and a signal pending that wakes it.

use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::dialogue::Details;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::participants;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// A process that takes part.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ParticipantRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The address of its board.
    #[prost(uint64, tag = "2")]
    pub board: u64,
    /// The thread that waits for the outcome, 0 if none does.
    #[prost(int32, tag = "3")]
    pub waiter: i32,
    /// The signal that wakes it.
    #[prost(int32, tag = "4")]
    pub signal: i32,
    /// The generation of a life that begins with this image.
    #[prost(uint64, tag = "5")]
    pub generation: u64,
    /// Bytes of memory that it left out.
    #[prost(uint64, tag = "6")]
    pub excluded: u64,
    /// Descriptors that it opens again itself.
    #[prost(int32, repeated, tag = "7")]
    pub reopened: Vec<i32>,
}

impl Record for ParticipantRecord {
    const KIND: Kind = Kind {
        name: "participant",
        version: 1,
    };
}

/// The resource.
pub struct Participants;

impl Resource for Participants {
    fn name(&self) -> &'static str {
        "participants"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[ParticipantRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {
        // They are asked themselves, when all else is as it should be.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive() {
            for board in frozen.boards.get(&process.pid).into_iter().flatten() {
                let head = &board.head;
                let waiter = if head.wants_notice() { head.waiter } else { 0 };
                collection.put(&ParticipantRecord {
                    process: process.inner,
                    board: head.address,
                    waiter,
                    signal: head.signal,
                    generation: frozen.generation + 1,
                    excluded: board
                        .ranges
                        .iter()
                        .fold(0, |sum: u64, (start, end)| sum.saturating_add(end - start)),
                    reopened: board.descriptors.iter().copied().collect(),
                })?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        for record in records.all::<ParticipantRecord>()? {
            let known = processes
                .iter()
                .find(|known| known.pid == record.process && known.zombie.is_none());
            let is_sound = known.is_some_and(|known| {
                record.waiter == 0
                    || known.tasks.contains(&record.waiter) && (1..=64).contains(&record.signal)
            });
            if !is_sound {
                return Err(Error::Failed(format!(
                    "the image is damaged: process {} cannot take part as it says",
                    record.process
                )));
            }
            let details = Details {
                maker: std::process::id(),
                place: host.source.clone(),
                ..Details::default()
            };
            plan.step(
                Stage::Restrict,
                record.process,
                TellOfNewLife { record, details },
            );
        }
        Ok(())
    }
}

/// Writes to the board, and makes the signal pending that wakes its reader.
struct TellOfNewLife {
    record: ParticipantRecord,
    details: Details,
}

impl fmt::Display for TellOfNewLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tell it of its life number {}", self.record.generation)
    }
}

impl Action for TellOfNewLife {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let ParticipantRecord {
            process,
            board,
            waiter,
            signal,
            generation,
            ..
        } = self.record;
        let pid = rebuild.whereabouts(process)?.0;
        participants::announce(pid, board, generation, &self.details)?;
        if waiter == 0 {
            return Ok(());
        }
        let mut list = CallList::new();
        let arguments = [process.into(), waiter.into(), signal.into()];
        let woken = list.call(libc::SYS_tgkill, &arguments);
        let outcomes = rebuild.run(process, &list)?;
        outcomes
            .result(woken)
            .map(drop)
            .attempt(|| format!("process {process}: waking its callbacks"))
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Programs that take part by libcryo: callbacks before and after, critical sections, processes that leave themselves out",
        level: Level::Restored,
        how: "all of the job are ready before any is frozen; one that refuses, hangs or ends in a callback is a refusal that names it, \
              and all others are told that life goes on",
    },
    Support {
        what: "Memory and descriptors that a program leaves out by libcryo",
        level: Level::Restored,
        how: "private memory is zero in the restarted life, and the descriptors are closed; marks on shared memory and mappings of files \
              mean nothing",
    },
    Support {
        what: "Programs written for BLCR, checkpointed by its commands or its library",
        level: Level::Restored,
        how: "docs/blcr.md; sockets of those with callbacks are closed in the restarted life, as they expect",
    },
    Support {
        what: "Programs with callbacks in a suspended job",
        level: Level::Refused,
        how: "their callbacks cannot run; resume the job first",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip() {
        let record = ParticipantRecord {
            process: 7,
            board: 0x7000_0000_1000,
            waiter: 9,
            signal: 62,
            generation: 3,
            excluded: 1 << 30,
            reopened: vec![4, 5],
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(set.all::<ParticipantRecord>().unwrap(), [record]);
    }
}
