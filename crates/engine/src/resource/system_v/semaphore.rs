//! Sets of semaphores (semget(2)): values, and which process of the job was the last to change each.
//!
//! What a process' end would undo (SEM_UNDO) the kernel shows nowhere; kcmp(2) tells who may have such changes, see
//! [`super::survey`]. Waiting calls are issued again, as all calls are.

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::ipc::GREATEST_SEMAPHORE_VALUE;
use cryonaut_tracee::{Argument, CallList};

use super::{Identity, NAMESPACE, NEW, SEMAPHORES, check_identities, damaged, make_object};
use crate::Result;
use crate::error::Attempt;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::{Queue, Rebuild};
use crate::resource::process::ProcessRecord;

/// A set of semaphores.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SemaphoreSet {
    /// Id, key, owners and permissions.
    #[prost(message, optional, tag = "1")]
    pub identity: Option<Identity>,
    /// Their values.
    #[prost(uint32, repeated, tag = "2")]
    pub values: Vec<u32>,
    /// The process of the job (its pid in its own namespace) that last changed each; 0 for another or none.
    #[prost(int32, repeated, tag = "3")]
    pub processes: Vec<i32>,
    /// Whether semop(2) has ever been done on it, which programs look at to know that it is set up.
    #[prost(bool, tag = "4")]
    pub operated: bool,
}

impl Record for SemaphoreSet {
    const KIND: Kind = Kind {
        name: "ipc.semaphores",
        version: 1,
    };
}

/// The kernel lets no set have more (`SEMMSL`).
const MOST: usize = 32_000;

/// Plans the sets, and that each process changes those semaphores that it changed last.
pub(super) fn plan(sets: Vec<SemaphoreSet>, records: &RecordSet, plan: &mut Plan) -> Result<()> {
    let what = "a semaphore set";
    check_identities(sets.iter().map(|own| own.identity.as_ref()), what)?;
    let mut users: BTreeMap<i32, Vec<(i32, u16, u32)>> = BTreeMap::new();
    for set in &sets {
        let greatest = u32::from(GREATEST_SEMAPHORE_VALUE);
        let possible = (1..=MOST).contains(&set.values.len())
            && set.values.iter().all(|&value| value <= greatest);
        if !possible {
            return Err(damaged(what));
        }
        let identifier = set.identity.as_ref().map_or(0, |own| own.identifier);
        let last = set.processes.iter().zip(&set.values).enumerate();
        for (number, (&process, &value)) in last.filter(|_| set.operated) {
            let used = users.entry(process).or_default();
            used.push((identifier, number as u16, value));
        }
    }
    for set in sets {
        plan.linked_step(
            Stage::Objects,
            0,
            vec![Token::Process(0), NAMESPACE],
            Vec::new(),
            MakeSet { set },
        );
    }
    let living = records.all::<ProcessRecord>()?.into_iter();
    for process in living.filter(|process| process.zombie.is_none()) {
        if let Some(semaphores) = users.remove(&process.pid) {
            let process = process.pid;
            plan.step(
                Stage::Process,
                process,
                Touch {
                    process,
                    semaphores,
                },
            );
        }
    }
    Ok(())
}

/// Makes a set with its values.
struct MakeSet {
    set: SemaphoreSet,
}

impl fmt::Display for MakeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identifier = self.set.identity.as_ref().map_or(0, |own| own.identifier);
        write!(
            f,
            "make the System V semaphore set {identifier} of {}",
            self.set.values.len()
        )
    }
}

impl Action for MakeSet {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let set = &self.set;
        let identity = set
            .identity
            .as_ref()
            .ok_or_else(|| damaged("a semaphore set"))?;
        let flags = (identity.mode & 0o777) as i32 | NEW;
        let count = set.values.len() as u64;
        let arguments = [identity.key.into(), count.into(), flags.into()];
        let make = (libc::SYS_semget, &arguments[..]);
        make_object(rebuild, SEMAPHORES, identity, make, vec![0; 104])?;
        let mut list = CallList::new();
        let values = set
            .values
            .iter()
            .flat_map(|&value| (value as u16).to_ne_bytes());
        let values = list.bytes(&values.collect::<Vec<u8>>());
        let arguments = [
            identity.identifier.into(),
            0.into(),
            libc::SETALL.into(),
            values.into(),
        ];
        let call = list.call(libc::SYS_semctl, &arguments);
        let touched = set.operated.then(|| {
            let operations = list.bytes(&without_effect(0, set.values[0]));
            let arguments: [Argument; 3] =
                [identity.identifier.into(), operations.into(), 2.into()];
            list.call(libc::SYS_semop, &arguments)
        });
        let outcomes = rebuild.run(0, &list)?;
        for call in [Some(call), touched].into_iter().flatten() {
            outcomes.result(call).attempt(|| {
                format!(
                    "setting the values of semaphore set {}",
                    identity.identifier
                )
            })?;
        }
        Ok(())
    }
}

/// Two operations (`struct sembuf`) that change a semaphore and change it back at once, without waiting.
fn without_effect(number: u16, value: u32) -> [u8; 12] {
    let first: i16 = if value < u32::from(GREATEST_SEMAPHORE_VALUE) {
        1
    } else {
        -1
    };
    let mut bytes = [0; 12];
    for (operation, change) in bytes.chunks_exact_mut(6).zip([first, -first]) {
        operation[..2].copy_from_slice(&number.to_ne_bytes());
        operation[2..4].copy_from_slice(&change.to_ne_bytes());
        operation[4..].copy_from_slice(&(libc::IPC_NOWAIT as i16).to_ne_bytes());
    }
    bytes
}

/// Has a process be the last that changed some semaphores.
struct Touch {
    process: i32,
    /// Set, number, value.
    semaphores: Vec<(i32, u16, u32)>,
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "be the last to change {} System V semaphores",
            self.semaphores.len()
        )
    }
}

impl Action for Touch {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut queue = Queue::new(self.process);
        for &(set, number, value) in &self.semaphores {
            let operations = queue.list().bytes(&without_effect(number, value));
            let arguments = [set.into(), operations.into(), 2.into()];
            let what = "changing a semaphore that it changed last";
            queue.expect(rebuild, what, libc::SYS_semop, &arguments, 0)?;
        }
        queue.flush(rebuild)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_stays_within_the_limits() {
        let [up, down] = [without_effect(3, 0), without_effect(3, 32767)];
        assert_eq!(up[..4], [3, 0, 1, 0]);
        assert_eq!(up[6..10], [3, 0, 0xff, 0xff]);
        assert_eq!(down[..4], [3, 0, 0xff, 0xff]);
    }

    #[test]
    fn impossible_values_are_damage() {
        let set = |values: &[u32]| SemaphoreSet {
            identity: Some(Identity::default()),
            values: values.to_vec(),
            ..SemaphoreSet::default()
        };
        let judge = |sets| plan(sets, &RecordSet::new(), &mut Plan::default()).is_ok();
        assert!(judge(vec![set(&[0, 32767])]));
        assert!(!judge(vec![set(&[32768])]));
        assert!(!judge(vec![set(&[])]));
        assert!(!judge(vec![set(&[1]), set(&[2])]));
    }
}
