//! Making TCP sockets and their connections again, with the same addresses at both ends.
//!
//! An end that was accepted is accepted again: from a door, a socket that listens at its address for the time of this. The other
//! end is bound to its old address and connects. What was under way is sent again by the peer. An end that nobody has any more is
//! made as well, and closed when it has served. While names are given, all sockets share their ports (SO_REUSEADDR).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Address, End};

use super::record::{Link, TcpSocket};
use super::remains::{self, Wanted};
use super::revive::{self, Kept};
use super::settle::{self, Flow};
use crate::error::Attempt;
use crate::resource::file::internet::{self, readable};
use crate::resource::file::socket::{prepare, restore, set_sharing};
use crate::{Error, Result};

/// How long a connection on this machine, or what is sent on it, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it is tried in turn which of two ends is to connect.
const TURNS: Duration = Duration::from_secs(5);
/// Setting a port from which connect(2) takes its own.
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// Leaving TCP_REPAIR without telling the peer.
const REPAIR_OFF_NO_PROBE: i32 = -1;

/// Where sockets are made.
pub(super) struct Workshop<'r> {
    sockets: &'r [TcpSocket],
    data: &'r BTreeMap<u64, Vec<u8>>,
    /// Connections that go on, by inode number.
    kept: &'r BTreeMap<u64, Kept>,
    /// What is made, by inode number.
    pub(super) made: BTreeMap<u64, OwnedFd>,
    /// Peers that nobody has, by the inode number of who is left.
    ghosts: BTreeMap<u64, OwnedFd>,
    doors: BTreeMap<(i32, Vec<u8>), OwnedFd>,
    /// The ports among which connect(2) chooses here.
    choice: Option<RangeInclusive<u16>>,
}

impl<'r> Workshop<'r> {
    pub(super) fn new(
        sockets: &'r [TcpSocket],
        data: &'r BTreeMap<u64, Vec<u8>>,
        kept: &'r BTreeMap<u64, Kept>,
    ) -> Self {
        Self {
            sockets,
            data,
            kept,
            made: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            doors: BTreeMap::new(),
            choice: port_choice(),
        }
    }

    /// Makes all sockets, with everything that is under way between them.
    pub(super) fn make(&mut self) -> Result<()> {
        let sockets = self.sockets;
        for socket in sockets {
            match socket.link() {
                Link::Connected => self.connect_pair(socket)?,
                Link::Gone => self.connect_to_ghost(socket)?,
                Link::Ended => self.make_ended(socket)?,
                Link::Kept => self.resume(socket)?,
                _ => {}
            }
        }
        self.doors.clear();
        let shared = shared_ports(sockets);
        for socket in sockets {
            let bound = matches!(
                socket.link(),
                Link::Alone | Link::Listening | Link::Connecting | Link::Again
            );
            if bound {
                let fd = fresh(socket)?;
                let own = socket.own().filter(|_| socket.link() != Link::Again);
                let own = own.as_ref();
                if let Some(own) = own {
                    if shared.contains(&port(own)) {
                        set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
                            .attempt(|| "letting a socket share its port".into())?;
                    }
                    match socket.foreign {
                        true => internet::bind_freely(fd.as_fd(), own).attempt(|| {
                            format!("binding a socket to {}", name(Some(own.clone())))
                        })?,
                        false => bind(fd.as_fd(), own)?,
                    }
                }
                self.made.insert(socket.inode, fd);
            }
        }
        for socket in sockets.iter().filter(|it| it.link() == Link::Listening) {
            let backlog = i32::try_from(socket.backlog).unwrap_or(i32::MAX);
            listen(self.fd(socket.inode)?, socket.own().as_ref(), backlog)
                .attempt(|| format!("listening at {}", name(socket.own())))?;
        }
        for socket in sockets {
            match (socket.link(), socket.to()) {
                (Link::Waiting, Some(to)) => {
                    let fd = self.client(socket, &to)?;
                    self.made.insert(socket.inode, fd);
                }
                (Link::Again, Some(to)) => connect(self.fd(socket.inode)?, &to)
                    .attempt(|| format!("connecting to {} again", name(Some(to))))?,
                (Link::Connecting, Some(to)) => begin(self.fd(socket.inode)?, &to)
                    .attempt(|| format!("connecting to {} again", name(Some(to))))?,
                _ => {}
            }
        }
        self.fill()?;
        self.close_directions()
    }

    fn fd(&self, inode: u64) -> Result<BorrowedFd<'_>> {
        self.made.get(&inode).map(AsFd::as_fd).ok_or_else(damaged)
    }

    /// A socket that listens where one end of a connection is.
    fn door(&mut self, server: &TcpSocket, own: &Address) -> Result<BorrowedFd<'_>> {
        let door = match self.doors.entry((server.family, own.bytes().to_vec())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let fd = fresh(server)?;
                bind(fd.as_fd(), own)?;
                listen(fd.as_fd(), Some(own), 16)
                    .attempt(|| format!("listening at {}", name(Some(own.clone()))))?;
                entry.insert(fd)
            }
        };
        Ok((*door).as_fd())
    }

    /// A socket at its own address that is connected.
    fn client(&self, socket: &TcpSocket, to: &Address) -> Result<OwnedFd> {
        let own = socket.own().ok_or_else(damaged)?;
        let ports = port(&own).zip(port(to)).ok_or_else(damaged)?;
        let connected = remains::outlast(Wanted::Pair(ports.0, ports.1), || {
            let fresh = || fresh(socket).map_err(std::io::Error::other);
            let fd = fresh()?;
            match connect_from(fd.as_fd(), &own, to, |socket, own| {
                self.bind_loosely(socket, own)
            }) {
                Ok(()) => return Ok(fd),
                Err(error) if is_no_connection(&error) => return Err(error),
                // An older kernel, or somebody has the port for himself who lets others with SO_REUSEADDR have it too.
                Err(_) => {}
            }
            let fd = fresh()?;
            connect_from(fd.as_fd(), &own, to, bind_or_force).map(|()| fd)
        });
        let what = || {
            format!(
                "connecting {} to {}",
                name(Some(own.clone())),
                name(Some(to.clone()))
            )
        };
        connected.attempt(what)
    }

    /// Has connect(2) choose the port, as it did for most programs (Linux 6.3). Others may then connect from it to other places, which
    /// nobody may for as long as a port is taken by bind(2). A range of a socket's own counts only within that of all (ip(7)).
    fn bind_loosely(&self, socket: BorrowedFd<'_>, own: &Address) -> std::io::Result<()> {
        const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
        let port = port(own).filter(|port| {
            self.choice
                .as_ref()
                .is_some_and(|choice| choice.contains(port))
        });
        let port =
            u32::from(port.ok_or_else(|| std::io::Error::from_raw_os_error(libc::EADDRINUSE))?);
        set_port_range(socket, (port | port << 16) as i32)?;
        set(socket, libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)?;
        let bound = socket::bind(socket, &own.with_port(0));
        set(socket, libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0)?;
        bound
    }

    /// Takes the connection that `client` has made from a door; a stranger's is refused.
    fn accept(&mut self, server: &TcpSocket, own: &Address, client: Address) -> Result<OwnedFd> {
        let start = Instant::now();
        let door = self.door(server, own)?;
        while start.elapsed() < LIMIT {
            let ready = descriptor::poll_for(door, libc::POLLIN, 100);
            if ready.attempt(|| "waiting for a connection".into())? == 0 {
                continue;
            }
            let accepted = socket::accept(door).attempt(|| "accepting a connection".into())?;
            let from = socket::address(accepted.as_fd(), End::Peer).ok();
            if from.and_then(|from| from.place()) == client.place() {
                return Ok(accepted);
            }
        }
        Err(Error::Failed(format!(
            "connecting {} with {}: nothing arrives there (is it filtered by a firewall?)",
            name(Some(client)),
            name(Some(own.clone()))
        )))
    }

    /// Connects two sockets of the image, once.
    fn connect_pair(&mut self, socket: &TcpSocket) -> Result<()> {
        if self.made.contains_key(&socket.inode) {
            return Ok(());
        }
        let mut peers = self.sockets.iter();
        let peer = peers
            .find(|peer| peer.inode == socket.peer)
            .ok_or_else(damaged)?;
        let own = socket.own().ok_or_else(damaged)?;
        if socket.peer == socket.inode {
            // It is connected to itself.
            let fd = self.client(socket, &own)?;
            self.made.insert(socket.inode, fd);
            return Ok(());
        }
        let (one, other) = self.ends(socket, peer)?;
        self.made.insert(socket.inode, one);
        self.made.insert(peer.inode, other);
        Ok(())
    }

    /// Makes two ends that are connected with each other. Who listens for it does not show afterwards: where a port is in use for
    /// connections of somebody else's the other end does.
    fn ends(&mut self, one: &TcpSocket, other: &TcpSocket) -> Result<(OwnedFd, OwnedFd)> {
        let start = Instant::now();
        let first = self.is_server(other, one);
        loop {
            let mut failed = None;
            for other_serves in [first, !first] {
                let made = if other_serves {
                    self.connected(one, other)
                } else {
                    self.connected(other, one).map(|(one, other)| (other, one))
                };
                match made {
                    Ok(made) => return Ok(made),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if start.elapsed() > TURNS {
                return Err(failed.unwrap_or_else(damaged));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn connected(&mut self, client: &TcpSocket, server: &TcpSocket) -> Result<(OwnedFd, OwnedFd)> {
        let (own, to) = (client.own(), server.own());
        let (own, to) = (own.ok_or_else(damaged)?, to.ok_or_else(damaged)?);
        self.door(server, &to)?;
        // The address of the other end as this one knows it, perhaps in the guise of the other family.
        let target = client.to().filter(|target| target.place() == to.place());
        let connected = self.client(client, &target.unwrap_or(to.clone()))?;
        let accepted = self.accept(server, &to, own)?;
        Ok((connected, accepted))
    }

    /// Whether the first of two ends is the one that was accepted, so far as that can be told.
    fn is_server(&self, one: &TcpSocket, other: &TcpSocket) -> bool {
        let listens = |end: &TcpSocket| {
            end.place().is_some_and(|place| {
                let mut all = self.sockets.iter();
                all.any(|it| {
                    it.link() == Link::Listening
                        && it
                            .place()
                            .is_some_and(|own| internet::reaches(&own, &place))
                })
            })
        };
        let port = |end: &TcpSocket| end.place().map(|place| place.1);
        match (listens(one), listens(other)) {
            (true, false) => true,
            (false, true) => false,
            _ => port(one) < port(other),
        }
    }

    /// Connects a socket with an end that nobody has any more.
    fn connect_to_ghost(&mut self, socket: &TcpSocket) -> Result<()> {
        let (own, to) = (socket.own(), socket.to());
        let (own, to) = (own.ok_or_else(damaged)?, to.ok_or_else(damaged)?);
        let ghost = TcpSocket {
            family: socket.family,
            own_address: Some(to.bytes().to_vec()),
            peer_address: Some(own.bytes().to_vec()),
            ..TcpSocket::default()
        };
        let (fd, other) = self.ends(socket, &ghost)?;
        self.made.insert(socket.inode, fd);
        self.ghosts.insert(socket.inode, other);
        Ok(())
    }

    /// A socket whose connection is over: it is connected to anybody for what it has not received, and both close.
    fn make_ended(&mut self, socket: &TcpSocket) -> Result<()> {
        let what = || "making a socket whose connection has ended".to_owned();
        let four = std::net::Ipv4Addr::LOCALHOST;
        let own = socket.place();
        let loopback: std::net::SocketAddr = match (socket.family, own) {
            // Its address is one of IPv4 in the guise of IPv6, from which no other sort is reached.
            (libc::AF_INET6, Some((IpAddr::V4(_), _))) => (four.to_ipv6_mapped(), 0).into(),
            (libc::AF_INET6, _) => (std::net::Ipv6Addr::LOCALHOST, 0).into(),
            _ => (four, 0).into(),
        };
        let door = fresh(&TcpSocket {
            family: socket.family,
            ..TcpSocket::default()
        })?;
        socket::bind(door.as_fd(), &Address::internet(loopback)).attempt(what)?;
        socket::listen(door.as_fd(), 1).attempt(what)?;
        let to = socket::address(door.as_fd(), End::Own).attempt(what)?;
        let fd = fresh(socket)?;
        // Its old address is worth an attempt, no more: others may be there.
        if let Some(own) = socket.own().filter(reaches_loopback) {
            let _ = bind_or_force(fd.as_fd(), &own);
        }
        connect(fd.as_fd(), &to).attempt(what)?;
        let other = socket::accept(door.as_fd()).attempt(what)?;
        self.made.insert(socket.inode, fd);
        self.ghosts.insert(socket.inode, other);
        Ok(())
    }

    /// A socket whose connection goes on.
    fn resume(&mut self, socket: &TcpSocket) -> Result<()> {
        let kept = self.kept.get(&socket.inode).ok_or_else(damaged)?;
        let unread = self.data.get(&socket.inode).map_or(&[][..], Vec::as_slice);
        let fd = revive::make(socket, kept, unread)?;
        self.made.insert(socket.inode, fd);
        Ok(())
    }

    /// Sends everything that was under way.
    fn fill(&self) -> Result<()> {
        let start = Instant::now();
        let mut deliveries = Vec::new();
        let rebuilt = self.sockets.iter().enumerate();
        for (index, socket) in rebuilt.filter(|(_, socket)| socket.link() != Link::Kept) {
            let Some(bytes) = self.data.get(&socket.inode).filter(|it| !it.is_empty()) else {
                continue;
            };
            let sender = match self.ghosts.get(&socket.inode) {
                Some(ghost) => ghost.as_fd(),
                None => self.fd(socket.peer)?,
            };
            let receiver = self.fd(socket.inode)?;
            let urgent = socket.urgent.and_then(|at| usize::try_from(at).ok());
            let mut delivery = Delivery {
                flow: Flow {
                    sender: Some(sender),
                    receiver,
                    index,
                },
                bytes,
                sent: 0,
                urgent: urgent.filter(|at| *at < bytes.len()),
            };
            delivery.send()?;
            if delivery.sent < bytes.len() {
                let room = i32::try_from(bytes.len() * 2 + (1 << 20)).unwrap_or(i32::MAX);
                settle::grow(&[(receiver, room)])?;
            }
            deliveries.push(delivery);
        }
        while !deliveries.iter().all(Delivery::is_done) {
            for delivery in &mut deliveries {
                delivery.send()?;
            }
            if start.elapsed() > LIMIT {
                return Err(stuck());
            }
            let flows = deliveries.iter().map(|delivery| delivery.flow);
            settle::settle(flows.collect(), Duration::from_millis(20))?;
        }
        let flows = deliveries.iter().map(|delivery| delivery.flow);
        let left = settle::settle(flows.collect(), LIMIT)?;
        if !left.is_empty() {
            return Err(stuck());
        }
        for socket in self.sockets.iter().filter(|it| it.urgent_taken) {
            socket::receive_urgent(self.fd(socket.inode)?)
                .attempt(|| "receiving an urgent byte again".into())?;
        }
        Ok(())
    }

    /// Closes directions that were closed, and peers that had gone.
    fn close_directions(&mut self) -> Result<()> {
        let what = || "closing a direction of a connection".to_owned();
        let ghosts: Vec<u64> = self.ghosts.keys().copied().collect();
        // First the peers, so that the ends of this job are the ones that answer.
        self.ghosts.clear();
        for inode in ghosts {
            await_end(self.fd(inode)?)?;
        }
        for socket in self.sockets {
            let sends = socket.link() == Link::Ended || socket.shutdown & 2 != 0;
            if sends && has_connection(socket) {
                ignore_unconnected(socket::shutdown(self.fd(socket.inode)?, libc::SHUT_WR))
                    .attempt(what)?;
            }
        }
        for socket in self.sockets {
            if socket.shutdown & 1 != 0 && has_connection(socket) {
                ignore_unconnected(socket::shutdown(self.fd(socket.inode)?, libc::SHUT_RD))
                    .attempt(what)?;
            }
        }
        Ok(())
    }

    /// Gives all sockets their options.
    pub(super) fn finish(&self) -> Result<()> {
        for socket in self.sockets {
            let fd = self.fd(socket.inode)?;
            if socket.link() == Link::Kept {
                revive::restore_early(fd, &socket.options)?;
            } else {
                restore(fd, &socket.options)?;
                set_sharing(fd, &socket.options)?;
            }
            crate::resource::file::set_flags(fd, socket.flags)
                .attempt(|| "setting the flags of a socket".into())?;
        }
        Ok(())
    }
}

/// Bytes on their way.
struct Delivery<'a> {
    flow: Flow<'a>,
    bytes: &'a [u8],
    sent: usize,
    urgent: Option<usize>,
}

impl Delivery<'_> {
    fn is_done(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Sends what there is room for.
    fn send(&mut self) -> Result<()> {
        let Some(sender) = self.flow.sender else {
            return Ok(());
        };
        while !self.is_done() {
            let (end, flags) = match self.urgent {
                Some(at) if self.sent < at => (at, 0),
                Some(at) if self.sent == at => (at + 1, libc::MSG_OOB),
                _ => (self.bytes.len(), 0),
            };
            match socket::send(sender, &self.bytes[self.sent..end], None, &[], flags) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).attempt(|| "sending what was under way".into()),
            }
        }
        Ok(())
    }
}

fn stuck() -> Error {
    Error::Failed(
        "what was under way in TCP sockets does not arrive: their buffers may not be as large here"
            .into(),
    )
}

pub(super) fn damaged() -> Error {
    Error::Failed("the image is damaged: TCP sockets do not fit each other".into())
}

/// Whether directions of it are closed as the program would.
fn has_connection(socket: &TcpSocket) -> bool {
    !matches!(
        socket.link(),
        Link::Alone | Link::Listening | Link::Connecting | Link::Kept
    )
}

fn ignore_unconnected(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(()),
        result => result,
    }
}

pub(super) fn name(address: Option<Address>) -> String {
    let place = address.and_then(|address| address.place());
    place.map_or("nowhere".into(), |place| readable(&place))
}

fn reaches_loopback(own: &Address) -> bool {
    own.place()
        .is_some_and(|(ip, _)| ip.is_loopback() || ip.is_unspecified())
}

fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    socket::set_option(socket, level, name, &value.to_ne_bytes())
}

/// The ports that several sockets have without a connection. They all shared it (SO_REUSEPORT) when they were bound, also those
/// whose programs have taken that back since.
fn shared_ports(sockets: &[TcpSocket]) -> BTreeSet<Option<u16>> {
    let mut once = BTreeSet::new();
    let mut shared = BTreeSet::new();
    let bound = sockets
        .iter()
        .filter(|it| matches!(it.link(), Link::Alone | Link::Listening));
    for port in bound.filter_map(|socket| port(&socket.own()?)) {
        if !once.insert(port) {
            shared.insert(Some(port));
        }
    }
    shared
}

/// A socket that is not connected, with the options that decide on names, and its port to be shared.
fn fresh(socket: &TcpSocket) -> Result<OwnedFd> {
    let protocol = match socket.multipath {
        true => libc::IPPROTO_MPTCP,
        false => libc::IPPROTO_TCP,
    };
    let fd = socket::socket(socket.family, libc::SOCK_STREAM, protocol)
        .attempt(|| "making a socket".into())?;
    prepare(fd.as_fd(), &socket.options)?;
    set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
        .attempt(|| "letting a socket share its port".into())?;
    Ok(fd)
}

/// Binds a socket; where remains of another connection are in the way, by force if that is permitted.
fn bind_or_force(socket: BorrowedFd<'_>, own: &Address) -> std::io::Result<()> {
    let repair = |value: i32| {
        let value = value.to_ne_bytes();
        socket::set_option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &value)
    };
    match socket::bind(socket, own) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && repair(1).is_ok() => {
            let bound = socket::bind(socket, own);
            repair(REPAIR_OFF_NO_PROBE)?;
            set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            bound
        }
        bound => bound,
    }
}

fn bind(socket: BorrowedFd<'_>, own: &Address) -> Result<()> {
    remains::outlast(Wanted::Port(port(own)), || bind_or_force(socket, own))
        .attempt(|| format!("binding a socket to {}", name(Some(own.clone()))))
}

fn listen(socket: BorrowedFd<'_>, own: Option<&Address>, backlog: i32) -> std::io::Result<()> {
    remains::outlast(Wanted::Port(own.and_then(port)), || {
        socket::listen(socket, backlog)
    })
}

fn port(address: &Address) -> Option<u16> {
    address.place().map(|(_, port)| port)
}

/// The ports among which connect(2) chooses here; none where the kernel does not say.
fn port_choice() -> Option<RangeInclusive<u16>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_whitespace();
    let (first, last) = (ends.next()?, ends.next()?);
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Whether nobody has answered.
fn is_no_connection(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::ETIMEDOUT)
    )
}

/// The first and the last port among which connect(2) chooses; 0 for all.
fn set_port_range(socket: BorrowedFd<'_>, range: i32) -> std::io::Result<()> {
    set(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range)
}

/// Connects a socket from an address and port of its own, which `bind` gives it.
fn connect_from(
    socket: BorrowedFd<'_>,
    own: &Address,
    to: &Address,
    bind: impl FnOnce(BorrowedFd<'_>, &Address) -> std::io::Result<()>,
) -> std::io::Result<()> {
    bind(socket, own)?;
    connect(socket, to)?;
    if socket::number_option(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE).unwrap_or(0) != 0 {
        set_port_range(socket, 0)?;
    }
    if socket::address(socket, End::Own)?.place() == own.place() {
        return Ok(());
    }
    Err(std::io::Error::other("the kernel chose another address"))
}

/// Asks for a connection without waiting for it.
fn begin(socket: BorrowedFd<'_>, to: &Address) -> std::io::Result<()> {
    descriptor::control(socket, libc::F_SETFL, libc::O_NONBLOCK.into())?;
    match socket::connect(socket, to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        connected => connected,
    }
}

fn connect(socket: BorrowedFd<'_>, to: &Address) -> std::io::Result<()> {
    begin(socket, to)?;
    if descriptor::poll_for(socket, libc::POLLOUT, LIMIT.as_millis() as i32)? == 0 {
        return Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    socket::take_error(socket)
}

/// Waits until a peer that closes has been heard.
fn await_end(socket: BorrowedFd<'_>) -> Result<()> {
    let limit = LIMIT.as_millis() as i32;
    let events = descriptor::poll_for(socket, libc::POLLRDHUP, limit);
    match events.attempt(|| "waiting for the end of a connection".into())? {
        0 => Err(stuck()),
        _ => Ok(()),
    }
}
