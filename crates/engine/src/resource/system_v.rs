//! System V IPC (sysvipc(7)): shared memory segments, sets of semaphores and message queues.
//!
//! The kernel shows them in /proc/sysvipc to processes of their IPC namespace, and lets these read values, messages (MSG_COPY) and
//! segments. So a process of ours looks at them from in there (`visitor`), which changes nothing but a segment's count of
//! attachments while the job stands still. A restart makes a fresh IPC namespace for the job, in which every id is free, and gives
//! all objects their ids through /proc/sys/kernel/{shm,sem,msg}_next_id. In a namespace of the job's own everything is saved; in
//! one that it shares with others what its processes have attached, created or used last, and what its users created since it
//! was started.
//!
//! Not preserved: times of attaching, detaching, sending and receiving; who created or last attached a segment, and who last sent
//! or received a message; limits (/proc/sys/kernel/shmmax and the like) of a namespace that the job shares with others.

mod limits;
mod queue;
mod segment;
mod semaphore;
mod survey;
mod visitor;

use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::sysvipc::SystemVObject;
use cryonaut_sys::spawn;
use cryonaut_tracee::{Argument, CallList};

pub use segment::{FIRST_SEGMENT, SharedSegment, attached};
pub(crate) use survey::contents;
pub use visitor::Visitor;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::file::message_queue_demands;
use crate::resource::namespace::NamespacesRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};
use limits::IpcLimit;
use queue::MessageQueue;
use semaphore::SemaphoreSet;
use survey::{Depth, Facts};

/// What all System V objects have.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Identity {
    /// Its id.
    #[prost(int32, tag = "1")]
    pub identifier: i32,
    /// Its key; 0 is `IPC_PRIVATE`.
    #[prost(int32, tag = "2")]
    pub key: i32,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Its owner.
    #[prost(uint32, tag = "4")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "5")]
    pub group: u32,
    /// Who created it.
    #[prost(uint32, tag = "6")]
    pub creator: u32,
    /// The group of who created it.
    #[prost(uint32, tag = "7")]
    pub creator_group: u32,
}

impl Identity {
    fn of(object: &SystemVObject) -> Self {
        Self {
            identifier: object.identifier,
            key: object.key,
            mode: object.mode & 0o777,
            user: object.user,
            group: object.group,
            creator: object.creator,
            creator_group: object.creator_group,
        }
    }
}

/// The resource.
pub struct SystemV;

impl Resource for SystemV {
    fn name(&self) -> &'static str {
        "System V IPC"
    }

    fn kinds(&self) -> &'static [Kind] {
        const {
            &[
                SharedSegment::KIND,
                SemaphoreSet::KIND,
                MessageQueue::KIND,
                IpcLimit::KIND,
            ]
        }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let Ok(Some(facts)) = Facts::of_target(target) else {
            return;
        };
        // What cannot be looked at now is told when the job stands still.
        if let Ok(survey) = survey::look(&facts, Depth::Obstacles) {
            survey.refuse(refusals);
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let Some(facts) = Facts::of_frozen(frozen)? else {
            return Ok(());
        };
        let mut survey = survey::look(&facts, Depth::Everything)?;
        let mut refusals = Refusals::default();
        survey.refuse(&mut refusals);
        if survey.is_unsettled() {
            return Err(Error::Unsettled(refusals.list().to_vec()));
        }
        refusals.into_result()?;
        for set in &survey.findings.semaphores {
            collection.put(set)?;
        }
        for queue in &survey.findings.queues {
            collection.put(queue)?;
        }
        for limit in &survey.findings.limits {
            collection.put(limit)?;
        }
        let visitor = survey.visitor.pid();
        for found in survey.findings.segments.drain(..) {
            let (record, space) = found.into_parts(visitor)?;
            collection.put(&record)?;
            collection.spaces.push(space);
        }
        // It keeps the segments attached until they have been copied.
        collection.visitors.push(survey.visitor);
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let segments = records.all::<SharedSegment>()?;
        let sets = records.all::<SemaphoreSet>()?;
        let queues = records.all::<MessageQueue>()?;
        let namespaces = records.optional::<NamespacesRecord>()?;
        let has_own = namespaces.is_some_and(|namespaces| namespaces.has_own("ipc"));
        // The POSIX message queues that it has open are in the same namespace.
        let demands = message_queue_demands(records)?;
        let none = segments.is_empty() && sets.is_empty() && queues.is_empty();
        if none && demands.is_none() && !has_own {
            return Ok(());
        }
        // Fresh namespaces for a whole job have an IPC namespace among them.
        let (gives, there) = (vec![NAMESPACE], vec![Token::Process(0)]);
        if !host.shares_pids {
            plan.linked_step(Stage::Objects, 0, there, gives, FindNamespace);
        } else if may_make_namespaces() {
            plan.linked_step(Stage::Objects, 0, there, gives, MakeNamespace);
        } else {
            plan.refusals.add_for_job(
                "its System V IPC namespace",
                "you may not make one here (CAP_SYS_ADMIN)",
                "use --pids namespace",
            );
            plan.linked_step(Stage::Objects, 0, there, gives, FindNamespace);
        }
        let limits = records.all::<IpcLimit>()?;
        limits::plan(limits.clone(), plan)?;
        limits::plan(raised(demands, &limits), plan)?;
        segment::plan(segments, plan)?;
        semaphore::plan(sets, records, plan)?;
        queue::plan(queues, &limits, plan)
    }
}

/// Limits that a shared namespace had raised, as its POSIX message queues tell; `known` limits are set already.
fn raised(demands: Option<Vec<(&str, u64)>>, known: &[IpcLimit]) -> Vec<IpcLimit> {
    let demands = demands.into_iter().flatten();
    let demands = demands.filter(|(name, _)| !known.iter().any(|known| known.name == *name));
    demands
        .map(|(name, value)| IpcLimit {
            name: name.into(),
            value: value.to_string(),
        })
        .collect()
}

/// Given by the step that makes the IPC namespace: a number that no object has.
pub(crate) const NAMESPACE: Token = Token::Object(FIRST_SEGMENT - 1);

fn may_make_namespaces() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    spawn::effective_capabilities().unwrap_or(0) & CAP_SYS_ADMIN != 0
}

fn damaged(what: &str) -> Error {
    Error::Failed(format!("the image is damaged: {what} makes no sense"))
}

/// Refuses ids that the kernel gives nobody, and two objects with one id.
fn check_identities<'a>(
    identities: impl Iterator<Item = Option<&'a Identity>>,
    what: &str,
) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for identity in identities {
        let identity = identity.ok_or_else(|| damaged(what))?;
        if identity.identifier < 0 || !seen.insert(identity.identifier) {
            return Err(damaged(what));
        }
    }
    Ok(())
}

/// Uses the IPC namespace that the progenitor finds itself in.
struct FindNamespace;

impl fmt::Display for FindNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "use the IPC namespace made for the job")
    }
}

impl Action for FindNamespace {
    fn perform(&self, _rebuild: &mut Rebuild<'_>) -> Result<()> {
        Ok(())
    }
}

/// Has the progenitor, and all that are born of it, live in an IPC namespace of their own.
struct MakeNamespace;

impl fmt::Display for MakeNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make an IPC namespace")
    }
}

impl Action for MakeNamespace {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let flags = spawn::namespace::IPC;
        let what = "making an IPC namespace (user.max_ipc_namespaces)";
        rebuild
            .call(0, what, libc::SYS_unshare, &[flags.into()])
            .map(drop)
    }
}

/// A kind of System V object: the file that says which id comes next, and how it is called in messages.
#[derive(Clone, Copy)]
struct Class {
    next_id: &'static [u8],
    name: &'static str,
    control: i64,
}

const SEGMENTS: Class = Class {
    next_id: b"/proc/sys/kernel/shm_next_id",
    name: "shared memory segment",
    control: libc::SYS_shmctl,
};
const SEMAPHORES: Class = Class {
    next_id: b"/proc/sys/kernel/sem_next_id",
    name: "semaphore set",
    control: libc::SYS_semctl,
};
const QUEUES: Class = Class {
    next_id: b"/proc/sys/kernel/msg_next_id",
    name: "message queue",
    control: libc::SYS_msgctl,
};

/// `IPC_CREAT | IPC_EXCL`.
const NEW: i32 = libc::IPC_CREAT | libc::IPC_EXCL;

/// Makes an object in the progenitor by the call `make`, whose arguments `arguments` gives, as its creator and with its id, and
/// sets its owner. `state` is what IPC_SET takes (`struct shmid_ds` and the like), whose permissions are filled in here.
fn make_object(
    rebuild: &Rebuild<'_>,
    class: Class,
    identity: &Identity,
    (make, arguments): (i64, &[Argument]),
    mut state: Vec<u8>,
) -> Result<()> {
    let what = || format!("making the {} {}", class.name, identity.identifier);
    // struct ipc64_perm (include/uapi/asm-generic/ipcbuf.h): key, uid, gid, cuid, cgid, mode.
    for (at, word) in [(4, identity.user), (8, identity.group), (20, identity.mode)] {
        let room = state.get_mut(at..at + 4);
        room.ok_or_else(|| damaged(class.name))?
            .copy_from_slice(&word.to_ne_bytes());
    }
    let mut list = CallList::new();
    let number = identity.identifier.to_string();
    let give_id = list.write_file(class.next_id, number.as_bytes());
    let state = list.bytes(&state);
    let creation = as_creator(&mut list, identity, |list| list.call(make, arguments));
    let set = match class.control {
        libc::SYS_semctl => list.call(
            class.control,
            &[
                creation.into(),
                0.into(),
                libc::IPC_SET.into(),
                state.into(),
            ],
        ),
        _ => list.call(
            class.control,
            &[creation.into(), libc::IPC_SET.into(), state.into()],
        ),
    };
    let outcomes = rebuild.run(0, &list)?;
    for call in give_id {
        outcomes.result(call).attempt(|| {
            format!(
                "{}: giving it its id ({})",
                what(),
                String::from_utf8_lossy(class.next_id)
            )
        })?;
    }
    let made = outcomes.result(creation).attempt(what)?;
    outcomes
        .result(set)
        .attempt(|| format!("{}: setting its owner", what()))?;
    if made != identity.identifier as u64 {
        return Err(Error::Failed(format!(
            "{}: the kernel gave it the id {made}",
            what()
        )));
    }
    Ok(())
}

/// Adds calls with the effective ids of an object's creator, where the progenitor has others.
fn as_creator<T>(
    list: &mut CallList,
    identity: &Identity,
    calls: impl FnOnce(&mut CallList) -> T,
) -> T {
    const UNCHANGED: u64 = u32::MAX as u64;
    let own = (spawn::effective_user(), spawn::effective_group());
    let other = (identity.creator, identity.creator_group);
    let user = |list: &mut CallList, user: u32| {
        let ids = [UNCHANGED.into(), u64::from(user).into(), UNCHANGED.into()];
        list.call(libc::SYS_setresuid, &ids);
    };
    let group = |list: &mut CallList, group: u32| {
        let ids = [UNCHANGED.into(), u64::from(group).into(), UNCHANGED.into()];
        list.call(libc::SYS_setresgid, &ids);
    };
    // Without the right to be others it has to do with itself.
    if other != own {
        group(list, other.1);
        user(list, other.0);
    }
    let made = calls(list);
    if other != own {
        user(list, own.0);
        group(list, own.1);
    }
    made
}

const SUPPORT: &[Support] = &[
    Support {
        what: "System V shared memory, attached or not, also marked for removal (IPC_RMID), read-only, partly unmapped, of huge pages",
        level: Level::Restored,
        how: "by content, stored once, with its id, key, owners and mode, in an IPC namespace of the job's own; one that a \
              process outside has attached too is a refusal",
    },
    Support {
        what: "System V semaphores and message queues",
        level: Level::Restored,
        how: "with ids, keys, owners, modes, values and messages, in an IPC namespace of the job's own; waiting calls go on. One \
              that a process outside uses too is a refusal",
    },
    Support {
        what: "System V objects of a job that shares its IPC namespace with others (as root without `--namespaces`)",
        level: Level::Partly,
        how: "saved is what its processes have attached, have created or were the last to use, and what its users have created \
              since it was started; the old objects stay behind where the job was, as after any kill, and limits \
              (kernel.shmmax and the like) are those of a fresh namespace",
    },
    Support {
        what: "Semaphore changes to be undone at a process' end (SEM_UNDO)",
        level: Level::Refused,
        how: "the kernel shows them to nobody: a process that may have some is refused while there are semaphores in use",
    },
    Support {
        what: "Times and last users of System V objects",
        level: Level::Partly,
        how: "times are those of the restart; which process last changed a semaphore is kept, who created or last used a segment or \
              a queue is not",
    },
];

#[cfg(test)]
mod tests {
    use super::queue::TypedMessage;
    use super::*;

    fn identity(identifier: i32) -> Option<Identity> {
        Some(Identity {
            identifier,
            key: -7,
            mode: 0o640,
            user: 1000,
            group: 100,
            creator: 0,
            creator_group: 5,
        })
    }

    #[test]
    fn the_records_survive_an_image() {
        let segment = SharedSegment {
            identity: identity(32769),
            size: 4097,
            marked: true,
            locked: true,
            huge_page: 0,
        };
        let set = SemaphoreSet {
            identity: identity(3),
            values: vec![0, 32767],
            processes: vec![0, 17],
            operated: true,
        };
        let message = TypedMessage {
            kind: 9,
            text: b"abc".to_vec(),
        };
        let queue = MessageQueue {
            identity: identity(0),
            capacity: 16384,
            messages: vec![message],
        };
        let mut records = RecordSet::new();
        records.push(&segment).unwrap();
        records.push(&set).unwrap();
        records.push(&queue).unwrap();
        assert_eq!(records.one::<SharedSegment>().unwrap(), segment);
        assert_eq!(records.one::<SemaphoreSet>().unwrap(), set);
        assert_eq!(records.one::<MessageQueue>().unwrap(), queue);
        assert_eq!(segment.object(), attached(32769));
        assert_eq!(segment.length(), 8192);
    }

    #[test]
    fn ids_are_given_once() {
        let judge = |ids: &[i32]| {
            let identities: Vec<_> = ids.iter().map(|id| identity(*id)).collect();
            check_identities(identities.iter().map(Option::as_ref), "a set").is_ok()
        };
        assert!(judge(&[0, 1]));
        assert!(!judge(&[1, 1]));
        assert!(!judge(&[-1]));
        assert!(check_identities([None].into_iter(), "a set").is_err());
    }
}
