//! What sockets of every family have in common: what they are, and their options.
//!
//! A socket shows itself to who holds a copy of its descriptor: family, type and protocol by getsockopt(2), and so each option.
//! An option is stored where it differs from that of a fresh socket; the sizes of buffers are stored always, since the usual
//! ones are the machine's. Not preserved: whether a buffer's size was set or grown, before Linux 5.14.

mod row;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use cryonaut_sys::socket;

use crate::error::Attempt;
use crate::plan::Plan;
use crate::{Error, Result};

use row::{When, rows};

/// Which buffers have sizes that the program has set (Linux 5.16).
pub const SO_BUF_LOCK: i32 = 72;

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFacts {
    /// `AF_*`.
    pub family: i32,
    /// `SOCK_*`.
    pub kind: i32,
    /// The protocol of the family.
    pub protocol: i32,
    /// Whether it waits for connections.
    pub listens: bool,
    /// Inode number, by which the kernel's listings call it.
    pub inode: u64,
}

impl SocketFacts {
    /// Asks a socket; `link` is what /proc/PID/fd shows of it.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn of(socket: BorrowedFd<'_>, link: &[u8]) -> Result<Self> {
        let ask = |option: i32| {
            socket::number_option(socket, libc::SOL_SOCKET, option)
                .attempt(|| "asking a socket what it is".into())
        };
        Ok(Self {
            family: ask(libc::SO_DOMAIN)?,
            kind: ask(libc::SO_TYPE)?,
            protocol: ask(libc::SO_PROTOCOL)?,
            listens: ask(libc::SO_ACCEPTCONN)? != 0,
            inode: inode_of(link).ok_or_else(|| {
                Error::Failed(format!("{} is no socket", String::from_utf8_lossy(link)))
            })?,
        })
    }

    /// What a person calls it.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            libc::SOCK_STREAM => "stream",
            libc::SOCK_DGRAM => "datagram",
            libc::SOCK_SEQPACKET => "seqpacket",
            libc::SOCK_RAW => "raw",
            _ => "other",
        };
        let family = match (self.family, self.kind, self.protocol) {
            (libc::AF_UNIX, ..) => return format!("a unix {kind} socket"),
            (libc::AF_INET, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => {
                return "a TCP socket".into();
            }
            (libc::AF_INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => {
                return "a TCP socket over IPv6".into();
            }
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) => {
                return "a Multipath TCP socket".into();
            }
            (libc::AF_INET | libc::AF_INET6, _, libc::IPPROTO_SCTP) => {
                return "an SCTP socket".into();
            }
            (libc::AF_INET, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {
                return "a UDP socket".into();
            }
            (libc::AF_INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {
                return "a UDP socket over IPv6".into();
            }
            (libc::AF_INET, ..) => "IPv4",
            (libc::AF_INET6, ..) => "IPv6",
            (libc::AF_NETLINK, ..) => "netlink",
            (libc::AF_PACKET, ..) => "packet",
            (libc::AF_VSOCK, ..) => "vsock",
            (libc::AF_ALG, ..) => "crypto (AF_ALG)",
            (libc::AF_BLUETOOTH, ..) => "bluetooth",
            (libc::AF_CAN, ..) => "CAN",
            (libc::AF_XDP, ..) => "XDP",
            (libc::AF_TIPC, ..) => "TIPC",
            (family, ..) => return format!("a {kind} socket of family {family}"),
        };
        let article = match family {
            "IPv4" | "IPv6" | "XDP" => "an",
            _ => "a",
        };
        format!(
            "{article} {family} {kind} socket of protocol {}",
            self.protocol
        )
    }
}

/// The inode number in a link of the form `socket:[17]`.
pub fn inode_of(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// An option of a socket.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SocketOption {
    /// `SOL_*` or a protocol.
    #[prost(int32, tag = "1")]
    pub level: i32,
    /// Its number at that level.
    #[prost(int32, tag = "2")]
    pub name: i32,
    /// Its value as getsockopt(2) gives it.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}

/// The sizes of buffers, which the kernel doubles as they are set: option, the one that needs privilege, limit, bit of SO_BUF_LOCK.
const BUFFERS: [(i32, i32, &str, i32); 2] = [
    (
        libc::SO_SNDBUF,
        libc::SO_SNDBUFFORCE,
        "/proc/sys/net/core/wmem_max",
        1,
    ),
    (
        libc::SO_RCVBUF,
        libc::SO_RCVBUFFORCE,
        "/proc/sys/net/core/rmem_max",
        2,
    ),
];

/// The options that a fresh socket has, for each family, type and protocol: in the order of its rows.
#[derive(Debug, Default)]
pub struct Usual(BTreeMap<(i32, i32, i32), Values>);

/// The value of each row; none for options that a family lacks.
type Values = Vec<Option<Vec<u8>>>;

impl Usual {
    fn of(&mut self, facts: &SocketFacts) -> &[Option<Vec<u8>>] {
        let (family, kind, protocol) = (facts.family, facts.kind, facts.protocol);
        self.0.entry((family, kind, protocol)).or_insert_with(|| {
            let fresh = socket::socket(family, kind, protocol).ok();
            let ask = |row: &row::Row| {
                let fresh = fresh.as_ref()?.as_fd();
                socket::option(fresh, row.level, row.name, row.room).ok()
            };
            rows(facts).map(ask).collect()
        })
    }
}

/// All options of a socket that differ from those of a fresh one of its family and type, and its filter.
///
/// # Errors
/// When its filter cannot be read: it is no classic program.
pub fn options(
    socket: BorrowedFd<'_>,
    facts: &SocketFacts,
    usual: &mut Usual,
) -> Result<Vec<SocketOption>> {
    let mut found = Vec::new();
    let mut put_at = |level: i32, name: i32, value: Vec<u8>| {
        found.push(SocketOption { level, name, value });
    };
    let mut put = |name: i32, value: Vec<u8>| put_at(libc::SOL_SOCKET, name, value);
    for (buffer, ..) in BUFFERS {
        if let Ok(value) = socket::option(socket, libc::SOL_SOCKET, buffer, 4) {
            put(buffer, value);
        }
    }
    if let Ok(value) = socket::option(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 4) {
        put(SO_BUF_LOCK, value);
    }
    for (row, usual) in rows(facts).zip(usual.of(facts)) {
        match socket::option(socket, row.level, row.name, row.room) {
            Ok(value) if usual.as_ref() != Some(&value) => put_at(row.level, row.name, value),
            _ => {}
        }
    }
    let mut put = |name: i32, value: Vec<u8>| put_at(libc::SOL_SOCKET, name, value);
    let filter = socket::filter(socket)
        .attempt(|| "reading the filter of a socket (only classic programs can be saved)".into())?;
    // What `cryo` itself has put there is none of the program's.
    if !filter.is_empty() && filter != socket::repair::NOTHING {
        put(libc::SO_ATTACH_FILTER, filter);
    }
    if socket::number_option(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER).unwrap_or(0) != 0 {
        put(libc::SO_LOCK_FILTER, 1_i32.to_ne_bytes().to_vec());
    }
    Ok(found)
}

/// The value of an option that is a number; none when it is not stored.
pub fn stored_number(options: &[SocketOption], name: i32) -> Option<i32> {
    let option = options
        .iter()
        .find(|option| option.level == libc::SOL_SOCKET && option.name == name)?;
    Some(i32::from_ne_bytes(option.value.get(..4)?.try_into().ok()?))
}

/// Checks what this user may set; `label` is whose it is and what it is.
pub fn check(options: &[SocketOption], label: (i32, &str), object: &str, plan: &mut Plan) {
    /// CAP_NET_ADMIN.
    const ADMINISTER: u64 = 1 << 12;
    /// The highest priority that anybody may set.
    const USUAL_PRIORITY: i32 = 6;
    let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
    if capabilities & ADMINISTER != 0 {
        return;
    }
    let remedy = "restart as root, or with CAP_NET_ADMIN";
    for (option, _, limit, _) in BUFFERS {
        if let (Some(size), Some(most)) = (stored_number(options, option), number_in(limit))
            && size / 2 > most
        {
            plan.refusals.add(
                label,
                object,
                format!("its buffer has {size} bytes, and only root may set more than twice {most} ({limit})"),
                format!("raise {limit}, or {remedy}"),
            );
        }
    }
    if stored_number(options, libc::SO_PRIORITY).is_some_and(|value| value > USUAL_PRIORITY) {
        plan.refusals.add(
            label,
            object,
            "only root may set so high a priority",
            remedy,
        );
    }
    for (name, text) in [(libc::SO_MARK, "SO_MARK"), (libc::SO_DEBUG, "SO_DEBUG")] {
        if stored_number(options, name).is_some_and(|value| value != 0) {
            plan.refusals
                .add(label, object, format!("only root may set {text}"), remedy);
        }
    }
}

fn number_in(limit: &str) -> Option<i32> {
    std::fs::read_to_string(limit).ok()?.trim().parse().ok()
}

/// The most that anybody may set for what a socket receives (`net.core.rmem_max`): what is beyond is cut down to it without a word.
pub fn receive_limit() -> Option<i32> {
    let [_, (_, _, limit, _)] = BUFFERS;
    number_in(limit)
}

/// As [`receive_limit`], for what a socket sends (`net.core.wmem_max`).
pub fn send_limit() -> Option<i32> {
    let [(_, _, limit, _), _] = BUFFERS;
    number_in(limit)
}

/// Gives a socket buffers at least as large as they were; done before its queues are filled.
///
/// # Errors
/// When they may not be as large.
pub fn prepare(socket: BorrowedFd<'_>, options: &[SocketOption]) -> Result<()> {
    for (name, force, ..) in BUFFERS {
        if let Some(size) = stored_number(options, name) {
            let now = socket::number_option(socket, libc::SOL_SOCKET, name).unwrap_or(0);
            if now < size {
                set_buffer(socket, (name, force), size)?;
            }
        }
    }
    set_rows(socket, options, When::Early)
}

fn set_buffer(socket: BorrowedFd<'_>, (name, force): (i32, i32), size: i32) -> Result<()> {
    let half = (size / 2).to_ne_bytes();
    let what = || format!("setting the buffer of a socket to {size} bytes");
    if socket::set_option(socket, libc::SOL_SOCKET, force, &half).is_err() {
        socket::set_option(socket, libc::SOL_SOCKET, name, &half).attempt(what)?;
    }
    let now = socket::number_option(socket, libc::SOL_SOCKET, name).attempt(what)?;
    if now == size {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{}: only {now} are permitted here",
        what()
    )))
}

/// Says whether a socket shares its port, as it did: for one that had to share it while names were given.
///
/// # Errors
/// When that may not be set.
pub fn set_sharing(socket: BorrowedFd<'_>, options: &[SocketOption]) -> Result<()> {
    for name in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
        let value = stored_number(options, name).unwrap_or(0).to_ne_bytes();
        socket::set_option(socket, libc::SOL_SOCKET, name, &value)
            .attempt(|| "setting whether a socket shares its port".into())?;
    }
    Ok(())
}

/// Gives a socket all its options; done when its queues are full.
///
/// # Errors
/// When one may not be set.
pub fn restore(socket: BorrowedFd<'_>, options: &[SocketOption]) -> Result<()> {
    for (name, force, _, _) in BUFFERS {
        if let Some(size) = stored_number(options, name)
            && socket::number_option(socket, libc::SOL_SOCKET, name).unwrap_or(0) != size
        {
            set_buffer(socket, (name, force), size)?;
        }
    }
    if let Some(locked) = stored_number(options, SO_BUF_LOCK) {
        let now = socket::number_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK);
        if now.is_ok_and(|now| now != locked) {
            socket::set_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK, &locked.to_ne_bytes())
                .attempt(|| "setting SO_BUF_LOCK of a socket".into())?;
        }
    }
    set_rows(socket, options, When::Late)?;
    for option in options {
        if option.level == libc::SOL_SOCKET && option.name == libc::SO_ATTACH_FILTER {
            socket::set_filter(socket, &option.value)
                .attempt(|| "setting the filter of a socket".into())?;
        }
    }
    if stored_number(options, libc::SO_LOCK_FILTER).is_some() {
        socket::set_option(
            socket,
            libc::SOL_SOCKET,
            libc::SO_LOCK_FILTER,
            &1_i32.to_ne_bytes(),
        )
        .attempt(|| "locking the filter of a socket".into())?;
    }
    Ok(())
}

fn set_rows(socket: BorrowedFd<'_>, options: &[SocketOption], when: When) -> Result<()> {
    for option in options {
        let row = row::find(option.level, option.name).filter(|row| row.when == when);
        let Some(row) = row else {
            continue;
        };
        let now = socket::option(socket, row.level, row.name, row.room);
        if now.is_ok_and(|now| now == option.value) {
            continue;
        }
        socket::set_option(socket, row.level, row.name, &option.value)
            .attempt(|| format!("setting {} of a socket", row.text))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inode_is_in_the_link() {
        assert_eq!(inode_of(b"socket:[123]"), Some(123));
        assert_eq!(inode_of(b"pipe:[123]"), None);
        assert_eq!(inode_of(b"socket:[]"), None);
    }

    #[test]
    fn options_come_back() {
        let facts =
            |socket: &std::os::fd::OwnedFd| SocketFacts::of(socket.as_fd(), b"socket:[1]").unwrap();
        let (one, _other) = socket::pair(libc::SOCK_STREAM).unwrap();
        let set = |name: i32, value: &[u8]| {
            socket::set_option(one.as_fd(), libc::SOL_SOCKET, name, value).unwrap();
        };
        set(libc::SO_SNDBUF, &30_000_i32.to_ne_bytes());
        set(libc::SO_PASSCRED, &1_i32.to_ne_bytes());
        set(libc::SO_RCVLOWAT, &7_i32.to_ne_bytes());
        set(libc::SO_PEEK_OFF, &3_i32.to_ne_bytes());
        let time = [5_i64.to_ne_bytes(), 20_000_i64.to_ne_bytes()].concat();
        set(libc::SO_RCVTIMEO, &time);
        let stored = options(one.as_fd(), &facts(&one), &mut Usual::default()).unwrap();
        let names: Vec<i32> = stored.iter().map(|option| option.name).collect();
        for name in [
            libc::SO_PASSCRED,
            libc::SO_RCVLOWAT,
            libc::SO_PEEK_OFF,
            libc::SO_RCVTIMEO,
        ] {
            assert!(names.contains(&name), "{name}");
        }
        let (two, _other) = socket::pair(libc::SOCK_STREAM).unwrap();
        prepare(two.as_fd(), &stored).unwrap();
        restore(two.as_fd(), &stored).unwrap();
        assert_eq!(
            options(two.as_fd(), &facts(&two), &mut Usual::default()).unwrap(),
            stored
        );
    }
}
