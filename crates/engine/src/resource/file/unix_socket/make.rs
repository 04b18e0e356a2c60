//! Making unix sockets again, each in the process that is to be named as its maker.
//!
//! The credentials that a peer is told (SO_PEERCRED) are those of the process that called socketpair(2), connect(2) or listen(2):
//! so these are called in processes of the job, and this process takes the descriptors from there. An end that no process has any
//! more (a peer that has gone, a socket that listened) is made as well, and closed when it has served.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cryonaut_sys::pidfd;
use cryonaut_sys::socket::Address;
use cryonaut_tracee::{Argument, CallId, CallList, Outcomes};

use super::record::{Link, Sender, SocketFile, UnixSocket, is_path, readable};
use super::socket_file::Place;
use crate::error::Attempt;
use crate::rebuild::{CloseOnExec, Rebuild};
use crate::resource::file::{TARGET, raise_limit};
use crate::resource::namespace::Whereabouts;
use crate::{Error, Result};

/// How many sockets one list of calls makes at most.
const AT_ONCE: usize = 100;

/// A socket that is bound, and listens perhaps.
pub(super) struct Bound {
    /// The process in which it is, and its number there.
    held: Option<(i32, u64)>,
    /// How it is reached.
    pub(super) reach: Reach,
}

impl Bound {
    /// One that no process has open.
    pub(super) fn of(reach: Reach) -> Self {
        Self { held: None, reach }
    }
}

/// How others reach a socket by its name.
pub(super) enum Reach {
    /// By an abstract name.
    Abstract(Address),
    /// By its file.
    File(Place),
}

/// One end of a connection to be made: a socket of the image, or one that only serves.
#[derive(Clone, Copy)]
enum Side<'r> {
    Socket(&'r UnixSocket),
    /// The peer of this one.
    Ghost(&'r UnixSocket),
}

/// A connection to be made.
struct Connection<'r> {
    client: Side<'r>,
    /// None for one that is not accepted.
    server: Option<Side<'r>>,
}

/// In which network namespace who makes sockets of which kind, and who the kernel is to note.
type Maker = (u64, i32, i32, Option<Sender>);

/// A pair to be made, by inode number; the second is none for a peer that has gone.
type Pair = (u64, Option<u64>);

/// Where sockets are made.
pub(super) struct Workshop<'r, 'a> {
    pub(super) rebuild: &'r mut Rebuild<'a>,
    pub(super) sockets: &'r [UnixSocket],
    pub(super) processes: BTreeSet<i32>,
    /// Processes that have ended and are there again for the time of this: (parent, pid).
    placeholders: Vec<(i32, i32)>,
    pub(super) by_inode: BTreeMap<u64, &'r UnixSocket>,
    /// What is made, by inode number.
    pub(super) made: BTreeMap<u64, OwnedFd>,
    /// Peers that have gone, by the inode number of who is left.
    pub(super) ghosts: BTreeMap<u64, OwnedFd>,
    /// Sockets with a name of their own, by inode number.
    pub(super) bound: BTreeMap<u64, Bound>,
    pidfds: BTreeMap<i32, OwnedFd>,
    networks: Whereabouts,
}

impl<'r, 'a> Workshop<'r, 'a> {
    pub(super) fn new(
        rebuild: &'r mut Rebuild<'a>,
        sockets: &'r [UnixSocket],
        processes: &'r BTreeSet<i32>,
    ) -> Result<Self> {
        for &process in processes {
            raise_limit(rebuild.built(process)?.pid)?;
        }
        let mut processes = processes.clone();
        let mut placeholders = Vec::new();
        if let Some(&parent) = processes.first() {
            for pid in named(sockets) {
                // One whose number is taken, by a zombie of the job or outside, is nobody's to be born again.
                if !processes.contains(&pid) && rebuild.birth_of_placeholder(parent, pid).is_ok() {
                    placeholders.push((parent, pid));
                }
            }
        }
        processes.extend(placeholders.iter().map(|(_, pid)| *pid));
        let networks = Whereabouts::of(rebuild)?;
        Ok(Self {
            rebuild,
            networks,
            sockets,
            processes,
            placeholders,
            by_inode: sockets
                .iter()
                .map(|socket| (socket.inode, socket))
                .collect(),
            made: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            bound: BTreeMap::new(),
            pidfds: BTreeMap::new(),
        })
    }

    /// Makes and connects all sockets. Datagram sockets are connected when their queues are full.
    pub(super) fn make(&mut self) -> Result<()> {
        let sockets = self.sockets;
        self.make_pairs()?;
        for socket in sockets.iter().filter(|socket| socket.is_bound()) {
            self.bind(socket)?;
        }
        for socket in sockets {
            let alone = socket.link() == Link::Alone || socket.reconnect;
            if alone && !self.made.contains_key(&socket.inode) {
                let process = self.process_of(socket);
                let fd = self.plain(process, socket.kind, socket.network)?;
                self.made.insert(socket.inode, fd);
            }
        }
        self.make_connections()?;
        for socket in sockets
            .iter()
            .filter(|socket| socket.kind == libc::SOCK_DGRAM)
        {
            if !self.made.contains_key(&socket.inode) {
                let process = self.process_of(socket);
                let fd = self.plain(process, socket.kind, socket.network)?;
                self.made.insert(socket.inode, fd);
            }
        }
        for socket in sockets
            .iter()
            .filter(|socket| socket.link() == Link::Listening)
        {
            self.listen(socket, socket.backlog)?;
        }
        let mut held: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
        for bound in self.bound.values_mut() {
            if let Some((process, number)) = bound.held.take() {
                held.entry(process).or_default().push(number);
            }
        }
        held.into_iter()
            .try_for_each(|(process, numbers)| self.close(process, &numbers))
    }

    /// Ends the processes that were there only for this.
    pub(super) fn end_placeholders(&mut self) -> Result<()> {
        for (parent, pid) in std::mem::take(&mut self.placeholders) {
            self.rebuild.end_placeholder(parent, pid)?;
        }
        Ok(())
    }

    /// The process that a socket is made in when nothing else decides.
    pub(super) fn process_of(&self, socket: &UnixSocket) -> i32 {
        let any = self.processes.first().copied().unwrap_or(0);
        if self.processes.contains(&socket.process) {
            socket.process
        } else {
            any
        }
    }

    /// The process that a socket's peer is to name, and the socket's own if that one has ended.
    fn maker(&self, told: Option<&Sender>, otherwise: &UnixSocket) -> i32 {
        match told {
            Some(sender) if self.processes.contains(&sender.process) => sender.process,
            _ => self.process_of(otherwise),
        }
    }

    /// Takes a descriptor out of a process.
    fn take(&mut self, process: i32, number: u64) -> Result<OwnedFd> {
        let what = || format!("process {process}: taking a socket");
        let pid = self.rebuild.built(process)?.pid;
        let opened = match self.pidfds.entry(process) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(pidfd::open(pid).attempt(what)?),
        };
        pidfd::get_descriptor(opened.as_fd(), number as i32).attempt(what)
    }

    pub(super) fn close(&self, process: i32, numbers: &[u64]) -> Result<()> {
        for chunk in numbers.chunks(AT_ONCE) {
            let mut list = CallList::new();
            for &number in chunk {
                list.call(libc::SYS_close, &[number.into()]);
            }
            self.rebuild.run(process, &list)?;
        }
        Ok(())
    }

    /// A socket without a name or a peer, which is left open in its process.
    fn open_in(&mut self, process: i32, kind: i32, network: u64) -> Result<(OwnedFd, u64)> {
        if self.networks.is_in(process, network) {
            return self.open_there(process, kind);
        }
        // It does not matter who makes it; who names it, listens or connects is told.
        let made = match self.networks.member(network) {
            _ if network == 0 => {
                let made = cryonaut_sys::socket::socket(libc::AF_UNIX, kind, 0);
                made.attempt(|| "making a socket".into())?
            }
            Some(member) => {
                let (made, number) = self.open_there(member, kind)?;
                self.close(member, &[number])?;
                made
            }
            None => {
                return Err(Error::Failed(format!(
                    "the image is damaged: no process is in network namespace {network}"
                )));
            }
        };
        let given = self.put(process, made.as_fd())?;
        let mut list = CallList::new();
        let arguments = [given.into(), libc::F_DUPFD_CLOEXEC.into(), 0.into()];
        let copy = list.call(libc::SYS_fcntl, &arguments);
        list.call(libc::SYS_close, &[given.into()]);
        let outcomes = self.rebuild.run(process, &list)?;
        let number = result(&outcomes, copy, process, "being given a socket")?;
        Ok((made, number))
    }

    /// A socket of the network namespace that a process is in, left open in it.
    fn open_there(&mut self, process: i32, kind: i32) -> Result<(OwnedFd, u64)> {
        let mut list = CallList::new();
        let kind = kind | libc::SOCK_CLOEXEC;
        let arguments = [libc::AF_UNIX.into(), kind.into(), 0.into()];
        let made = list.call(libc::SYS_socket, &arguments);
        let outcomes = self.rebuild.run(process, &list)?;
        let number = result(&outcomes, made, process, "making a socket")?;
        Ok((self.take(process, number)?, number))
    }

    /// A socket without a name or a peer.
    pub(super) fn plain(&mut self, process: i32, kind: i32, network: u64) -> Result<OwnedFd> {
        let (fd, number) = self.open_in(process, kind, network)?;
        self.close(process, &[number])?;
        Ok(fd)
    }

    /// Makes a socket with a name; one that listens does so already.
    fn bind(&mut self, socket: &'r UnixSocket) -> Result<()> {
        let name = socket.name.as_deref().unwrap_or_default();
        // A client that waits or is connected is made with its connection: there it is bound only.
        let process = match socket.link() {
            Link::Connected | Link::Gone if socket.kind != libc::SOCK_DGRAM => {
                self.client_process(socket)
            }
            Link::Waiting => self.client_process(socket),
            Link::Listening => self.maker(self.told_of_listener(socket), socket),
            _ => self.process_of(socket),
        };
        // One of a pair is there already.
        let number = match self.made.get(&socket.inode) {
            Some(made) => self.put(process, made.as_fd())?,
            None => {
                let (fd, number) = self.open_in(process, socket.kind, socket.network)?;
                self.made.insert(socket.inode, fd);
                number
            }
        };
        let reach = self.name(process, number, name, socket.file.as_ref())?;
        let held = Some((process, number));
        self.bound.insert(socket.inode, Bound { held, reach });
        if socket.link() == Link::Listening {
            self.listen(socket, MANY)?;
        }
        Ok(())
    }

    /// The process that calls connect(2) for a socket: the one that its peer is told of.
    fn client_process(&self, socket: &UnixSocket) -> i32 {
        let peer = self.by_inode.get(&socket.peer);
        let told = peer.filter(|_| socket.link() == Link::Connected);
        self.maker(told.and_then(|peer| peer.peer_credentials.as_ref()), socket)
    }

    /// Who the clients of a socket that listens are told it is.
    fn told_of_listener(&self, listener: &UnixSocket) -> Option<&'r Sender> {
        let mut clients = self.sockets.iter().filter(|client| match client.link() {
            Link::Waiting => client.peer == listener.inode,
            Link::Connected => self.by_inode.get(&client.peer).is_some_and(|server| {
                server.accepted
                    && server.name == listener.name
                    && server.kind == listener.kind
                    && listener.is_known_in(server.network)
            }),
            _ => false,
        });
        clients.find_map(|client| client.peer_credentials.as_ref())
    }

    /// Puts a descriptor into a process.
    pub(super) fn put(&self, process: i32, fd: BorrowedFd<'_>) -> Result<u64> {
        let number = self.rebuild.numbers.spare[TARGET];
        self.rebuild
            .give(process, &[(fd, number, CloseOnExec::Yes)])?;
        Ok(number as u64)
    }

    /// Binds a socket that a process has open to a name; none gets any that is free.
    fn name(
        &self,
        process: i32,
        number: u64,
        name: &[u8],
        file: Option<&SocketFile>,
    ) -> Result<Reach> {
        let what = format!("binding a socket to {}", readable(name));
        let address = Address::unix(name);
        let mut list = CallList::new();
        let bytes = list.bytes(address.bytes());
        let length = address.bytes().len() as u64;
        let bind = [number.into(), bytes.into(), length.into()];
        if !is_path(name) {
            let bound = list.call(libc::SYS_bind, &bind);
            result(&self.rebuild.run(process, &list)?, bound, process, &what)?;
            return Ok(Reach::Abstract(address));
        }
        let place = Place::make(name, file)?;
        let (slash, here) = (list.path(b"/"), list.path(b"."));
        let (root, directory) = (list.path(&place.root), list.path(&place.directory));
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let old = list.call(libc::SYS_open, &[slash.into(), flags.into()]);
        let calls = [
            old,
            list.call(libc::SYS_chroot, &[root.into()]),
            list.call(libc::SYS_chdir, &[directory.into()]),
            list.call(libc::SYS_bind, &bind),
            list.call(libc::SYS_fchdir, &[old.into()]),
            list.call(libc::SYS_chroot, &[here.into()]),
            list.call(libc::SYS_close, &[old.into()]),
        ];
        let outcomes = self.rebuild.run(process, &list)?;
        for call in calls {
            result(&outcomes, call, process, &what)?;
        }
        open_to_all(&place)?;
        Ok(Reach::File(place))
    }

    /// A socket that stands for one that has gone, with its name: open here and in the process. What has no name gets one, by which
    /// it is reached. An abstract name that somebody outside has now is lost; nobody is left who could be reached by it.
    pub(super) fn ghost(
        &mut self,
        process: i32,
        (kind, network): (i32, u64),
        name: Option<&[u8]>,
    ) -> Result<(OwnedFd, u64, Reach)> {
        let (fd, number) = self.open_in(process, kind, network)?;
        let name = name.unwrap_or_default();
        let reach = match self.name(process, number, name, None) {
            Err(_) if !is_path(name) => self.name(process, number, b"", None)?,
            reach => reach?,
        };
        let reach = match reach {
            Reach::Abstract(_) => Reach::Abstract(own_address(fd.as_fd())?),
            file => file,
        };
        Ok((fd, number, reach))
    }

    fn listen(&mut self, socket: &UnixSocket, backlog: u32) -> Result<()> {
        let held = self.bound.get(&socket.inode).and_then(|bound| bound.held);
        let (process, number) = held.ok_or_else(|| {
            Error::Failed("the image is damaged: a socket listens without a name".into())
        })?;
        let told = self.told_of_listener(socket).copied();
        let mut list = CallList::new();
        let guise = Guise::put_on(&mut list, told.as_ref(), self.own_ids());
        let call = list.call(
            libc::SYS_listen,
            &[number.into(), u64::from(backlog).into()],
        );
        guise.take_off(&mut list);
        let outcomes = self.rebuild.run(process, &list)?;
        result(&outcomes, call, process, "listening").map(drop)
    }

    /// User and group of the processes as they are now.
    fn own_ids(&self) -> (u32, u32) {
        cryonaut_sys::task::effective_ids()
    }

    /// Makes everything that socketpair(2) made: ends without a name, and datagram sockets that are each other's peers.
    fn make_pairs(&mut self) -> Result<()> {
        let sockets = self.sockets;
        let mut wanted: BTreeMap<Maker, Vec<Pair>> = BTreeMap::new();
        let mut done = BTreeSet::new();
        for socket in sockets {
            if done.contains(&socket.inode) || self.made.contains_key(&socket.inode) {
                continue;
            }
            let pair = match (socket.link(), socket.kind) {
                _ if socket.reconnect => None,
                (Link::Connected, libc::SOCK_DGRAM) => {
                    let peer = self.by_inode[&socket.peer];
                    socket.is_pair_with(peer).then_some(Some(peer.inode))
                }
                (Link::Connected, _) => {
                    let peer = self.by_inode[&socket.peer];
                    let unnamed = socket.name.is_none() && peer.name.is_none();
                    unnamed.then_some(Some(peer.inode))
                }
                (Link::Gone, libc::SOCK_DGRAM) => socket.name.is_none().then_some(None),
                (Link::Gone, _) => {
                    let unnamed = socket.name.is_none() && socket.peer_name.is_none();
                    unnamed.then_some(None)
                }
                _ => None,
            };
            if let Some(peer) = pair {
                done.extend([Some(socket.inode), peer].into_iter().flatten());
                let told = socket.peer_credentials;
                let process = self.maker(told.as_ref(), socket);
                wanted
                    .entry((socket.network, process, socket.kind, told))
                    .or_default()
                    .push((socket.inode, peer));
            }
        }
        // Those of our own network namespace come first: not everybody who has left that gets back there.
        for (maker, pairs) in wanted {
            for chunk in pairs.chunks(AT_ONCE) {
                self.pairs(maker, chunk)?;
            }
        }
        self.networks.settle(self.rebuild)
    }

    fn pairs(&mut self, (network, process, kind, told): Maker, wanted: &[Pair]) -> Result<()> {
        self.networks.lead(self.rebuild, process, network)?;
        let mut list = CallList::new();
        let guise = Guise::put_on(&mut list, told.as_ref(), self.own_ids());
        let calls: Vec<_> = wanted
            .iter()
            .map(|_| {
                let ends = list.space(8);
                let kind = kind | libc::SOCK_CLOEXEC;
                let arguments = [libc::AF_UNIX.into(), kind.into(), 0.into(), ends.into()];
                (list.call(libc::SYS_socketpair, &arguments), ends)
            })
            .collect();
        guise.take_off(&mut list);
        let outcomes = self.rebuild.run(process, &list)?;
        let mut numbers = Vec::with_capacity(calls.len() * 2);
        for ((call, ends), (inode, peer)) in calls.into_iter().zip(wanted) {
            result(&outcomes, call, process, "making a pair of sockets")?;
            let both = outcomes.word(ends);
            let (one, other) = (both & 0xffff_ffff, both >> 32);
            numbers.extend([one, other]);
            let (first, second) = (self.take(process, one)?, self.take(process, other)?);
            self.made.insert(*inode, first);
            match peer {
                Some(peer) => drop(self.made.insert(*peer, second)),
                None => {
                    // Whatever it is called, nobody will reach it.
                    if let Some(name) = &self.by_inode[inode].peer_name {
                        let named = self.name(process, other, name, None);
                        if is_path(name) {
                            named?;
                        }
                    }
                    self.ghosts.insert(*inode, second);
                }
            }
        }
        self.close(process, &numbers)
    }

    /// Makes what connect(2) and accept(2) made.
    fn make_connections(&mut self) -> Result<()> {
        let sockets = self.sockets;
        // By the name that was connected to, and the kind: accepted ones first, then those that wait, in their order.
        let mut wanted: BTreeMap<(i32, Vec<u8>, u64), Vec<Connection<'r>>> = BTreeMap::new();
        let mut add = |kind: i32, name: &[u8], connection: Connection<'r>| {
            let (Side::Socket(client) | Side::Ghost(client)) = connection.client;
            // A path is the same from all network namespaces.
            let network = if is_path(name) { 0 } else { client.network };
            wanted
                .entry((kind, name.to_vec(), network))
                .or_default()
                .push(connection);
        };
        let streams = sockets
            .iter()
            .filter(|socket| socket.kind != libc::SOCK_DGRAM && !socket.reconnect);
        for socket in streams {
            let name = socket.name.as_deref();
            match (socket.link(), name) {
                (Link::Connected, Some(name)) if socket.accepted => {
                    let connection = Connection {
                        client: Side::Socket(self.by_inode[&socket.peer]),
                        server: Some(Side::Socket(socket)),
                    };
                    add(socket.kind, name, connection);
                }
                (Link::Gone, Some(name)) if socket.accepted => {
                    let connection = Connection {
                        client: Side::Ghost(socket),
                        server: Some(Side::Socket(socket)),
                    };
                    add(socket.kind, name, connection);
                }
                (Link::Gone, _) if socket.is_bound() || socket.peer_name.is_some() => {
                    let connection = Connection {
                        client: Side::Socket(socket),
                        server: Some(Side::Ghost(socket)),
                    };
                    add(
                        socket.kind,
                        socket.peer_name.as_deref().unwrap_or_default(),
                        connection,
                    );
                }
                _ => {}
            }
        }
        for listener in sockets.iter().filter(|socket| !socket.waiting.is_empty()) {
            for client in &listener.waiting {
                let connection = Connection {
                    client: Side::Socket(self.by_inode[client]),
                    server: None,
                };
                let name = listener.name.as_deref().unwrap_or_default();
                add(listener.kind, name, connection);
            }
        }
        for ((kind, name, network), connections) in wanted {
            self.connect_all((kind, network), &name, &connections)?;
        }
        Ok(())
    }

    /// Makes connections to one name: through the socket of the image that listens there, or through one that only serves.
    fn connect_all(
        &mut self,
        (kind, network): (i32, u64),
        name: &[u8],
        connections: &[Connection<'r>],
    ) -> Result<()> {
        let listener = self.sockets.iter().find(|socket| {
            socket.link() == Link::Listening
                && socket.kind == kind
                && socket.name.as_deref() == Some(name)
                && socket.is_known_in(network)
        });
        let (inode, serving) = match listener {
            Some(listener) => (listener.inode, false),
            None => {
                let first = &connections[0];
                self.serve((kind, network), name, first)?;
                (SERVING, true)
            }
        };
        for connection in connections {
            self.connect(inode, kind, connection)?;
        }
        if serving && let Some(bound) = self.bound.remove(&SERVING) {
            if let Some((process, number)) = bound.held {
                self.close(process, &[number])?;
            }
            self.made.remove(&SERVING);
        }
        Ok(())
    }

    /// Makes a socket that listens at a name only until its connections are made. One without a name gets any.
    fn serve(
        &mut self,
        (kind, network): (i32, u64),
        name: &[u8],
        first: &Connection<'r>,
    ) -> Result<()> {
        let (Side::Socket(client) | Side::Ghost(client)) = first.client;
        let process = self.maker(client.peer_credentials.as_ref(), client);
        let (fd, number, reach) = self.ghost(process, (kind, network), Some(name))?;
        self.made.insert(SERVING, fd);
        let held = Some((process, number));
        self.bound.insert(SERVING, Bound { held, reach });
        let told = match first.client {
            Side::Socket(client) => client.peer_credentials,
            Side::Ghost(_) => None,
        };
        let mut list = CallList::new();
        let guise = Guise::put_on(&mut list, told.as_ref(), self.own_ids());
        let call = list.call(libc::SYS_listen, &[number.into(), u64::from(MANY).into()]);
        guise.take_off(&mut list);
        let outcomes = self.rebuild.run(process, &list)?;
        result(&outcomes, call, process, "listening").map(drop)
    }

    /// Makes one connection.
    fn connect(&mut self, listener: u64, kind: i32, connection: &Connection<'r>) -> Result<()> {
        // The server is told of the client, and the other way round.
        let told = match connection.server {
            Some(Side::Socket(server)) => server.peer_credentials,
            _ => None,
        };
        let (Side::Socket(named) | Side::Ghost(named)) = connection.client;
        let process = self.maker(told.as_ref(), named);
        let mut list = CallList::new();
        let held = match connection.client {
            Side::Socket(client) => self.bound.get(&client.inode).and_then(|bound| bound.held),
            Side::Ghost(_) => None,
        };
        // A ghost may have had a name of its own.
        let ghost_name = match connection.client {
            Side::Ghost(left) => left.peer_name.clone(),
            Side::Socket(_) => None,
        };
        let (process, number, fd) = match (held, ghost_name) {
            (Some((process, number)), _) => (process, number, None),
            (None, Some(name)) => {
                let (fd, number, _) = self.ghost(process, (kind, named.network), Some(&name))?;
                (process, number, Some(fd))
            }
            (None, None) => {
                let (fd, number) = self.open_in(process, kind, named.network)?;
                (process, number, Some(fd))
            }
        };
        let reach = &self.bound[&listener].reach;
        let guise = Guise::put_on(&mut list, told.as_ref(), self.own_ids());
        let call = connect_call(&mut list, number, reach);
        guise.take_off(&mut list);
        let outcomes = self.rebuild.run(process, &list)?;
        result(&outcomes, call, process, "connecting a socket")?;
        if let Some(fd) = fd {
            match connection.client {
                Side::Socket(client) => drop(self.made.insert(client.inode, fd)),
                Side::Ghost(left) => drop(self.ghosts.insert(left.inode, fd)),
            }
            self.close(process, &[number])?;
        }
        match connection.server {
            Some(server) => self.accept(listener, server),
            None => Ok(()),
        }
    }

    fn accept(&mut self, listener: u64, server: Side<'r>) -> Result<()> {
        let Some((process, number)) = self.bound[&listener].held else {
            return Err(Error::Failed(
                "a socket that listens has been closed".into(),
            ));
        };
        let mut list = CallList::new();
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let call = list.call(
            libc::SYS_accept4,
            &[number.into(), 0.into(), 0.into(), flags.into()],
        );
        let outcomes = self.rebuild.run(process, &list)?;
        let accepted = result(&outcomes, call, process, "accepting a connection")?;
        let fd = self.take(process, accepted)?;
        match server {
            Side::Socket(server) => drop(self.made.insert(server.inode, fd)),
            Side::Ghost(left) => drop(self.ghosts.insert(left.inode, fd)),
        }
        self.close(process, &[accepted])
    }
}

/// The processes whose credentials anybody is to be told.
fn named(sockets: &[UnixSocket]) -> BTreeSet<i32> {
    let senders = sockets.iter().flat_map(|socket| {
        let messages = socket.queue.iter();
        let senders = messages.filter_map(|message| message.sender);
        senders.chain(socket.peer_credentials)
    });
    senders
        .map(|sender| sender.process)
        .filter(|process| *process > 0)
        .collect()
}

/// The backlog of a socket that listens while connections are made.
const MANY: u32 = 4096;
/// What a socket that only serves is called.
const SERVING: u64 = u64::MAX;

/// connect(2) to where a socket is reached. It never waits: there is room for more connections than are made.
fn connect_call(list: &mut CallList, number: u64, reach: &Reach) -> CallId {
    match reach {
        Reach::Abstract(address) => {
            let bytes = list.bytes(address.bytes());
            let length = address.bytes().len() as u64;
            list.call(
                libc::SYS_connect,
                &[number.into(), bytes.into(), length.into()],
            )
        }
        Reach::File(place) => {
            let (directory, name) = place.parts();
            let directory = list.path(directory.as_os_str().as_bytes());
            let slash = list.path(b"/");
            list.call(libc::SYS_chdir, &[directory.into()]);
            let address = Address::unix(name.as_bytes());
            let bytes = list.bytes(address.bytes());
            let length = address.bytes().len() as u64;
            let call = list.call(
                libc::SYS_connect,
                &[number.into(), bytes.into(), length.into()],
            );
            list.call(libc::SYS_chdir, &[slash.into()]);
            call
        }
    }
}

fn result(outcomes: &Outcomes, call: CallId, process: i32, what: &str) -> Result<u64> {
    outcomes
        .result(call)
        .attempt(|| format!("process {process}: {what}"))
}

pub(super) fn own_address(socket: BorrowedFd<'_>) -> Result<Address> {
    cryonaut_sys::socket::address(socket, cryonaut_sys::socket::End::Own)
        .attempt(|| "asking a socket for its name".into())
}

/// Lets processes of any user connect to a socket file that is not in its place yet.
fn open_to_all(place: &Place) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&place.file, std::fs::Permissions::from_mode(0o777))
        .attempt(|| format!("preparing the socket file {}", place.file.display()))
}

/// Effective user and group that a process has for the time of a call, so that the kernel notes them. A process that is root keeps
/// its real and saved ones, and so the way back.
struct Guise {
    back: Option<(u32, u32)>,
}

impl Guise {
    fn put_on(list: &mut CallList, told: Option<&Sender>, own: (u32, u32)) -> Self {
        let differs = told.filter(|told| (told.user, told.group) != own && own.0 == 0);
        let Some(told) = differs else {
            return Self { back: None };
        };
        set_ids(list, libc::SYS_setresgid, told.group);
        set_ids(list, libc::SYS_setresuid, told.user);
        Self { back: Some(own) }
    }

    fn take_off(self, list: &mut CallList) {
        if let Some((user, group)) = self.back {
            set_ids(list, libc::SYS_setresuid, user);
            set_ids(list, libc::SYS_setresgid, group);
        }
    }
}

/// Sets the effective id only.
fn set_ids(list: &mut CallList, number: i64, id: u32) {
    let keep = Argument::Value(u64::from(u32::MAX));
    list.call(number, &[keep, u64::from(id).into(), keep]);
}
