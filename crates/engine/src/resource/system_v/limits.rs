//! Limits of an IPC namespace of the job's own (proc(5), /proc/sys/kernel and /proc/sys/fs/mqueue): those that somebody changed.

use std::fmt;

use cryonaut_image::{Kind, Record};
use cryonaut_tracee::CallList;

use super::{NAMESPACE, damaged};
use crate::Result;
use crate::error::Attempt;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;

/// A limit of the job's IPC namespace that is not what a fresh one has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpcLimit {
    /// Its name below /proc/sys, such as `kernel/shmmax`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value as the file shows it, without the end of the line.
    #[prost(string, tag = "2")]
    pub value: String,
}

impl Record for IpcLimit {
    const KIND: Kind = Kind {
        name: "ipc.limit",
        version: 1,
    };
}

/// The limits, with what a fresh namespace has (`shm_init_ns` and the like in ipc/, include/linux/ipc_namespace.h).
const LIMITS: [(&str, &str); 13] = [
    ("kernel/shmmax", "18446744073692774399"),
    ("kernel/shmall", "18446744073692774399"),
    ("kernel/shmmni", "4096"),
    ("kernel/shm_rmid_forced", "0"),
    ("kernel/sem", "32000\t1024000000\t500\t32000"),
    ("kernel/msgmax", "8192"),
    ("kernel/msgmnb", "16384"),
    ("kernel/msgmni", "32000"),
    ("fs/mqueue/queues_max", "256"),
    ("fs/mqueue/msg_max", "10"),
    ("fs/mqueue/msgsize_max", "8192"),
    ("fs/mqueue/msg_default", "10"),
    ("fs/mqueue/msgsize_default", "8192"),
];

/// Those of the calling process' IPC namespace that are not what a fresh one has.
pub(super) fn changed() -> Vec<IpcLimit> {
    let limits = LIMITS.iter().filter_map(|(name, fresh)| {
        let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
        let value = text.trim_end();
        (value != *fresh).then(|| IpcLimit {
            name: (*name).into(),
            value: value.into(),
        })
    });
    limits.collect()
}

/// Plans the limits, before any object is made.
pub(super) fn plan(limits: Vec<IpcLimit>, plan: &mut Plan) -> Result<()> {
    for limit in limits {
        let known = LIMITS.iter().any(|(name, _)| *name == limit.name);
        let plain = |byte: u8| byte.is_ascii_digit() || byte == b'\t';
        if !known || limit.value.is_empty() || !limit.value.bytes().all(plain) {
            return Err(damaged("a limit of the IPC namespace"));
        }
        let needs = vec![Token::Process(0), NAMESPACE];
        plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Set { limit });
    }
    Ok(())
}

/// Sets a limit.
pub(super) struct Set {
    pub(super) limit: IpcLimit,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} to {}", self.limit.name, self.limit.value)
    }
}

impl Action for Set {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let IpcLimit { name, value } = &self.limit;
        let mut list = CallList::new();
        let path = format!("/proc/sys/{name}");
        let set = list.write_file(path.as_bytes(), value.as_bytes());
        let outcomes = rebuild.run(0, &list)?;
        for call in set {
            outcomes
                .result(call)
                .attempt(|| format!("setting {name} to {value} in the job's IPC namespace"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_limits_are_written() {
        let judge = |name: &str, value: &str| {
            let limit = IpcLimit {
                name: name.into(),
                value: value.into(),
            };
            plan(vec![limit], &mut Plan::default()).is_ok()
        };
        assert!(judge("kernel/sem", "1\t2\t3\t4"));
        assert!(!judge("kernel/../../etc/passwd", "1"));
        assert!(!judge("kernel/core_pattern", "1"));
        assert!(!judge("kernel/msgmax", "|x"));
    }
}
