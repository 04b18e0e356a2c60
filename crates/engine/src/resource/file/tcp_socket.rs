//! TCP sockets: names, connections, and everything that is under way in them.
//!
//! TCP_INFO tells the state, sock_diag(7) who is connected to whom, getsockopt(2) on a copy of the descriptor the options. What is
//! under way is let arrive (see `settle`) and then looked at where it is received (see `queue`): so nothing is taken from anybody,
//! no privilege is needed, and a job that runs on notices nothing. At a restart both ends of a connection are made again, with the
//! same addresses, and what had not been received is sent again (see `make`).
//!
//! Refused: data on a connection that has not been accepted, which nobody can read; a pending error, which looking at would take
//! away; upper protocols such as TLS in the kernel; sockets of other network namespaces. A connection to a
//! peer outside the job goes on where that is permitted (see `kept` and `revive`), and is refused otherwise. Not preserved:
//! sequence numbers, windows, round-trip times and other measurements, sizes of buffers that the program did not set, TCP_QUICKACK,
//! the order of connections that wait to be accepted, and whether what TCP_CORK and MSG_MORE hold back has been sent.

mod kept;
mod make;
mod plan;
mod queue;
mod record;
mod remains;
mod revive;
mod settle;
mod standing;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, state};

use super::facts::{Description, FdFacts, Job};
use super::internet::{Listing, Place, holders_outside, is_local, reaches, readable, whose};
use super::socket::{SO_BUF_LOCK, SocketFacts, SocketOption, Usual, options, stored_number};
use super::{DescriptorKind, raise_limit};
use crate::checkpoint::Tracer;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::Afterwards;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Support};
use crate::target::{External, Firewall};
use crate::{Error, Refusals, Result};

pub(crate) use kept::{KeptConnections, Parted};
use kept::{Parting, Watched};
pub(crate) use record::TcpSocket;
use record::{Link, TcpConnection, TcpData, TcpSent};
use settle::Flow;
use standing::{Sight, Standing, has_heard_all, is_waiting};

/// How long a job stands still for what is under way to arrive.
const LIMIT: Duration = Duration::from_millis(500);
/// Bytes in one record of data.
const PIECE: usize = 8 << 20;
const TCP_ULP: i32 = 31;
/// What to do about a peer outside.
const REMEDY: &str = "take that process into the job as well, or say what becomes of it: --external close (as if the peer had \
                      closed) or --external reconnect (a restart connects it again)";
const NOT_PERMITTED: &str =
    "; only who has CAP_NET_ADMIN over its network namespace may take a connection along";

const MULTIPATH_CONNECTED: &str =
    "it is connected over Multipath TCP, and the kernel has no way to hand such a connection over";
const WITHOUT_MULTIPATH: &str =
    "have the program use plain TCP (for Go GODEBUG=multipathtcp=0; or sysctl net.mptcp.enabled=0)";

/// The kind.
pub(super) struct TcpSockets;

impl DescriptorKind for TcpSockets {
    fn kinds(&self) -> &'static [Kind] {
        const {
            &[
                TcpSocket::KIND,
                TcpData::KIND,
                TcpConnection::KIND,
                TcpSent::KIND,
            ]
        }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.socket.is_some_and(|socket| {
            matches!(socket.family, libc::AF_INET | libc::AF_INET6)
                && socket.kind == libc::SOCK_STREAM
                && (socket.protocol == libc::IPPROTO_TCP || is_multipath(&socket))
        })
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let Some(facts) = description.facts.socket else {
            return;
        };
        let (label, object) = about(description, &facts, job);
        let sight = job.copy(description).and_then(|copy| {
            Sight::of(copy.as_fd(), &facts, job.connections(), job).map(|sight| (copy, sight))
        });
        // While the job runs it may have been closed.
        let Ok((copy, sight)) = sight else {
            return;
        };
        if is_multipath(&facts) {
            let plain = matches!(
                sight.standing,
                Standing::Alone | Standing::Listening { .. } | Standing::Unknown(_)
            );
            if !plain {
                return refusals.add(label, object, MULTIPATH_CONNECTED, WITHOUT_MULTIPATH);
            }
        } else if let Some(protocol) = upper_protocol(copy.as_fd()) {
            return refusals.add(
                label,
                object,
                format!("the kernel itself speaks {protocol} on it, and keeps its keys"),
                "switch that off in the program (kTLS is an option of TLS libraries)",
            );
        }
        match sight.standing {
            Standing::Unknown(why) => refusals.add(
                label,
                object,
                why,
                "start cryo in the job's network namespace, on a kernel with CONFIG_INET_DIAG",
            ),
            Standing::Outside(..) if job.hides_descriptors() => {}
            Standing::Outside(place, inode) if job.external.refuses() => {
                let obstacle = match job.external {
                    External::Keep(_) if !kept::is_permitted() => {
                        Some((NOT_PERMITTED, "checkpoint it as root"))
                    }
                    External::Keep(_) if kept::has_locked_filter(copy.as_fd()) => {
                        Some(("; its filter is locked, so that it cannot be held back", ""))
                    }
                    External::Keep(_) => None,
                    _ => Some(("", "")),
                };
                if let Some((why, remedy)) = obstacle {
                    let remedy = match remedy {
                        "" => REMEDY.into(),
                        remedy => format!("{remedy}, {REMEDY}"),
                    };
                    let peer = outside(&place, inode);
                    let reason = format!("its peer {peer} is outside the job{why}");
                    refusals.add(label, object, reason, remedy);
                }
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
        if descriptions.is_empty() {
            return Ok(());
        }
        raise_limit(0)?;
        let mut held = Vec::new();
        for description in descriptions {
            if let Some(facts) = description.facts.socket {
                let socket = job.copy(description)?;
                held.push(Held {
                    description,
                    facts,
                    socket,
                });
            }
        }
        let before = Listing::read(libc::IPPROTO_TCP);
        let left = settle::settle(flows(&held, &before, job)?, LIMIT)?;
        let mut refusals = Refusals::default();
        for flow in left {
            let (label, object) = held[flow.index].about(job);
            refusals.add(
                label,
                object,
                "what its peer has sent does not arrive: its buffer is full and may not be made larger",
                "try again once the program has received something, or as root",
            );
        }
        unsettled(refusals)?;
        let listing = Listing::read(libc::IPPROTO_TCP);
        let kept = keep(&held, &listing, job)?;
        let mut saved = Saved {
            job,
            listing,
            usual: Usual::default(),
            refusals: Refusals::default(),
            kept,
        };
        let mut records = Vec::with_capacity(held.len());
        for held in &held {
            let (record, bytes) = saved.record_of(held)?;
            if record.link() == Link::Kept {
                saved.put_connection(held, record, collection)?;
                continue;
            }
            records.push((record, bytes));
        }
        saved.inspect_waiting(&held);
        unsettled(saved.refusals)?;
        // What is left of these stands in nobody's way.
        collection.kept_connections = saved.kept.filter(|_| job.afterwards == Afterwards::Kill);
        let inner = records.iter().map(|(record, _)| record);
        collection.connections.extend(to_cut(inner, &held, job));
        for (record, bytes) in records {
            for piece in bytes.chunks(PIECE) {
                collection.put(&TcpData {
                    inode: record.inode,
                    bytes: piece.to_vec(),
                })?;
            }
            collection.put(&record)?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        plan::plan(records, host, plan)
    }
}

/// Where the connections within the job are: process as we see it, and descriptor.
fn to_cut<'r>(
    records: impl Iterator<Item = &'r TcpSocket>,
    held: &[Held<'_>],
    job: &Job<'_>,
) -> Vec<(i32, i32)> {
    let inside = [Link::Connected, Link::Gone, Link::Waiting];
    let inside = records.filter(|record| inside.contains(&record.link()));
    let places = inside.filter_map(|record| {
        let held = held.iter().find(|it| it.facts.inode == record.inode)?;
        let mut slots = held.description.slots.iter();
        let slot = slots.find(|slot| {
            let owner = job.owner(**slot);
            !owner.is_flight() && !owner.is_thread()
        })?;
        Some((job.owner(*slot).pid, slot.number))
    });
    places.collect()
}

fn unsettled(refusals: Refusals) -> Result<()> {
    match refusals.list() {
        [] => Ok(()),
        list => Err(Error::Unsettled(list.to_vec())),
    }
}

/// Whose a socket is, and what it is called.
fn about<'j>(
    description: &Description,
    facts: &SocketFacts,
    job: &'j Job<'_>,
) -> ((i32, &'j str), String) {
    let label = job.owner(description.first()).label();
    (
        label,
        format!("{}, {}", job.name(description), facts.name()),
    )
}

/// The protocol that the kernel speaks over a connection (kTLS), if any.
fn upper_protocol(socket: BorrowedFd<'_>) -> Option<String> {
    let name = socket::option(socket, libc::IPPROTO_TCP, TCP_ULP, 16).ok()?;
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end_matches('\0');
    (!name.is_empty()).then(|| name.to_owned())
}

/// What a person calls a peer outside the job.
fn outside(place: &Place, inode: u64) -> String {
    match inode {
        0 => readable(place),
        inode => format!("{} ({})", readable(place), whose(inode)),
    }
}

/// A socket with a copy of its descriptor.
struct Held<'d> {
    description: &'d Description,
    facts: SocketFacts,
    socket: OwnedFd,
}

impl Held<'_> {
    fn about<'j>(&self, job: &'j Job<'_>) -> ((i32, &'j str), String) {
        about(self.description, &self.facts, job)
    }
}

fn is_multipath(facts: &SocketFacts) -> bool {
    facts.protocol == libc::IPPROTO_MPTCP
}

/// The directions in which something may be under way.
fn flows<'h>(held: &'h [Held<'_>], listing: &Listing, job: &Job<'_>) -> Result<Vec<Flow<'h>>> {
    let mut flows = Vec::new();
    for (index, receiver) in held.iter().enumerate() {
        let sight = Sight::of(receiver.socket.as_fd(), &receiver.facts, listing, job)?;
        let sender = match sight.standing {
            Standing::Connected(peer) => {
                let peer = held.iter().find(|held| held.facts.inode == peer);
                peer.map(|peer| Some(peer.socket.as_fd()))
            }
            Standing::Gone => Some(None),
            _ => None,
        };
        if let Some(sender) = sender {
            flows.push(Flow {
                sender,
                receiver: receiver.socket.as_fd(),
                index,
            });
        }
    }
    Ok(flows)
}

/// Takes the connections in hand that go on without the job.
fn keep(held: &[Held<'_>], listing: &Listing, job: &Job<'_>) -> Result<Option<KeptConnections>> {
    let External::Keep(firewall) = job.external else {
        return Ok(None);
    };
    let parting = match job.afterwards {
        Afterwards::Kill => Parting::Goes,
        _ => Parting::Stays,
    };
    let mut leaving = Vec::new();
    for held in held {
        let sight = Sight::of(held.socket.as_fd(), &held.facts, listing, job)?;
        if let Standing::Outside(peer, inode) = sight.standing {
            let own = sight.own.place().unwrap_or((peer.0, 0));
            leaving.push((held, (own, peer), inode));
        }
    }
    if leaving.is_empty() {
        return Ok(None);
    }
    if job.tracer == Tracer::Named {
        return Err(Error::NeedsProcessApart);
    }
    let mut refusals = Refusals::default();
    if parting == Parting::Goes {
        let sockets = leaving.iter().map(|(held, ..)| held.facts.inode).collect();
        let holders = holders_outside(&sockets, job);
        for (held, (_, peer), inode) in &leaving {
            let holder = holders.get(&held.facts.inode);
            if let Some((reason, remedy)) = cannot_leave(holder, firewall) {
                let (label, object) = held.about(job);
                let peer = outside(peer, *inode);
                let reason = format!("its peer {peer} is outside the job, {reason}");
                refusals.add(label, object, reason, format!("{remedy}; or {REMEDY}"));
            }
        }
    }
    refusals.into_result()?;
    let mut sockets = Vec::with_capacity(leaving.len());
    for (held, ends, _) in leaving {
        let copy = held.socket.try_clone();
        let copy = copy.attempt(|| "copying a socket".into())?;
        let (label, object) = held.about(job);
        let name = format!("process {}, {object}", label.0);
        sockets.push(Watched::new(copy, held.facts.inode, name, ends)?);
    }
    let processes: Vec<i32> = job.processes().map(|owner| owner.pid).collect();
    KeptConnections::begin(sockets, &processes, (parting, firewall)).map(Some)
}

/// Why a connection cannot go on when its job is killed, and what to do.
fn cannot_leave(
    holder: Option<&(i32, String)>,
    firewall: Firewall,
) -> Option<(String, &'static str)> {
    if firewall == Firewall::Holds && !crate::firewall::is_there() {
        let reason = "and there is no nft to hold the connection while the job is on a disk: the kernel would reset it as soon as \
                      the peer sends anything";
        let remedy = "install nftables, or go without (--no-firewall)";
        return Some((reason.into(), remedy));
    }
    let (pid, name) = holder?;
    Some((
        format!("and process {pid} ({name}), which is not in the job, has the socket too"),
        "have that process close it",
    ))
}

/// What the user should know of the connections of an image that was just made: a warning is what stays on this machine, and has to
/// be undone by hand if the image is thrown away.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn remarks(
    records: &RecordSet,
    remarks: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let connections = records.all::<TcpConnection>()?;
    let Some(first) = connections.first() else {
        return Ok(());
    };
    let count = super::Count(connections.len(), "connection");
    match first.table.as_str() {
        "" => remarks.push(format!(
            "{count} to outside the job can be resumed only as long as neither side has sent anything more: peers forget what \
             a machine denies"
        )),
        table => warnings.push(format!(
            "the firewall holds {count} to outside the job (table inet {table}) until the restart; peers wait for some minutes. To \
             give the job up: nft delete table inet {table}"
        )),
    }
    Ok(())
}

/// What is being saved.
struct Saved<'j, 'a> {
    job: &'j Job<'a>,
    listing: Listing,
    usual: Usual,
    refusals: Refusals,
    /// The connections to outside that go on.
    kept: Option<KeptConnections>,
}

impl Saved<'_, '_> {
    /// Saves a socket whose connection goes on, and that connection.
    fn put_connection(
        &mut self,
        held: &Held<'_>,
        mut record: TcpSocket,
        collection: &mut Collection,
    ) -> Result<()> {
        let kept = self.kept.as_mut().ok_or_else(|| {
            Error::Failed("a connection appeared while its job stood still".into())
        })?;
        let look = kept.look(record.inode)?;
        let Some(unread) = look.unread.filter(|unread| unread.urgent.is_none()) else {
            self.refuse(
                held,
                "an urgent byte is under way in it, and its peer is outside the job",
                "try again once the program has received it",
            );
            return Ok(());
        };
        if !look.filter.is_empty() {
            record.options.push(SocketOption {
                level: libc::SOL_SOCKET,
                name: libc::SO_ATTACH_FILTER,
                value: look.filter,
            });
        }
        for piece in unread.bytes.chunks(PIECE) {
            collection.put(&TcpData {
                inode: record.inode,
                bytes: piece.to_vec(),
            })?;
        }
        for piece in look.sent.chunks(PIECE) {
            collection.put(&TcpSent {
                inode: record.inode,
                bytes: piece.to_vec(),
            })?;
        }
        collection.put(&look.connection)?;
        collection.put(&record)
    }

    fn refuse(&mut self, held: &Held<'_>, reason: &str, remedy: &str) {
        let (label, object) = held.about(self.job);
        self.refusals.add(label, object, reason, remedy);
    }

    /// The record of a socket, and what it has not received.
    fn record_of(&mut self, held: &Held<'_>) -> Result<(TcpSocket, Vec<u8>)> {
        let socket = held.socket.as_fd();
        let sight = Sight::of(socket, &held.facts, &self.listing, self.job)?;
        let events = descriptor::poll_now(socket, 0).unwrap_or(0);
        if events & libc::POLLERR != 0 {
            self.refuse(
                held,
                "it holds an error that its program has not been told yet, and looking at it would take it away",
                "try again once the program has used the socket",
            );
        }
        let listed = self.listing.of(held.facts.inode);
        let mut record = TcpSocket {
            object: held.description.object,
            flags: held.description.facts.flags(),
            inode: held.facts.inode,
            family: held.facts.family,
            options: kept_options(socket, &held.facts, sight.tcp.state, &mut self.usual)?,
            own_address: Some(sight.own)
                .filter(|own| own.place().is_some_and(|(_, port)| port != 0))
                .map(|own| own.bytes().to_vec()),
            peer_address: sight.to.map(|to| to.bytes().to_vec()),
            shutdown: listed.map_or(0, |listed| listed.shutdown.into()),
            multipath: is_multipath(&held.facts),
            ..TcpSocket::default()
        };
        let link = match sight.standing {
            Standing::Alone => Link::Alone,
            Standing::Listening { backlog } => {
                record.backlog = backlog;
                Link::Listening
            }
            Standing::Connected(peer) => {
                record.peer = peer;
                Link::Connected
            }
            Standing::Gone => Link::Gone,
            Standing::Waiting => Link::Waiting,
            Standing::Connecting => Link::Connecting,
            Standing::Ended => Link::Ended,
            Standing::Outside(..) if self.job.external == External::Reconnect => Link::Again,
            Standing::Outside(..) if self.job.external.keeps() => Link::Kept,
            Standing::Outside(..) => Link::Ended,
            Standing::Unknown(why) => return Err(Error::Failed(why)),
        };
        record.set_link(link);
        if record.multipath && !matches!(link, Link::Alone | Link::Listening) {
            self.refuse(held, MULTIPATH_CONNECTED, WITHOUT_MULTIPATH);
            return Ok((record, Vec::new()));
        }
        let named = matches!(link, Link::Alone | Link::Listening);
        let own = record.own().filter(|_| named);
        record.foreign = own.is_some_and(|own| !is_local(&own));
        let mut bytes = Vec::new();
        if matches!(
            link,
            Link::Connected | Link::Gone | Link::Ended | Link::Waiting
        ) {
            let expected = listed.filter(|_| link != Link::Ended).map(|listed| {
                let end = has_heard_all(listed.state) && listed.read_queue > 0;
                listed.read_queue as usize - usize::from(end)
            });
            match queue::unread(socket, expected)? {
                Some(unread) => {
                    record.urgent = unread.urgent.map(|at| at as u64);
                    record.urgent_taken = unread.urgent_taken;
                    bytes = unread.bytes;
                }
                None => self.refuse(
                    held,
                    "an urgent byte is under way in it, and what lies beyond cannot be looked at",
                    "try again once the program has received it",
                ),
            }
        }
        Ok((record, bytes))
    }

    /// Refuses connections that wait to be accepted and hold what nobody can read, or come from outside.
    fn inspect_waiting(&mut self, held: &[Held<'_>]) {
        for listener in held.iter().filter(|held| held.facts.listens) {
            let Some(own) = self
                .listing
                .of(listener.facts.inode)
                .map(|listed| listed.own)
            else {
                continue;
            };
            let mut reasons = Vec::new();
            for waiting in self.listing.all() {
                if !is_waiting(waiting) || !reaches(&own, &waiting.own) {
                    continue;
                }
                let client = self.listing.between(waiting.peer, waiting.own);
                let client = client.filter(|client| client.inode != 0);
                let inside = client.filter(|client| self.job.socket(client.inode).is_some());
                let closed = u32::from(waiting.state == state::CLOSE_WAIT);
                let data = waiting.read_queue > closed;
                let unsent = inside.is_some_and(|client| {
                    waiting.state == state::SYN_RECV && client.write_queue > 0
                });
                match (inside, client) {
                    (Some(_), _) if data || unsent => reasons.push(
                        "data was sent on a connection that waits to be accepted, which nobody can read until then".into(),
                    ),
                    (Some(_), _) => {}
                    (None, Some(_)) | (None, None) if !self.job.external.refuses() => {}
                    (None, client) => reasons.push(format!(
                        "a connection from {} waits to be accepted, which is outside the job or has gone",
                        outside(&waiting.peer, client.map_or(0, |client| client.inode))
                    )),
                }
            }
            for reason in reasons {
                self.refuse(
                    listener,
                    &reason,
                    "try again once the program has accepted it",
                );
            }
        }
    }
}

/// The options of a socket that are worth keeping: sizes of buffers and the like only where the program has set them.
fn kept_options(
    socket: BorrowedFd<'_>,
    facts: &SocketFacts,
    state: u8,
    usual: &mut Usual,
) -> Result<Vec<SocketOption>> {
    const TCP_MAXSEG: i32 = 2;
    const TCP_WINDOW_CLAMP: i32 = 10;
    let mut found = options(socket, facts, usual)?;
    let locked = stored_number(&found, SO_BUF_LOCK).unwrap_or(0);
    let room = stored_number(&found, libc::SO_RCVBUF).unwrap_or(0);
    let connected = !matches!(state, state::CLOSE | state::LISTEN);
    found.retain(|option| match (option.level, option.name) {
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => locked & 1 != 0,
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => locked & 2 != 0,
        (libc::SOL_SOCKET, libc::SO_INCOMING_CPU) => !connected,
        // What is in use now, whatever was asked for.
        (libc::IPPROTO_TCP, TCP_MAXSEG) => {
            !connected && number_of(option).is_some_and(|size| (88..=32767).contains(&size))
        }
        (libc::IPPROTO_TCP, TCP_WINDOW_CLAMP) => {
            let clamp = option
                .value
                .first_chunk()
                .map_or(0, |value| i32::from_ne_bytes(*value));
            !connected || clamp < room / 4
        }
        _ => true,
    });
    Ok(found)
}

fn number_of(option: &SocketOption) -> Option<i32> {
    option
        .value
        .first_chunk()
        .map(|value| i32::from_ne_bytes(*value))
}

const SUPPORT: &[Support] = &[
    Support {
        what: "TCP sockets, IPv4 and IPv6: bound, listening (SO_REUSEPORT groups too), with connections not accepted yet, connecting",
        level: Level::Restored,
        how: "at the same addresses, also such as the machine does not have (IP_FREEBIND), with backlog and options; a port that \
              somebody else has by then is a refusal. The kernel does not show programs that choose within a group \
              (SO_ATTACH_REUSEPORT_CBPF, _EBPF): it chooses itself then",
    },
    Support {
        what: "Multipath TCP: sockets that listen, as those of Go programs do, and what they have accepted from peers with plain TCP",
        level: Level::Restored,
        how: "as those of TCP",
    },
    Support {
        what: "Connections over Multipath TCP",
        level: Level::Refused,
        how: "the kernel has no way to hand them over; have the program use plain TCP (GODEBUG=multipathtcp=0)",
    },
    Support {
        what: "TCP connections with both ends in the job: open, half-closed, closed, with a peer that has gone",
        level: Level::Restored,
        how: "without privilege: what was under way in both directions, the urgent byte, options; a job that runs on notices nothing. \
              New sequence numbers and measurements; what TCP_CORK holds back is sent; buffers that the program did not size are the \
              kernel's to size",
    },
    Support {
        what: "TCP connections whose peer is outside the job, with CAP_NET_ADMIN over the network namespace (root, or one's own)",
        level: Level::Partly,
        how: "the peer notices nothing: sequence numbers, windows, options, timestamps, unread and unsent data, closed directions \
              (TCP_REPAIR). With --kill the firewall (nft) drops their segments until the restart, which needs the same addresses; \
              --no-firewall does without. Peers give up after some minutes (for Linux tcp_retries2); without CAP_NET_ADMIN over the initial \
              namespace about three times half of net.core.wmem_max may be unconfirmed, otherwise it is refused. What an image of a job that ran \
              on has is resumed only if nothing was sent since. Not kept: ECN, urgent bytes (refused), congestion and round-trip \
              measurements; where the peer has closed, the kernel says ESTABLISHED instead of CLOSE_WAIT",
    },
    Support {
        what: "TCP connections whose peer is outside the job, otherwise",
        level: Level::Partly,
        how: "refused with the peer's name; with --external close they come back as if the peer had closed, with --external reconnect \
              they are connected again to the same address",
    },
    Support {
        what: "TCP: data sent on a connection that nobody has accepted yet, errors that the program has not been told yet, kTLS and \
               other upper protocols, another network namespace than that of cryo",
        level: Level::Refused,
        how: "no interface shows them without taking them; what passes by itself is tried for two seconds",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let mut socket = TcpSocket {
            object: 3,
            flags: 0o4002,
            inode: 77,
            family: libc::AF_INET,
            options: vec![SocketOption {
                level: 6,
                name: 1,
                value: vec![1, 0, 0, 0],
            }],
            own_address: Some(vec![2, 0, 0, 80, 127, 0, 0, 1]),
            peer: 78,
            shutdown: 2,
            urgent: Some(3),
            ..TcpSocket::default()
        };
        socket.set_link(Link::Connected);
        let data = TcpData {
            inode: 77,
            bytes: b"hello".to_vec(),
        };
        records.push(&socket).unwrap();
        records.push(&data).unwrap();
        assert_eq!(records.all::<TcpSocket>().unwrap(), [socket]);
        assert_eq!(records.all::<TcpData>().unwrap(), [data]);
    }
}
