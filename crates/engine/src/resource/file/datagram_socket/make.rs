//! Making sockets without connections again.
//!
//! While a queue is filled the socket is connected to the sender of each datagram: so nobody else's comes between, and of several
//! that share a port it is the one that gets it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Address};

use super::{Datagram, DatagramSocket, group};
use crate::error::Attempt;
use crate::resource::file::internet::bind_freely;
use crate::resource::file::set_flags;
use crate::resource::file::socket::{prepare, restore, set_sharing};
use crate::{Error, Result};

/// How long a datagram may take on this machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Makes all sockets, in order.
pub(super) fn make(sockets: &[DatagramSocket]) -> Result<Vec<OwnedFd>> {
    let mut made = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let fd = socket::socket(socket.family, socket.kind, socket.protocol)
            .attempt(|| "making a socket".into())?;
        prepare(fd.as_fd(), &socket.options)?;
        if let Some(own) = socket.own() {
            // One that sends from there, or shares the port, may be bound already.
            share(fd.as_fd())?;
            let bound = match socket.foreign {
                true => bind_freely(fd.as_fd(), &own),
                false => socket::bind(fd.as_fd(), &own),
            };
            bound.attempt(|| name("binding a socket to", &own))?;
        }
        made.push(fd);
    }
    // Senders by their addresses, those of this job first.
    let mut senders: BTreeMap<Vec<u8>, OwnedFd> = BTreeMap::new();
    for (socket, fd) in sockets.iter().zip(&made) {
        if let Some(own) = &socket.own_address
            && senders.len() < made.len()
            && !own.is_empty()
        {
            let copy = fd.try_clone().attempt(|| "copying a socket".into())?;
            senders.entry(own.clone()).or_insert(copy);
        }
    }
    for (socket, fd) in sockets.iter().zip(&made) {
        fill(socket, fd.as_fd(), &mut senders)?;
    }
    for (socket, fd) in sockets.iter().zip(&made) {
        finish(socket, fd.as_fd())?;
    }
    Ok(made)
}

fn name(what: &str, address: &Address) -> String {
    let place = address.place();
    let place = place.map(|place| crate::resource::file::internet::readable(&place));
    format!("{what} {}", place.unwrap_or_default())
}

/// Lets a socket share its port for the time of this.
fn share(socket: BorrowedFd<'_>) -> Result<()> {
    socket::set_option(
        socket,
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        &1_i32.to_ne_bytes(),
    )
    .attempt(|| "letting a socket share its port".into())
}

fn finish(socket: &DatagramSocket, fd: BorrowedFd<'_>) -> Result<()> {
    if let Some(to) = socket.to() {
        socket::connect(fd, &to).attempt(|| name("connecting a socket to", &to))?;
    }
    group::join(fd, &socket.groups)?;
    restore(fd, &socket.options)?;
    set_sharing(fd, &socket.options)?;
    if let how @ 1..=3 = socket.shutdown {
        let how = [libc::SHUT_RD, libc::SHUT_WR, libc::SHUT_RDWR][how as usize - 1];
        match socket::shutdown(fd, how) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
            closed => closed.attempt(|| "closing a direction of a socket".into())?,
        }
    }
    set_flags(fd, socket.flags).attempt(|| "setting the flags of a socket".into())
}

/// Sends what waited, from where it came.
fn fill(
    socket: &DatagramSocket,
    receiver: BorrowedFd<'_>,
    senders: &mut BTreeMap<Vec<u8>, OwnedFd>,
) -> Result<()> {
    let Some(own) = socket.own().filter(|_| !socket.queue.is_empty()) else {
        return Ok(());
    };
    for datagram in &socket.queue {
        let from = Address::from_bytes(datagram.from.clone());
        if !senders.contains_key(&datagram.from) {
            let made = socket::socket(socket.family, socket.kind, socket.protocol)
                .attempt(|| "making a socket".into())?;
            share(made.as_fd())?;
            socket::bind(made.as_fd(), &from)
                .attempt(|| name("sending a datagram again from", &from))?;
            senders.insert(datagram.from.clone(), made);
        }
        let sender = senders[&datagram.from].as_fd();
        socket::connect(receiver, &from).attempt(|| name("connecting a socket to", &from))?;
        let to = destination(datagram, &own, &from);
        let before = held(receiver);
        socket::send(sender, &datagram.bytes, Some(&to), &[], 0)
            .attempt(|| name("sending a datagram again to", &to))?;
        await_more(receiver, before)?;
    }
    disconnect(receiver, &own)
}

/// The address that a datagram is sent to, so that it arrives at a socket with the address `own`.
fn destination(datagram: &Datagram, own: &Address, from: &Address) -> Address {
    let unspecified = own.place().is_none_or(|(ip, _)| ip.is_unspecified());
    let told = match datagram.to.as_deref() {
        Some(&[a, b, c, d]) => Some(IpAddr::from([a, b, c, d])),
        Some(bytes) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        None => None,
    };
    let port = own.place().map_or(0, |(_, port)| port);
    match told.filter(|ip| unspecified && !ip.is_multicast()) {
        Some(ip) => {
            let ip = match ip.to_canonical() {
                IpAddr::V4(ip) if own.family() == libc::AF_INET6 => ip.to_ipv6_mapped().into(),
                ip => ip,
            };
            Address::internet((ip, port).into())
        }
        // One that takes everything gets it where it came from.
        None if unspecified => from.with_port(port),
        None => own.clone(),
    }
}

/// The memory that the queue of a socket takes (SO_MEMINFO).
fn held(socket: BorrowedFd<'_>) -> u32 {
    const SO_MEMINFO: i32 = 55;
    let memory = socket::option(socket, libc::SOL_SOCKET, SO_MEMINFO, 36).unwrap_or_default();
    memory
        .first_chunk()
        .map_or(0, |held| u32::from_ne_bytes(*held))
}

fn await_more(socket: BorrowedFd<'_>, before: u32) -> Result<()> {
    let start = Instant::now();
    while held(socket) <= before {
        if start.elapsed() > LIMIT {
            return Err(Error::Failed(
                "a datagram that waited does not arrive when it is sent again (is it filtered by a firewall?)".into(),
            ));
        }
        let _ = descriptor::poll_for(socket, libc::POLLIN, 1);
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Undoes connecting. A socket that has its port from bind(2) keeps it.
fn disconnect(socket: BorrowedFd<'_>, own: &Address) -> Result<()> {
    let nowhere = Address::from_bytes(vec![0; 16]);
    socket::connect(socket, &nowhere).attempt(|| name("disconnecting the socket at", own))
}
