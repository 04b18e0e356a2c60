//! Internet sockets: addresses as numbers, and what TCP tells of a connection (tcp(7), ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::{Address, number_option, option};
use crate::Result;

/// `tcpi_state` and `idiag_state` (include/net/tcp_states.h).
pub mod state {
    /// Both directions are open.
    pub const ESTABLISHED: u8 = 1;
    /// It has asked for a connection.
    pub const SYN_SENT: u8 = 2;
    /// It was asked for one, and waits for the last word.
    pub const SYN_RECV: u8 = 3;
    /// It has closed its direction, which its peer does not know yet.
    pub const FIN_WAIT1: u8 = 4;
    /// It has closed its direction.
    pub const FIN_WAIT2: u8 = 5;
    /// What is left of a connection that both have closed.
    pub const TIME_WAIT: u8 = 6;
    /// There is no connection.
    pub const CLOSE: u8 = 7;
    /// Its peer has closed its direction.
    pub const CLOSE_WAIT: u8 = 8;
    /// Its peer has closed, then it has, which its peer does not know yet.
    pub const LAST_ACK: u8 = 9;
    /// It waits for connections.
    pub const LISTEN: u8 = 10;
    /// Both have closed, and neither knows that the other knows.
    pub const CLOSING: u8 = 11;
}

impl Address {
    /// The address of an internet socket.
    pub fn internet(address: SocketAddr) -> Self {
        let mut bytes = Vec::with_capacity(28);
        match address {
            SocketAddr::V4(address) => {
                bytes.extend_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes.extend_from_slice(&address.port().to_be_bytes());
                bytes.extend_from_slice(&address.ip().octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            SocketAddr::V6(address) => {
                bytes.extend_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend_from_slice(&address.port().to_be_bytes());
                bytes.extend_from_slice(&address.flowinfo().to_be_bytes());
                bytes.extend_from_slice(&address.ip().octets());
                bytes.extend_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
        Self::from_bytes(bytes)
    }

    /// The same address with another port; itself if it is of no internet socket.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        let mut bytes = self.bytes().to_vec();
        if self.place().is_some() {
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
        }
        Self::from_bytes(bytes)
    }

    /// Address and port of an internet socket; an IPv4 address in the guise of an IPv6 one as what it is.
    pub fn place(&self) -> Option<(IpAddr, u16)> {
        let bytes = self.bytes();
        let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
        match self.family() {
            libc::AF_INET => {
                let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
                Some((Ipv4Addr::from(octets).into(), port))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                Some((Ipv6Addr::from(octets).to_canonical(), port))
            }
            _ => None,
        }
    }
}

/// What TCP tells of a socket (TCP_INFO: struct tcp_info in include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// One of [`state`].
    pub state: u8,
    /// For one that listens: connections that wait to be accepted.
    pub waiting: u32,
    /// For one that listens: how many may wait.
    pub backlog: u32,
    /// Smoothed round-trip time in µs: 0 for one that was never connected.
    pub round_trip: u32,
    /// What was agreed on: bits of `TCPI_OPT_*`, 1 timestamps, 2 selective confirmation, 4 scaled windows.
    pub agreed: u8,
    /// The powers of two by which the windows of its peer and its own are told.
    pub scales: (u8, u8),
}

impl Tcp {
    /// Asks a socket.
    ///
    /// # Errors
    /// ENOPROTOOPT when it is none of TCP.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self> {
        let bytes = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, 104)?;
        Self::parse(&bytes).ok_or_else(|| std::io::Error::from_raw_os_error(libc::EBADMSG))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            let word = bytes.get(at..at + 4)?;
            Some(u32::from_ne_bytes(word.try_into().ok()?))
        };
        Some(Self {
            state: *bytes.first()?,
            waiting: word(24)?,
            backlog: word(28)?,
            round_trip: word(68)?,
            agreed: *bytes.get(5)?,
            scales: bytes.get(6).map(|both| (both & 15, both >> 4))?,
        })
    }
}

/// The number that the kernel gives to the network namespace of a socket (SO_NETNS_COOKIE, Linux 5.14).
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn namespace_cookie(socket: BorrowedFd<'_>) -> Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let value = option(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, 8)?;
    let bytes: [u8; 8] = value
        .try_into()
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Takes what went wrong with a socket since somebody asked (SO_ERROR).
///
/// # Errors
/// That error.
pub fn take_error(socket: BorrowedFd<'_>) -> Result<()> {
    match number_option(socket, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::super::*;
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_put_together() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:1"] {
            let wanted: SocketAddr = text.parse().unwrap();
            let place = Address::internet(wanted).place();
            assert_eq!(place, Some((wanted.ip(), wanted.port())));
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        let plain: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let place = Address::internet(mapped).place();
        assert_eq!(place, Some((plain.ip(), 5)));
        assert_eq!(Address::internet(plain).with_port(9).place().unwrap().1, 9);
        assert_eq!(Address::unix(b"/tmp/x").place(), None);
        assert_eq!(Address::from_bytes(vec![2, 0, 1]).place(), None);
    }

    #[test]
    fn tcp_tells_its_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let of_listener = Tcp::of(listener.as_fd()).unwrap();
        assert_eq!((of_listener.state, of_listener.waiting), (state::LISTEN, 1));
        assert!(of_listener.backlog > 0);
        let connected = Tcp::of(stream.as_fd()).unwrap();
        assert_eq!(connected.state, state::ESTABLISHED);
        assert!(connected.round_trip > 0);
        assert!(Tcp::parse(&[1; 60]).is_none());
        let own = address(stream.as_fd(), End::Own).unwrap();
        let local = stream.local_addr().unwrap();
        assert_eq!(own.place(), Some((local.ip(), local.port())));
        assert_eq!(
            namespace_cookie(stream.as_fd()).unwrap(),
            namespace_cookie(listener.as_fd()).unwrap()
        );
    }
}
