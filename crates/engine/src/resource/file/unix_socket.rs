//! Unix sockets: names, connections, and everything that is under way in them.
//!
//! sock_diag(7) lists who is connected to whom, who waits to be accepted, names and closed directions; getsockopt(2) on a copy of
//! the descriptor tells the options; MSG_PEEK shows the queues (see `queue`). At a restart a socket is made by the process that
//! made it, so far as it is known, so that its peer is told the same credentials (SO_PEERCRED). A socket file is made anew in a
//! directory of its own and moved into place, over the one that the job left behind.
//!
//! Refused: data on a connection that has not been accepted, which nobody can read; messages behind an error that was not told
//! yet; sockets of network namespaces that no process of the job is in, nor we. Not preserved: inode numbers, security labels, timestamps of messages that wait,
//! supplementary groups of peers (SO_PEERGROUPS); the numbers of peers and senders that have ended in a pid namespace of the
//! job's own, which nothing translates for us; empty messages in the middle of a queue that an earlier checkpoint has seen: the
//! kernel shows them once. A restart that is killed may leave a directory `.cryo-sockets-…` beside a socket file.

mod fill;
mod make;
mod plan;
pub(crate) mod queue;
mod record;
mod socket_file;
mod standing;

use std::os::fd::{AsFd, BorrowedFd};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::socket::diagnosis::UnixSocket as Listed;
use cryonaut_sys::socket::{self, End};

use super::DescriptorKind;
use super::facts::{Description, FdFacts, Job, Peer};
use super::socket::{SocketFacts, Usual, options};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Support};
use crate::target::External;
use crate::{Error, Refusals, Result};

pub(crate) use record::UnixSocket;
use record::{Link, Message, Sender, TAKEN, URGENT, readable};
use standing::Standing;
pub(crate) use standing::{Listing, holder};

/// The kind.
pub(super) struct UnixSockets;

impl DescriptorKind for UnixSockets {
    fn kinds(&self) -> &'static [Kind] {
        const { &[UnixSocket::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        let is_unix = facts
            .socket
            .is_some_and(|socket| socket.family == libc::AF_UNIX);
        is_unix && facts.peer != Peer::Standard
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let Some(facts) = description.facts.socket else {
            return;
        };
        let label = job.owner(description.first()).label();
        let object = format!("{}, {}", job.name(description), facts.name());
        match job.listing().standing(&facts, job) {
            Standing::Unknown(why) => refusals.add(
                label,
                object,
                why,
                "start cryo in the job's network namespace, on a kernel with CONFIG_UNIX_DIAG",
            ),
            Standing::Outside(_) if job.hides_descriptors() => {}
            Standing::Outside(peer) if job.external.refuses() => {
                refusals.add(
                    label,
                    object,
                    format!("{} is outside the job", outside(description, peer, job)),
                    "take that process into the job as well, or say what becomes of it: --external close (as if the peer \
                     had closed) or --external reconnect (a restart connects it again)",
                );
            }
            Standing::Connected(peer) if facts.kind == libc::SOCK_DGRAM => {
                let peer = job.listing().of(peer);
                let elsewhere =
                    |peer: &Listed| peer.name.is_empty() && peer.peer != Some(facts.inode);
                if peer.is_some_and(elsewhere) {
                    refusals.add(
                        label,
                        object,
                        "it is connected to a socket without a name that has another peer",
                        "give that socket a name (bind), or close this one before the checkpoint",
                    );
                }
            }
            // While the job runs these come and go.
            Standing::Listening { waiting, .. } if job.is_frozen() => {
                inspect_waiting(&waiting, job, (label, &object), refusals);
            }
            _ => {}
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        let mut usual = Usual::default();
        for description in descriptions {
            if let Some(facts) = description.facts.socket {
                collection.put(&record_of(description, &facts, job, &mut usual)?)?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        plan::plan(records, host, plan)
    }
}

/// What a person calls the peer of a socket that leads out of the job.
fn outside(description: &Description, peer: u64, job: &Job<'_>) -> String {
    let address = job
        .copy(description)
        .ok()
        .and_then(|copy| socket::address(copy.as_fd(), End::Peer).ok())
        .and_then(|address| address.unix_name());
    let at = address.map_or(String::new(), |name| format!(" at {}", readable(&name)));
    match standing::holder(peer).filter(|_| peer != 0) {
        Some((pid, name)) => format!("its peer, process {pid} ({name}){at},"),
        None => format!("its peer{at}"),
    }
}

/// The most descriptors that are in flight with one message.
pub(super) fn most_in_a_message(records: &RecordSet) -> Result<usize> {
    let sockets = records.all::<UnixSocket>()?;
    let messages = sockets.iter().flat_map(|socket| &socket.queue);
    let counts = messages.map(|message| message.descriptors.len());
    Ok(counts.max().unwrap_or(0))
}

/// Whether a connection waits to be accepted that holds what nobody can read: likely not for long.
pub(super) fn is_unsettled(job: &Job<'_>) -> bool {
    let sockets = job.descriptions.iter().filter_map(|description| {
        let facts = description.facts.socket?;
        (facts.family == libc::AF_UNIX && facts.listens).then_some(facts)
    });
    let mut refusals = Refusals::default();
    for facts in sockets {
        if let Standing::Listening { waiting, .. } = job.listing().standing(&facts, job) {
            inspect_waiting(&waiting, job, ((0, ""), ""), &mut refusals);
        }
    }
    !refusals.list().is_empty()
}

/// Refuses connections that wait to be accepted and hold what nobody can read.
fn inspect_waiting(
    waiting: &[u64],
    job: &Job<'_>,
    (label, object): ((i32, &str), &str),
    refusals: &mut Refusals,
) {
    for &client in waiting {
        let reason = match job.socket(client) {
            None if client == 0 => {
                "a connection waits to be accepted whose client has gone: what it sent cannot be read"
            }
            None if job.external.refuses() && !job.hides_descriptors() => {
                "a connection from outside the job waits to be accepted"
            }
            None => continue,
            Some(description) => {
                let sent = job
                    .copy(description)
                    .and_then(|copy| socket::unreceived(copy.as_fd()).attempt(String::new));
                if sent.unwrap_or(0) == 0 {
                    continue;
                }
                "data was sent on a connection that waits to be accepted, which nobody can read until then"
            }
        };
        let remedy = "try again once the program has accepted it";
        refusals.add(label, object, reason, remedy);
    }
}

/// The record of one socket.
fn record_of(
    description: &Description,
    facts: &SocketFacts,
    job: &Job<'_>,
    usual: &mut Usual,
) -> Result<UnixSocket> {
    let copy = job.copy(description)?;
    let socket = copy.as_fd();
    let listing = job.listing();
    let standing = listing.standing(facts, job);
    let own = |end: End| {
        socket::address(socket, end)
            .ok()
            .and_then(|address| address.unix_name())
    };
    let name = own(End::Own);
    let peer_name = match standing {
        Standing::Gone | Standing::Outside(_) => own(End::Peer),
        _ => None,
    };
    let owner = job.owner(description.first());
    let mut record = UnixSocket {
        object: description.object,
        flags: description.facts.flags(),
        inode: facts.inode,
        kind: facts.kind,
        process: if owner.is_flight() { 0 } else { owner.inner },
        options: options(socket, facts, usual)?,
        accepted: is_accepted(facts, &standing, name.as_deref(), peer_name.as_deref(), job),
        name,
        peer_name,
        shutdown: listing
            .of(facts.inode)
            .map_or(0, |listed| listed.shutdown.into()),
        queue: queue_of(facts, job)?,
        peer_credentials: peer_credentials(socket, job),
        network: listing.network_of(socket),
        ..UnixSocket::default()
    };
    let link = match standing {
        Standing::Alone => Link::Alone,
        Standing::Listening { backlog, waiting } => {
            record.backlog = backlog;
            let inside = waiting
                .into_iter()
                .filter(|client| job.socket(*client).is_some());
            record.waiting = inside.collect();
            Link::Listening
        }
        Standing::Connected(peer) => {
            record.peer = peer;
            Link::Connected
        }
        Standing::Waiting(listener) => {
            record.peer = listener;
            Link::Waiting
        }
        Standing::Gone => {
            record.reset = has_error(socket)?;
            Link::Gone
        }
        Standing::Outside(_) => {
            record.reconnect = job.external == External::Reconnect && record.peer_name.is_some();
            if facts.kind != libc::SOCK_DGRAM && !record.reconnect {
                record.shutdown = 3;
            }
            Link::Gone
        }
        Standing::Unknown(why) => return Err(Error::Failed(why)),
    };
    record.set_link(link);
    if record.is_bound() && record.path_name().is_some() {
        record.file = socket_file::find(description, socket, facts, job)?;
        if record.file.is_none() {
            return Err(lost_file(description, &record, job));
        }
    }
    Ok(record)
}

/// A refusal of a socket whose file may be anywhere.
fn lost_file(description: &Description, record: &UnixSocket, job: &Job<'_>) -> Error {
    let mut refusals = Refusals::default();
    refusals.add(
        job.owner(description.first()).label(),
        job.name(description),
        format!(
            "it is bound to {}, a path relative to a directory that is not known, and no such file is found: \
             it may have been deleted, or the program has changed its directory",
            readable(record.name.as_deref().unwrap_or_default())
        ),
        "make the checkpoint as root, who is told where the file is, or have the program bind to an absolute path",
    );
    refusals.into_result().err().unwrap_or(Error::Interrupted)
}

/// Whether a connected socket has its name from the one that accepted it. A pair has no names, and an accepted socket always has
/// one: so a socket with a name whose peer has none was accepted. Where both have one, the name of a socket that listens decides.
fn is_accepted(
    facts: &SocketFacts,
    standing: &Standing,
    name: Option<&[u8]>,
    peer_name: Option<&[u8]>,
    job: &Job<'_>,
) -> bool {
    let Some(name) = name.filter(|_| facts.kind != libc::SOCK_DGRAM) else {
        return false;
    };
    let listens = |name: &[u8]| job.listing().listens_at(facts.kind, name);
    match standing {
        Standing::Connected(peer) => {
            let other = job.listing().of(*peer).map(|peer| peer.name.as_slice());
            match other.filter(|other| !other.is_empty()) {
                None => true,
                Some(other) => listens(name) || !listens(other) && facts.inode > *peer,
            }
        }
        Standing::Gone | Standing::Outside(_) => peer_name.is_none() || listens(name),
        _ => false,
    }
}

fn has_error(socket: BorrowedFd<'_>) -> Result<bool> {
    let events = descriptor::poll_now(socket, 0).attempt(|| "looking at a socket".into())?;
    Ok(events & libc::POLLERR != 0)
}

/// A pid as we see it, as the job's own namespace has it; 0 when it is not visible there.
fn inner_pid(pid: i32, job: &Job<'_>) -> i32 {
    // In our own namespace all numbers are the same.
    let shared = || job.members.iter().all(|(outer, inner)| outer == inner);
    match job.members.get(&pid) {
        Some(inner) => *inner,
        None if shared() => pid,
        None => 0,
    }
}

/// Who the peer was, where the kernel tells (SO_PEERCRED: struct ucred).
fn peer_credentials(socket: BorrowedFd<'_>, job: &Job<'_>) -> Option<Sender> {
    let value = socket::option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, 12).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?));
    let (pid, user, group) = (word(0)? as i32, word(4)?, word(8)?);
    // Without a peer the kernel gives all ones for user and group.
    (user != u32::MAX).then(|| Sender {
        process: inner_pid(pid, job),
        user,
        group,
    })
}

fn queue_of(facts: &SocketFacts, job: &Job<'_>) -> Result<Vec<Message>> {
    let mut queue = Vec::new();
    for letter in job.letters(facts.inode) {
        let mut descriptors = Vec::with_capacity(letter.numbers.len());
        for &number in &letter.numbers {
            let found = job.in_flight(number).ok_or_else(|| {
                Error::Failed("a descriptor in flight could not be found again".into())
            })?;
            descriptors.push(found.object);
        }
        queue.push(Message {
            bytes: letter.bytes.clone(),
            from: letter.from.clone(),
            sender: letter.credentials.map(|sender| Sender {
                process: inner_pid(sender.pid, job),
                user: sender.user,
                group: sender.group,
            }),
            descriptors,
            mark: match letter.mark {
                queue::Mark::None => 0,
                queue::Mark::Urgent => URGENT,
                queue::Mark::Taken => TAKEN,
            },
        });
    }
    Ok(queue)
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Unix sockets (stream, datagram, seqpacket): pairs, named, abstract, unlinked, listening with connections not accepted yet, half-closed, with peers that have gone",
        level: Level::Restored,
        how: "with everything in their queues: message borders, sender addresses, descriptors in flight (SCM_RIGHTS, nested and in circles), the urgent byte; with their options, and in network namespaces that the job has made itself",
    },
    Support {
        what: "Unix sockets: credentials of peers and senders (SO_PEERCRED, SCM_CREDENTIALS)",
        level: Level::Partly,
        how: "those of processes of the job, and of processes that have ended: but for these in a pid namespace of the job's own the kernel does not tell us the number, and where it is taken when the job is restarted, the peer is a process that has the socket",
    },
    Support {
        what: "Unix sockets whose peer is outside the job",
        level: Level::Partly,
        how: "refused with the peer's name; with --external close they come back as if the peer had closed, with --external reconnect they are connected again to the same name",
    },
    Support {
        what: "Unix sockets: data sent on a connection that nobody has accepted yet",
        level: Level::Refused,
        how: "no interface shows it; try again once the program has accepted it",
    },
    Support {
        what: "Unix sockets bound to a relative path whose file is not found there, as an ordinary user",
        level: Level::Refused,
        how: "only root is told whether it was deleted or is elsewhere; absolute paths that lead nowhere count as deleted",
    },
    Support {
        what: "Unix sockets: empty messages that wait behind others",
        level: Level::Partly,
        how: "the kernel shows each once: a second checkpoint misses those that still wait",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::file::socket::SocketOption;

    #[test]
    fn a_socket_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let mut socket = UnixSocket {
            object: 3,
            flags: 0o4002,
            inode: 77,
            kind: libc::SOCK_STREAM,
            process: 5,
            options: vec![SocketOption {
                level: 1,
                name: 16,
                value: vec![1, 0, 0, 0],
            }],
            name: Some(b"\0name".to_vec()),
            peer: 78,
            accepted: true,
            shutdown: 2,
            queue: vec![Message {
                bytes: b"hello".to_vec(),
                from: Some(b"/there".to_vec()),
                sender: Some(Sender {
                    process: 5,
                    user: 1,
                    group: 2,
                }),
                descriptors: vec![3, 4],
                mark: URGENT,
            }],
            ..UnixSocket::default()
        };
        socket.set_link(Link::Connected);
        records.push(&socket).unwrap();
        assert_eq!(records.all::<UnixSocket>().unwrap(), [socket]);
    }
}
