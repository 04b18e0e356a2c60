//! What is under way in the queues of the job's unix sockets: messages, and descriptors that may be nowhere else.
//!
//! A descriptor in flight is a slot like any other, but for being in no process. Looking at a queue gives this process copies, and
//! through them such descriptions are looked at like those in the slots of processes. A socket in flight has a queue in its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use cryonaut_sys::socket::Credentials;

use super::facts::{Description, Job, Motion, Peer, Slot};
use super::owner::Owner;
use super::raise_limit;
use super::socket::{SocketFacts, inode_of};
use super::unix_socket::queue::{self, Mark, Reading};
use crate::error::Attempt;
use crate::{Refusals, Result};

/// A message in a queue, with its descriptors as numbers of this process.
#[derive(Debug, Default)]
pub struct Letter {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The name of the socket that sent it.
    pub from: Option<Vec<u8>>,
    /// Who sent it, as we see them.
    pub credentials: Option<Credentials>,
    /// Copies of the descriptors in flight with it.
    pub numbers: Vec<i32>,
    /// What is special about it.
    pub mark: Mark,
}

/// All that is under way.
#[derive(Debug, Default)]
pub struct Flight {
    letters: BTreeMap<u64, Vec<Letter>>,
    copies: Vec<OwnedFd>,
}

/// A socket whose queue is to be read.
struct Full {
    facts: SocketFacts,
    socket: OwnedFd,
}

impl Full {
    /// The socket, if there may be something in its queue.
    fn of(socket: OwnedFd, link: &[u8]) -> Result<Option<Self>> {
        let facts = SocketFacts::of(socket.as_fd(), link)?;
        let has_queue = facts.family == libc::AF_UNIX && !facts.listens;
        Ok((has_queue && queue::may_hold(socket.as_fd(), facts.kind)?)
            .then_some(Self { facts, socket }))
    }
}

impl Flight {
    /// Reads the queues of all unix sockets in these slots, and of those that are in flight themselves.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read<'l>(
        owners: &[Owner<'_>],
        slots: &[Slot],
        links: impl Iterator<Item = &'l [u8]>,
    ) -> Result<Self> {
        let mut flight = Self::default();
        let mut seen = BTreeSet::new();
        let mut next = Vec::new();
        for (slot, link) in slots.iter().zip(links) {
            if inode_of(link).is_some_and(|inode| seen.insert(inode)) {
                next.extend(Full::of(owners[slot.owner].copy(slot.number)?, link)?);
            }
        }
        while !next.is_empty() {
            raise_limit(0)?;
            next = flight.read_queues(&next, &mut seen)?;
        }
        Ok(flight)
    }

    /// Reads some queues; gives the sockets in flight that are new.
    fn read_queues(&mut self, full: &[Full], seen: &mut BTreeSet<u64>) -> Result<Vec<Full>> {
        let what = || "looking at a descriptor in flight".to_owned();
        let first = self.copies.len();
        {
            let _reading =
                Reading::begin(full.iter().map(|full| full.socket.as_fd()), queue::CHANGES)?;
            for full in full {
                let mut letters = Vec::new();
                for waiting in queue::read(full.socket.as_fd(), full.facts.kind)? {
                    letters.push(Letter {
                        numbers: waiting.descriptors.iter().map(AsRawFd::as_raw_fd).collect(),
                        bytes: waiting.bytes,
                        from: waiting.from,
                        credentials: waiting.credentials,
                        mark: waiting.mark,
                    });
                    self.copies.extend(waiting.descriptors);
                }
                self.letters.insert(full.facts.inode, letters);
            }
        }
        let mut next = Vec::new();
        for copy in &self.copies[first..] {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", copy.as_raw_fd()))
                .attempt(what)?
                .into_os_string()
                .into_vec();
            if inode_of(&link).is_some_and(|inode| seen.insert(inode)) {
                next.extend(Full::of(copy.try_clone().attempt(what)?, &link)?);
            }
        }
        Ok(next)
    }

    /// The messages in the queue of a socket, by its inode number.
    pub fn letters(&self, inode: u64) -> &[Letter] {
        self.letters.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// The numbers of all descriptors in flight; none when there are none.
    pub fn numbers(&self) -> Option<Vec<i32>> {
        let numbers: Vec<i32> = self.copies.iter().map(AsRawFd::as_raw_fd).collect();
        (!numbers.is_empty()).then_some(numbers)
    }
}

impl Job<'_> {
    /// Whether nothing moves.
    pub fn is_frozen(&self) -> bool {
        self.motion == Motion::Frozen
    }

    /// Whether some descriptors are in flight that have not been looked at: while the job runs, queues are left alone. What is
    /// nowhere else may be among them.
    pub fn hides_descriptors(&self) -> bool {
        let mut all = self.descriptions.iter();
        self.motion == Motion::Running
            && all.any(|description| description.facts.info.scm_fds.unwrap_or(0) > 0)
    }

    /// Marks unix sockets that lead out of the job and are standard streams.
    pub(super) fn find_standard_sockets(&mut self) {
        let standard = |description: &Description| {
            let mut numbers = description.slots.iter().map(|slot| slot.number);
            description.facts.is_socket() && numbers.any(|number| (0..3).contains(&number))
        };
        if !self.external.refuses() || !self.descriptions.iter().any(standard) {
            return;
        }
        let found: Vec<usize> = (0..self.descriptions.len())
            .filter(|&index| {
                let description = &self.descriptions[index];
                standard(description) && self.listing().leads_outside(description, self)
            })
            .collect();
        for index in found {
            self.descriptions[index].facts.peer = Peer::Standard;
        }
    }
}

/// Refuses what is nowhere but in flight, and cannot be rebuilt there.
pub(super) fn inspect(description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
    let owner = job.owner(description.first());
    if !owner.is_flight() {
        return;
    }
    let facts = &description.facts;
    let tied = [
        (
            !description.locks.is_empty(),
            "a file with a lock that belongs to its description",
        ),
        (facts.addressee.is_some(), "a descriptor that sends signals"),
    ];
    for (_, what) in tied.iter().filter(|(found, _)| *found) {
        refusals.add(
            owner.label(),
            job.name(description),
            format!("{what} is nowhere but in the queue of a unix socket"),
            "try again once a program has received it",
        );
    }
}
