//! Filling the queues of unix sockets, and all that has to be done after that.
//!
//! A stream is filled by its peer. A datagram comes from the socket that has its sender's name, or from one made for that. Then
//! datagram sockets are connected, directions closed, and peers that have gone go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use cryonaut_sys::socket::{self, Address, Credentials};
use cryonaut_tracee::CallList;

use super::make::{Bound, Reach, Workshop, own_address};
use super::record::{Link, Message, Sender, TAKEN, URGENT, UnixSocket, is_path, readable};
use crate::error::Attempt;
use crate::rebuild::CloseOnExec;
use crate::resource::file::{TARGET, object, set_flags, socket as common};
use crate::{Error, Result};

/// The most bytes that a stub sends at once.
const AT_ONCE: usize = 128 * 1024;

impl Workshop<'_, '_> {
    /// Fills all queues, and connects datagram sockets.
    pub(super) fn fill(&mut self) -> Result<()> {
        let sockets = self.sockets;
        for socket in sockets {
            common::prepare(self.made(socket)?, &socket.options)?;
        }
        for ghost in self.ghosts.values() {
            enlarge(ghost.as_fd());
        }
        for socket in sockets.iter().filter(|socket| !socket.queue.is_empty()) {
            if socket.kind != libc::SOCK_DGRAM || self.is_paired(socket) {
                for message in &socket.queue {
                    self.send_from_peer(socket, message)?;
                }
            } else {
                let before = socket.queue.len() - self.count_of_peer(socket);
                for message in &socket.queue[..before] {
                    self.send_by_name(socket, message)?;
                }
            }
        }
        self.connect_datagrams()?;
        for socket in sockets
            .iter()
            .filter(|socket| socket.kind == libc::SOCK_DGRAM)
        {
            if !self.is_paired(socket) {
                let before = socket.queue.len() - self.count_of_peer(socket);
                for message in &socket.queue[before..] {
                    self.send_from_peer(socket, message)?;
                }
            }
        }
        Ok(())
    }

    fn made(&self, socket: &UnixSocket) -> Result<BorrowedFd<'_>> {
        let made = self.made.get(&socket.inode).map(AsFd::as_fd);
        made.ok_or_else(|| {
            Error::Failed(format!(
                "the image is damaged: unix socket {} cannot be made",
                socket.inode
            ))
        })
    }

    /// Whether a datagram socket was made as one of a pair.
    fn is_paired(&self, socket: &UnixSocket) -> bool {
        let peer = self.by_inode.get(&socket.peer);
        self.ghosts.contains_key(&socket.inode)
            || peer.is_some_and(|peer| socket.is_pair_with(peer))
    }

    /// How many messages at the end of a datagram socket's queue its peer has sent, when it is its peer's peer: those are sent when
    /// they are connected, since then no limit on their number holds.
    fn count_of_peer(&self, socket: &UnixSocket) -> usize {
        let peer = self.by_inode.get(&socket.peer);
        let Some(peer) = peer.filter(|peer| {
            socket.link() == Link::Connected
                && peer.link() == Link::Connected
                && peer.peer == socket.inode
        }) else {
            return 0;
        };
        let queue = socket.queue.iter().rev();
        queue
            .take_while(|message| message.from == peer.name)
            .count()
    }

    /// Has the peer of a socket send it a message.
    fn send_from_peer(&self, socket: &UnixSocket, message: &Message) -> Result<()> {
        let peer = match self.ghosts.get(&socket.inode) {
            Some(ghost) => ghost.as_fd(),
            None => self.made(self.by_inode.get(&socket.peer).ok_or_else(|| {
                Error::Failed("the image is damaged: a socket has data from nobody".into())
            })?)?,
        };
        match message.mark {
            TAKEN => {
                let byte = Message {
                    bytes: vec![0],
                    ..Message::default()
                };
                self.send(peer, None, &byte, libc::MSG_OOB, socket)?;
                socket::receive_urgent(self.made(socket)?)
                    .attempt(|| "marking the place of an urgent byte".into())
            }
            URGENT => self.send(peer, None, message, libc::MSG_OOB, socket),
            _ => self.send(peer, None, message, 0, socket),
        }
    }

    /// Sends a datagram to a socket by its name, from a socket with the right name.
    fn send_by_name(&mut self, socket: &UnixSocket, message: &Message) -> Result<()> {
        let to = self.reach(socket.inode)?;
        let sender = self.sockets.iter().find(|other| {
            other.kind == socket.kind
                && message.from.is_some()
                && other.is_bound()
                && other.name == message.from
                && other.is_known_in(socket.network)
        });
        if let Some(sender) = sender {
            let from = self.made(sender)?;
            return self.send(from, Some(&to.address), message, 0, socket);
        }
        let process = self.process_of(socket);
        let from = match &message.from {
            Some(name) => {
                let (fd, number, _) =
                    self.ghost(process, (socket.kind, socket.network), Some(name))?;
                self.close(process, &[number])?;
                let own = own_address(fd.as_fd())?.unix_name();
                if own.as_ref() != Some(name) {
                    return Err(Error::Failed(format!(
                        "a message is from {}, an abstract name that is taken here",
                        readable(name)
                    )));
                }
                fd
            }
            None => self.plain(process, socket.kind, socket.network)?,
        };
        enlarge(from.as_fd());
        self.send(from.as_fd(), Some(&to.address), message, 0, socket)
    }

    /// How this process reaches a socket by name.
    fn reach(&self, inode: u64) -> Result<Reached> {
        let what = || "reaching a socket by its name".to_owned();
        match self.bound.get(&inode).map(|bound: &Bound| &bound.reach) {
            Some(Reach::Abstract(address)) => Ok(Reached {
                address: address.clone(),
                _directory: None,
            }),
            Some(Reach::File(place)) => {
                let (directory, name) = place.parts();
                let opened = File::options()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(directory)
                    .attempt(what)?;
                // A path of its own length may not fit into an address.
                let mut path = format!("/proc/self/fd/{}/", opened.as_raw_fd()).into_bytes();
                path.extend_from_slice(name.as_bytes());
                Ok(Reached {
                    address: Address::unix(&path),
                    _directory: Some(opened),
                })
            }
            None => Err(Error::Failed(
                "the image is damaged: a message for a socket that nobody can reach".into(),
            )),
        }
    }

    /// Connects datagram sockets that were not made as pairs. One whose peer has gone is connected to one that goes.
    fn connect_datagrams(&mut self) -> Result<()> {
        let sockets = self.sockets;
        for socket in sockets
            .iter()
            .filter(|socket| socket.kind == libc::SOCK_DGRAM)
        {
            if self.is_paired(socket) {
                continue;
            }
            let what = || "connecting a datagram socket".to_owned();
            match socket.link() {
                Link::Connected => {
                    let to = self.reach(socket.peer)?;
                    socket::connect(self.made(socket)?, &to.address).attempt(what)?;
                }
                Link::Gone if socket.reconnect => {}
                Link::Gone => {
                    const GOING: u64 = u64::MAX;
                    let process = self.process_of(socket);
                    let name = socket.peer_name.as_deref();
                    let (_ghost, number, reach) =
                        self.ghost(process, (socket.kind, socket.network), name)?;
                    self.bound.insert(GOING, Bound::of(reach));
                    let to = self.reach(GOING)?;
                    socket::connect(self.made(socket)?, &to.address).attempt(what)?;
                    self.bound.remove(&GOING);
                    self.close(process, &[number])?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends one message. The buffer of the sender grows where it has to: it gets its own size in the end.
    fn send(
        &self,
        from: BorrowedFd<'_>,
        to: Option<&Address>,
        message: &Message,
        flags: i32,
        receiver: &UnixSocket,
    ) -> Result<()> {
        let mut descriptors = Vec::with_capacity(message.descriptors.len());
        for &number in &message.descriptors {
            let inside = self.sockets.iter().find(|socket| socket.object == number);
            descriptors.push(match inside {
                Some(socket) => self.made(socket)?,
                None => object(self.rebuild, number)?,
            });
        }
        // One that the job does not see is as invisible as this process.
        if let Some(sender) = message.sender.as_ref().filter(|sender| sender.process != 0) {
            return self.send_as(sender, from, (to, message, flags), &descriptors, receiver);
        }
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let what = || {
            format!(
                "putting {} bytes back into the queue of a unix socket",
                message.bytes.len()
            )
        };
        let own = message.sender.map(|sender| Credentials {
            pid: std::process::id() as i32,
            user: sender.user,
            group: sender.group,
        });
        let mut sent = 0;
        let mut enlarged = false;
        loop {
            let rest = &message.bytes[sent..];
            let with: &[i32] = if sent == 0 { &numbers } else { &[] };
            match socket::send_as(from, rest, to, with, flags, own) {
                Ok(count) => sent += count,
                Err(error) if !enlarged && is_full(&error) => {
                    enlarge(from);
                    enlarged = true;
                    continue;
                }
                Err(error) => return Err(error).attempt(what),
            }
            if sent >= message.bytes.len() {
                return Ok(());
            }
        }
    }

    /// Sends one message as a certain process: by it, if it is one of the job.
    fn send_as(
        &self,
        sender: &Sender,
        from: BorrowedFd<'_>,
        (to, message, flags): (Option<&Address>, &Message, i32),
        descriptors: &[BorrowedFd<'_>],
        receiver: &UnixSocket,
    ) -> Result<()> {
        let process = match self.processes.contains(&sender.process) {
            true => sender.process,
            false => self.process_of(receiver),
        };
        enlarge(from);
        let first = self.rebuild.numbers.spare[TARGET];
        let slots: Vec<(BorrowedFd<'_>, i32, CloseOnExec)> = std::iter::once(from)
            .chain(descriptors.iter().copied())
            .zip(std::iter::once(&first).chain(&self.rebuild.numbers.message))
            .map(|(fd, number)| (fd, *number, CloseOnExec::Yes))
            .collect();
        self.rebuild.give(process, &slots)?;
        let numbers: Vec<i32> = slots[1..].iter().map(|(_, number, _)| *number).collect();
        let chunks: Vec<&[u8]> = match (receiver.kind, message.bytes.is_empty()) {
            (libc::SOCK_STREAM, false) => message.bytes.chunks(AT_ONCE).collect(),
            _ => vec![&message.bytes],
        };
        let mut outcome = Ok(());
        for (index, chunk) in chunks.into_iter().enumerate() {
            let with: &[i32] = if index == 0 { &numbers } else { &[] };
            let parcel = Parcel {
                bytes: chunk,
                to,
                descriptors: with,
                flags,
            };
            outcome = self.post(process, first, sender, &parcel);
            if outcome.is_err() {
                break;
            }
        }
        let mut list = CallList::new();
        for (_, number, _) in &slots {
            list.call(libc::SYS_close, &[(*number).into()]);
        }
        self.rebuild.run(process, &list)?;
        outcome
    }

    /// sendmsg(2) in a process, with its credentials.
    fn post(&self, process: i32, number: i32, sender: &Sender, parcel: &Parcel<'_>) -> Result<()> {
        let mut list = CallList::new();
        let data = list.bytes(parcel.bytes);
        let mut control = control_message(libc::SCM_CREDENTIALS, &{
            [
                sender.process.to_ne_bytes(),
                sender.user.to_ne_bytes(),
                sender.group.to_ne_bytes(),
            ]
            .concat()
        });
        if !parcel.descriptors.is_empty() {
            let numbers: Vec<u8> = parcel
                .descriptors
                .iter()
                .flat_map(|number| number.to_ne_bytes())
                .collect();
            control.extend(control_message(libc::SCM_RIGHTS, &numbers));
        }
        let length = control.len();
        let control = list.bytes(&control);
        let vector = list.space(16);
        list.point(vector, 0, data);
        list.set_word(vector, 8, parcel.bytes.len() as u64);
        let header = list.space(56);
        if let Some(to) = parcel.to {
            let name = list.bytes(to.bytes());
            list.point(header, 0, name);
            list.set_word(header, 8, to.bytes().len() as u64);
        }
        list.point(header, 16, vector);
        list.set_word(header, 24, 1);
        list.point(header, 32, control);
        list.set_word(header, 40, length as u64);
        let flags = parcel.flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let call = list.call(
            libc::SYS_sendmsg,
            &[number.into(), header.into(), flags.into()],
        );
        let outcomes = self.rebuild.run(process, &list)?;
        let sent = outcomes.result(call).attempt(|| {
            format!(
                "process {process}: sending a message as process {}",
                sender.process
            )
        })?;
        if sent as usize == parcel.bytes.len() {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "process {process}: only {sent} of {} bytes fit into the queue of a unix socket",
            parcel.bytes.len()
        )))
    }

    /// Connects a socket to where it was connected, outside the job.
    fn reconnect(&self, socket: &UnixSocket) -> Result<()> {
        let to = socket.peer_name.as_deref().unwrap_or_default();
        if is_path(to) && !to.starts_with(b"/") {
            return Err(Error::Failed(format!(
                "a socket was connected to {}, a path relative to a directory that is not known: it cannot be connected again; \
                 make the checkpoint with --external close",
                readable(to)
            )));
        }
        let fd = self.made(socket)?;
        let waits = socket.flags | libc::O_NONBLOCK as u32;
        let what = || format!("connecting again to {}, outside the job", readable(to));
        set_flags(fd, waits).attempt(what)?;
        socket::connect(fd, &Address::unix(to)).attempt(what)?;
        set_flags(fd, socket.flags).attempt(what)
    }

    /// Closes directions, lets go of who has gone, sets options and flags, and puts socket files in their places.
    pub(super) fn finish(mut self) -> Result<()> {
        let sockets = self.sockets;
        let by_inode: BTreeMap<u64, &UnixSocket> = sockets
            .iter()
            .map(|socket| (socket.inode, socket))
            .collect();
        for socket in sockets.iter().filter(|socket| socket.reset) {
            // Its peer closes with this unread.
            if socket.kind != libc::SOCK_DGRAM {
                socket::send(self.made(socket)?, b"x", None, &[], 0)
                    .attempt(|| "sending what a peer that has gone did not read".into())?;
            }
        }
        let mut done = BTreeSet::new();
        for socket in sockets.iter().filter(|socket| socket.shutdown & 3 != 0) {
            // What one side of a stream does, the other sees.
            let mirrored = socket.kind != libc::SOCK_DGRAM
                && (done.contains(&socket.peer) || socket.link() == Link::Gone);
            if !mirrored {
                done.insert(socket.inode);
                let how = (socket.shutdown & 3) as i32 - 1;
                socket::shutdown(self.made(socket)?, how)
                    .attempt(|| "closing a direction of a socket".into())?;
            }
        }
        self.ghosts.clear();
        for socket in sockets {
            let made = self.made(socket)?;
            common::restore(made, &socket.options)?;
            set_flags(made, socket.flags).attempt(|| "setting the flags of a socket".into())?;
        }
        for socket in sockets.iter().filter(|socket| socket.reconnect) {
            self.reconnect(socket)?;
        }
        for (inode, bound) in std::mem::take(&mut self.bound) {
            if let (Reach::File(place), Some(socket)) = (bound.reach, by_inode.get(&inode)) {
                place.finish(socket)?;
            }
        }
        self.end_placeholders()?;
        for socket in sockets {
            if let Some(made) = self.made.remove(&socket.inode) {
                self.rebuild.objects.insert(socket.object, made);
            }
        }
        Ok(())
    }
}

/// How a socket is reached, with what has to stay open for that.
struct Reached {
    address: Address,
    _directory: Option<File>,
}

/// What one call sends.
struct Parcel<'p> {
    bytes: &'p [u8],
    to: Option<&'p Address>,
    descriptors: &'p [i32],
    flags: i32,
}

/// Ancillary data of one kind: struct cmsghdr, the data, padding.
fn control_message(kind: i32, data: &[u8]) -> Vec<u8> {
    let mut message = (16 + data.len()).to_ne_bytes().to_vec();
    message.extend(libc::SOL_SOCKET.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend_from_slice(data);
    message.resize(message.len().next_multiple_of(8), 0);
    message
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EMSGSIZE | libc::ENOBUFS)
    )
}

/// Gives a socket the largest buffer for sending that this user may have.
fn enlarge(socket: BorrowedFd<'_>) {
    let most = (i32::MAX / 4).to_ne_bytes();
    if socket::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &most).is_err() {
        // The kernel takes as much of it as is permitted.
        let _ = socket::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &most);
    }
}
