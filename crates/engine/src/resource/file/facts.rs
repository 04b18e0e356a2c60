//! What /proc shows of descriptors, and which of them share one open file description.
//!
//! /proc/PID/fd/N names the file, /proc/PID/fdinfo/N tells flags, position and the state of many kinds. Whether two slots share
//! a description only kcmp(2) tells; it orders them, too, so that a thousand look-alikes cost n log n comparisons.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cryonaut_procfs::FdInfo;
use cryonaut_sys::descriptor;
use cryonaut_sys::file::file_system;
use cryonaut_sys::message_queue;
use cryonaut_sys::task::{self, Compare};

use super::addressee::Told;
use super::alike::{Likeness, group};
use super::flight::{Flight, Letter};
use super::internet;
use super::owner::{Omitted, Owner, Sight, flight_owner, owner, thread_owner};
use super::pty::Terminal;
use super::shown::read_slots;
use super::socket::SocketFacts;
use super::unix_socket::Listing;
use crate::checkpoint::Tracer;
use crate::error::Attempt;
use crate::freeze::{Afterwards, Frozen};
use crate::participants;
use crate::reference::Hashing;
use crate::resource::memory::{device_number, other_name, printable};
use crate::resource::sharing::{self, Shared, Sharing};
use crate::target::{External, Target, has_ended};
use crate::{Error, Result};

/// A slot of a process' descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index of the process in [`Job::owners`].
    pub owner: usize,
    /// The descriptor's number.
    pub number: i32,
    /// Whether it closes at exec.
    pub close_on_exec: bool,
}

/// How a description's path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has none: a pipe, a socket, an anonymous file.
    Nameless,
    /// The path leads to the file.
    Leads,
    /// The file has no name any more.
    Deleted,
    /// The path leads to another file, or nowhere.
    Elsewhere,
}

/// Where the other end of a pipe, or of a unix socket that is a standard stream, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It is no pipe, or a socket that is kept as it is.
    None,
    /// In the job.
    Inside,
    /// Nowhere: it is closed.
    Gone,
    /// With somebody who is not in the job.
    Outside,
    /// With somebody who is not in the job, and it is a standard stream of one of the job's processes.
    Standard,
}

/// What is known of one open file description.
#[derive(Clone, Debug, PartialEq)]
pub struct FdFacts {
    /// What /proc/PID/fd shows: a path, or `pipe:[17]`, `anon_inode:[eventfd]`.
    pub link: Vec<u8>,
    /// What /proc/PID/fdinfo tells.
    pub info: FdInfo,
    /// `st_mode`; 0 for what has no path.
    pub mode: u32,
    /// `st_rdev` as (major, minor).
    pub node: (u32, u32),
    /// Device number of the file system (major << 32 | minor) and inode number; 0 for what has no path.
    pub file: (u64, u64),
    /// Names that the file has (`st_nlink`).
    pub names: u64,
    /// How its path stands.
    pub place: Place,
    /// For a pipe, where its other end is.
    pub peer: Peer,
    /// Whom it sends signals to, if that was ever said.
    pub addressee: Option<Told>,
    /// For a socket, what it is; none where it could not be asked.
    pub socket: Option<SocketFacts>,
    /// For a terminal, where its other side is.
    pub terminal: Option<Terminal>,
    /// Whether it is a POSIX message queue.
    pub queue: bool,
}

impl FdFacts {
    /// Flags of the description, without the slot's own.
    pub fn flags(&self) -> u32 {
        self.info.flags & !(libc::O_CLOEXEC as u32)
    }

    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
    pub fn access(&self) -> i32 {
        self.info.flags as i32 & cryonaut_sys::uapi::O_ACCMODE
    }

    /// Whether it can be read from.
    pub fn reads(&self) -> bool {
        self.access() != libc::O_WRONLY
    }

    /// Whether it can be written to.
    pub fn writes(&self) -> bool {
        self.access() != libc::O_RDONLY
    }

    /// The file type bits of its mode.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it names a place only (`O_PATH`).
    pub fn is_place(&self) -> bool {
        self.info.flags as i32 & libc::O_PATH != 0
    }

    /// The path that a file without a name once had.
    pub fn deleted_path(&self) -> Option<&[u8]> {
        self.link.strip_suffix(b" (deleted)")
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        self.link.starts_with(b"socket:[")
    }

    /// Whether it is an anonymous pipe.
    pub fn is_pipe(&self) -> bool {
        self.link.starts_with(b"pipe:[")
    }

    /// Whether it is an anonymous file of the type that the kernel calls `name`.
    pub fn is_anonymous(&self, name: &str) -> bool {
        self.link.strip_prefix(b"anon_inode:").is_some_and(|rest| {
            rest == name.as_bytes()
                || rest
                    .strip_prefix(b"[")
                    .and_then(|rest| rest.strip_suffix(b"]"))
                    == Some(name.as_bytes())
        })
    }
}

/// An open file description of the job, with the slots that refer to it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its number in the image.
    pub object: u64,
    /// What is known of it.
    pub facts: FdFacts,
    /// The slots, in order.
    pub slots: Vec<Slot>,
    /// The locks that slots show: those that belong to the description are shown by all, those of a process by its own.
    pub locks: Vec<(Slot, Vec<u8>)>,
}

impl Description {
    /// The first slot that refers to it.
    pub fn first(&self) -> Slot {
        self.slots[0]
    }
}

/// The descriptors of a whole job.
pub struct Job<'a> {
    /// The live processes, and last this one where it holds copies of descriptors in flight.
    pub owners: Vec<Owner<'a>>,
    /// The open file descriptions, in the order of their first slots.
    pub descriptions: Vec<Description>,
    /// All processes, zombies too: pid as we see it, pid in its own namespace.
    pub members: BTreeMap<i32, i32>,
    /// Whether the files behind them are hashed.
    pub hashing: Hashing,
    /// What becomes of sockets whose peer is outside.
    pub external: External,
    /// Who looks at it.
    pub tracer: Tracer,
    /// What becomes of it once it is saved.
    pub afterwards: Afterwards,
    /// Index of the description behind each slot: (process, number).
    by_slot: BTreeMap<(usize, i32), usize>,
    /// Index of the description of each socket, by its inode number.
    by_inode: BTreeMap<u64, usize>,
    /// The descriptors that are not saved, by process.
    omitted: Omitted,
    /// What is in the queues of the job's sockets; empty while it runs.
    flight: Flight,
    /// What the kernel lists of unix sockets.
    listing: OnceCell<Listing>,
    /// What the kernel lists of TCP.
    connections: OnceCell<internet::Listing>,
    /// Whether it runs while it is looked at.
    pub(super) motion: Motion,
}

/// What is known of a frozen job's descriptors, apart from its processes.
#[derive(Debug)]
pub struct Known {
    descriptions: Vec<Description>,
    omitted: Omitted,
    flight: Flight,
}

/// How a job is looked at.
#[derive(Clone, Copy)]
struct Manner {
    motion: Motion,
    hashing: Hashing,
    external: External,
    tracer: Tracer,
    afterwards: Afterwards,
}

/// Whether processes run while they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    /// Descriptors may come and go.
    Running,
    /// Nothing moves.
    Frozen,
}

impl<'a> Job<'a> {
    /// Looks at a running job; what closes meanwhile is left out.
    ///
    /// # Errors
    /// When a process may not be read.
    pub fn running(target: &'a Target) -> Result<Self> {
        let members = sharing::members_of(target);
        let sharing = Sharing::find_descriptors(&members);
        let mut owners = Vec::new();
        let mut omitted = Omitted::new();
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let boards = participants::of_running(process);
            if !boards.is_empty() || target.dialogue.destination.is_some() {
                let numbers = participants::omitted(&boards, &process.directory, &target.dialogue);
                omitted.insert(process.pid, numbers);
            }
            let member = members.iter().find(|member| member.process == process.pid);
            let tasks = member
                .map(|member| member.tasks.clone())
                .unwrap_or_default();
            let sight = Sight {
                pid: process.pid,
                name: process.name(),
                directory: &process.directory,
                stat: &process.stat,
                status: &process.status,
            };
            // A thread that has ended meanwhile has no table any more.
            let apart = sharing.apart(Shared::Descriptors, process.pid, &tasks);
            let apart = apart
                .into_iter()
                .filter_map(|tid| thread_owner(&sight, tid).ok());
            let apart: Vec<_> = apart.collect();
            owners.push(owner(&sight, tasks, &sharing));
            owners.extend(apart);
        }
        let members = target.processes.iter();
        let members = members.map(|process| (process.pid, process.inner_pid()));
        let manner = Manner {
            motion: Motion::Running,
            hashing: target.hashing,
            external: target.external,
            tracer: Tracer::Named,
            afterwards: Afterwards::LeaveRunning,
        };
        Self::gather((owners, omitted), members.collect(), manner)
    }

    /// Looks at a frozen job.
    ///
    /// # Errors
    /// When a process cannot be read.
    pub fn frozen(frozen: &'a Frozen) -> Result<Self> {
        let owners = frozen_owners(frozen)?;
        let members = frozen_members(frozen);
        let omitted = frozen.alive().filter_map(|process| {
            let boards = frozen
                .boards
                .get(&process.pid)
                .map_or(&[][..], Vec::as_slice);
            let numbers = participants::omitted(boards, &process.directory, &frozen.dialogue);
            (!numbers.is_empty()).then_some((process.pid, numbers))
        });
        Self::gather((owners, omitted.collect()), members, Manner::frozen(frozen))
    }

    /// The frozen job again, of which everything but its processes is known from [`Job::frozen`].
    ///
    /// # Errors
    /// When a process cannot be read.
    pub fn known(frozen: &'a Frozen, known: Known) -> Result<Self> {
        let (mut owners, members) = (frozen_owners(frozen)?, frozen_members(frozen));
        if known.flight.numbers().is_some() {
            owners.push(flight_owner()?);
        }
        Ok(Self::assemble(
            (owners, members),
            known,
            Manner::frozen(frozen),
        ))
    }

    /// What [`Job::known`] takes.
    pub fn into_known(self) -> Known {
        Known {
            descriptions: self.descriptions,
            omitted: self.omitted,
            flight: self.flight,
        }
    }

    fn gather(
        (mut owners, omitted): (Vec<Owner<'a>>, Omitted),
        members: BTreeMap<i32, i32>,
        manner: Manner,
    ) -> Result<Self> {
        let motion = manner.motion;
        let mut slots: Vec<Slot> = Vec::new();
        let mut seen = Vec::new();
        let tables = owners.iter().enumerate();
        for (index, owner) in tables.filter(|(_, owner)| owner.has_table()) {
            let shown = match owner.directory().descriptors().map_err(Error::from) {
                Ok(mut numbers) => {
                    let omitted = omitted.get(&owner.pid);
                    numbers.retain(|number| !omitted.is_some_and(|all| all.contains(number)));
                    read_slots(owner.task, &numbers, motion)
                }
                Err(error) => Err(error),
            };
            let shown = match shown {
                // The files of one that has ended belong to root, and are gone in the end.
                Err(_) if motion == Motion::Running && has_ended(owner.directory()) => continue,
                shown => shown?,
            };
            for (number, link, info) in shown {
                let close_on_exec = info.flags & libc::O_CLOEXEC as u32 != 0;
                slots.push(Slot {
                    owner: index,
                    number,
                    close_on_exec,
                });
                seen.push((link, info));
            }
        }
        let mut flight = Flight::default();
        if motion == Motion::Frozen {
            let links = seen
                .iter()
                .map(|(link, _): &(Vec<u8>, FdInfo)| link.as_slice());
            flight = Flight::read(&owners, &slots, links)?;
            // Descriptors in flight are looked at as if they were this process' own, which their copies are.
            if let Some(numbers) = flight.numbers() {
                let own = flight_owner()?;
                for (number, link, info) in read_slots(own.task, &numbers, motion)? {
                    slots.push(Slot {
                        owner: owners.len(),
                        number,
                        close_on_exec: false,
                    });
                    seen.push((link, info));
                }
                owners.push(own);
            }
        }
        let keys = seen
            .iter()
            .map(|(link, info)| Likeness::of(link, info))
            .collect();
        let groups = group(keys, |first, second| {
            let name = |slot: usize| (owners[slots[slot].owner].task, slots[slot].number as u64);
            match task::compare(Compare::File, name(first), name(second)) {
                // One of the two was closed meanwhile: whatever it was, it is no part of the job any more.
                Err(error)
                    if motion == Motion::Running && error.raw_os_error() != Some(libc::ENOSYS) =>
                {
                    Ok(Ordering::Less)
                }
                result => result.attempt(|| "comparing descriptors (kcmp)".into()),
            }
        })?;
        let mut descriptions = Vec::with_capacity(groups.len());
        for (index, members) in groups.into_iter().enumerate() {
            // A copy shows the locks of its description once more.
            let is_copy = |member: usize| owners[slots[member].owner].is_flight();
            let only_copies = is_copy(members[0]);
            let locks: Vec<(Slot, Vec<u8>)> = members
                .iter()
                .filter(|member| only_copies || !is_copy(**member))
                .flat_map(|&member| {
                    let lines = std::mem::take(&mut seen[member].1.locks);
                    lines.into_iter().map(move |line| (member, line))
                })
                .map(|(member, line)| (slots[member], line))
                .collect();
            let (link, info) = std::mem::take(&mut seen[members[0]]);
            let slots: Vec<Slot> = members.into_iter().map(|member| slots[member]).collect();
            let owner = &owners[slots[0].owner];
            match facts_of(owner, slots[0].number, link, info) {
                Some(facts) => descriptions.push(Description {
                    object: index as u64 + 1,
                    facts,
                    slots,
                    locks,
                }),
                None if motion == Motion::Running => {}
                None => {
                    let number = slots[0].number;
                    return Err(Error::Failed(format!(
                        "process {}: descriptor {number} cannot be read",
                        owner.pid
                    )));
                }
            }
        }
        let known = Known {
            descriptions,
            omitted,
            flight,
        };
        let mut job = Self::assemble((owners, members), known, manner);
        job.find_peers(motion)?;
        job.find_standard_sockets();
        job.find_terminals(motion)?;
        job.find_addressees(motion)?;
        Ok(job)
    }

    fn assemble(
        (owners, members): (Vec<Owner<'a>>, BTreeMap<i32, i32>),
        known: Known,
        manner: Manner,
    ) -> Self {
        let Known {
            descriptions,
            omitted,
            flight,
        } = known;
        let mut by_slot = BTreeMap::new();
        for (index, description) in descriptions.iter().enumerate() {
            by_slot.extend(
                description
                    .slots
                    .iter()
                    .map(|slot| ((slot.owner, slot.number), index)),
            );
        }
        let by_inode = (descriptions.iter().enumerate())
            .filter_map(|(index, description)| Some((description.facts.socket?.inode, index)))
            .collect();
        Self {
            owners,
            descriptions,
            members,
            hashing: manner.hashing,
            external: manner.external,
            tracer: manner.tracer,
            afterwards: manner.afterwards,
            by_slot,
            by_inode,
            omitted,
            flight,
            listing: OnceCell::new(),
            connections: OnceCell::new(),
            motion: manner.motion,
        }
    }

    /// Asks a copy of every description whom it sends signals to.
    fn find_addressees(&mut self, motion: Motion) -> Result<()> {
        for index in 0..self.descriptions.len() {
            let description = &self.descriptions[index];
            if description.facts.is_place() {
                continue;
            }
            let told = self.copy(description).and_then(|copy| {
                Told::of(copy.as_fd())
                    .attempt(|| "asking whom a descriptor sends signals to".into())
            });
            self.descriptions[index].facts.addressee = match told {
                Err(_) if motion == Motion::Running => continue,
                told => told?,
            };
        }
        Ok(())
    }

    /// The process of a slot.
    pub fn owner(&self, slot: Slot) -> &Owner<'a> {
        &self.owners[slot.owner]
    }

    /// The id that a process or thread of the job has in its own namespace; none if it is not in the job. Processes that have
    /// ended and were not waited for have theirs still.
    pub fn inner(&self, id: i32) -> Option<i32> {
        if let Some(&inner) = self.members.get(&id) {
            return Some(inner);
        }
        let owner = self
            .owners
            .iter()
            .find(|owner| owner.threads.contains(&id))?;
        if owner.pid == owner.inner {
            return Some(id);
        }
        let text = std::fs::read(format!("/proc/{}/task/{id}/status", owner.pid)).ok()?;
        let status = cryonaut_procfs::status::parse(&text).ok()?;
        status.namespace_pid.last().copied()
    }

    /// The description at a number of a process.
    pub fn at(&self, owner: usize, number: i32) -> Option<&Description> {
        self.by_slot
            .get(&(owner, number))
            .map(|&index| &self.descriptions[index])
    }

    /// The descriptors that are not saved, as a task that has them and their numbers.
    pub fn omitted(&self) -> impl Iterator<Item = (i32, i32)> {
        self.owners.iter().flat_map(|owner| {
            let numbers = self.omitted.get(&owner.pid).into_iter().flatten();
            numbers.map(|&number| (owner.task, number))
        })
    }

    /// A copy of a description, taken without disturbing anybody.
    ///
    /// # Errors
    /// When it is closed or may not be taken.
    pub fn copy(&self, description: &Description) -> Result<OwnedFd> {
        let slot = description.first();
        self.owner(slot).copy(slot.number)
    }

    /// The processes of the job, without what stands for descriptors in flight.
    pub fn processes(&self) -> impl Iterator<Item = &Owner<'a>> {
        self.owners.iter().filter(|owner| !owner.is_flight())
    }

    /// The job's description of a socket, by its inode number.
    pub fn socket(&self, inode: u64) -> Option<&Description> {
        let index = self.by_inode.get(&inode)?;
        self.descriptions.get(*index)
    }

    /// The messages in the receive queue of a socket, by its inode number.
    pub fn letters(&self, inode: u64) -> &[Letter] {
        self.flight.letters(inode)
    }

    /// The description of a copy that came out of a queue.
    pub fn in_flight(&self, number: i32) -> Option<&Description> {
        let own = self.owners.iter().position(Owner::is_flight)?;
        self.at(own, number)
    }

    /// What the kernel lists of unix sockets, read once.
    pub fn listing(&self) -> &Listing {
        let processes = || self.owners.iter().filter(|owner| !owner.is_flight());
        let read = || Listing::read_all(processes().map(Owner::directory));
        self.listing.get_or_init(read)
    }

    /// What the kernel lists of TCP, read once.
    pub fn connections(&self) -> &internet::Listing {
        let read = || internet::Listing::read(libc::IPPROTO_TCP);
        self.connections.get_or_init(read)
    }

    /// What a person calls a description: its first number and its link.
    pub fn name(&self, description: &Description) -> String {
        format!(
            "descriptor {} ({})",
            description.first().number,
            printable(&description.facts.link)
        )
    }

    /// Pipes by their inode, that is, by their link.
    pub fn by_link<'b>(
        descriptions: &[&'b Description],
    ) -> BTreeMap<&'b [u8], Vec<&'b Description>> {
        let mut found: BTreeMap<&[u8], Vec<&Description>> = BTreeMap::new();
        for description in descriptions {
            found
                .entry(&description.facts.link)
                .or_default()
                .push(description);
        }
        found
    }

    /// Finds for every pipe where its other end is. A pipe end whose other end nobody holds shows an error or a hang-up.
    fn find_peers(&mut self, motion: Motion) -> Result<()> {
        let mut pipes: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (index, description) in self.descriptions.iter().enumerate() {
            if description.facts.is_pipe() {
                pipes
                    .entry(description.facts.link.clone())
                    .or_default()
                    .push(index);
            }
        }
        for members in pipes.into_values() {
            let ends = || members.iter().map(|&index| &self.descriptions[index]);
            let (reads, writes) = (
                ends().any(|end| end.facts.reads()),
                ends().any(|end| end.facts.writes()),
            );
            let standard =
                ends().any(|end| end.slots.iter().any(|slot| (0..3).contains(&slot.number)));
            let peer = if reads && writes || self.hides_descriptors() {
                Peer::Inside
            } else {
                let copy = match self.copy(&self.descriptions[members[0]]) {
                    Ok(copy) => copy,
                    Err(_) if motion == Motion::Running => continue,
                    Err(error) => return Err(error),
                };
                let alone = if reads { libc::POLLHUP } else { libc::POLLERR };
                let events =
                    descriptor::poll_now(copy.as_fd(), 0).attempt(|| "looking at a pipe".into())?;
                match (events & alone != 0, standard) {
                    (true, _) => Peer::Gone,
                    (false, true) => Peer::Standard,
                    (false, false) => Peer::Outside,
                }
            };
            for index in members {
                self.descriptions[index].facts.peer = peer;
            }
        }
        Ok(())
    }
}

impl Manner {
    fn frozen(frozen: &Frozen) -> Self {
        Self {
            motion: Motion::Frozen,
            hashing: frozen.hashing,
            external: frozen.external,
            tracer: frozen.tracer,
            afterwards: frozen.afterwards,
        }
    }
}

fn frozen_members(frozen: &Frozen) -> BTreeMap<i32, i32> {
    let members = frozen.processes.iter();
    members
        .map(|process| (process.pid, process.inner))
        .collect()
}

fn frozen_owners(frozen: &Frozen) -> Result<Vec<Owner<'_>>> {
    let mut owners = Vec::new();
    for process in frozen.alive() {
        let tasks: Vec<i32> = process
            .tasks
            .iter()
            .map(|task| task.stopped.tid())
            .collect();
        let sight = Sight {
            pid: process.pid,
            name: process.name(),
            directory: &process.directory,
            stat: &process.stat,
            status: &process.status,
        };
        let sharing = &frozen.sharing;
        let mut apart = Vec::new();
        for tid in sharing.apart(Shared::Descriptors, process.pid, &tasks) {
            apart.push(thread_owner(&sight, tid)?);
        }
        owners.push(owner(&sight, tasks, sharing));
        owners.extend(apart);
    }
    Ok(owners)
}

/// What is known of a description; none when it has been closed.
fn facts_of(owner: &Owner<'_>, number: i32, link: Vec<u8>, info: FdInfo) -> Option<FdFacts> {
    let mut facts = FdFacts {
        link,
        info,
        mode: 0,
        node: (0, 0),
        file: (0, 0),
        names: 0,
        place: Place::Nameless,
        peer: Peer::None,
        addressee: None,
        socket: None,
        terminal: None,
        queue: false,
    };
    if facts.is_socket() {
        // One that closes meanwhile, or may not be copied, stays unknown.
        facts.socket = owner
            .copy(number)
            .and_then(|copy| SocketFacts::of(copy.as_fd(), &facts.link))
            .ok();
    }
    if !facts.link.starts_with(b"/") {
        return Some(facts);
    }
    let path = format!("/proc/{}/fd/{number}", owner.task);
    let file = std::fs::metadata(&path).ok()?;
    facts.queue = file.is_file()
        && file.len() == message_queue::FILE_SIZE
        && file_system(path.as_ref()).is_ok_and(|found| found.kind == message_queue::MQUEUE);
    facts.mode = file.mode();
    facts.node = (libc::major(file.rdev()), libc::minor(file.rdev()));
    facts.file = (device_number(file.dev()), file.ino());
    facts.names = file.nlink();
    let there = std::fs::symlink_metadata(owner.reach(&facts.link));
    facts.place = match there {
        Ok(there) if there.dev() == file.dev() && there.ino() == file.ino() => Place::Leads,
        _ if file.nlink() == 0 || facts.link.ends_with(b" (deleted)") => Place::Deleted,
        _ => Place::Elsewhere,
    };
    // A file whose name was removed but that has another, which can be found, is known by that.
    if facts.place == Place::Deleted
        && file.nlink() > 0
        && let Some(path) = facts.deleted_path()
        && let Some(other) = other_name(owner.directory(), owner.base(), path, facts.file)
    {
        facts.link = other;
        facts.place = Place::Leads;
    }
    Some(facts)
}
