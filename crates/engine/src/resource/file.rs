//! Descriptors: the tables of processes, and the open file descriptions behind them, each stored once however many slots
//! share it (dup(2), fork(2), SCM_RIGHTS).
//!
//! The kernel shows them in /proc/PID/fd and /proc/PID/fdinfo; kcmp(2) tells which slots share a description. What is behind
//! them is one file each under `file/`, of the shape of [`DescriptorKind`]: exactly one kind claims a descriptor, and what none
//! claims is refused with a reason. At a restart every object is made in this process, passed into the job, and let go here.
//! What a description of any kind may have besides, such as locks, is an `Aspect`, one file each as well.
//! Not preserved: access times.

mod addressee;
mod alike;
mod datagram_socket;
mod device;
mod directory;
mod epoll;
mod eventfd;
pub(crate) mod external;
mod facts;
mod fanotify;
mod fifo;
mod flight;
mod hardware;
mod inotify;
mod internet;
pub(crate) mod kernel_file;
mod lock;
mod message_queue;
mod netlink_socket;
mod numbers;
mod owner;
mod pidfd;
mod pipe;
mod place;
pub mod pty;
mod refused;
mod regular;
mod shown;
mod signalfd;
mod socket;
mod standard;
mod tcp_socket;
mod terminal;
mod timerfd;
mod unix_socket;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::LazyLock;
use std::time::Duration;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::{descriptor, task};

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::{CloseOnExec, Rebuild};
use crate::reference::Hashing;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::{Inspection, Target, TargetProcess};
use crate::{Error, Refusals, Result};

pub(crate) use device::is_stateless;
pub use external::open_given;
pub use facts::{Description, FdFacts, Job, Known, Peer, Place, Slot};
pub(crate) use message_queue::demands as message_queue_demands;
pub use numbers::SpareNumbers;
pub(crate) use numbers::{DIRECTORIES, DISPLACED, EPOLL, FILLED, TARGET};
pub use owner::{Ids, Owner};
pub(crate) use pty::has_own as has_own_terminals;
pub(crate) use refused::is_kernel_file;
pub use standard::leading_out;
pub(crate) use tcp_socket::{KeptConnections, Parted, remarks as connection_remarks};
pub use terminal::waits_for_keys;
pub(crate) use {
    directory::OpenDirectory, fifo::Fifo, lock::HeldLock, place::NamedPlace, regular::RegularFile,
};

/// Setting the soft and hard limit on descriptor numbers (RLIMIT_NOFILE).
const LIMIT: u32 = cryonaut_sys::uapi::RLIMIT_NOFILE;
/// How often a running job is looked at before its checkpoint is refused.
const LOOKS: u32 = 4;
/// The time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// Flags that fcntl(F_SETFL) sets.
const SETTABLE: i32 = libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME;

/// A kind of descriptor, with everything `cryo` knows about it: of the shape of [`Resource`].
pub trait DescriptorKind: Sync {
    /// The kinds of records that it writes and reads.
    fn kinds(&self) -> &'static [Kind];
    /// Its lines in SUPPORT.md.
    fn support(&self) -> &'static [Support];
    /// Whether a descriptor is of this kind.
    fn claims(&self, facts: &FdFacts) -> bool;
    /// Finds what cannot be saved of a description that it claims, reading only.
    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals);
    /// Saves the descriptions that it claims.
    ///
    /// # Errors
    /// When their state cannot be read.
    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()>;
    /// Plans the steps that rebuild them; creates nothing.
    ///
    /// # Errors
    /// When its records are damaged.
    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()>;
}

/// State that a description of any kind may have: of the shape of [`Resource`].
trait Aspect: Sync {
    /// The kinds of records that it writes and reads.
    fn kinds(&self) -> &'static [Kind];
    /// Its lines in SUPPORT.md.
    fn support(&self) -> &'static [Support];
    /// Finds what cannot be saved, reading only.
    fn inspect(&self, job: &Job<'_>, refusals: &mut Refusals);
    /// Saves it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn collect(&self, job: &Job<'_>, collection: &mut Collection) -> Result<()>;
    /// Plans the steps that rebuild it once all slots are filled, while `rebuild.objects` are still there; creates nothing.
    ///
    /// # Errors
    /// When its records are damaged.
    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()>;
}

/// What a description of any kind may have, in the order in which it is planned.
static ASPECTS: &[&dyn Aspect] = &[&lock::Locks, &addressee::Addressees];

/// Every kind of descriptor.
static KINDS: &[&dyn DescriptorKind] = &[
    &regular::RegularFiles,
    &directory::Directories,
    &place::Places,
    &kernel_file::KernelFiles,
    &device::Devices,
    &pipe::Pipes,
    &fifo::Fifos,
    &eventfd::EventCounters,
    &timerfd::Timers,
    &signalfd::SignalReaders,
    &epoll::Epolls,
    &message_queue::MessageQueues,
    &pidfd::ProcessDescriptors,
    &inotify::Instances,
    &fanotify::Groups,
    &pty::PseudoTerminals,
    &terminal::Terminals,
    &standard::StandardStreams,
    &external::ExternalPipes,
    &unix_socket::UnixSockets,
    &tcp_socket::TcpSockets,
    &datagram_socket::DatagramSockets,
    &netlink_socket::NetlinkSockets,
];

/// The descriptors of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DescriptorTable {
    /// The process (its pid in its own namespace), or the thread that does not have its process' table (its id there). Who shares
    /// the table is in the records of kind `sharing`.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its slots, by number.
    #[prost(message, repeated, tag = "2")]
    pub slots: Vec<SlotRecord>,
}

/// One slot of a [`DescriptorTable`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SlotRecord {
    /// The descriptor's number.
    #[prost(int32, tag = "1")]
    pub number: i32,
    /// The open file description behind it.
    #[prost(uint64, tag = "2")]
    pub object: u64,
    /// Whether it closes at exec (FD_CLOEXEC).
    #[prost(bool, tag = "3")]
    pub close_on_exec: bool,
}

impl SlotRecord {
    /// Whether it closes at exec, as a slot is given.
    fn at_exec(&self) -> CloseOnExec {
        if self.close_on_exec {
            CloseOnExec::Yes
        } else {
            CloseOnExec::No
        }
    }
}

impl Record for DescriptorTable {
    const KIND: Kind = Kind {
        name: "file.table",
        version: 1,
    };
}

/// The resource.
pub struct Files;

impl Resource for Files {
    fn name(&self) -> &'static str {
        "descriptors"
    }

    fn kinds(&self) -> &'static [Kind] {
        static ALL: LazyLock<Vec<Kind>> = LazyLock::new(|| {
            let kinds = KINDS.iter().flat_map(|kind| kind.kinds().iter().copied());
            let aspects = ASPECTS.iter();
            std::iter::once(DescriptorTable::KIND)
                .chain(kinds)
                .chain(aspects.flat_map(|aspect| aspect.kinds().iter().copied()))
                .collect()
        });
        &ALL
    }

    fn support(&self) -> &'static [Support] {
        static ALL: LazyLock<Vec<Support>> = LazyLock::new(|| {
            let kinds = KINDS.iter().flat_map(|kind| kind.support().iter().copied());
            let aspects = ASPECTS.iter();
            SUPPORT
                .iter()
                .copied()
                .chain(kinds)
                .chain(aspects.flat_map(|aspect| aspect.support().iter().copied()))
                .chain(refused::SUPPORT.iter().copied())
                .collect()
        });
        &ALL
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        // What is to be hashed is read here, while the job runs.
        if target.inspection == Inspection::BeforeFreeze
            && target.hashing == Hashing::None
            && has_many(target)
        {
            return;
        }
        let mut found = inspect_running(target).list().to_vec();
        // Programs go on opening, closing and starting others meanwhile: what is not found at each of several looks is past, or
        // came of a look at a moving thing. What is true of the frozen job is found then.
        for _ in 1..LOOKS {
            if found.is_empty() {
                return;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            // Pipes may lead to processes that are new.
            let Ok(now) = target.again() else {
                return;
            };
            let again = inspect_running(&now);
            found.retain(|refusal| again.list().contains(refusal));
        }
        for refusal in found {
            let process = (refusal.pid, refusal.process.as_str());
            refusals.add(process, refusal.object, refusal.reason, refusal.remedy);
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let job = match collection.descriptors.take() {
            Some(known) => Job::known(frozen, known)?,
            None => Job::frozen(frozen)?,
        };
        let mut refusals = Refusals::default();
        inspect_job(&job, &mut refusals);
        if unix_socket::is_unsettled(&job) && !refusals.list().is_empty() {
            return Err(Error::Unsettled(refusals.list().to_vec()));
        }
        refusals.into_result()?;
        let mut tables: Vec<DescriptorTable> = job
            .owners
            .iter()
            .map(|owner| DescriptorTable {
                process: owner.inner,
                slots: Vec::new(),
            })
            .collect();
        for description in &job.descriptions {
            for slot in &description.slots {
                tables[slot.owner].slots.push(SlotRecord {
                    number: slot.number,
                    object: description.object,
                    close_on_exec: slot.close_on_exec,
                });
            }
        }
        let tables = tables.iter_mut().zip(&job.owners);
        for (table, _) in tables.filter(|(_, owner)| owner.has_table()) {
            table.slots.sort_unstable_by_key(|slot| slot.number);
            collection.put(table)?;
        }
        for kind in KINDS {
            let claimed: Vec<&Description> = job
                .descriptions
                .iter()
                .filter(|description| kind.claims(&description.facts))
                .collect();
            kind.collect(&claimed, &job, collection)?;
        }
        for aspect in ASPECTS {
            aspect.collect(&job, collection)?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let tables = records.all::<DescriptorTable>()?;
        if let Err(lacking) = SpareNumbers::find(records)? {
            let hard =
                task::limit(0, LIMIT).attempt(|| "reading the limit on descriptors".into())?;
            plan.refusals.add_for_job(
                "descriptor numbers",
                format!(
                    "the limit on descriptors here is {}, and {lacking} more than are free are needed on the way",
                    hard.hard
                ),
                "raise the hard limit (ulimit -Hn)",
            );
        }
        plan.step(Stage::Objects, 0, RaiseLimit);
        for kind in KINDS {
            kind.plan(records, host, plan)?;
        }
        let replaceable = terminal::objects(records)?;
        let mut late = pidfd::late(records)?;
        late.append(&mut kernel_file::late(records)?);
        let threads = threads(records)?;
        for mut table in tables {
            table.slots.retain(|slot| !late.contains(&slot.object));
            let replaceable = replaceable.clone();
            let (stage, begins) = if threads.contains(&table.process) {
                (Stage::Threads, Begins::Copied)
            } else {
                (Stage::Descriptors, Begins::Empty)
            };
            plan.step(
                stage,
                table.process,
                GiveDescriptors {
                    table,
                    replaceable,
                    begins,
                },
            );
        }
        for aspect in ASPECTS {
            aspect.plan(records, host, plan)?;
        }
        plan.step(Stage::Restrict, 0, DropObjects);
        Ok(())
    }
}

/// Whether a job has so many descriptors that looking at them once more than needed shows.
fn has_many(target: &Target) -> bool {
    const MANY: usize = 256;
    let count =
        |process: &TargetProcess| process.directory.descriptors().map_or(0, |all| all.len());
    target.processes.iter().map(count).sum::<usize>() > MANY
}

/// What stands in the way of a job that runs.
fn inspect_running(target: &Target) -> Refusals {
    let mut refusals = Refusals::default();
    match Job::running(target) {
        Ok(job) => {
            external::look_for_outsiders(&job);
            inspect_job(&job, &mut refusals);
        }
        Err(error) => {
            for process in &target.processes {
                if let Some((reason, remedy)) = process.seclusion() {
                    let label = (process.pid, &*process.name());
                    refusals.add(label, "its descriptors and memory", reason, remedy);
                }
            }
            if refusals.list().is_empty() {
                let reason = format!("they cannot be read: {error}");
                refusals.add_for_job("descriptors", reason, "try again, or as root");
            }
        }
    }
    refusals
}

/// What stands in the way.
fn inspect_job(job: &Job<'_>, refusals: &mut Refusals) {
    inspect_tables(job, refusals);
    for aspect in ASPECTS {
        aspect.inspect(job, refusals);
    }
    for description in &job.descriptions {
        flight::inspect(description, job, refusals);
        match KINDS.iter().find(|kind| kind.claims(&description.facts)) {
            Some(kind) => kind.inspect(description, job, refusals),
            None => refused::refuse(description, job, refusals),
        }
    }
}

/// What is behind the slots of a thread with a table of its own only PIDFD_THREAD reaches.
fn inspect_tables(job: &Job<'_>, refusals: &mut Refusals) {
    for owner in job.owners.iter().filter(|owner| owner.is_thread()) {
        let opened = cryonaut_sys::pidfd::open_with(owner.task, libc::O_EXCL as u32);
        if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            refusals.add(
                owner.label(),
                format!("thread {}", owner.task),
                "it has a descriptor table of its own (unshare), or the first thread has ended, and this kernel lets nobody look into it",
                "checkpoint it under Linux 6.9 or newer",
            );
        }
    }
}

/// The threads that are no leaders of their process.
fn threads(records: &RecordSet) -> Result<BTreeSet<i32>> {
    let processes = records.all::<ProcessRecord>()?;
    let threads = processes.iter().flat_map(|process| {
        let threads = process.tasks.iter();
        threads.filter(|task| **task != process.pid).copied()
    });
    Ok(threads.collect())
}

/// Which process first has each description, for messages: object to (process, number).
pub(crate) fn holders(records: &RecordSet) -> Result<BTreeMap<u64, (i32, i32)>> {
    let mut holders = BTreeMap::new();
    for table in records.all::<DescriptorTable>()? {
        for slot in table.slots {
            holders
                .entry(slot.object)
                .or_insert((table.process, slot.number));
        }
    }
    Ok(holders)
}

/// Options for opening a file with saved flags: what only matters when a file is made is left out, and so is O_ASYNC, which at
/// open(2) has no effect but to hide that it has none.
pub(crate) fn options(flags: u32) -> OpenOptions {
    let mut flags = flags as i32;
    // O_TMPFILE has O_DIRECTORY in it, and the file has a name by now.
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        flags &= !libc::O_TMPFILE;
    }
    let access = flags & cryonaut_sys::uapi::O_ACCMODE;
    let made = libc::O_CREAT
        | libc::O_EXCL
        | libc::O_TRUNC
        | libc::O_CLOEXEC
        | cryonaut_sys::uapi::O_ACCMODE
        | libc::O_ASYNC;
    let mut options = File::options();
    options
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY);
    options.custom_flags(flags & !made | libc::O_NOCTTY);
    options
}

/// Another description of the file behind a descriptor of ours. One that was opened with O_NOFOLLOW is opened by its name, for the
/// link in /proc would be refused; a file that has none is opened without.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: u32) -> std::io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let no_follow = libc::O_NOFOLLOW as u32;
    if flags & no_follow != 0
        && let Some(file) = reopen_by_name(&link, flags)?
    {
        return Ok(file);
    }
    options(flags & !no_follow).open(link).map(OwnedFd::from)
}

/// Opens by its name what a link in /proc leads to; nothing when that name is another file's, or nobody's.
fn reopen_by_name(link: &str, flags: u32) -> std::io::Result<Option<OwnedFd>> {
    use std::os::unix::fs::MetadataExt;
    let wanted = std::fs::metadata(link)?;
    let is_it =
        |found: &std::fs::Metadata| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino());
    let name = std::fs::read_link(link)?;
    if !std::fs::symlink_metadata(&name).is_ok_and(|found| is_it(&found)) {
        return Ok(None);
    }
    let file = options(flags).open(&name)?;
    // Somebody may have put another file there just now.
    Ok(is_it(&file.metadata()?).then(|| file.into()))
}

/// Sets the flags of a description that can be changed after it was made.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> std::io::Result<()> {
    descriptor::control(fd, libc::F_SETFL, i64::from(flags as i32 & SETTABLE)).map(drop)
}

/// A path as the standard library takes it.
pub(crate) fn path_of(bytes: &[u8]) -> &std::path::Path {
    std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// A number of things, in words.
pub(crate) struct Count(pub usize, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}{}",
            self.0,
            self.1,
            if self.0 == 1 { "" } else { "s" }
        )
    }
}

/// The object that a record calls by this number.
pub(crate) fn object<'a>(rebuild: &'a Rebuild<'_>, number: u64) -> Result<BorrowedFd<'a>> {
    let found = rebuild.objects.get(&number).map(AsFd::as_fd);
    found.ok_or_else(|| {
        Error::Failed(format!(
            "the image is damaged: descriptor object {number} is missing"
        ))
    })
}

/// Lets this process hold all objects of the job.
struct RaiseLimit;

impl fmt::Display for RaiseLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raise the limit on descriptors of cryo itself")
    }
}

impl Action for RaiseLimit {
    fn perform(&self, _rebuild: &mut Rebuild<'_>) -> Result<()> {
        raise_limit(0)
    }
}

/// Raises the soft limit on descriptors of a process (0: this one) to the hard one.
pub(crate) fn raise_limit(pid: i32) -> Result<()> {
    let limit = match task::limit(pid, LIMIT) {
        // One that has become another user already: it has the limits of the progenitor, which were raised.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
        limit => limit.attempt(|| "reading the limit on descriptors".into())?,
    };
    if limit.soft == limit.hard {
        return Ok(());
    }
    let raised = task::Limit {
        soft: limit.hard,
        hard: limit.hard,
    };
    task::set_limit(pid, LIMIT, raised).attempt(|| "raising the limit on descriptors".into())
}

/// Puts an object that was made late, once the tables had been filled, into its slots: (process, slot).
fn give_late(
    rebuild: &mut Rebuild<'_>,
    object: u64,
    made: OwnedFd,
    slots: &[(i32, SlotRecord)],
) -> Result<()> {
    for (process, slot) in slots {
        rebuild.give(*process, &[(made.as_fd(), slot.number, slot.at_exec())])?;
    }
    rebuild.objects.insert(object, made);
    Ok(())
}

/// Fills the descriptor table of a process.
struct GiveDescriptors {
    table: DescriptorTable,
    /// Objects that a standard stream of the restart replaces where one is given.
    replaceable: BTreeSet<u64>,
    begins: Begins,
}

/// What is in a table before it is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// Nothing.
    Empty,
    /// A copy of that of its process.
    Copied,
}

impl fmt::Display for GiveDescriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "give it {}", Count(self.table.slots.len(), "descriptor"))
    }
}

impl Action for GiveDescriptors {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        raise_limit(rebuild.whereabouts(self.table.process)?.0)?;
        if self.begins == Begins::Copied {
            rebuild.close_all(self.table.process)?;
        }
        let mut slots = Vec::with_capacity(self.table.slots.len());
        for slot in &self.table.slots {
            let given = usize::try_from(slot.number)
                .ok()
                .and_then(|number| rebuild.standard.get(number)?.as_ref());
            let from = match given {
                Some(given) if self.replaceable.contains(&slot.object) => given.as_fd(),
                _ => object(rebuild, slot.object)?,
            };
            let close = slot.at_exec();
            slots.push((from, slot.number, close));
        }
        rebuild.give(self.table.process, &slots)
    }
}

/// Lets go of all objects here: from now on only the job holds them, and the end of a pipe is the end.
struct DropObjects;

impl fmt::Display for DropObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "let go of the job's descriptors")
    }
}

impl Action for DropObjects {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.objects.clear();
        rebuild.standard = [None, None, None];
        Ok(())
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "Descriptor tables: numbers, close-on-exec, sharing by dup, fork and SCM_RIGHTS",
    level: Level::Restored,
    how: "each open file description is stored once and shared again; flags and positions belong to it",
}];

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that is as good as any for plans of descriptors.
    pub(super) fn host() -> Host {
        Host::look(false, crate::host::Changed::Refuse).unwrap()
    }

    pub(super) fn slot(number: i32, object: u64) -> SlotRecord {
        SlotRecord {
            number,
            object,
            close_on_exec: number % 2 == 1,
        }
    }

    #[test]
    fn a_table_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let table = DescriptorTable {
            process: 7,
            slots: vec![slot(0, 1), slot(3, 2)],
        };
        records.push(&table).unwrap();
        assert_eq!(records.all::<DescriptorTable>().unwrap(), [table]);
        assert_eq!(holders(&records).unwrap()[&2], (7, 3));
    }

    #[test]
    fn a_plan_makes_objects_then_gives_them_then_lets_go() {
        let mut records = RecordSet::new();
        let slots = vec![
            slot(0, 1),
            slot(1, 2),
            slot(2, 2),
            slot(3, 3),
            slot(4, 4),
            slot(5, 5),
        ];
        records
            .push(&DescriptorTable { process: 7, slots })
            .unwrap();
        let null = device::OpenDevice {
            object: 1,
            flags: 2,
            path: b"/dev/null".to_vec(),
            minor: 3,
            kept: 0,
        };
        records.push(&null).unwrap();
        records
            .push(&standard::StandardStream {
                object: 2,
                flags: 1,
                stream: 1,
                ..Default::default()
            })
            .unwrap();
        records
            .push(&eventfd::EventCounter {
                object: 3,
                ..Default::default()
            })
            .unwrap();
        records
            .push(&timerfd::Timer {
                object: 4,
                clock: 1,
                remaining: 5,
                ..Default::default()
            })
            .unwrap();
        let entry = epoll::Entry {
            target: 3,
            number: 3,
            events: 1,
            data: 2,
        };
        records
            .push(&epoll::Epoll {
                object: 5,
                flags: 2,
                process: 7,
                entries: vec![entry],
            })
            .unwrap();
        let mut plan = Plan::default();
        Files.plan(&records, &host(), &mut plan).unwrap();
        assert!(plan.refusals.list().is_empty());
        let steps: Vec<String> = plan
            .ordered()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let wanted = [
            "Objects raise the limit on descriptors of cryo itself",
            "Objects open device /dev/null",
            "Objects make 1 eventfd",
            "Objects make 1 timerfd",
            "Objects make 1 epoll instance",
            "Objects take the standard output of the restart",
            "Descriptors [7] give it 6 descriptors",
            "Attach set 1 timerfd",
            "Attach [7] watch 1 descriptor by epoll 5",
            "Restrict let go of the job's descriptors",
        ];
        assert_eq!(steps, wanted);
    }
}
