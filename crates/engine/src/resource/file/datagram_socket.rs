//! Internet sockets without connections: UDP, UDP-lite, ping and raw sockets.
//!
//! getsockopt(2) on a copy of the descriptor tells the options, and of each multicast group of this machine whether the socket is a
//! member (see `group`); MSG_PEEK shows the queue. At a restart what waits is sent again from the addresses that it came from, which
//! must be this machine's own.
//!
//! Refused: datagrams from other machines, which nobody here can send again; a datagram that is being put together (UDP_CORK,
//! MSG_MORE); anything in the queue of a raw or ping socket; errors that the program has not been told yet; encapsulation (UDP_ENCAP).
//! Not preserved: times, hop limits and service types of what waits; empty datagrams that an earlier checkpoint has seen: the kernel
//! shows them once; IP_ROUTER_ALERT.

mod group;
mod make;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Address, End};

use super::facts::{Description, FdFacts, Job};
use super::internet::{self, Listing, Ownership, check_name, readable};
use super::socket::{SocketFacts, SocketOption, Usual, check, options};
use super::{Count, DescriptorKind, holders};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

pub use group::Membership;

const UDP_ENCAP: i32 = 100;

/// An internet socket without connections.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DatagramSocket {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its inode number then.
    #[prost(uint64, tag = "3")]
    pub inode: u64,
    /// `AF_INET` or `AF_INET6`.
    #[prost(int32, tag = "4")]
    pub family: i32,
    /// `SOCK_DGRAM` or `SOCK_RAW`.
    #[prost(int32, tag = "5")]
    pub kind: i32,
    /// The protocol.
    #[prost(int32, tag = "6")]
    pub protocol: i32,
    /// Its options.
    #[prost(message, repeated, tag = "7")]
    pub options: Vec<SocketOption>,
    /// Its own address (struct sockaddr_in, sockaddr_in6); absent for one without.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub own_address: Option<Vec<u8>>,
    /// The address that it is connected to.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub peer_address: Option<Vec<u8>>,
    /// Closed directions: 1 receiving, 2 sending.
    #[prost(uint32, tag = "10")]
    pub shutdown: u32,
    /// The multicast groups that it is a member of.
    #[prost(message, repeated, tag = "11")]
    pub groups: Vec<Membership>,
    /// What it has not received yet, in order.
    #[prost(message, repeated, tag = "12")]
    pub queue: Vec<Datagram>,
    /// Whether its own address was none of the machine's (IP_FREEBIND).
    #[prost(bool, tag = "13")]
    pub foreign: bool,
}

impl Record for DatagramSocket {
    const KIND: Kind = Kind {
        name: "file.datagram-socket",
        version: 1,
    };
}

/// A datagram.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Datagram {
    /// Its bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// Where it came from (struct sockaddr_in, sockaddr_in6).
    #[prost(bytes = "vec", tag = "2")]
    pub from: Vec<u8>,
    /// The address that it was sent to, in network order, where the socket is told that (IP_PKTINFO, IPV6_RECVPKTINFO).
    #[prost(bytes = "vec", optional, tag = "3")]
    pub to: Option<Vec<u8>>,
}

impl DatagramSocket {
    fn own(&self) -> Option<Address> {
        self.own_address.clone().map(Address::from_bytes)
    }

    fn to(&self) -> Option<Address> {
        self.peer_address.clone().map(Address::from_bytes)
    }
}

/// The kind.
pub(super) struct DatagramSockets;

impl DescriptorKind for DatagramSockets {
    fn kinds(&self) -> &'static [Kind] {
        const { &[DatagramSocket::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.socket.is_some_and(|socket| {
            let datagrams = [
                libc::IPPROTO_UDP,
                libc::IPPROTO_UDPLITE,
                libc::IPPROTO_ICMP,
                libc::IPPROTO_ICMPV6,
            ];
            matches!(socket.family, libc::AF_INET | libc::AF_INET6)
                && (socket.kind == libc::SOCK_DGRAM && datagrams.contains(&socket.protocol)
                    || socket.kind == libc::SOCK_RAW)
        })
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let (Some(facts), Ok(copy)) = (description.facts.socket, job.copy(description)) else {
            return;
        };
        let label = job.owner(description.first()).label();
        let object = format!("{}, {}", job.name(description), facts.name());
        if job.connections().is_elsewhere(copy.as_fd()) {
            refusals.add(
                label,
                object,
                "it belongs to another network namespace than this cryo",
                "start cryo in the job's network namespace",
            );
        } else if is_encapsulation(copy.as_fd(), &facts) {
            refusals.add(
                label,
                object,
                "the kernel takes tunnelled packets from it (UDP_ENCAP), and keeps their state",
                "end the tunnel before the checkpoint",
            );
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        let mut usual = Usual::default();
        let mut refusals = Refusals::default();
        let mut records = Vec::new();
        let mut listings = BTreeMap::new();
        let candidates = if descriptions.is_empty() {
            Vec::new()
        } else {
            group::candidates()
        };
        for description in descriptions {
            let Some(facts) = description.facts.socket else {
                continue;
            };
            let copy = job.copy(description)?;
            let socket = copy.as_fd();
            let found = queue::read(socket, &facts)?;
            let found = found.and_then(|queue| check_senders(&queue).map(|()| queue));
            let queue = match found {
                Ok(queue) => queue,
                Err(reason) => {
                    refusals.add(
                        job.owner(description.first()).label(),
                        format!("{}, {}", job.name(description), facts.name()),
                        reason,
                        "try again once the program has used the socket",
                    );
                    continue;
                }
            };
            let address = |end: End| socket::address(socket, end).ok();
            let own = address(End::Own).filter(|own| {
                let place = own.place();
                place.is_some_and(|(ip, port)| {
                    port != 0 && facts.kind != libc::SOCK_RAW || !ip.is_unspecified()
                })
            });
            let listing = listings
                .entry(facts.protocol)
                .or_insert_with(|| Listing::read(facts.protocol));
            let shutdown = descriptor::poll_now(socket, libc::POLLRDHUP)
                .attempt(|| "looking at a socket".into())?;
            records.push(DatagramSocket {
                object: description.object,
                flags: description.facts.flags(),
                inode: facts.inode,
                family: facts.family,
                kind: facts.kind,
                protocol: facts.protocol,
                options: options(socket, &facts, &mut usual)?,
                foreign: own.as_ref().is_some_and(is_foreign),
                own_address: own.map(|own| own.bytes().to_vec()),
                peer_address: address(End::Peer).map(|to| to.bytes().to_vec()),
                shutdown: match listing.of(facts.inode) {
                    Some(listed) => listed.shutdown.into(),
                    None => closed(shutdown),
                },
                groups: group::of(socket, &candidates),
                queue,
            });
        }
        if !refusals.list().is_empty() {
            return Err(Error::Unsettled(refusals.list().to_vec()));
        }
        records.iter().try_for_each(|record| collection.put(record))
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let sockets = records.all::<DatagramSocket>()?;
        if sockets.is_empty() {
            return Ok(());
        }
        check_records(&sockets)?;
        let holders = holders(records)?;
        let leaving: BTreeSet<u64> = match host.leaving.is_empty() {
            true => BTreeSet::new(),
            false => sockets.iter().map(|socket| socket.inode).collect(),
        };
        let mut listings = BTreeMap::new();
        for socket in &sockets {
            let (process, number) = holders.get(&socket.object).copied().unwrap_or_default();
            let what = facts_of(socket).name();
            let object = format!("descriptor {number}, {what}");
            let about = ((process, ""), object.as_str());
            check(&socket.options, about.0, about.1, plan);
            if socket.kind == libc::SOCK_RAW && !may_be_raw() {
                plan.refusals.add(
                    about.0,
                    about.1,
                    "only root may have such a socket",
                    "restart as root, or with CAP_NET_RAW",
                );
            }
            if let Some(own) = socket.own() {
                let multicast = own.place().is_some_and(|(ip, _)| ip.is_multicast());
                if !multicast {
                    // Of others than UDP it is no port.
                    let is_port =
                        matches!(socket.protocol, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE);
                    let named = if is_port { own } else { own.with_port(0) };
                    let ownership = Ownership::of(&socket.options, socket.foreign);
                    check_name(&named, ownership, about, host, plan);
                }
                let listing = listings
                    .entry(socket.protocol)
                    .or_insert_with(|| Listing::read(socket.protocol));
                check_free(socket, listing, &leaving, about, plan);
            }
            group::check(&socket.groups, about, plan);
        }
        plan.step(Stage::Objects, 0, Make { sockets });
        Ok(())
    }
}

/// Whether a name is none of this machine's; groups are nobody's.
fn is_foreign(own: &Address) -> bool {
    let group = own.place().is_some_and(|(ip, _)| ip.is_multicast());
    !group && !internet::is_local(own)
}

/// What poll(2) shows of closed directions, where the kernel has no listing: not whether sending alone is.
fn closed(events: i16) -> u32 {
    match (events & libc::POLLHUP != 0, events & libc::POLLRDHUP != 0) {
        (true, _) => 3,
        (false, true) => 1,
        (false, false) => 0,
    }
}

fn facts_of(socket: &DatagramSocket) -> SocketFacts {
    SocketFacts {
        family: socket.family,
        kind: socket.kind,
        protocol: socket.protocol,
        listens: false,
        inode: socket.inode,
    }
}

fn is_encapsulation(socket: BorrowedFd<'_>, facts: &SocketFacts) -> bool {
    facts.protocol == libc::IPPROTO_UDP
        && facts.kind == libc::SOCK_DGRAM
        && socket::number_option(socket, libc::IPPROTO_UDP, UDP_ENCAP).unwrap_or(0) != 0
}

fn may_be_raw() -> bool {
    /// CAP_NET_RAW.
    const RAW: u64 = 1 << 13;
    cryonaut_sys::spawn::effective_capabilities().unwrap_or(0) & RAW != 0
}

/// Whether everything that waits can be sent again from here.
fn check_senders(queue: &[Datagram]) -> std::result::Result<(), String> {
    for datagram in queue {
        let from = Address::from_bytes(datagram.from.clone());
        if !internet::is_local(&from) {
            let place = from
                .place()
                .map_or("nowhere".into(), |place| readable(&place));
            return Err(format!(
                "a datagram from {place} waits to be received, which nobody here can send again"
            ));
        }
    }
    Ok(())
}

fn check_records(sockets: &[DatagramSocket]) -> Result<()> {
    let damaged = || Error::Failed("the image is damaged: a datagram socket makes no sense".into());
    for socket in sockets {
        let fits = |bytes: &[u8]| {
            let address = Address::from_bytes(bytes.to_vec());
            let length = if socket.family == libc::AF_INET6 {
                28
            } else {
                16
            };
            address.family() == socket.family && bytes.len() == length
        };
        let own = socket.own_address.as_deref().is_none_or(fits);
        let to = socket.peer_address.as_deref().is_none_or(fits);
        let queue = socket.queue.iter().all(|datagram| {
            let to = datagram.to.as_ref();
            fits(&datagram.from) && to.is_none_or(|to| matches!(to.len(), 4 | 16))
        });
        let known = [libc::AF_INET, libc::AF_INET6].contains(&socket.family)
            && [libc::SOCK_DGRAM, libc::SOCK_RAW].contains(&socket.kind);
        let received = socket.queue.is_empty() || own && socket.own_address.is_some();
        if !own || !to || !queue || !known || !received {
            return Err(damaged());
        }
    }
    Ok(())
}

/// Refuses an address that another socket has here, if neither shares it.
fn check_free(
    socket: &DatagramSocket,
    listing: &Listing,
    leaving: &BTreeSet<u64>,
    (label, object): ((i32, &str), &str),
    plan: &mut Plan,
) {
    let shared = [libc::SO_REUSEADDR, libc::SO_REUSEPORT];
    let shares = shared.iter().any(|&name| {
        super::socket::stored_number(&socket.options, name).is_some_and(|value| value != 0)
    });
    let own = socket.own().and_then(|own| own.place());
    let Some(own) = own.filter(|_| !shares && socket.kind == libc::SOCK_DGRAM) else {
        return;
    };
    let taken = listing.all().find(|other| {
        !leaving.contains(&other.inode)
            && (internet::reaches(&other.own, &own) || internet::reaches(&own, &other.own))
    });
    if let Some(other) = taken {
        plan.refusals.add(
            label,
            object,
            format!(
                "{} is taken here by {}",
                readable(&other.own),
                internet::whose(other.inode)
            ),
            "end that process, or restart in a network namespace of its own (unshare --net)",
        );
    }
}

/// Makes all sockets without connections.
struct Make {
    sockets: Vec<DatagramSocket>,
}

impl std::fmt::Display for Make {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "make {}", Count(self.sockets.len(), "datagram socket"))?;
        match self.sockets.iter().map(|socket| socket.queue.len()).sum() {
            0 => Ok(()),
            waiting => write!(f, ", with {} under way", Count(waiting, "datagram")),
        }
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let made = make::make(&self.sockets)?;
        for (socket, fd) in self.sockets.iter().zip(made) {
            rebuild.objects.insert(socket.object, fd);
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "UDP and UDP-lite sockets, IPv4 and IPv6: bound, connected, members of multicast groups, sharing ports; what waits in their queues",
        level: Level::Restored,
        how: "datagrams are sent again from the addresses that they came from; with options and classic filters. Times, hop limits and \
              service types of what waits are new",
    },
    Support {
        what: "Raw and ping sockets",
        level: Level::Restored,
        how: "with options and filters; as an ordinary user raw ones are refused at the restart",
    },
    Support {
        what: "Datagrams from other machines that wait, corked datagrams (UDP_CORK), anything that waits in a raw or ping socket, errors that the program has not been told yet, UDP encapsulation",
        level: Level::Refused,
        how: "nobody can send them again, or no interface shows them; what passes by itself is tried for two seconds",
    },
    Support {
        what: "UDP: empty datagrams that wait behind others; closed directions of sockets that have no port yet",
        level: Level::Partly,
        how: "the kernel shows the former once: a second checkpoint misses those that still wait; of the latter it shows only both together",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> DatagramSocket {
        let own = Address::internet(std::net::SocketAddr::from(([127, 0, 0, 1], 4000)));
        DatagramSocket {
            object: 3,
            flags: 0o4002,
            inode: 77,
            family: libc::AF_INET,
            kind: libc::SOCK_DGRAM,
            protocol: libc::IPPROTO_UDP,
            own_address: Some(own.bytes().to_vec()),
            groups: vec![Membership {
                interface: b"lo".to_vec(),
                group: vec![224, 0, 0, 5],
                mode: 0,
                sources: vec![],
            }],
            queue: vec![Datagram {
                bytes: b"hello".to_vec(),
                from: own.bytes().to_vec(),
                to: Some(vec![127, 0, 0, 1]),
            }],
            ..DatagramSocket::default()
        }
    }

    #[test]
    fn a_socket_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        records.push(&sample()).unwrap();
        assert_eq!(records.all::<DatagramSocket>().unwrap(), [sample()]);
    }

    #[test]
    fn what_makes_no_sense_is_damage() {
        assert!(check_records(&[sample()]).is_ok());
        let mut short = sample();
        short.queue[0].from.pop();
        assert!(check_records(&[short]).is_err());
        let mut nameless = sample();
        nameless.own_address = None;
        assert!(check_records(&[nameless]).is_err());
        let mut strange = sample();
        strange.kind = libc::SOCK_STREAM;
        assert!(check_records(&[strange]).is_err());
    }
}
