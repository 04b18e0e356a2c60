//! Making sockets again whose connection goes on: their peers are outside the job, and are to notice nothing.
//!
//! A socket in repair connects without a word, takes sequence numbers, windows and what was agreed on, and bytes into both of its
//! queues. Until the job is committed it stays so, and deaf: nothing of it shows outside, and if the restart fails it goes as it has
//! come. After the commit the firewall lets go of the connection, what had not been sent is sent, and the end of the stream after it.
//! A guardian does that if this process dies in between and the job lives.
//!
//! That the peer has closed its direction cannot be said to a socket in repair: it is closed for receiving on this side instead, so
//! that the program sees the end where it was. The kernel calls the connection ESTABLISHED then, not CLOSE_WAIT, and once the program
//! closes it too it stays for tcp_fin_timeout (a minute) before it is forgotten. An own end that the peer had confirmed is sent and
//! confirmed again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use cryonaut_sys::socket::repair::{self, Agreed, Queue, Repair, Window};
use cryonaut_sys::{descriptor, pidfd, socket};

use super::make::damaged;
use super::record::{TcpConnection, TcpSocket};
use super::settle;
use crate::Result;
use crate::error::Attempt;
use crate::firewall::Table;
use crate::guardian::Guardian;
use crate::resource::file::socket::{
    SO_BUF_LOCK, SocketOption, prepare, restore, send_limit, set_sharing,
};

/// How long after the death of this process a job that was not committed may take to end, in milliseconds.
const LAST_MOMENTS: i32 = 300;
/// Bytes given to the kernel at a time.
const PIECE: usize = 60 * 1024;
/// How far a timestamp may go on while the job is on a disk; beyond half of all numbers it would be taken for an old one.
const MOST_ELAPSED: u128 = 1 << 30;
/// What may be waiting in a filter's place.
const FILTERS: [i32; 2] = [libc::SO_ATTACH_FILTER, libc::SO_LOCK_FILTER];
const TCP_NOTSENT_LOWAT: i32 = 25;

/// A connection of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What is told of it.
    pub connection: TcpConnection,
    /// What its peer has not confirmed.
    pub sent: Vec<u8>,
}

/// Makes a socket that is connected as it was: in repair, deaf, and with all that it had sent.
///
/// # Errors
/// When its address or the pair of both is taken, or the image is damaged.
pub fn make(socket: &TcpSocket, kept: &Kept, unread: &[u8]) -> Result<OwnedFd> {
    let Kept { connection, sent } = kept;
    let (own, to) = (socket.own(), socket.to());
    let (own, to) = (own.ok_or_else(damaged)?, to.ok_or_else(damaged)?);
    let under_way = usize::try_from(connection.under_way).unwrap_or(usize::MAX);
    let under_way = sent.get(..under_way).ok_or_else(damaged)?;
    let called = super::make::name(Some(to.clone()));
    let what = || format!("resuming the connection to {called}");
    let made = socket::socket(socket.family, libc::SOCK_STREAM, libc::IPPROTO_TCP).attempt(what)?;
    let fd = made.as_fd();
    prepare(fd, &socket.options)?;
    repair::deafen(fd).attempt(what)?;
    repair::repair(fd, Repair::On).attempt(what)?;
    socket::bind(fd, &own).attempt(what)?;
    let numbers = [
        (Queue::Receive, connection.expected, unread.len()),
        (Queue::Send, connection.written, sent.len()),
    ];
    for (queue, next, length) in numbers {
        repair::choose_queue(fd, queue).attempt(what)?;
        repair::set_next_sequence(fd, next.wrapping_sub(length as u32)).attempt(what)?;
    }
    // From what connecting begins with the kernel goes on to measure how large a segment may be.
    set_segment_limit(fd, connection.segment_size.clamp(88, 32_767)).attempt(what)?;
    socket::connect(fd, &to).attempt(what)?;
    set_segment_limit(fd, 0).attempt(what)?;
    agree(fd, connection).attempt(what)?;
    make_room(fd, connection, (unread.len(), sent.len()))?;
    for (queue, bytes) in [(Queue::Receive, unread), (Queue::Send, under_way)] {
        repair::choose_queue(fd, queue).attempt(what)?;
        fill(fd, bytes).attempt(what)?;
    }
    // What TCP had not sent goes in as well, as far as there is room: it is sent as what was lost on the way. So the less is left to
    // whoever comes after the commit, when the job may run and write on.
    let rest = &sent[under_way.len()..];
    fill_what_fits(fd, rest).attempt(what)?;
    repair::choose_queue(fd, Queue::Neither).attempt(what)?;
    repair::set_window(fd, window(connection)).attempt(what)?;
    if connection.peer_ended || socket.shutdown & 1 != 0 {
        socket::shutdown(fd, libc::SHUT_RD).attempt(what)?;
    }
    Ok(made)
}

/// Limits the segments of connections to come (TCP_MAXSEG); 0 for no limit.
fn set_segment_limit(socket: BorrowedFd<'_>, limit: u32) -> std::io::Result<()> {
    const TCP_MAXSEG: i32 = 2;
    socket::set_option(socket, libc::IPPROTO_TCP, TCP_MAXSEG, &limit.to_ne_bytes())
}

fn agree(socket: BorrowedFd<'_>, connection: &TcpConnection) -> std::io::Result<()> {
    let mut agreed = vec![Agreed::SegmentSize(connection.segment_size)];
    if let Some(scale) = connection.peer_scale {
        agreed.push(Agreed::Scales {
            peer: u8::try_from(scale).unwrap_or(u8::MAX),
            own: u8::try_from(connection.own_scale).unwrap_or(u8::MAX),
        });
    }
    if connection.selective {
        agreed.push(Agreed::SelectiveConfirmation);
    }
    if connection.timestamp.is_some() {
        agreed.push(Agreed::Timestamps);
    }
    repair::agree(socket, &agreed)?;
    match connection.timestamp {
        Some(stamp) => {
            let unit = match connection.microseconds {
                true => 1000,
                false => 1,
            };
            repair::set_timestamp(socket, stamp_now(stamp, connection.at, unit))
        }
        None => Ok(()),
    }
}

/// The timestamp that is right by now, which counts `unit` in a millisecond. Segments may have been sent after the look, with later ones: peers drop what has an earlier
/// one (PAWS).
fn stamp_now(stamp: u32, at: u64, unit: u128) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    let elapsed = (now.saturating_sub(at.into()) * unit).min(MOST_ELAPSED) as u32;
    // The lowest bit says that it counts microseconds (do_tcp_setsockopt in net/ipv4/tcp.c).
    stamp.wrapping_add(elapsed) & !1 | u32::from(unit > 1)
}

/// Windows that the kernel takes in any case.
fn window(connection: &TcpConnection) -> Window {
    let is_after = |one: u32, other: u32| (one.wrapping_sub(other) as i32) > 0;
    let expected = connection.expected;
    let own_from = match is_after(connection.own_window_from, expected) {
        true => expected,
        false => connection.own_window_from,
    };
    let end = expected.wrapping_add(connection.own_window);
    Window {
        told_by: match is_after(connection.told_by, end) {
            true => expected,
            false => connection.told_by,
        },
        peer: connection.peer_window,
        peer_most: connection.peer_window_most.max(connection.peer_window),
        own: connection.own_window,
        own_from,
    }
}

/// Gives a socket buffers as large as they were, and as what is in them needs.
fn make_room(
    socket: BorrowedFd<'_>,
    connection: &TcpConnection,
    (unread, sent): (usize, usize),
) -> Result<()> {
    let room = |known: u32, length: usize| {
        let known = i32::try_from(known).unwrap_or(i32::MAX);
        let needed = i32::try_from(length.saturating_mul(2) + (256 << 10)).unwrap_or(i32::MAX);
        known.max(needed)
    };
    settle::grow(&[(socket, room(connection.receive_room, unread))])?;
    let sizes = [
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, None),
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, send_limit()),
    ];
    let wanted = [
        room(connection.receive_room, unread),
        room(connection.send_room, sent),
    ];
    let locked = socket::number_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK);
    let set = |name: i32, half: i32| {
        socket::set_option(socket, libc::SOL_SOCKET, name, &half.to_ne_bytes())
    };
    for ((name, force, limit), size) in sizes.into_iter().zip(wanted) {
        let now = socket::number_option(socket, libc::SOL_SOCKET, name).unwrap_or(0);
        if now < size && set(force, size / 2).is_err() {
            // Whether it is enough shows when it is filled; what is received had its room from `grow`.
            if let Some(limit) = limit.filter(|limit| now < limit.saturating_mul(2)) {
                set(name, limit.min(size / 2)).attempt(|| "giving a socket room".into())?;
            }
        }
    }
    if let Ok(locked) = locked {
        let _ = set(SO_BUF_LOCK, locked);
    }
    Ok(())
}

/// The most that this user may have a connection hold that its peer has not confirmed, in bytes; none for no such limit.
pub fn most_unconfirmed() -> Option<usize> {
    let fresh = socket::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP).ok()?;
    let some = (1_i32 << 16).to_ne_bytes();
    let forced = socket::set_option(fresh.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &some);
    // Half as much again goes into what the kernel keeps beside the bytes.
    let limit = send_limit().filter(|_| forced.is_err());
    limit.map(|limit| usize::try_from(limit).unwrap_or(0) / 2 * 3)
}

/// Puts bytes into the chosen queue; all of them.
fn fill(socket: BorrowedFd<'_>, bytes: &[u8]) -> std::io::Result<()> {
    send_all(socket, bytes, 0)
}

/// Sends in pieces, until all is sent or the kernel takes no more.
fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], flags: i32) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let taken = socket::send(socket, piece, None, &[], flags)?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

/// Fills a queue as far as there is room.
fn fill_what_fits(socket: BorrowedFd<'_>, bytes: &[u8]) -> std::io::Result<()> {
    match send_all(socket, bytes, libc::MSG_DONTWAIT) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        outcome => outcome,
    }
}

/// All options but those about filters, which would end that a socket is deaf.
pub fn restore_early(socket: BorrowedFd<'_>, options: &[SocketOption]) -> Result<()> {
    let early: Vec<SocketOption> = options
        .iter()
        .filter(|option| option.level != libc::SOL_SOCKET || !FILTERS.contains(&option.name))
        .cloned()
        .collect();
    restore(socket, &early)
}

/// What is to be done with a connection once its job is committed.
#[derive(Debug)]
pub struct Revival {
    socket: OwnedFd,
    options: Vec<SocketOption>,
    unsent: Vec<u8>,
    ended: bool,
    table: Option<Table>,
    name: String,
}

impl Revival {
    /// That of a socket that [`make`] has made, and that has its options.
    ///
    /// # Errors
    /// When no copy of it can be made.
    pub fn new(made: BorrowedFd<'_>, socket: &TcpSocket, kept: &Kept) -> Result<Self> {
        let filled = socket::unreceived(made).attempt(|| "looking at a socket".into())?;
        let copy = made.try_clone_to_owned();
        Ok(Self {
            socket: copy.attempt(|| "copying a socket".into())?,
            options: socket.options.clone(),
            unsent: kept.sent.get(filled..).unwrap_or_default().to_vec(),
            ended: kept.connection.ended,
            table: Table::named(&kept.connection.table),
            name: super::make::name(socket.to()),
        })
    }

    fn perform(&self) -> Result<()> {
        let what = || format!("resuming the connection to {}", self.name);
        let socket = self.socket.as_fd();
        repair::remove_filter(socket).attempt(what)?;
        repair::repair(socket, Repair::OffAsking).attempt(what)?;
        if !self.unsent.is_empty() {
            self.send_rest().attempt(what)?;
        }
        restore(socket, &self.options)?;
        set_sharing(socket, &self.options)?;
        if self.ended {
            // A reset that came meanwhile is the program's to see.
            let _ = socket::shutdown(socket, libc::SHUT_WR);
        }
        Ok(())
    }

    /// Sends what the program had written and TCP had not sent. It goes in whole, whatever limits the program has set since.
    fn send_rest(&self) -> std::io::Result<()> {
        let socket = self.socket.as_fd();
        let no_limit = (-1_i32).to_ne_bytes();
        let limit = socket::option(socket, libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4);
        let _ = socket::set_option(socket, libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, &no_limit);
        let filled = fill(socket, &self.unsent);
        if let Ok(limit) = limit {
            let _ = socket::set_option(socket, libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, &limit);
        }
        match filled {
            // The peer has closed: the program sees it by itself.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPIPE | libc::ECONNRESET | libc::ETIMEDOUT)
                ) =>
            {
                Ok(())
            }
            filled => filled,
        }
    }
}

/// Everything that is to be done after the commit, by whoever lives then.
#[derive(Debug)]
pub struct Revivals {
    all: Vec<Revival>,
    guardian: Option<Guardian>,
}

impl Revivals {
    /// Puts a guardian over these, which does what is to be done if this process dies and the process `job` lives on.
    ///
    /// # Errors
    /// When none can be started.
    pub fn prepare(all: Vec<Revival>, job: i32) -> Result<Self> {
        let what = || "standing by for connections".to_owned();
        let own = pidfd::open(std::process::id() as i32).attempt(what)?;
        let job = pidfd::open(job).attempt(what)?;
        let guardian = Guardian::standing_by(|| {
            // What is not committed ends with this process, in the moment after it.
            let _ = descriptor::poll_for(own.as_fd(), libc::POLLIN, -1);
            let ended = descriptor::poll_for(job.as_fd(), libc::POLLIN, LAST_MOMENTS);
            if ended.is_ok_and(|events| events == 0) {
                let _ = perform(&all);
            }
        })?;
        Ok(Self {
            all,
            guardian: Some(guardian),
        })
    }

    /// The job is committed, and has not run yet.
    ///
    /// # Errors
    /// The first that occurred; all others were done.
    pub fn perform(mut self) -> Result<()> {
        let outcome = perform(&self.all);
        outcome.and(self.guardian.take().map_or(Ok(()), Guardian::dismiss))
    }
}

impl Drop for Revivals {
    fn drop(&mut self) {
        // The restart has failed: there is nothing to be done.
        if let Some(guardian) = self.guardian.take() {
            let _ = guardian.dismiss();
        }
    }
}

fn perform(all: &[Revival]) -> Result<()> {
    let mut outcome = Ok(());
    let mut tables: Vec<&Table> = all.iter().filter_map(|it| it.table.as_ref()).collect();
    tables.dedup();
    for table in tables {
        outcome = outcome.and(table.remove());
    }
    for revival in all {
        outcome = outcome.and(revival.perform());
    }
    outcome
}

/// Why a connection of an image cannot be one.
///
/// # Errors
/// When the image is damaged.
pub fn check(kept: &Kept, unread: &[u8]) -> Result<()> {
    const LARGEST: usize = 1 << 30;
    let Kept { connection, sent } = kept;
    let fits = connection.under_way as usize <= sent.len()
        && sent.len() <= LARGEST
        && unread.len() <= LARGEST
        && connection.peer_scale.unwrap_or(0) <= 14
        && connection.own_scale <= 14
        && (connection.table.is_empty() || Table::named(&connection.table).is_some());
    if fits { Ok(()) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_never_contradict_each_other() {
        let connection = TcpConnection {
            expected: 10,
            told_by: 5000,
            peer_window: 7,
            peer_window_most: 3,
            own_window: 20,
            own_window_from: 11,
            ..TcpConnection::default()
        };
        let found = window(&connection);
        assert_eq!((found.told_by, found.own_from), (10, 10));
        assert_eq!((found.peer, found.peer_most), (7, 7));
        let around = TcpConnection {
            expected: 3,
            own_window_from: u32::MAX - 3,
            told_by: u32::MAX,
            ..connection
        };
        let found = window(&around);
        assert_eq!((found.told_by, found.own_from), (u32::MAX, u32::MAX - 3));
    }

    #[test]
    fn timestamps_go_on() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = now.as_millis() as u64 - 5000;
        let stamp = stamp_now(u32::MAX - 1, ago, 1);
        assert!((4990..60_000).contains(&stamp), "{stamp}");
        assert_eq!(stamp_now(8, u64::MAX, 1), 8);
        let stamp = stamp_now(0, ago, 1000);
        assert!(stamp >= 5_000_000 && stamp % 2 == 1, "{stamp}");
    }

    #[test]
    fn what_cannot_be_a_connection_is_damage() {
        let mut kept = Kept {
            connection: TcpConnection {
                under_way: 3,
                table: "cryonaut-1".into(),
                ..TcpConnection::default()
            },
            sent: vec![1, 2, 3],
        };
        assert!(check(&kept, &[]).is_ok());
        kept.connection.under_way = 4;
        assert!(check(&kept, &[]).is_err());
        kept.connection.under_way = 0;
        kept.connection.own_scale = 15;
        assert!(check(&kept, &[]).is_err());
        kept.connection.own_scale = 0;
        kept.connection.table = "filter".into();
        assert!(check(&kept, &[]).is_err());
    }
}
