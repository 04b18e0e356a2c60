//! TCP connections taken apart and put together (TCP_REPAIR and what belongs to it: include/uapi/linux/tcp.h, net/ipv4/tcp.c).
//!
//! It takes CAP_NET_ADMIN over the network namespace of the socket. A socket in repair sends nothing when it is closed, and refuses
//! to receive.

use std::os::fd::BorrowedFd;

use super::{ask_number, ask_option, number_option, set_filter, set_option};
use crate::{Result, check};

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const SO_DETACH_FILTER: i32 = 27;

/// How a socket goes into repair and comes out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It goes into it. Its SO_REUSEADDR is lost.
    On,
    /// It comes out of it, and asks its peer to say where it stands.
    OffAsking,
    /// It comes out of it without a word (Linux 4.20).
    OffQuietly,
}

/// Which queue the next calls are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// None.
    Neither,
    /// What it has not received yet.
    Receive,
    /// What it has sent and its peer has not confirmed, and what it has not sent yet.
    Send,
}

/// What the two ends permit each other to send (struct tcp_repair_window); sequence numbers and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The segment that told the peer's window last.
    pub told_by: u32,
    /// How much the peer takes.
    pub peer: u32,
    /// The largest window that the peer has ever had.
    pub peer_most: u32,
    /// How much the peer was told that may be sent.
    pub own: u32,
    /// From where on it was told.
    pub own_from: u32,
}

/// What was agreed on when a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// The largest segment, in bytes.
    SegmentSize(u32),
    /// The powers of two by which the peer's window and its own are told.
    Scales {
        /// The peer's.
        peer: u8,
        /// Its own.
        own: u8,
    },
    /// Confirmations tell what lies beyond a gap (SACK).
    SelectiveConfirmation,
    /// Segments carry timestamps.
    Timestamps,
}

impl Agreed {
    /// As struct tcp_repair_opt: the number of the option and its value.
    fn words(self) -> [u32; 2] {
        match self {
            Self::SegmentSize(size) => [2, size],
            Self::Scales { peer, own } => [3, u32::from(peer) | u32::from(own) << 16],
            Self::SelectiveConfirmation => [4, 0],
            Self::Timestamps => [8, 0],
        }
    }
}

fn set(socket: BorrowedFd<'_>, name: i32, value: i32) -> Result<()> {
    set_option(socket, libc::IPPROTO_TCP, name, &value.to_ne_bytes())
}

/// Puts a socket into repair, or takes it out.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over its network namespace, and for one that listens.
pub fn repair(socket: BorrowedFd<'_>, repair: Repair) -> Result<()> {
    let value = match repair {
        Repair::On => 1,
        Repair::OffAsking => 0,
        Repair::OffQuietly => -1,
    };
    set(socket, TCP_REPAIR, value)
}

/// Says which queue of a socket in repair the next calls are about.
///
/// # Errors
/// EPERM for one that is not in repair.
pub fn choose_queue(socket: BorrowedFd<'_>, queue: Queue) -> Result<()> {
    let value = match queue {
        Queue::Neither => 0,
        Queue::Receive => 1,
        Queue::Send => 2,
    };
    set(socket, TCP_REPAIR_QUEUE, value)
}

/// The sequence number of the next byte that comes to the chosen queue.
///
/// # Errors
/// EINVAL when none is chosen.
pub fn next_sequence(socket: BorrowedFd<'_>) -> Result<u32> {
    number_option(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ).map(|number| number as u32)
}

/// Sets the sequence number of the next byte of the chosen queue.
///
/// # Errors
/// EPERM once the socket is connected.
pub fn set_next_sequence(socket: BorrowedFd<'_>, number: u32) -> Result<()> {
    set(socket, TCP_QUEUE_SEQ, number as i32)
}

/// The windows of a socket in repair.
///
/// # Errors
/// EPERM for one that is not in repair.
pub fn window(socket: BorrowedFd<'_>) -> Result<Window> {
    let bytes = ask_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, vec![0; 20])?;
    let (words, _) = bytes.as_chunks();
    let word = |at: usize| words.get(at).map_or(0, |word| u32::from_ne_bytes(*word));
    Ok(Window {
        told_by: word(0),
        peer: word(1),
        peer_most: word(2),
        own: word(3),
        own_from: word(4),
    })
}

/// Sets the windows of a connected socket in repair.
///
/// # Errors
/// EINVAL for windows that contradict each other or the received sequence number.
pub fn set_window(socket: BorrowedFd<'_>, window: Window) -> Result<()> {
    let words = [
        window.told_by,
        window.peer,
        window.peer_most,
        window.own,
        window.own_from,
    ];
    let bytes = words.map(u32::to_ne_bytes).concat();
    set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &bytes)
}

/// Tells a socket in repair that was just connected what had been agreed on.
///
/// # Errors
/// EFBIG for a scale above 14; EPERM once something was sent.
pub fn agree(socket: BorrowedFd<'_>, agreed: &[Agreed]) -> Result<()> {
    let bytes = agreed
        .iter()
        .flat_map(|agreed| agreed.words().map(u32::to_ne_bytes).concat());
    let bytes: Vec<u8> = bytes.collect();
    set_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &bytes)
}

/// The timestamp that a segment of this socket would carry now.
///
/// # Errors
/// ENOPROTOOPT when it is none of TCP.
pub fn timestamp(socket: BorrowedFd<'_>) -> Result<u32> {
    number_option(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP).map(|stamp| stamp as u32)
}

/// Sets it, for a socket in repair.
///
/// # Errors
/// EPERM for one that is not in repair.
pub fn set_timestamp(socket: BorrowedFd<'_>, stamp: u32) -> Result<()> {
    set(socket, TCP_TIMESTAMP, stamp as i32)
}

/// Bytes that the program has sent and TCP has not (SIOCOUTQNSD); its end of the stream counts as one.
///
/// # Errors
/// EINVAL for a socket that listens.
pub fn unsent(socket: BorrowedFd<'_>) -> Result<u32> {
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    ask_number(socket, SIOCOUTQNSD).map(|value| value.max(0) as u32)
}

/// A classic program that lets nothing in, and says whose it is: BPF_LD | BPF_IMM of a number, BPF_RET of 0.
pub const NOTHING: [u8; 16] = [0, 0, 0, 0, b'C', b'r', b'y', b'o', 6, 0, 0, 0, 0, 0, 0, 0];

/// Has a socket lose every segment that comes, as a bad line would; its peer sends them again.
///
/// # Errors
/// EPERM where its filter is locked.
pub fn deafen(socket: BorrowedFd<'_>) -> Result<()> {
    set_filter(socket, &NOTHING)
}

/// Takes the filter of a socket away.
///
/// # Errors
/// ENOENT when it has none; EPERM where it is locked.
pub fn remove_filter(socket: BorrowedFd<'_>) -> Result<()> {
    set_option(
        socket,
        libc::SOL_SOCKET,
        SO_DETACH_FILTER,
        &0_i32.to_ne_bytes(),
    )
}

/// Waits until whatever the kernel was doing on any processor, such as taking in a segment past an earlier filter, is done
/// (membarrier(2), MEMBARRIER_CMD_GLOBAL: it waits for a grace period of RCU).
///
/// # Errors
/// EINVAL on a machine with processors that do without a clock tick (nohz_full).
pub fn await_processors() -> Result<()> {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) }).map(drop)
}

/// Whether a socket is in repair.
///
/// # Errors
/// ENOPROTOOPT when it is none of TCP.
pub fn is_in_repair(socket: BorrowedFd<'_>) -> Result<bool> {
    number_option(socket, libc::IPPROTO_TCP, TCP_REPAIR).map(|value| value != 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn permitted() -> bool {
        let socket = super::super::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        repair(socket.as_fd(), Repair::On).is_ok()
    }

    #[test]
    fn what_a_connection_is_made_of_is_told_in_repair_only() {
        if !permitted() {
            println!("skipped: needs CAP_NET_ADMIN");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        one.write_all(b"hello").unwrap();
        let socket = other.as_fd();
        assert!(window(socket).is_err());
        repair(socket, Repair::On).unwrap();
        assert!(is_in_repair(socket).unwrap());
        choose_queue(socket, Queue::Receive).unwrap();
        let next = next_sequence(socket).unwrap();
        let found = window(socket).unwrap();
        assert!(found.own > 0 && found.peer > 0 && found.peer_most >= found.peer);
        set_window(socket, found).unwrap();
        repair(socket, Repair::OffQuietly).unwrap();
        assert!(!is_in_repair(socket).unwrap());
        one.write_all(b" there").unwrap();
        let mut text = [0; 11];
        other.read_exact(&mut text).unwrap();
        repair(other.as_fd(), Repair::On).unwrap();
        choose_queue(other.as_fd(), Queue::Receive).unwrap();
        assert!(next_sequence(other.as_fd()).unwrap().wrapping_sub(next) <= 6);
        repair(other.as_fd(), Repair::OffQuietly).unwrap();
    }

    #[test]
    fn a_deaf_socket_hears_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        deafen(other.as_fd()).unwrap();
        await_processors().unwrap();
        assert_eq!(super::super::filter(other.as_fd()).unwrap(), NOTHING);
        one.write_all(b"lost at first").unwrap();
        let waiting = crate::descriptor::poll_for(other.as_fd(), libc::POLLIN, 50).unwrap();
        assert_eq!(waiting, 0);
        remove_filter(other.as_fd()).unwrap();
        let mut text = [0; 13];
        other.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"lost at first");
    }
}
