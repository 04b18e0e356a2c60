//! timerfd_create(2): clock, remaining time, interval, expirations not yet read.
//!
//! fdinfo shows all of it, the remaining time relative to now in any case. So a timer goes on with what remained; only one set
//! to a wall-clock time (CLOCK_REALTIME, TFD_TIMER_ABSTIME) keeps that time, and fires at once where it has passed. Expirations
//! that a periodic timer missed while there was no job are not made up for. Of a periodic timer that nobody has read or asked
//! since it ran out the kernel has counted one expiration only (fs/timerfd.c); it is asked for its time first, which makes it
//! count and is no change that the program could see.

use std::fmt;
use std::os::fd::AsFd;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::TimerFd;
use cryonaut_sys::{descriptor, task};

use super::facts::{Description, FdFacts, Job};
use super::{Count, DescriptorKind, holders, object, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

const NANOSECONDS: u64 = 1_000_000_000;

/// A timerfd.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Timer {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its clock (`CLOCK_*`).
    #[prost(int32, tag = "3")]
    pub clock: i32,
    /// Expirations not yet read.
    #[prost(uint64, tag = "4")]
    pub ticks: u64,
    /// `TFD_TIMER_*` flags that it was set with.
    #[prost(uint32, tag = "5")]
    pub set_flags: u32,
    /// Time to the next expiration in ns; 0 when there is none to come, or it is due.
    #[prost(uint64, tag = "6")]
    pub remaining: u64,
    /// Interval in ns; 0 for a timer that expires once.
    #[prost(uint64, tag = "7")]
    pub interval: u64,
    /// For a timer set to a wall-clock time that moment, in ns since 1970; otherwise 0.
    #[prost(uint64, tag = "8")]
    pub at: u64,
}

impl Record for Timer {
    const KIND: Kind = Kind {
        name: "file.timerfd",
        version: 1,
    };
}

impl Timer {
    /// How it is set again: flags, first expiration, interval.
    fn setting(&self) -> Option<(i32, u64, u64)> {
        if self.at != 0 {
            return Some((self.set_flags as i32, self.at, self.interval));
        }
        match (self.remaining, self.interval) {
            (0, 0) => None,
            // Expired and not read yet: the next expiration is one interval away at most.
            (0, interval) => Some((0, interval, interval)),
            (remaining, interval) => Some((0, remaining, interval)),
        }
    }
}

/// The kind.
pub(super) struct Timers;

impl DescriptorKind for Timers {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Timer::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("timerfd") && facts.info.timerfd.is_some()
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let state = counted(description, job)?;
            let time = |(seconds, rest): (u64, u32)| {
                seconds
                    .saturating_mul(NANOSECONDS)
                    .saturating_add(rest.into())
            };
            let (remaining, interval) = (time(state.value), time(state.interval));
            let wall = matches!(
                state.clock,
                libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM
            ) && state.settime_flags as i32 & libc::TFD_TIMER_ABSTIME != 0;
            let at = if wall && remaining > 0 {
                let now =
                    task::clock(libc::CLOCK_REALTIME).attempt(|| "reading the clock".into())?;
                (now.max(0) as u64).saturating_add(remaining)
            } else {
                0
            };
            collection.put(&Timer {
                object: description.object,
                flags: description.facts.flags(),
                clock: state.clock,
                ticks: state.ticks,
                set_flags: state.settime_flags,
                remaining,
                interval,
                at,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let timers = records.all::<Timer>()?;
        if timers.is_empty() {
            return Ok(());
        }
        let holders = holders(records)?;
        let alarms = |timer: &&Timer| {
            matches!(
                timer.clock,
                libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM
            )
        };
        for timer in timers.iter().filter(alarms) {
            if descriptor::timerfd(timer.clock, 0).is_err() {
                let (process, number) = holders.get(&timer.object).copied().unwrap_or_default();
                plan.refusals.add(
                    (process, ""),
                    format!("descriptor {number}, a timer that wakes the machine"),
                    "making one needs CAP_WAKE_ALARM",
                    "restart as root",
                );
            }
        }
        plan.step(
            Stage::Objects,
            0,
            Make {
                timers: timers.clone(),
            },
        );
        plan.step(Stage::Attach, 0, Arm { timers });
        Ok(())
    }
}

/// The state of a timer, with all its expirations counted.
fn counted(description: &Description, job: &Job<'_>) -> Result<TimerFd> {
    let state = description.facts.info.timerfd.unwrap_or_default();
    if state.ticks == 0 || state.interval == (0, 0) {
        return Ok(state);
    }
    let copy = job.copy(description)?;
    descriptor::count_timerfd(copy.as_fd()).attempt(|| "asking a timerfd for its time".into())?;
    let slot = description.first();
    let info = job.owner(slot).shown(slot.number)?;
    Ok(info.timerfd.unwrap_or(state))
}

struct Make {
    timers: Vec<Timer>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.timers.len(), "timerfd"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for timer in &self.timers {
            let what = || "making a timerfd".into();
            let made = descriptor::timerfd(timer.clock, 0).attempt(what)?;
            set_flags(made.as_fd(), timer.flags).attempt(what)?;
            rebuild.objects.insert(timer.object, made);
        }
        Ok(())
    }
}

struct Arm {
    timers: Vec<Timer>,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {}", Count(self.timers.len(), "timerfd"))
    }
}

impl Action for Arm {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for timer in &self.timers {
            let fd = object(rebuild, timer.object)?;
            let what = || "setting a timerfd".into();
            if let Some((flags, value, interval)) = timer.setting() {
                descriptor::set_timerfd(fd, flags, value, interval).attempt(what)?;
            }
            if timer.ticks > 0 {
                descriptor::set_timerfd_ticks(fd, timer.ticks).attempt(what)?;
            }
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "timerfd",
    level: Level::Restored,
    how: "with the time that remained and expirations not yet read; one set to a wall-clock time keeps that time",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let timer = Timer {
            object: 3,
            flags: 2,
            clock: 1,
            ticks: 4,
            set_flags: 1,
            remaining: 5,
            interval: 6,
            at: 7,
        };
        records.push(&timer).unwrap();
        assert_eq!(records.all::<Timer>().unwrap(), [timer]);
    }

    #[test]
    fn what_remains_is_set_again() {
        let timer = Timer {
            set_flags: 3,
            ..Timer::default()
        };
        assert_eq!(timer.setting(), None);
        assert_eq!(
            Timer {
                remaining: 5,
                ..timer
            }
            .setting(),
            Some((0, 5, 0))
        );
        assert_eq!(
            Timer {
                interval: 9,
                ticks: 1,
                ..timer
            }
            .setting(),
            Some((0, 9, 9))
        );
        assert_eq!(
            Timer {
                remaining: 5,
                at: 77,
                ..timer
            }
            .setting(),
            Some((3, 77, 0))
        );
    }
}
