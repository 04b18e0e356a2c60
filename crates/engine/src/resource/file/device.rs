//! Devices without a state of their own: /dev/null, zero, full, random, urandom, by reference.
//!
//! /proc/PID/fd shows the path, stat(2) the device number, which is what counts; a deleted node is made again as a kept file.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use cryonaut_image::{Kind, Record, RecordSet};

use super::facts::{Description, FdFacts, Job, Place};
use super::{DescriptorKind, holders, options, path_of, reopen, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::kept_file;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Refusals, Result};

/// The memory devices (Documentation/admin-guide/devices.txt, major 1) that remember nothing.
const STATELESS: &[u32] = &[3, 5, 7, 8, 9];
const MEMORY: u32 = 1;

/// An open device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenDevice {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its path, as the process sees it.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// The device's minor number; its major number is 1.
    #[prost(uint32, tag = "4")]
    pub minor: u32,
    /// The kept file that its node is, by its number; 0 where it is found by its path.
    #[prost(uint64, tag = "5")]
    pub kept: u64,
}

impl Record for OpenDevice {
    const KIND: Kind = Kind {
        name: "file.device",
        version: 1,
    };
}

/// Whether this is an open device that remembers nothing.
pub(crate) fn is_stateless(facts: &FdFacts) -> bool {
    facts.file_type() == libc::S_IFCHR
        && facts.node.0 == MEMORY
        && STATELESS.contains(&facts.node.1)
        && !facts.is_place()
}

/// The kind.
pub(super) struct Devices;

impl DescriptorKind for Devices {
    fn kinds(&self) -> &'static [Kind] {
        const { &[OpenDevice::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        is_stateless(facts) && matches!(facts.place, Place::Leads | Place::Deleted)
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        _job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let facts = &description.facts;
            let used = kept_file::Use::Description(description.object);
            let kept = collection.kept.of(used).map_or(0, |(kept, _)| kept);
            collection.put(&OpenDevice {
                object: description.object,
                flags: facts.flags(),
                path: facts
                    .deleted_path()
                    .filter(|_| kept != 0)
                    .unwrap_or(&facts.link)
                    .to_vec(),
                minor: facts.node.1,
                kept,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let holders = holders(records)?;
        for device in records.all::<OpenDevice>()? {
            if device.kept != 0 {
                let needs = vec![Token::Object(device.kept)];
                plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Open { device });
                continue;
            }
            let is_it = std::fs::metadata(path_of(&device.path)).is_ok_and(|found| {
                found.file_type().is_char_device()
                    && found.rdev() == libc::makedev(MEMORY, device.minor)
            });
            if !is_it {
                let (process, number) = holders.get(&device.object).copied().unwrap_or_default();
                plan.refusals.add(
                    (process, ""),
                    format!("descriptor {number}, device {}", printable(&device.path)),
                    format!("there is no device {MEMORY}:{} at this path", device.minor),
                    "restart where /dev is complete",
                );
            }
            plan.step(Stage::Objects, 0, Open { device });
        }
        Ok(())
    }
}

struct Open {
    device: OpenDevice,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open device {}", printable(&self.device.path))
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || format!("opening {}", printable(&self.device.path));
        let flags = self.device.flags;
        let file = match rebuild.kept.get(&self.device.kept) {
            Some(kept) => reopen(kept.as_fd(), flags & !(libc::O_NOFOLLOW as u32)),
            None => options(flags)
                .open(path_of(&self.device.path))
                .map(OwnedFd::from),
        };
        let file = file.attempt(what)?;
        set_flags(file.as_fd(), flags).attempt(what)?;
        rebuild.objects.insert(self.device.object, file);
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "/dev/null, /dev/zero, /dev/full, /dev/random, /dev/urandom",
        level: Level::Restored,
        how: "by reference",
    },
    Support {
        what: "Other devices: graphics, sound, input, clocks, loop, tun and tap, FUSE, KVM, InfiniBand, disks",
        level: Level::Refused,
        how: "their state is in the device, its driver or another process; each refusal says what to do",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let device = OpenDevice {
            object: 3,
            flags: 2,
            path: b"/dev/null".to_vec(),
            minor: 3,
            kept: 0,
        };
        records.push(&device).unwrap();
        assert_eq!(records.all::<OpenDevice>().unwrap(), [device]);
    }
}
