//! signalfd(2): the signals it reads.
//!
//! fdinfo shows the set. What is read from it are the pending signals of whoever reads, which belong to processes and tasks.

use std::fmt;
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

/// A signalfd.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SignalReader {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// The signals; bit 0 is signal 1.
    #[prost(fixed64, tag = "3")]
    pub mask: u64,
}

impl Record for SignalReader {
    const KIND: Kind = Kind {
        name: "file.signalfd",
        version: 1,
    };
}

/// The kind.
pub(super) struct SignalReaders;

impl DescriptorKind for SignalReaders {
    fn kinds(&self) -> &'static [Kind] {
        const { &[SignalReader::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("signalfd") && facts.info.signal_mask.is_some()
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        _job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            collection.put(&SignalReader {
                object: description.object,
                flags: description.facts.flags(),
                mask: description.facts.info.signal_mask.unwrap_or(0),
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let readers = records.all::<SignalReader>()?;
        if !readers.is_empty() {
            plan.step(Stage::Objects, 0, Make { readers });
        }
        Ok(())
    }
}

struct Make {
    readers: Vec<SignalReader>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.readers.len(), "signalfd"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for reader in &self.readers {
            let what = || "making a signalfd".into();
            let made = descriptor::signalfd(reader.mask, 0).attempt(what)?;
            set_flags(made.as_fd(), reader.flags).attempt(what)?;
            rebuild.objects.insert(reader.object, made);
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "signalfd",
    level: Level::Restored,
    how: "with its set; pending signals come back with their process",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signalfd_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let reader = SignalReader {
            object: 3,
            flags: 2,
            mask: 1 << 63 | 1,
        };
        records.push(&reader).unwrap();
        assert_eq!(records.all::<SignalReader>().unwrap(), [reader]);
    }
}
