//! eventfd(2): counter and mode.
//!
//! fdinfo shows the counter and, from Linux 6.5 on, whether it counts like a semaphore; on older kernels a semaphore comes
//! back as a plain counter.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;

use super::facts::{Description, FdFacts, Job};
use super::{Count, DescriptorKind, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

/// An eventfd.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct EventCounter {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its count.
    #[prost(uint64, tag = "3")]
    pub count: u64,
    /// Whether it counts like a semaphore (EFD_SEMAPHORE); absent where the kernel did not tell.
    #[prost(bool, optional, tag = "4")]
    pub semaphore: Option<bool>,
}

impl Record for EventCounter {
    const KIND: Kind = Kind {
        name: "file.eventfd",
        version: 1,
    };
}

/// The kind.
pub(super) struct EventCounters;

impl DescriptorKind for EventCounters {
    fn kinds(&self) -> &'static [Kind] {
        const { &[EventCounter::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("eventfd") && facts.info.eventfd.is_some()
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        _job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let state = description.facts.info.eventfd.unwrap_or_default();
            collection.put(&EventCounter {
                object: description.object,
                flags: description.facts.flags(),
                count: state.count,
                semaphore: state.semaphore,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let counters = records.all::<EventCounter>()?;
        if !counters.is_empty() {
            plan.step(Stage::Objects, 0, Make { counters });
        }
        Ok(())
    }
}

struct Make {
    counters: Vec<EventCounter>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.counters.len(), "eventfd"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for counter in &self.counters {
            let what = || "making an eventfd".into();
            let mode = if counter.semaphore == Some(true) {
                libc::EFD_SEMAPHORE
            } else {
                0
            };
            let mut file =
                File::from(descriptor::eventfd(0, mode | libc::EFD_NONBLOCK).attempt(what)?);
            if counter.count > 0 {
                // All ones is what only the kernel can reach, by adding past the end.
                file.write_all(&counter.count.min(u64::MAX - 1).to_ne_bytes())
                    .attempt(what)?;
            }
            set_flags(file.as_fd(), counter.flags).attempt(what)?;
            rebuild.objects.insert(counter.object, file.into());
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "eventfd",
        level: Level::Restored,
        how: "with its count",
    },
    Support {
        what: "eventfd as semaphore (EFD_SEMAPHORE) before Linux 6.5",
        level: Level::Partly,
        how: "the kernel does not tell it apart: it comes back as a plain counter",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let counter = EventCounter {
            object: 3,
            flags: 0o4002,
            count: u64::MAX - 1,
            semaphore: Some(true),
        };
        records.push(&counter).unwrap();
        assert_eq!(records.all::<EventCounter>().unwrap(), [counter]);
    }
}
