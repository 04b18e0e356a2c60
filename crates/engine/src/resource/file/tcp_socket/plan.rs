//! What has to be known before TCP sockets are made again: that their addresses are here, and free.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cryonaut_image::RecordSet;
use cryonaut_sys::socket::state;

use super::kept;
use super::make::{Workshop, damaged};
use super::record::{Link, TcpConnection, TcpData, TcpSent, TcpSocket};
use super::revive::{self, Kept, Revival, Revivals};
use crate::Result;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::file::internet::{Listing, Ownership, check_name, reaches, readable, whose};
use crate::resource::file::socket::{check, stored_number};
use crate::resource::file::{Count, holders, object};

const RESUMING: &str = "restart as root, or with CAP_NET_ADMIN over this network namespace; or save it with --external close or \
                        --external reconnect";

/// Plans all TCP sockets of an image: one step, since they are made through each other.
pub fn plan(records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
    let sockets = records.all::<TcpSocket>()?;
    if sockets.is_empty() {
        return Ok(());
    }
    let mut data: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for mut piece in records.all::<TcpData>()? {
        data.entry(piece.inode)
            .or_default()
            .append(&mut piece.bytes);
    }
    let kept = connections(records)?;
    check_records(&sockets, &data, &kept)?;
    let most = match kept.is_empty() {
        true => None,
        false => revive::most_unconfirmed(),
    };
    let permitted = kept.is_empty() || kept::is_permitted();
    let holders = holders(records)?;
    let listing = Listing::read(libc::IPPROTO_TCP);
    let own: BTreeSet<u64> = match host.leaving.is_empty() {
        true => BTreeSet::new(),
        // The job itself, which gives up its names before it is restarted.
        false => sockets.iter().map(|socket| socket.inode).collect(),
    };
    for socket in &sockets {
        let (process, number) = holders.get(&socket.object).copied().unwrap_or_default();
        let object = match socket.place() {
            Some(place) => format!("descriptor {number}, TCP socket {}", readable(&place)),
            None => format!("descriptor {number}, a TCP socket"),
        };
        let about = ((process, ""), object.as_str());
        check(&socket.options, about.0, about.1, plan);
        check_algorithm(socket, about, host, plan);
        if socket.multipath && !has_multipath() {
            let reason = format!("Multipath TCP is not to be had here ({MULTIPATH})");
            let remedy = "switch it on, or have the program use plain TCP (GODEBUG=multipathtcp=0)";
            plan.refusals.add(about.0, about.1, reason, remedy);
        }
        if socket.link() == Link::Kept && !permitted {
            let reason = "its peer is outside the job, and only who has CAP_NET_ADMIN may resume a connection";
            plan.refusals.add(about.0, about.1, reason, RESUMING);
        }
        if let Some(kept) = kept.get(&socket.inode)
            && let Some(most) = most.filter(|most| *most < kept.sent.len())
        {
            let reason = format!(
                "its peer has not confirmed {}, and only root may have a socket hold more than {most}",
                Count(kept.sent.len(), "byte")
            );
            let remedy = "raise /proc/sys/net/core/wmem_max, or restart as root";
            plan.refusals.add(about.0, about.1, reason, remedy);
        }
        let named = !matches!(socket.link(), Link::Ended | Link::Again);
        if let Some(address) = socket.own().filter(|_| named) {
            let ownership = Ownership::of(&socket.options, socket.foreign);
            check_name(&address, ownership, about, host, plan);
            check_free(socket, &listing, &own, about, plan);
        }
        if let (Some(to), Link::Again) = (socket.to().and_then(|to| to.place()), socket.link()) {
            plan.remarks.push(format!(
                "process {process}: {object} is connected again to {}, which is outside the job",
                readable(&to)
            ));
        }
    }
    if let Some(job) = first_holder(&sockets, &holders) {
        let sockets = sockets.iter().filter(|it| it.link() == Link::Kept);
        let sockets = sockets.map(|socket| (socket.clone(), kept[&socket.inode].clone()));
        let sockets = sockets.collect();
        plan.step(Stage::Restrict, job, Resume { job, sockets });
    }
    plan.step(
        Stage::Objects,
        0,
        Make {
            sockets,
            data,
            kept,
        },
    );
    Ok(())
}

/// Says whether the network namespace lets programs use Multipath TCP.
const MULTIPATH: &str = "/proc/sys/net/mptcp/enabled";

fn has_multipath() -> bool {
    std::fs::read_to_string(MULTIPATH).is_ok_and(|text| text.trim() != "0")
}

/// A process that has a connection that goes on.
fn first_holder(sockets: &[TcpSocket], holders: &BTreeMap<u64, (i32, i32)>) -> Option<i32> {
    let mut kept = sockets.iter().filter(|it| it.link() == Link::Kept);
    kept.find_map(|socket| holders.get(&socket.object).map(|(process, _)| *process))
}

/// The connections of an image that go on, by the inode numbers of their sockets.
fn connections(records: &RecordSet) -> Result<BTreeMap<u64, Kept>> {
    let mut found = BTreeMap::new();
    for connection in records.all::<TcpConnection>()? {
        let kept = Kept {
            sent: Vec::new(),
            connection,
        };
        found.insert(kept.connection.inode, kept);
    }
    for mut piece in records.all::<TcpSent>()? {
        let kept = found.get_mut(&piece.inode).ok_or_else(damaged)?;
        kept.sent.append(&mut piece.bytes);
    }
    Ok(found)
}

/// Checks that records fit each other.
fn check_records(
    sockets: &[TcpSocket],
    data: &BTreeMap<u64, Vec<u8>>,
    connections: &BTreeMap<u64, Kept>,
) -> Result<()> {
    let known: BTreeMap<u64, &TcpSocket> = sockets
        .iter()
        .map(|socket| (socket.inode, socket))
        .collect();
    if known.len() != sockets.len() {
        return Err(damaged());
    }
    for socket in sockets {
        let place = |address: Option<cryonaut_sys::socket::Address>| match address {
            None => Some(None),
            Some(address) => {
                let length = if socket.family == libc::AF_INET6 {
                    28
                } else {
                    16
                };
                let fits = address.family() == socket.family && address.bytes().len() == length;
                address.place().filter(|_| fits).map(Some)
            }
        };
        let own = place(socket.own()).ok_or_else(damaged)?;
        let to = place(socket.to()).ok_or_else(damaged)?;
        let empty = data.get(&socket.inode).is_none_or(Vec::is_empty);
        let fits = match socket.link() {
            Link::Connected => known.get(&socket.peer).is_some_and(|peer| {
                peer.link() == Link::Connected
                    && peer.peer == socket.inode
                    && own.is_some()
                    && peer.own_address.is_some()
            }),
            Link::Gone => own.is_some() && to.is_some(),
            Link::Waiting => own.is_some() && to.is_some() && empty,
            Link::Listening => own.is_some() && empty,
            Link::Connecting | Link::Again => to.is_some() && empty,
            Link::Alone => empty,
            Link::Ended => true,
            Link::Kept => {
                let kept = connections.get(&socket.inode).ok_or_else(damaged)?;
                let unread = data.get(&socket.inode).map_or(&[][..], Vec::as_slice);
                revive::check(kept, unread)?;
                own.is_some() && to.is_some()
            }
        };
        let fits =
            fits && (!socket.multipath || matches!(socket.link(), Link::Alone | Link::Listening));
        if !fits || ![libc::AF_INET, libc::AF_INET6].contains(&socket.family) {
            return Err(damaged());
        }
    }
    let owned = data.keys().all(|inode| known.contains_key(inode));
    if owned { Ok(()) } else { Err(damaged()) }
}

type About<'a> = ((i32, &'a str), &'a str);

/// Refuses an address that another socket has here.
fn check_free(
    socket: &TcpSocket,
    listing: &Listing,
    leaving: &BTreeSet<u64>,
    (label, object): About<'_>,
    plan: &mut Plan,
) {
    let Some(own) = socket.place() else {
        return;
    };
    let to = socket.to().and_then(|to| to.place());
    let shares = stored_number(&socket.options, libc::SO_REUSEPORT).unwrap_or(0) != 0;
    let kept = socket.link() == Link::Kept;
    let connected = matches!(socket.link(), Link::Connected | Link::Gone | Link::Waiting);
    let connected = connected || kept;
    let taken = listing.all().find(|other| {
        // One that is not made by connecting finds no room beside the remains of another either.
        let free = other.inode == 0 && !kept || leaving.contains(&other.inode);
        let same = match other.state {
            // A socket that serves to accept has to listen where the other's clients would be taken.
            state::LISTEN => {
                !shares && !kept && (reaches(&other.own, &own) || reaches(&own, &other.own))
            }
            state::TIME_WAIT => false,
            _ => connected && other.own == own && Some(other.peer) == to,
        };
        !free && same
    });
    if let Some(other) = taken {
        plan.refusals.add(
            label,
            object,
            format!(
                "{} is taken here by {}",
                readable(&other.own),
                whose(other.inode)
            ),
            "end that process, or restart in a network namespace of its own (unshare --net)",
        );
    }
}

/// Refuses a congestion control that is not to be had.
fn check_algorithm(socket: &TcpSocket, (label, object): About<'_>, host: &Host, plan: &mut Plan) {
    const TCP_CONGESTION: i32 = 13;
    let mut options = socket.options.iter();
    let Some(wanted) =
        options.find(|option| (option.level, option.name) == (libc::IPPROTO_TCP, TCP_CONGESTION))
    else {
        return;
    };
    let list = match host.user {
        // What is not loaded yet is loaded for root.
        0 => return,
        _ => "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
    };
    let wanted = String::from_utf8_lossy(&wanted.value);
    let wanted = wanted.trim_end_matches('\0');
    let allowed = std::fs::read_to_string(list).unwrap_or_default();
    if !allowed.split_whitespace().any(|name| name == wanted) {
        plan.refusals.add(
            label,
            object,
            format!("its congestion control {wanted} is not permitted to everybody here"),
            format!("restart as root, or add it to {list}"),
        );
    }
}

/// Makes all TCP sockets.
struct Make {
    sockets: Vec<TcpSocket>,
    data: BTreeMap<u64, Vec<u8>>,
    kept: BTreeMap<u64, Kept>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.sockets.len(), "TCP socket"))?;
        let bytes: usize = self.data.values().map(Vec::len).sum();
        if bytes > 0 {
            write!(f, ", with {} under way", Count(bytes, "byte"))?;
        }
        let waiting = |socket: &&TcpSocket| socket.link() == Link::Waiting;
        match self.sockets.iter().filter(waiting).count() {
            0 => Ok(()),
            count => write!(f, ", with {} to be accepted", Count(count, "connection")),
        }
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut workshop = Workshop::new(&self.sockets, &self.data, &self.kept);
        workshop.make()?;
        workshop.finish()?;
        let mut made = workshop.made;
        for socket in &self.sockets {
            if let Some(fd) = made.remove(&socket.inode) {
                rebuild.objects.insert(socket.object, fd);
            }
        }
        Ok(())
    }
}

/// Stands by until the job is committed, for the connections that go on then.
struct Resume {
    job: i32,
    sockets: Vec<(TcpSocket, Kept)>,
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.sockets.len(), "connection");
        write!(f, "have {count} to outside the job go on after the commit")
    }
}

impl Action for Resume {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut all = Vec::with_capacity(self.sockets.len());
        for (socket, kept) in &self.sockets {
            let made = object(rebuild, socket.object)?;
            all.push(Revival::new(made, socket, kept)?);
        }
        let revivals = Revivals::prepare(all, rebuild.whereabouts(self.job)?.0)?;
        rebuild
            .after_commit
            .push(Box::new(move || revivals.perform()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cryonaut_sys::socket::Address;

    use super::*;

    fn socket(inode: u64, link: Link, peer: u64) -> TcpSocket {
        let own = Address::internet(std::net::SocketAddr::from(([127, 0, 0, 1], 4000)));
        let mut socket = TcpSocket {
            inode,
            peer,
            family: libc::AF_INET,
            own_address: Some(own.bytes().to_vec()),
            ..TcpSocket::default()
        };
        socket.set_link(link);
        socket
    }

    #[test]
    fn sockets_that_do_not_fit_each_other_are_damage() {
        let check =
            |sockets: &[TcpSocket]| check_records(sockets, &BTreeMap::new(), &BTreeMap::new());
        let connected = Link::Connected;
        assert!(check(&[socket(1, connected, 2), socket(2, connected, 1)]).is_ok());
        assert!(check(&[socket(1, connected, 1)]).is_ok());
        assert!(check(&[socket(1, connected, 2), socket(2, connected, 3)]).is_err());
        assert!(check(&[socket(1, connected, 2)]).is_err());
        assert!(check(&[socket(1, Link::Alone, 0), socket(1, Link::Alone, 0)]).is_err());
        assert!(check(&[socket(1, Link::Waiting, 0)]).is_err());
        assert!(check(&[socket(1, Link::Listening, 0)]).is_ok());
        let mut short = socket(1, Link::Listening, 0);
        short.own_address = Some(vec![2, 0, 1]);
        assert!(check(&[short]).is_err());
        let mut multipath = socket(1, connected, 1);
        multipath.multipath = true;
        assert!(check(&[multipath]).is_err());
        let data = BTreeMap::from([(1, vec![1]), (2, vec![])]);
        assert!(check_records(&[socket(1, Link::Ended, 0)], &data, &BTreeMap::new()).is_err());
        let data = BTreeMap::from([(1, vec![1])]);
        assert!(check_records(&[socket(1, Link::Listening, 0)], &data, &BTreeMap::new()).is_err());
    }
}
