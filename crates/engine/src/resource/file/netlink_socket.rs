//! Netlink sockets: with their port, the groups that they hear, and options.
//!
//! getsockname(2) tells the port, NETLINK_LIST_MEMBERSHIPS the groups. Those of generic netlink are numbered as they come up, so that
//! they are stored by name (CTRL_CMD_GETFAMILY). A plan makes each socket once and drops it: what is not permitted shows there.
//!
//! Refused: messages that wait, which nobody can send again in the kernel's name; a queue or log of packets that the kernel sends to
//! the port (NFQUEUE, NFLOG); protocols over which the kernel keeps for each socket what it was asked for (connector, audit). Not
//! preserved: what a family of generic netlink keeps by the port of who has asked; whether connect(2) has named the kernel.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Address, End, netlink};

use super::facts::{Description, FdFacts, Job};
use super::socket::{SocketFacts, SocketOption, Usual, check, options, prepare, restore};
use super::{Count, DescriptorKind, holders, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// Bytes for the groups of one socket, a bit each; the kernel has some hundred.
const GROUPS_ROOM: usize = 1024;
/// The protocols of which the kernel keeps nothing for a socket but what it shows.
const KNOWN: [i32; 8] = [
    libc::NETLINK_ROUTE,
    libc::NETLINK_USERSOCK,
    libc::NETLINK_SOCK_DIAG,
    libc::NETLINK_XFRM,
    libc::NETLINK_SELINUX,
    libc::NETLINK_NETFILTER,
    libc::NETLINK_KOBJECT_UEVENT,
    libc::NETLINK_GENERIC,
];

/// A netlink socket.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NetlinkSocket {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// `SOCK_RAW` or `SOCK_DGRAM`.
    #[prost(int32, tag = "3")]
    pub kind: i32,
    /// `NETLINK_*`.
    #[prost(int32, tag = "4")]
    pub protocol: i32,
    /// Its options.
    #[prost(message, repeated, tag = "5")]
    pub options: Vec<SocketOption>,
    /// Its port; 0 for none yet.
    #[prost(uint32, tag = "6")]
    pub port: u32,
    /// The groups that it hears.
    #[prost(message, repeated, tag = "7")]
    pub groups: Vec<NetlinkGroup>,
    /// The port that it is connected to; 0 is the kernel's.
    #[prost(uint32, tag = "8")]
    pub peer_port: u32,
    /// The groups that it is connected to, a bit each.
    #[prost(uint32, tag = "9")]
    pub peer_groups: u32,
}

impl Record for NetlinkSocket {
    const KIND: Kind = Kind {
        name: "file.netlink-socket",
        version: 1,
    };
}

/// A group that a netlink socket hears.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NetlinkGroup {
    /// Its number then, from 1.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The family of generic netlink that it is of; empty where the number says all.
    #[prost(string, tag = "2")]
    pub family: String,
    /// Its name in that family.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// The kind.
pub(super) struct NetlinkSockets;

impl DescriptorKind for NetlinkSockets {
    fn kinds(&self) -> &'static [Kind] {
        const { &[NetlinkSocket::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts
            .socket
            .is_some_and(|socket| socket.family == libc::AF_NETLINK)
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let (Some(facts), Ok(copy)) = (description.facts.socket, job.copy(description)) else {
            return;
        };
        let found = if job.connections().is_elsewhere(copy.as_fd()) {
            Some((
                "it belongs to another network namespace than this cryo".to_owned(),
                "start cryo in the job's network namespace",
            ))
        } else if !KNOWN.contains(&facts.protocol) {
            let reason = "the kernel keeps what was asked for over it, and shows it to nobody";
            Some((reason.into(), "close it before the checkpoint"))
        } else {
            let (port, _) = place(socket::address(copy.as_fd(), End::Own).ok());
            let queue = Some(port).filter(|_| facts.protocol == libc::NETLINK_NETFILTER);
            queue
                .and_then(packets_for)
                .map(|what| (what, "have the program give it up before the checkpoint"))
        };
        if let Some((reason, remedy)) = found {
            let label = job.owner(description.first()).label();
            let object = format!("{}, {}", job.name(description), facts.name());
            refusals.add(label, object, reason, remedy);
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
        let mut names = None;
        for description in descriptions {
            let Some(facts) = description.facts.socket else {
                continue;
            };
            let copy = job.copy(description)?;
            let socket = copy.as_fd();
            if let Some(reason) = unsettled(socket)? {
                refusals.add(
                    job.owner(description.first()).label(),
                    format!("{}, {}", job.name(description), facts.name()),
                    reason,
                    "try again once the program has read from the socket",
                );
                continue;
            }
            let mut groups = groups(socket)?;
            if facts.protocol == libc::NETLINK_GENERIC && !groups.is_empty() {
                let names = names.get_or_insert_with(generic_groups);
                groups = groups.into_iter().map(|it| named(it, names)).collect();
            }
            let (port, _) = place(socket::address(socket, End::Own).ok());
            let (peer_port, peer_groups) = place(socket::address(socket, End::Peer).ok());
            collection.put(&NetlinkSocket {
                object: description.object,
                flags: description.facts.flags(),
                kind: facts.kind,
                protocol: facts.protocol,
                options: options(socket, &facts, &mut usual)?,
                port,
                groups,
                peer_port,
                peer_groups,
            })?;
        }
        match refusals.list() {
            [] => Ok(()),
            list => Err(Error::Unsettled(list.to_vec())),
        }
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let sockets = records.all::<NetlinkSocket>()?;
        if sockets.is_empty() {
            return Ok(());
        }
        let kinds = [libc::SOCK_RAW, libc::SOCK_DGRAM];
        if !sockets.iter().all(|socket| kinds.contains(&socket.kind)) {
            return Err(Error::Failed(
                "the image is damaged: a netlink socket makes no sense".into(),
            ));
        }
        let holders = holders(records)?;
        let names = generic_groups();
        for socket in &sockets {
            let (process, number) = holders.get(&socket.object).copied().unwrap_or_default();
            let object = format!("descriptor {number}, {}", facts_of(socket).name());
            check(&socket.options, (process, ""), &object, plan);
            // The job itself may have the port still.
            let port = Some(socket.port).filter(|_| host.leaving.is_empty());
            if let Err(error) = make(socket, port.unwrap_or(0), &names) {
                let reason = format!("it cannot be made here: {error}");
                let remedy = "restart as root, on a kernel that has what it listens to, where nobody has its port (/proc/net/netlink)";
                plan.refusals.add((process, ""), object, reason, remedy);
            }
        }
        plan.step(Stage::Objects, 0, Make { sockets });
        Ok(())
    }
}

/// Port and groups of an address (struct sockaddr_nl).
fn place(address: Option<Address>) -> (u32, u32) {
    let word = |at: usize| {
        let bytes = address.as_ref()?.bytes().get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    (word(4).unwrap_or(0), word(8).unwrap_or(0))
}

fn address(port: u32, groups: u32) -> Address {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&port.to_ne_bytes());
    bytes.extend_from_slice(&groups.to_ne_bytes());
    Address::from_bytes(bytes)
}

fn facts_of(socket: &NetlinkSocket) -> SocketFacts {
    SocketFacts {
        family: libc::AF_NETLINK,
        kind: socket.kind,
        protocol: socket.protocol,
        listens: false,
        inode: 0,
    }
}

/// What the kernel sends to a port, if it does: the queues and logs of netfilter.
fn packets_for(port: u32) -> Option<String> {
    let lists = [("nfnetlink_queue", "NFQUEUE"), ("nfnetlink_log", "NFLOG")];
    lists.iter().find_map(|(list, target)| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/netfilter/{list}")).ok()?;
        let mut lines = text.lines().map(str::split_whitespace);
        let number = lines.find_map(|mut words| {
            let number = words.next()?;
            (words.next()?.parse() == Ok(port)).then(|| number.to_owned())
        })?;
        Some(format!("packets go to it ({target} {number}), which the kernel would no longer send to another socket"))
    })
}

/// Why a socket cannot be saved now.
fn unsettled(socket: BorrowedFd<'_>) -> Result<Option<&'static str>> {
    let events =
        descriptor::poll_now(socket, libc::POLLIN).attempt(|| "looking at a socket".into())?;
    Ok(if events & libc::POLLERR != 0 {
        Some(
            "it holds an error that its program has not been told yet, and looking at it would take it away",
        )
    } else if events & libc::POLLIN != 0 {
        Some("messages wait in it, which nobody could send again")
    } else {
        None
    })
}

/// The groups that a socket hears, by number.
fn groups(socket: BorrowedFd<'_>) -> Result<Vec<NetlinkGroup>> {
    let bits = socket::option(
        socket,
        libc::SOL_NETLINK,
        NETLINK_LIST_MEMBERSHIPS,
        GROUPS_ROOM,
    )
    .attempt(|| "asking which groups a netlink socket hears".into())?;
    let words = bits
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    let numbers = (1_u32..).step_by(32).zip(words).flat_map(|(first, word)| {
        (0..32)
            .filter(move |bit| word >> bit & 1 != 0)
            .map(move |bit| first + bit)
    });
    Ok(numbers
        .map(|number| NetlinkGroup {
            number,
            ..NetlinkGroup::default()
        })
        .collect())
}

/// The groups of all families of generic netlink that the kernel has.
fn generic_groups() -> Vec<NetlinkGroup> {
    /// GENL_ID_CTRL (linux/genetlink.h), and in a message of it CTRL_CMD_GETFAMILY in version 1.
    const CONTROL: u16 = 16;
    const GET_FAMILY: [u8; 4] = [3, 1, 0, 0];
    let mut found = Vec::new();
    let asked = netlink::dump(
        libc::NETLINK_GENERIC,
        CONTROL,
        &GET_FAMILY,
        &mut |_, body| {
            found.extend(groups_of_family(body.get(4..)?));
            Some(())
        },
    );
    match asked {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

/// The groups in the answer about one family.
fn groups_of_family(body: &[u8]) -> Vec<NetlinkGroup> {
    const FAMILY_NAME: u16 = 2;
    const GROUPS: u16 = 7;
    const GROUP_NAME: u16 = 1;
    const GROUP_NUMBER: u16 = 2;
    let value = |body: &'_ [u8], wanted: u16| {
        let mut all = netlink::attributes(body);
        all.find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value.to_vec())
    };
    let text = |body: &[u8], wanted: u16| {
        let bytes = value(body, wanted)?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        String::from_utf8(bytes.to_vec()).ok()
    };
    let Some(family) = text(body, FAMILY_NAME) else {
        return Vec::new();
    };
    let groups = value(body, GROUPS).unwrap_or_default();
    let groups = netlink::attributes(&groups).filter_map(|(_, group)| {
        let number = value(group, GROUP_NUMBER)?;
        Some(NetlinkGroup {
            number: u32::from_ne_bytes(number.get(..4)?.try_into().ok()?),
            family: family.clone(),
            name: text(group, GROUP_NAME)?,
        })
    });
    groups.collect()
}

/// A group of generic netlink with its names.
fn named(group: NetlinkGroup, names: &[NetlinkGroup]) -> NetlinkGroup {
    let known = names.iter().find(|known| known.number == group.number);
    known.cloned().unwrap_or(group)
}

/// The number that a group has here.
fn number_here(group: &NetlinkGroup, names: &[NetlinkGroup]) -> Result<u32> {
    if group.family.is_empty() {
        return Ok(group.number);
    }
    let same = |known: &&NetlinkGroup| known.family == group.family && known.name == group.name;
    let known = names.iter().find(same);
    known.map(|known| known.number).ok_or_else(|| {
        Error::Failed(format!(
            "this kernel has no group {} of generic netlink family {}",
            group.name, group.family
        ))
    })
}

/// Makes a socket, with a port unless that is 0.
fn make(socket: &NetlinkSocket, port: u32, names: &[NetlinkGroup]) -> Result<OwnedFd> {
    let what = || "making a netlink socket".to_owned();
    let made = socket::socket(libc::AF_NETLINK, socket.kind, socket.protocol).attempt(what)?;
    let fd = made.as_fd();
    prepare(fd, &socket.options)?;
    if port != 0 {
        socket::bind(fd, &address(port, 0)).attempt(|| format!("taking port {port}"))?;
    }
    if (socket.peer_port, socket.peer_groups) != (0, 0) {
        socket::connect(fd, &address(socket.peer_port, socket.peer_groups))
            .attempt(|| format!("connecting to port {}", socket.peer_port))?;
    }
    restore(fd, &socket.options)?;
    for group in &socket.groups {
        let number = number_here(group, names)?;
        socket::set_option(
            fd,
            libc::SOL_NETLINK,
            NETLINK_ADD_MEMBERSHIP,
            &number.to_ne_bytes(),
        )
        .attempt(|| format!("listening to group {number}"))?;
    }
    set_flags(fd, socket.flags).attempt(what)?;
    Ok(made)
}

/// Makes all netlink sockets.
struct Make {
    sockets: Vec<NetlinkSocket>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.sockets.len(), "netlink socket"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let names = generic_groups();
        for socket in &self.sockets {
            let made = make(socket, socket.port, &names)?;
            rebuild.objects.insert(socket.object, made);
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Netlink sockets: route, uevent, generic, netfilter, sock_diag, xfrm, usersock",
        level: Level::Restored,
        how: "with port, groups (those of generic netlink by name), options and classic filters; a port that somebody else has by \
              then is a refusal. What happens between checkpoint and restart is told to nobody",
    },
    Support {
        what: "Netlink: messages that wait to be read, the queues and logs of netfilter (NFQUEUE, NFLOG), connector, audit and other protocols",
        level: Level::Refused,
        how: "nobody can send the former again; of the others the kernel keeps what was asked for, and shows it to nobody",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NetlinkSocket {
        NetlinkSocket {
            object: 3,
            flags: 0o4002,
            kind: libc::SOCK_RAW,
            protocol: libc::NETLINK_GENERIC,
            port: 0,
            groups: vec![NetlinkGroup {
                number: 9999,
                family: "nlctrl".into(),
                name: "notify".into(),
            }],
            ..NetlinkSocket::default()
        }
    }

    #[test]
    fn a_socket_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        records.push(&sample()).unwrap();
        assert_eq!(records.all::<NetlinkSocket>().unwrap(), [sample()]);
    }

    #[test]
    fn groups_of_generic_netlink_are_found_by_name() {
        let names = generic_groups();
        let made = make(&sample(), 0, &names).unwrap();
        let found = groups(made.as_fd()).unwrap();
        let found: Vec<_> = found.into_iter().map(|it| named(it, &names)).collect();
        let [group] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (group.family.as_str(), group.name.as_str()),
            ("nlctrl", "notify")
        );
        let mut unknown = sample();
        unknown.groups[0].family = "nobody".into();
        let error = make(&unknown, 0, &names).unwrap_err().to_string();
        assert!(error.contains("nobody"), "{error}");
    }

    #[test]
    fn damaged_answers_are_left_out() {
        assert!(groups_of_family(&[]).is_empty());
        assert!(groups_of_family(&[8, 0, 2, 0, b'a', 0, 0, 0, 9, 0, 7, 0]).is_empty());
    }
}
