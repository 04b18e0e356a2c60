//! What is listed of internet sockets (include/uapi/linux/inet_diag.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::netlink::number;
use super::list;
use crate::Result;

/// Length of struct inet_diag_msg.
const ENTRY: usize = 72;
/// The attribute with the closed directions.
const INET_DIAG_SHUTDOWN: u16 = 8;

/// One internet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternetSocket {
    /// One of [`super::super::state`].
    pub state: u8,
    /// Its address and port; an IPv4 address in the guise of an IPv6 one as what it is.
    pub own: (IpAddr, u16),
    /// Its peer's; port 0 for none.
    pub peer: (IpAddr, u16),
    /// Inode number, as /proc/PID/fd shows it; 0 for one that is not accepted yet or that nobody has any more.
    pub inode: u64,
    /// Bytes that wait to be received, the end of the stream counted as one; for one that listens, connections that wait.
    pub read_queue: u32,
    /// Bytes sent that the peer has not confirmed.
    pub write_queue: u32,
    /// Directions that are closed: 1 receiving, 2 sending.
    pub shutdown: u8,
}

/// Lists all sockets of a family (`AF_INET`, `AF_INET6`) and protocol in the network namespace.
///
/// # Errors
/// ENOENT where the kernel has no such listing (CONFIG_INET_DIAG, or CONFIG_INET_UDP_DIAG, CONFIG_INET_RAW_DIAG).
pub fn internet_sockets(family: i32, protocol: i32) -> Result<Vec<InternetSocket>> {
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, which.
    let mut request = vec![family as u8, protocol as u8, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&[0; 48]);
    list(&request, entry)
}

fn place(family: u8, address: [u8; 16], port: [u8; 2]) -> (IpAddr, u16) {
    let ip = match i32::from(family) {
        libc::AF_INET6 => Ipv6Addr::from(address).to_canonical(),
        _ => Ipv4Addr::new(address[0], address[1], address[2], address[3]).into(),
    };
    (ip, u16::from_be_bytes(port))
}

/// One struct inet_diag_msg with its attributes.
fn entry(body: &[u8]) -> Option<InternetSocket> {
    let word = |at: usize| number(body, at).map(u32::from_ne_bytes);
    let family = *body.first()?;
    let mut found = InternetSocket {
        state: *body.get(1)?,
        own: place(family, number(body, 8)?, number(body, 4)?),
        peer: place(family, number(body, 24)?, number(body, 6)?),
        read_queue: word(56)?,
        write_queue: word(60)?,
        inode: word(68)?.into(),
        shutdown: 0,
    };
    let mut rest = body.get(ENTRY..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let kind = u16::from_ne_bytes(number(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind == INET_DIAG_SHUTDOWN {
            found.shutdown = *value.first()?;
        }
        rest = rest
            .get(length.next_multiple_of(4).min(rest.len())..)
            .unwrap_or_default();
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use super::super::super::state;
    use super::*;

    fn inode(fd: i32) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{fd}"))
            .unwrap()
            .ino()
    }

    #[test]
    fn connections_are_listed_from_both_ends() {
        for (text, family) in [("127.0.0.1:0", libc::AF_INET), ("[::1]:0", libc::AF_INET6)] {
            let listener = TcpListener::bind(text).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let found = internet_sockets(family, libc::IPPROTO_TCP).unwrap();
            let of = |fd: i32| found.iter().find(|entry| entry.inode == inode(fd)).unwrap();
            let own = of(client.as_raw_fd());
            let local = client.local_addr().unwrap();
            assert_eq!(own.own, (local.ip(), local.port()));
            assert_eq!(own.shutdown, 2);
            let other = found.iter().find(|entry| entry.peer == own.own).unwrap();
            assert_eq!((other.inode, other.state), (0, state::CLOSE_WAIT));
            assert_eq!(other.read_queue, 1);
            assert_eq!(of(listener.as_raw_fd()).state, state::LISTEN);
        }
    }

    #[test]
    fn datagram_sockets_are_listed() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = internet_sockets(libc::AF_INET, libc::IPPROTO_UDP).unwrap();
        let own = found
            .iter()
            .find(|entry| entry.inode == inode(socket.as_raw_fd()));
        assert_eq!(own.unwrap().own.1, socket.local_addr().unwrap().port());
    }

    #[test]
    fn damaged_entries_are_none() {
        assert!(entry(&[2; 71]).is_none());
        assert!(entry(&[&[2; 72][..], &[40, 0, 8, 0]].concat()).is_none());
        assert!(
            entry(&[&[2; 72][..], &[5, 0, 8, 0, 3, 0, 0, 0]].concat())
                .is_some_and(|entry| entry.shutdown == 3)
        );
    }
}
