//! epoll(7): which descriptions are watched, for which events, with which data.
//!
//! fdinfo lists the registrations by the number that each was made under; that number may be closed or reused since, so kcmp
//! (KCMP_EPOLL_TFD) tells which description is meant. Registrations are made again inside a process of the job, last of all.
//! A registration that has fired with EPOLLONESHOT listens to nothing, not even to errors and hang-ups, which every new one does:
//! it is made to fire again, into the void. Not preserved: an edge (EPOLLET) that was reported already is reported once more
//! where the target is ready; a registration that has fired reports errors and hang-ups where its target is ready for nothing
//! and is no pipe to read from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::EpollTarget;
use cryonaut_sys::{descriptor, task};
use cryonaut_tracee::{CallId, CallList, Outcomes};

use super::facts::{Description, FdFacts, Job};
use super::standard::StandardStream;
use super::{
    Count, DISPLACED, DescriptorKind, DescriptorTable, EPOLL, TARGET, object, reopen, terminal,
};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::{CloseOnExec, Rebuild};
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// What an epoll_event keeps once it has fired: EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET.
const PRIVATE: u32 = 0xf000_0000;
/// The registration keeps the machine from suspending (include/uapi/linux/eventpoll.h).
const WAKEUP: u32 = 1 << 29;
/// CAP_BLOCK_SUSPEND (include/uapi/linux/capability.h).
const BLOCK_SUSPEND: u32 = 36;
/// All that a file may be ready for.
const ANYTHING: i16 = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;

/// An epoll instance.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Epoll {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// A process that has it: where registrations are made again. 0 for one that is only in flight: any process will do.
    #[prost(int32, tag = "3")]
    pub process: i32,
    /// The registrations.
    #[prost(message, repeated, tag = "4")]
    pub entries: Vec<Entry>,
}

/// All numbers under which descriptors are watched.
pub(super) fn numbers(records: &RecordSet) -> Result<Vec<i32>> {
    let all = records.all::<Epoll>()?.into_iter();
    let entries = all.flat_map(|epoll| epoll.entries);
    Ok(entries.map(|entry| entry.number).collect())
}

/// One registration of an epoll instance.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Entry {
    /// The open file description that is watched.
    #[prost(uint64, tag = "1")]
    pub target: u64,
    /// The descriptor number that it was registered under.
    #[prost(int32, tag = "2")]
    pub number: i32,
    /// `EPOLL*` bits.
    #[prost(uint32, tag = "3")]
    pub events: u32,
    /// The program's own data.
    #[prost(fixed64, tag = "4")]
    pub data: u64,
}

impl Entry {
    /// Whether it has fired with EPOLLONESHOT: until then each listens at least to errors and hang-ups.
    fn is_spent(&self) -> bool {
        self.events & !PRIVATE == 0
    }
}

impl Record for Epoll {
    const KIND: Kind = Kind {
        name: "file.epoll",
        version: 1,
    };
}

/// The kind.
pub(super) struct Epolls;

impl DescriptorKind for Epolls {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Epoll::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("eventpoll")
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        for (entry, offset) in with_offsets(&description.facts.info.epoll_targets) {
            if find_target(description, entry, offset, job).is_none()
                && !is_omitted(description, entry, offset, job)
            {
                refusals.add(
                    job.owner(description.first()).label(),
                    job.name(description),
                    format!("it watches a file, once descriptor {}, that no process of the job has open", entry.descriptor),
                    "take the process that has it open into the job as well, or remove it from the epoll",
                );
            }
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let mut entries = Vec::new();
            for (entry, offset) in with_offsets(&description.facts.info.epoll_targets) {
                let target = match find_target(description, entry, offset, job) {
                    Some(target) => target,
                    // What is closed in the restarted life is in no set there, as after close(2).
                    None if is_omitted(description, entry, offset, job) => continue,
                    None => {
                        return Err(Error::Failed(format!(
                            "{}: what it watches could not be found",
                            job.name(description)
                        )));
                    }
                };
                let EpollTarget {
                    descriptor: number,
                    events,
                    data,
                    ..
                } = *entry;
                entries.push(Entry {
                    target,
                    number,
                    events,
                    data,
                });
            }
            collection.put(&Epoll {
                object: description.object,
                flags: description.facts.flags(),
                process: match job.owner(description.first()) {
                    flight if flight.is_flight() => 0,
                    owner => owner.inner,
                },
                entries,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let epolls = records.all::<Epoll>()?;
        if epolls.is_empty() {
            return Ok(());
        }
        let tables: BTreeMap<i32, DescriptorTable> = records
            .all::<DescriptorTable>()?
            .into_iter()
            .map(|table| (table.process, table))
            .collect();
        let mut replaced = terminal::objects(records)?;
        replaced.extend(
            records
                .all::<StandardStream>()?
                .iter()
                .map(|stream| stream.object),
        );
        let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
        let wakes = |epoll: &Epoll| epoll.entries.iter().any(|entry| entry.events & WAKEUP != 0);
        if capabilities & 1 << BLOCK_SUSPEND == 0 && epolls.iter().any(wakes) {
            plan.remarks.push(
                "an epoll no longer keeps the machine from suspending (EPOLLWAKEUP), which needs CAP_BLOCK_SUSPEND"
                    .into(),
            );
        }
        let objects = epolls.iter().map(|epoll| epoll.object).collect();
        plan.step(Stage::Objects, 0, Make { objects });
        for epoll in epolls.into_iter().filter(|epoll| !epoll.entries.is_empty()) {
            // One that is only in flight is lent to a process meanwhile.
            let lent = epoll.process == 0;
            let table = match lent {
                true => tables.values().next(),
                false => tables.get(&epoll.process),
            };
            let process = table.map_or(0, |table| table.process);
            let slot = |wanted: &dyn Fn(i32, u64) -> bool| {
                table?
                    .slots
                    .iter()
                    .find(|slot| wanted(slot.number, slot.object))
                    .copied()
            };
            let own = slot(&|_, object| object == epoll.object).map(|slot| slot.number);
            let number = own.or(lent.then_some(-1)).ok_or_else(|| {
                Error::Failed("the image is damaged: an epoll that nobody has".into())
            })?;
            let registrations = epoll
                .entries
                .iter()
                .map(|&entry| Registration {
                    entry,
                    reach: match slot(&|number, _| number == entry.number) {
                        Some(slot) if slot.object == entry.target => Reach::Direct,
                        Some(slot) => Reach::Reused {
                            close_on_exec: slot.close_on_exec,
                        },
                        None => Reach::Closed,
                    },
                    replaced: replaced.contains(&entry.target),
                })
                .collect();
            plan.step(
                Stage::Attach,
                process,
                Register {
                    process,
                    number,
                    lent: lent.then_some(epoll.object),
                    registrations,
                },
            );
        }
        Ok(())
    }
}

/// Each registration with its place among those of the same number: what KCMP_EPOLL_TFD counts by.
fn with_offsets(targets: &[EpollTarget]) -> Vec<(&EpollTarget, u32)> {
    let mut seen: BTreeMap<i32, u32> = BTreeMap::new();
    let mut offsets = Vec::with_capacity(targets.len());
    for target in targets {
        let count = seen.entry(target.descriptor).or_default();
        offsets.push((target, *count));
        *count += 1;
    }
    offsets
}

/// Whether a registration watches what is not saved because its program opens it again itself.
fn is_omitted(epoll: &Description, entry: &EpollTarget, offset: u32, job: &Job<'_>) -> bool {
    let home = epoll.first();
    let owner = (job.owner(home).task, home.number);
    job.omitted().any(|omitted| {
        task::is_epoll_target(omitted, owner, entry.descriptor, offset).unwrap_or(false)
    })
}

/// The description that a registration watches: mostly the one at its number, otherwise any of the job's.
fn find_target(
    epoll: &Description,
    entry: &EpollTarget,
    offset: u32,
    job: &Job<'_>,
) -> Option<u64> {
    let home = epoll.first();
    let owner = (job.owner(home).task, home.number);
    let is_it = |description: &Description| {
        let slot = description.first();
        let tried = (job.owner(slot).task, slot.number);
        task::is_epoll_target(tried, owner, entry.descriptor, offset).unwrap_or(false)
    };
    let mut at_number = epoll
        .slots
        .iter()
        .filter_map(|slot| job.at(slot.owner, entry.descriptor));
    if let Some(found) = at_number.find(|description| is_it(description)) {
        return Some(found.object);
    }
    let alike = |description: &&Description| {
        description
            .facts
            .info
            .inode
            .is_none_or(|inode| inode == entry.inode)
    };
    job.descriptions
        .iter()
        .filter(alike)
        .find(|description| is_it(description))
        .map(|found| found.object)
}

struct Make {
    objects: Vec<u64>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.objects.len(), "epoll instance"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for &object in &self.objects {
            rebuild.objects.insert(
                object,
                descriptor::epoll().attempt(|| "making an epoll instance".into())?,
            );
        }
        Ok(())
    }
}

/// What is at the number of a registration in the process where it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The target itself.
    Direct,
    /// Nothing: the number was closed.
    Closed,
    /// Another description.
    Reused { close_on_exec: bool },
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    entry: Entry,
    reach: Reach,
    /// Whether the target is replaced at a restart, perhaps by a file, which cannot be watched.
    replaced: bool,
}

#[derive(Clone)]
struct Register {
    process: i32,
    /// The epoll's number there.
    number: i32,
    /// The epoll, where the process has it only for this.
    lent: Option<u64>,
    registrations: Vec<Registration>,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.registrations.len(), "descriptor");
        match self.lent {
            None => write!(f, "watch {count} by epoll {}", self.number),
            Some(_) => write!(f, "watch {count} by an epoll in flight"),
        }
    }
}

impl Action for Register {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let Some(lent) = self.lent else {
            return self.register(rebuild);
        };
        let number = rebuild.numbers.spare[EPOLL];
        let slot = (object(rebuild, lent)?, number, CloseOnExec::Yes);
        rebuild.give(self.process, &[slot])?;
        let there = Self {
            number,
            ..self.clone()
        };
        there.register(rebuild)?;
        let arguments = [number.into()];
        rebuild
            .call(
                self.process,
                "letting go of an epoll instance",
                libc::SYS_close,
                &arguments,
            )
            .map(drop)
    }
}

impl Register {
    fn register(&self, rebuild: &Rebuild<'_>) -> Result<()> {
        const AT_ONCE: usize = 500;
        let (direct, others): (Vec<Registration>, Vec<Registration>) = self
            .registrations
            .iter()
            .partition(|registration| registration.reach == Reach::Direct);
        // Those that are to fire come first: the others must not be reported in their place.
        let (spent, direct): (Vec<Registration>, Vec<Registration>) = direct
            .into_iter()
            .partition(|registration| registration.entry.is_spent());
        for registration in &spent {
            let _byte = Ready::make(object(rebuild, registration.entry.target)?)?;
            let mut list = CallList::new();
            let calls = self.add(rebuild, &mut list, registration.entry)?;
            let outcomes = rebuild.run(self.process, &list)?;
            self.check(&outcomes, calls, registration)?;
        }
        for registration in others.iter().filter(|other| other.entry.is_spent()) {
            let _byte = Ready::make(object(rebuild, registration.entry.target)?)?;
            self.add_by_detour(rebuild, registration)?;
        }
        for chunk in direct.chunks(AT_ONCE) {
            let mut list = CallList::new();
            let calls: Result<Vec<_>> = chunk
                .iter()
                .map(|registration| self.add(rebuild, &mut list, registration.entry))
                .collect();
            let outcomes = rebuild.run(self.process, &list)?;
            for (calls, registration) in calls?.into_iter().zip(chunk) {
                self.check(&outcomes, calls, registration)?;
            }
        }
        for registration in others.iter().filter(|other| !other.entry.is_spent()) {
            self.add_by_detour(rebuild, registration)?;
        }
        Ok(())
    }
}

/// An empty pipe that has been made ready to be read from, by a byte of ours, for as long as this lives.
struct Ready {
    pipe: Option<File>,
}

impl Ready {
    /// Makes a target ready if that is possible without a trace: only an empty pipe with a writer needs it, and can be.
    fn make(target: BorrowedFd<'_>) -> Result<Self> {
        let what = || "making a pipe ready".into();
        let metadata = File::from(target.try_clone_to_owned().attempt(what)?).metadata();
        let is_pipe = metadata.is_ok_and(|metadata| metadata.file_type().is_fifo());
        let silent = descriptor::poll_now(target, ANYTHING).attempt(what)? == 0;
        let access = descriptor::control(target, libc::F_GETFL, 0).attempt(what)? as i32
            & cryonaut_sys::uapi::O_ACCMODE;
        if !is_pipe || !silent || access != libc::O_RDONLY {
            return Ok(Self { pipe: None });
        }
        let both = reopen(target, (libc::O_RDWR | libc::O_NONBLOCK) as u32).attempt(what)?;
        let mut pipe = File::from(both);
        pipe.write_all(b"r").attempt(what)?;
        Ok(Self { pipe: Some(pipe) })
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            // It was empty, and nobody else runs.
            let _ = pipe.read_exact(&mut [0]);
        }
    }
}

/// The calls that make a registration: one that adds it and, where it is to fire at once, one that takes what it reports.
type Calls = (CallId, Option<CallId>);

impl Register {
    fn add(&self, rebuild: &Rebuild<'_>, list: &mut CallList, entry: Entry) -> Result<Calls> {
        let target = object(rebuild, entry.target)?;
        let fires = entry.is_spent()
            && descriptor::poll_now(target, ANYTHING)
                .attempt(|| "looking at what an epoll watches".into())?
                != 0;
        let events = if fires {
            entry.events | ANYTHING as u32
        } else {
            entry.events
        };
        // struct epoll_event is packed on x86-64: 4 bytes of events, 8 of data.
        let mut event = [0; 12];
        event[..4].copy_from_slice(&events.to_le_bytes());
        event[4..].copy_from_slice(&entry.data.to_le_bytes());
        let event = list.bytes(&event);
        let arguments = [
            self.number.into(),
            libc::EPOLL_CTL_ADD.into(),
            entry.number.into(),
            event.into(),
        ];
        let added = list.call(libc::SYS_epoll_ctl, &arguments);
        let fired = fires.then(|| {
            let taken = list.space(12);
            let arguments = [self.number.into(), taken.into(), 1.into(), 0.into()];
            list.call(libc::SYS_epoll_wait, &arguments)
        });
        Ok((added, fired))
    }

    /// Puts the target at its old number for as long as the registration takes.
    fn add_by_detour(&self, rebuild: &Rebuild<'_>, registration: &Registration) -> Result<()> {
        let entry = registration.entry;
        let spare = rebuild.numbers.spare[TARGET];
        rebuild.give(
            self.process,
            &[(object(rebuild, entry.target)?, spare, CloseOnExec::Yes)],
        )?;
        let (aside, number) = (rebuild.numbers.spare[DISPLACED], entry.number);
        let mut list = CallList::new();
        let reused = match registration.reach {
            Reach::Reused { close_on_exec } => {
                Some(if close_on_exec { libc::O_CLOEXEC } else { 0 })
            }
            _ => None,
        };
        let mut steps = Vec::new();
        if reused.is_some() {
            steps.push(list.call(libc::SYS_dup3, &[number.into(), aside.into(), 0.into()]));
        }
        steps.push(list.call(libc::SYS_dup3, &[spare.into(), number.into(), 0.into()]));
        let calls = self.add(rebuild, &mut list, entry)?;
        if let Some(flags) = reused {
            steps.push(list.call(libc::SYS_dup3, &[aside.into(), number.into(), flags.into()]));
            steps.push(list.call(libc::SYS_close, &[aside.into()]));
        } else {
            steps.push(list.call(libc::SYS_close, &[number.into()]));
        }
        steps.push(list.call(libc::SYS_close, &[spare.into()]));
        let outcomes = rebuild.run(self.process, &list)?;
        for step in steps {
            outcomes
                .result(step)
                .attempt(|| format!("process {}: reaching what an epoll watches", self.process))?;
        }
        self.check(&outcomes, calls, registration)
    }

    fn check(
        &self,
        outcomes: &Outcomes,
        (added, fired): Calls,
        registration: &Registration,
    ) -> Result<()> {
        if let (Ok(_), Some(fired)) = (outcomes.result(added), fired) {
            let reported = outcomes
                .result(fired)
                .attempt(|| "waiting by epoll".into())?;
            if reported != 1 {
                return Err(Error::Failed(format!(
                    "process {}: descriptor {} was ready, but epoll {} did not report it",
                    self.process, registration.entry.number, self.number
                )));
            }
        }
        match outcomes.result(added) {
            // A file, always ready, has taken the place of a stream: epoll takes none.
            Err(error) if registration.replaced && error.raw_os_error() == Some(libc::EPERM) => {
                tracing::warn!(
                    number = registration.entry.number,
                    "a standard stream is a file now: epoll cannot watch it"
                );
                Ok(())
            }
            result => result
                .attempt(|| {
                    let number = registration.entry.number;
                    format!(
                        "process {}: watching descriptor {number} by epoll {}",
                        self.process, self.number
                    )
                })
                .map(drop),
        }
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "epoll: also nested, also of closed and reused descriptor numbers, used-up one-shots",
        level: Level::Restored,
        how: "registrations are made again; a reported edge (EPOLLET) is reported once more where the target is ready",
    },
    Support {
        what: "epoll of files that only processes outside the job have open",
        level: Level::Refused,
        how: "take these processes into the job",
    },
];

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::resource::file::SlotRecord;
    use crate::resource::file::tests::host;

    #[test]
    fn an_epoll_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let entry = Entry {
            target: 4,
            number: 5,
            events: 0x8000_0001,
            data: u64::MAX,
        };
        let epoll = Epoll {
            object: 3,
            flags: 2,
            process: 7,
            entries: vec![entry],
        };
        records.push(&epoll).unwrap();
        assert_eq!(records.all::<Epoll>().unwrap(), [epoll]);
    }

    #[test]
    fn what_has_fired_listens_to_nothing() {
        let entry = |events: i32| Entry {
            events: events as u32,
            ..Entry::default()
        };
        assert!(entry(libc::EPOLLONESHOT).is_spent());
        assert!(entry(libc::EPOLLONESHOT | libc::EPOLLET).is_spent());
        assert!(!entry(libc::EPOLLONESHOT | libc::EPOLLERR | libc::EPOLLHUP).is_spent());
        assert!(!entry(libc::EPOLLIN).is_spent());
    }

    #[test]
    fn a_pipe_is_ready_for_a_while() {
        let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK).unwrap();
        let events = || descriptor::poll_now(reader.as_fd(), ANYTHING).unwrap();
        let ready = Ready::make(reader.as_fd()).unwrap();
        assert_eq!(events(), libc::POLLIN);
        drop(ready);
        assert_eq!(events(), 0);
        drop(writer);
        drop(Ready::make(reader.as_fd()).unwrap());
        assert_eq!(events(), libc::POLLHUP);
    }

    #[test]
    fn the_same_number_is_counted() {
        let target = |descriptor| EpollTarget {
            descriptor,
            events: 1,
            data: 0,
            position: 0,
            inode: 0,
            device: 0,
        };
        let targets = [target(5), target(6), target(5)];
        let offsets: Vec<u32> = with_offsets(&targets)
            .iter()
            .map(|(_, offset)| *offset)
            .collect();
        assert_eq!(offsets, [0, 0, 1]);
    }

    #[test]
    fn an_epoll_without_a_slot_is_damage() {
        let mut records = RecordSet::new();
        let entry = Entry {
            target: 4,
            number: 5,
            events: 1,
            data: 0,
        };
        records
            .push(&Epoll {
                object: 3,
                flags: 2,
                process: 7,
                entries: vec![entry],
            })
            .unwrap();
        let mut plan = Plan::default();
        assert!(Epolls.plan(&records, &host(), &mut plan).is_err());
        let slots = vec![SlotRecord {
            number: 9,
            object: 3,
            close_on_exec: false,
        }];
        records
            .push(&DescriptorTable { process: 7, slots })
            .unwrap();
        Epolls.plan(&records, &host(), &mut plan).unwrap();
    }
}
