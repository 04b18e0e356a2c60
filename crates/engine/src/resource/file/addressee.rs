//! Whom a description sends signals to when it is ready or its lease is broken: O_ASYNC, F_SETOWN, F_SETOWN_EX, F_SETSIG
//! (fcntl(2)).
//!
//! Only fcntl(2) on the descriptor itself tells; it is asked of a copy (pidfd_getfd(2)), which disturbs nobody. The kernel
//! keeps an addressee together with the users of the process that set it, since those decide whether a signal may be sent.
//! So at a restart a process of the job sets it, as that user, through a descriptor of its own, whose number becomes the
//! `si_fd` of its signals; this is done when everything is connected and nothing moves any more, so that no signal is sent
//! on the way. An addressee outside of the job is refused; where it has ended there is none in the next life either.
//! Not preserved: which of several descriptors of one description is told as `si_fd` (the lowest of the addressee is), and
//! that O_ASYNC given to open(2) has no effect (it has one after the restart). Directories that send signals when they
//! change (F_NOTIFY) show nowhere but by the addressee that this sets; directories with one are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::BorrowedFd;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::file_owner;
use cryonaut_tracee::{CallId, CallList};

use super::facts::{Description, Job, Peer, Slot};
use super::{Aspect, Count, SETTABLE, lock, terminal};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// include/uapi/asm-generic/fcntl.h
const F_SETSIG: i32 = 10;
/// include/uapi/asm-generic/fcntl.h
const F_SETOWN_EX: i32 = 15;
/// The highest signal.
const LAST_SIGNAL: u32 = 64;

/// What kind of addressee it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
pub enum Who {
    /// None, or one that has ended.
    Nobody = 0,
    /// One thread.
    Task = 1,
    /// A process.
    Process = 2,
    /// A process group.
    Group = 3,
}

/// What an open file description sends signals by.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Addressee {
    /// The open file description.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// The process that is to set it.
    #[prost(int32, tag = "2")]
    pub process: i32,
    /// The number of the descriptor through which that process sets it.
    #[prost(int32, tag = "3")]
    pub number: i32,
    /// What kind of addressee it is.
    #[prost(enumeration = "Who", tag = "4")]
    pub who: i32,
    /// The thread, process or group in its own namespace; 0 for nobody.
    #[prost(int32, tag = "5")]
    pub id: i32,
    /// The signal; 0 for SIGIO without further particulars.
    #[prost(uint32, tag = "6")]
    pub signal: u32,
    /// The real user of the process that had set the addressee; absent where the kernel does not tell.
    #[prost(uint32, optional, tag = "7")]
    pub user: Option<u32>,
    /// Its effective user.
    #[prost(uint32, optional, tag = "8")]
    pub effective_user: Option<u32>,
    /// All `O_*` flags that fcntl(F_SETFL) sets, with O_ASYNC where it was set.
    #[prost(uint32, tag = "9")]
    pub flags: u32,
}

impl Record for Addressee {
    const KIND: Kind = Kind {
        name: "file.addressee",
        version: 1,
    };
}

/// What fcntl(2) tells of a description, ids as we see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    who: Who,
    id: i32,
    signal: u32,
    users: Option<(u32, u32)>,
}

impl Told {
    /// Asks a copy of a descriptor; nothing where nothing was ever set.
    ///
    /// # Errors
    /// EBADF for descriptors that only name a place.
    pub(super) fn of(copy: BorrowedFd<'_>) -> std::io::Result<Option<Self>> {
        let owner = file_owner::owner(copy)?;
        let signal = file_owner::signal(copy)? as u32;
        if owner.id == 0 && signal == 0 {
            return Ok(None);
        }
        let who = match (owner.id, owner.kind) {
            (0, _) => Who::Nobody,
            (_, 0) => Who::Task,
            (_, 1) => Who::Process,
            _ => Who::Group,
        };
        Ok(Some(Self {
            who,
            id: owner.id,
            signal,
            users: file_owner::users(copy).ok().filter(|_| owner.id != 0),
        }))
    }

    /// Its number in the job's own terms; none if it is not in the job.
    fn inner(&self, job: &Job<'_>) -> Option<i32> {
        match self.who {
            Who::Nobody => Some(0),
            Who::Process => job.members.get(&self.id).copied(),
            Who::Group => job
                .owners
                .iter()
                .find(|owner| owner.group.outer == self.id)
                .map(|owner| owner.group.inner),
            Who::Task => job.inner(self.id),
        }
    }
}

/// The aspect.
pub(super) struct Addressees;

impl Aspect for Addressees {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Addressee::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, job: &Job<'_>, refusals: &mut Refusals) {
        for description in &job.descriptions {
            if sends(description) {
                inspect(description, job, refusals);
            }
        }
    }

    fn collect(&self, job: &Job<'_>, collection: &mut Collection) -> Result<()> {
        for description in job.descriptions.iter().filter(|found| sends(found)) {
            let told = description.facts.addressee;
            let slot = setter(description, told, job);
            let flags = description.facts.flags() as i32 & (SETTABLE | libc::O_ASYNC);
            let users = told.and_then(|told| told.users);
            collection.put(&Addressee {
                object: description.object,
                process: job.owner(slot).inner,
                number: slot.number,
                who: told.map_or(Who::Nobody, |told| told.who) as i32,
                id: told.and_then(|told| told.inner(job)).unwrap_or(0),
                signal: told.map_or(0, |told| told.signal),
                user: users.map(|(user, _)| user),
                effective_user: users.map(|(_, effective)| effective),
                flags: flags as u32,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let replaceable = terminal::objects(records)?;
        let mut by_process: BTreeMap<i32, Vec<Addressee>> = BTreeMap::new();
        for addressee in records.all::<Addressee>()? {
            if !is_possible(&addressee) {
                return Err(Error::Failed(format!(
                    "the image is damaged: an impossible addressee of signals of process {}",
                    addressee.process
                )));
            }
            let foreign = [addressee.user, addressee.effective_user]
                .into_iter()
                .flatten()
                .find(|user| *user != host.user);
            if let Some(user) = foreign.filter(|_| host.user != 0) {
                plan.refusals.add(
                    (addressee.process, ""),
                    format!("descriptor {}", addressee.number),
                    format!("it sends signals on behalf of user {user} (F_SETOWN)"),
                    "restart as root",
                );
            }
            by_process
                .entry(addressee.process)
                .or_default()
                .push(addressee);
        }
        for (process, addressees) in by_process {
            let replaceable = replaceable.clone();
            plan.step(
                Stage::Restrict,
                process,
                SetAddressees {
                    process,
                    addressees,
                    replaceable,
                },
            );
        }
        Ok(())
    }
}

/// Whether there is anything to be saved. A lease makes its setter the addressee if there is none.
fn sends(description: &Description) -> bool {
    let facts = &description.facts;
    let asynchronous = facts.info.flags as i32 & libc::O_ASYNC != 0;
    facts.addressee.is_some() || asynchronous || lock::has_lease(description)
}

fn inspect(description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
    let facts = &description.facts;
    let mut refuse = |reason: String, remedy: &str| {
        let label = job.owner(description.first()).label();
        refusals.add(label, job.name(description), reason, remedy);
    };
    if facts.peer == Peer::Standard {
        return refuse(
            "it leads out of the job and sends signals when it is ready (O_ASYNC, F_SETOWN, F_SETSIG)".into(),
            "have the program use poll or epoll",
        );
    }
    let Some(told) = facts.addressee.filter(|told| told.who != Who::Nobody) else {
        return;
    };
    if facts.file_type() == libc::S_IFDIR {
        return refuse(
            "it has an addressee of signals, which is what asking for notification of changes (F_NOTIFY) sets; \
             the kernel does not tell what was asked for"
                .into(),
            "have the program use inotify, or close the directory before the checkpoint",
        );
    }
    if told.inner(job).is_none() {
        let id = told.id;
        let who = match told.who {
            Who::Group => format!("process group {id}"),
            Who::Task => format!("thread {id}"),
            _ => match ProcessDirectory::open(id).and_then(|process| process.stat()) {
                Ok(stat) => format!("process {id} ({})", String::from_utf8_lossy(&stat.comm)),
                Err(_) => format!("process {id}"),
            },
        };
        refuse(
            format!("it sends signals to {who} (F_SETOWN), which is not in the job"),
            "take that process into the job as well, or have the program name another addressee",
        );
    }
}

/// The slot through which the addressee is set: one of the addressee itself if it has any.
fn setter(description: &Description, told: Option<Told>, job: &Job<'_>) -> Slot {
    let own = |slot: &&Slot| {
        let owner = job.owner(**slot);
        told.is_some_and(|told| match told.who {
            Who::Nobody => false,
            Who::Process => owner.pid == told.id,
            Who::Task => owner.threads.contains(&told.id),
            Who::Group => owner.group.outer == told.id,
        })
    };
    *description
        .slots
        .iter()
        .find(own)
        .unwrap_or(&description.slots[0])
}

/// Whether a description can have sent signals so.
fn is_possible(addressee: &Addressee) -> bool {
    let someone = addressee.who() != Who::Nobody;
    addressee.number >= 0
        && addressee.signal <= LAST_SIGNAL
        && addressee.id >= 0
        && someone == (addressee.id != 0)
}

/// Has a process set addressees of signals.
struct SetAddressees {
    process: i32,
    addressees: Vec<Addressee>,
    /// Objects that a standard stream of the restart replaces where one is given: not ours to change.
    replaceable: BTreeSet<u64>,
}

impl fmt::Display for SetAddressees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.addressees.len(), "descriptor");
        write!(f, "say whom {count} of it send signals to")
    }
}

impl Action for SetAddressees {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        const AT_ONCE: usize = 300;
        let replaced = |addressee: &&Addressee| {
            let standard = usize::try_from(addressee.number)
                .ok()
                .and_then(|number| rebuild.standard.get(number)?.as_ref());
            standard.is_some() && self.replaceable.contains(&addressee.object)
        };
        let now = ProcessDirectory::open(rebuild.whereabouts(self.process)?.1)?.status()?;
        let own = [now.uid[0], now.uid[1], now.uid[2]];
        let kept: Vec<&Addressee> = self
            .addressees
            .iter()
            .filter(|addressee| !replaced(addressee))
            .collect();
        for addressees in kept.chunks(AT_ONCE) {
            let mut list = CallList::new();
            let mut calls = Vec::new();
            for addressee in addressees {
                calls.extend(calls_for(addressee, own, &mut list).map(|call| (call, *addressee)));
            }
            let outcomes = rebuild.run(self.process, &list)?;
            for (call, addressee) in calls {
                outcomes.result(call).attempt(|| {
                    format!(
                        "process {}: having descriptor {} send signals again",
                        self.process, addressee.number
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// The calls that have a description send signals as before, of a process whose real, effective and saved users are `own`.
fn calls_for(
    addressee: &Addressee,
    own: [u32; 3],
    list: &mut CallList,
) -> impl Iterator<Item = CallId> {
    let number = addressee.number;
    let users = |list: &mut CallList, [real, effective, saved]: [u32; 3]| {
        let arguments = [real, effective, saved].map(|user| u64::from(user).into());
        list.call(libc::SYS_setresuid, &arguments)
    };
    let control = |list: &mut CallList, command: i32, argument: u64| {
        list.call(
            libc::SYS_fcntl,
            &[number.into(), command.into(), argument.into()],
        )
    };
    let mut calls = Vec::new();
    let (user, effective) = (
        addressee.user.unwrap_or(own[0]),
        addressee.effective_user.unwrap_or(own[1]),
    );
    let someone = addressee.who() != Who::Nobody;
    if someone {
        let kind = match addressee.who() {
            Who::Nobody | Who::Task => 0_u64,
            Who::Process => 1,
            Who::Group => 2,
        };
        let other = [user, effective] != own[..2];
        if other {
            // The saved user is the way back.
            calls.push(users(list, [user, effective, own[1]]));
        }
        let owner = list.space(8);
        list.set_word(owner, 0, kind | (addressee.id as u64) << 32);
        calls.push(list.call(
            libc::SYS_fcntl,
            &[number.into(), F_SETOWN_EX.into(), owner.into()],
        ));
        if other {
            calls.push(users(list, own));
        }
    }
    calls.push(control(list, F_SETSIG, u64::from(addressee.signal)));
    calls.push(control(list, libc::F_SETFL, u64::from(addressee.flags)));
    if !someone {
        // Terminals and leases make whoever sets the flag the addressee if there is none.
        calls.push(control(list, libc::F_SETOWN, 0));
    }
    calls.into_iter()
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Signals on I/O: O_ASYNC, F_SETOWN, F_SETOWN_EX, F_SETSIG",
        level: Level::Restored,
        how: "to threads, processes and groups of the job, with the rights of the user who set them; an addressee outside of the job is refused",
    },
    Support {
        what: "Signals when a directory changes (F_NOTIFY)",
        level: Level::Refused,
        how: "the kernel does not tell what was asked for; use inotify",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::file::tests::host;

    fn sample() -> Addressee {
        Addressee {
            object: 3,
            process: 7,
            number: 5,
            who: Who::Process as i32,
            id: 8,
            signal: 34,
            user: Some(0),
            effective_user: Some(1),
            flags: libc::O_ASYNC as u32,
        }
    }

    #[test]
    fn an_addressee_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        records.push(&sample()).unwrap();
        assert_eq!(records.all::<Addressee>().unwrap(), [sample()]);
    }

    #[test]
    fn impossible_addressees_are_damage() {
        assert!(is_possible(&sample()));
        for wrong in [
            Addressee {
                signal: 65,
                ..sample()
            },
            Addressee {
                who: Who::Nobody as i32,
                ..sample()
            },
            Addressee { id: 0, ..sample() },
            Addressee {
                number: -1,
                ..sample()
            },
        ] {
            assert!(!is_possible(&wrong));
        }
    }

    #[test]
    fn only_root_speaks_for_others() {
        let mut records = RecordSet::new();
        records.push(&sample()).unwrap();
        let refusals = |user: u32| {
            let host = Host { user, ..host() };
            let mut plan = Plan::default();
            Addressees.plan(&records, &host, &mut plan).unwrap();
            plan.refusals.list().len()
        };
        assert_eq!((refusals(0), refusals(4242)), (0, 1));
    }

    #[test]
    fn another_user_is_become_and_left_again() {
        let mut list = CallList::new();
        assert_eq!(calls_for(&sample(), [0, 1, 0], &mut list).count(), 3);
        assert_eq!(calls_for(&sample(), [0, 0, 0], &mut list).count(), 5);
    }
}
