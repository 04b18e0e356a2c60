//! Resource limits of a process (getrlimit(2)).
//!
//! Read and set by prlimit(2) from outside, without running anything in the process; only where the kernel wants the process
//! itself to ask (it belongs to someone else, and we lack CAP_SYS_RESOURCE) it is asked. While a job is built, its processes
//! have the largest limits that they may have: a descriptor may have a number above today's soft limit. Not preserved: how
//! much of a limit has been used (RLIMIT_CPU counts from 0 again, since processor time does).

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::task::{self, LIMIT_COUNT, Limit};
use cryonaut_tracee::CallList;

use super::process::ProcessRecord;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::{ClampLimits, Host};
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// The number of the limit of pending signals.
pub(super) const PENDING_SIGNALS: u32 = cryonaut_sys::uapi::RLIMIT_SIGPENDING;

/// Names of the limits, by their numbers (include/uapi/asm-generic/resource.h), and what they limit.
const NAMES: [(&str, &str); LIMIT_COUNT as usize] = [
    ("RLIMIT_CPU", "seconds of processor time"),
    ("RLIMIT_FSIZE", "the size of a file"),
    ("RLIMIT_DATA", "data memory"),
    ("RLIMIT_STACK", "the stack"),
    ("RLIMIT_CORE", "the size of a core dump"),
    ("RLIMIT_RSS", "resident memory"),
    ("RLIMIT_NPROC", "the user's processes"),
    ("RLIMIT_NOFILE", "descriptors"),
    ("RLIMIT_MEMLOCK", "locked memory"),
    ("RLIMIT_AS", "address space"),
    ("RLIMIT_LOCKS", "file locks"),
    ("RLIMIT_SIGPENDING", "pending signals"),
    ("RLIMIT_MSGQUEUE", "bytes in message queues"),
    ("RLIMIT_NICE", "the nice value"),
    ("RLIMIT_RTPRIO", "real-time priority"),
    ("RLIMIT_RTTIME", "microseconds of real-time processing"),
];

/// A limit's name.
pub(crate) fn name_of(resource: u32) -> &'static str {
    NAMES
        .get(resource as usize)
        .map_or("an unknown limit", |(name, _)| name)
}

/// One limit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LimitRecord {
    /// `RLIMIT_*`, 0 to 15.
    #[prost(uint32, tag = "1")]
    pub resource: u32,
    /// What is enforced; `u64::MAX` means unlimited.
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    /// How far the soft one may be raised; `u64::MAX` means unlimited.
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// The limits of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LimitsRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its limits.
    #[prost(message, repeated, tag = "2")]
    pub limits: Vec<LimitRecord>,
}

impl Record for LimitsRecord {
    const KIND: Kind = Kind {
        name: "limits",
        version: 1,
    };
}

/// The resource.
pub struct Limits;

impl Resource for Limits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[LimitsRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {
        // Every limit of every process can be saved.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive_mut() {
            let limits = limits_of(process)?;
            collection.put(&LimitsRecord {
                process: process.inner,
                limits,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let names: BTreeMap<i32, Vec<u8>> = records
            .all::<ProcessRecord>()?
            .into_iter()
            .map(|process| (process.pid, process.name))
            .collect();
        let records = records.all::<LimitsRecord>()?;
        let ceilings = Ceilings::find(&records)?;
        let while_built = (0..LIMIT_COUNT)
            .map(|resource| ceilings.of(resource))
            .collect();
        let action = RaiseLimits {
            limits: while_built,
        };
        plan.linked_step(Stage::Objects, 0, vec![Token::Process(0)], vec![], action);
        for record in records {
            check(&record)?;
            let process = record.process;
            let mut limits = record.limits;
            for limit in &mut limits {
                let ceiling = ceilings.of(limit.resource);
                if limit.hard > ceiling && host.clamp_limits == ClampLimits::No {
                    let name = names
                        .get(&process)
                        .map(|name| String::from_utf8_lossy(name))
                        .unwrap_or_default();
                    let (variable, what) = NAMES[limit.resource as usize];
                    plan.refusals.add(
                        (process, &name),
                        format!("its hard limit for {what} ({variable}), {}", printable(limit.hard)),
                        format!("it is above {}, the most that this user may set here", printable(ceiling)),
                        "restart where the limit is higher (`ulimit -Ha` shows it), or accept the lower one with \
                         --clamp-limits",
                    );
                }
                limit.hard = limit.hard.min(ceiling);
                limit.soft = limit.soft.min(limit.hard);
            }
            plan.step(Stage::Restrict, process, SetLimits { process, limits });
        }
        Ok(())
    }
}

/// Reads the limits of a process, or has it read them.
fn limits_of(process: &mut FrozenProcess) -> Result<Vec<LimitRecord>> {
    let read = |resource: u32| {
        task::limit(process.pid, resource).map(|limit| LimitRecord {
            resource,
            soft: limit.soft,
            hard: limit.hard,
        })
    };
    match (0..LIMIT_COUNT)
        .map(read)
        .collect::<std::io::Result<Vec<_>>>()
    {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => ask(process),
        read => read.attempt(|| format!("process {}: reading its limits", process.pid)),
    }
}

/// Has a process read its own limits.
fn ask(process: &mut FrozenProcess) -> Result<Vec<LimitRecord>> {
    let mut list = CallList::new();
    let asked: Vec<_> = (0..LIMIT_COUNT)
        .map(|resource| {
            let limit = list.space(size_of::<Limit>());
            let arguments = [0.into(), u64::from(resource).into(), 0.into(), limit.into()];
            (resource, limit, list.call(libc::SYS_prlimit64, &arguments))
        })
        .collect();
    let outcomes = process.run(0, &list)?;
    let mut limits = Vec::with_capacity(asked.len());
    for (resource, buffer, call) in asked {
        outcomes
            .result(call)
            .attempt(|| format!("process {}: reading {}", process.pid, name_of(resource)))?;
        let bytes = outcomes.buffer(buffer);
        let word =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        limits.push(LimitRecord {
            resource,
            soft: word(0),
            hard: word(8),
        });
    }
    Ok(limits)
}

/// Refuses records that no process can have had.
fn check(record: &LimitsRecord) -> Result<()> {
    let possible = |limit: &LimitRecord| limit.resource < LIMIT_COUNT && limit.soft <= limit.hard;
    if record.limits.iter().all(possible) {
        Ok(())
    } else {
        Err(Error::Failed(format!(
            "the image is damaged: process {} has impossible limits",
            record.process
        )))
    }
}

/// The highest hard limits that may be set here, as far as the image asks for them.
struct Ceilings(Vec<u64>);

impl Ceilings {
    /// Finds them out: our own hard limits, and above them what the kernel lets us set.
    fn find(records: &[LimitsRecord]) -> Result<Self> {
        let mut ceilings = Vec::with_capacity(NAMES.len());
        for resource in 0..LIMIT_COUNT {
            let own =
                task::limit(0, resource).attempt(|| format!("reading {}", name_of(resource)))?;
            let limits = records.iter().flat_map(|record| &record.limits);
            let wanted = limits
                .filter(|limit| limit.resource == resource)
                .map(|limit| limit.hard)
                .max();
            let mut ceiling = own.hard;
            if let Some(wanted) = wanted.filter(|wanted| *wanted > own.hard)
                && may_raise(resource, own, wanted)
            {
                ceiling = wanted;
            }
            if resource == cryonaut_sys::uapi::RLIMIT_NOFILE {
                ceiling = ceiling.min(largest_descriptor_limit());
            }
            ceilings.push(ceiling);
        }
        Ok(Self(ceilings))
    }

    fn of(&self, resource: u32) -> u64 {
        self.0.get(resource as usize).copied().unwrap_or(0)
    }
}

/// Whether we may raise a hard limit. Only trying tells (a capability may count in this user namespace only), so our own is
/// raised and put back at once; nothing else sees it.
fn may_raise(resource: u32, own: Limit, wanted: u64) -> bool {
    if task::set_limit(
        0,
        resource,
        Limit {
            soft: own.soft,
            hard: wanted,
        },
    )
    .is_err()
    {
        return false;
    }
    // Lowering needs no privilege. Should it fail all the same, we have the higher limit, which does no harm.
    let _ = task::set_limit(0, resource, own);
    true
}

/// No hard limit of descriptors may be above fs.nr_open, whatever it was before.
fn largest_descriptor_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim().parse().unwrap_or(u64::MAX)
}

fn printable(limit: u64) -> String {
    if limit == u64::MAX {
        "unlimited".into()
    } else {
        limit.to_string()
    }
}

/// Gives the progenitor, from whom all processes inherit them, the largest limits, so that none stands in the way while the
/// job is built.
struct RaiseLimits {
    limits: Vec<u64>,
}

impl fmt::Display for RaiseLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raise all limits while the job is built")
    }
}

impl Action for RaiseLimits {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let pid = rebuild.built(0)?.pid;
        for (resource, &most) in (0..).zip(&self.limits) {
            task::set_limit(
                pid,
                resource,
                Limit {
                    soft: most,
                    hard: most,
                },
            )
            .attempt(|| format!("raising {} while the job is built", name_of(resource)))?;
        }
        Ok(())
    }
}

struct SetLimits {
    process: i32,
    limits: Vec<LimitRecord>,
}

impl fmt::Display for SetLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} limits", self.limits.len())
    }
}

impl Action for SetLimits {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let pid = rebuild.built(self.process)?.pid;
        for &LimitRecord {
            resource,
            soft,
            hard,
        } in &self.limits
        {
            let limit = Limit { soft, hard };
            match task::set_limit(pid, resource, limit) {
                // It has become another user already.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    self.set_by_itself(rebuild, resource, limit)
                }
                outcome => outcome,
            }
            .attempt(|| format!("process {}: setting {}", self.process, name_of(resource)))?;
        }
        Ok(())
    }
}

impl SetLimits {
    /// Has the process set a limit of its own. Until then it has the largest, and anybody may lower those.
    fn set_by_itself(
        &self,
        rebuild: &Rebuild<'_>,
        resource: u32,
        limit: Limit,
    ) -> std::io::Result<()> {
        let mut list = CallList::new();
        let words = [limit.soft.to_ne_bytes(), limit.hard.to_ne_bytes()].concat();
        let words = list.bytes(&words);
        let arguments = [0.into(), u64::from(resource).into(), words.into(), 0.into()];
        let call = list.call(libc::SYS_prlimit64, &arguments);
        let outcomes = rebuild.run(self.process, &list);
        let outcomes = outcomes.map_err(std::io::Error::other)?;
        outcomes.result(call).map(drop)
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Resource limits (ulimit), soft and hard",
        level: Level::Restored,
        how: "a hard limit above what the user may set is refused at restart; --clamp-limits lowers it instead",
    },
    Support {
        what: "A process at its memory limit (RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK)",
        level: Level::Partly,
        how: "a checkpoint needs 64 KiB in it, for which soft limits are raised for a moment; where a hard limit leaves no room \
              either, only one with CAP_SYS_RESOURCE can save it: else it is refused",
    },
    Support {
        what: "The limit of processor time (RLIMIT_CPU)",
        level: Level::Partly,
        how: "it applies to the time used since the restart",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn record(hard: u64) -> LimitsRecord {
        let resource = cryonaut_sys::uapi::RLIMIT_NOFILE;
        LimitsRecord {
            process: 7,
            limits: vec![LimitRecord {
                resource,
                soft: 1,
                hard,
            }],
        }
    }

    #[test]
    fn record_round_trip() {
        let mut set = RecordSet::new();
        set.push(&record(u64::MAX)).unwrap();
        assert_eq!(set.all::<LimitsRecord>().unwrap(), [record(u64::MAX)]);
    }

    #[test]
    fn impossible_limits_are_damage() {
        assert!(check(&record(1)).is_ok());
        assert!(check(&record(0)).is_err());
        let unknown = LimitRecord {
            resource: 16,
            soft: 0,
            hard: 0,
        };
        assert!(
            check(&LimitsRecord {
                process: 7,
                limits: vec![unknown]
            })
            .is_err()
        );
    }

    #[test]
    fn ceilings_are_at_least_our_own_limits() {
        let before = task::limit(0, cryonaut_sys::uapi::RLIMIT_NOFILE).unwrap();
        let ceilings = Ceilings::find(&[record(u64::MAX)]).unwrap();
        assert!(
            ceilings.of(cryonaut_sys::uapi::RLIMIT_NOFILE)
                >= before.hard.min(largest_descriptor_limit())
        );
        assert_eq!(
            task::limit(0, cryonaut_sys::uapi::RLIMIT_NOFILE).unwrap(),
            before
        );
        assert_eq!(ceilings.of(99), 0);
    }

    #[test]
    fn limits_have_names() {
        assert_eq!(name_of(cryonaut_sys::uapi::RLIMIT_RTTIME), "RLIMIT_RTTIME");
        assert_eq!(name_of(PENDING_SIGNALS), "RLIMIT_SIGPENDING");
        assert_eq!(printable(u64::MAX), "unlimited");
    }
}
