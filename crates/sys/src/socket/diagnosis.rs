//! What the kernel lists of sockets (sock_diag(7)): all unix and internet sockets of this process' network namespace.
//!
//! The answer is a row of netlink messages (include/uapi/linux/unix_diag.h, inet_diag.h), parsed over bytes.

mod internet;

use super::netlink::{self, number};
use crate::Result;

pub use internet::{InternetSocket, internet_sockets};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ENTRY: usize = 16;
/// UDIAG_SHOW_NAME, _VFS, _PEER, _ICONS, _RQLEN.
const SHOW: u32 = 0x1f;

/// One unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// `SOCK_*`.
    pub kind: u8,
    /// 1 connected, 7 not connected, 10 listening (include/net/tcp_states.h).
    pub state: u8,
    /// Inode number, as /proc/PID/fd shows it; 0 for a connection that nobody has accepted.
    pub inode: u64,
    /// Its name as in `sun_path`, without a final zero; empty for none.
    pub name: Vec<u8>,
    /// Inode number of the file that it was bound to.
    pub file: Option<u64>,
    /// Inode number of its peer: 0 when that is closed or not accepted yet; none when it never had one.
    pub peer: Option<u64>,
    /// For a socket that listens, the inode number of each waiting client, in order; 0 for one that has closed.
    pub waiting: Vec<u64>,
    /// For a socket that listens the length of its backlog; otherwise bytes of memory that hold what it has sent.
    pub write_queue: u32,
    /// Directions that are closed: 1 receiving, 2 sending.
    pub shutdown: u8,
}

/// Lists all unix sockets of the network namespace.
///
/// # Errors
/// EPROTONOSUPPORT or ENOENT where the kernel has no such listing (CONFIG_UNIX_DIAG).
pub fn unix_sockets() -> Result<Vec<UnixSocket>> {
    list(&unix_request(), unix_socket)
}

/// The same, each as the kernel words it: for [`unix_socket`].
///
/// # Errors
/// As [`unix_sockets`].
pub fn unix_rows() -> Result<Vec<Vec<u8>>> {
    list(&unix_request(), |row| Some(row.to_vec()))
}

fn unix_request() -> Vec<u8> {
    // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&SHOW.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request
}

/// Asks for all sockets that a request is about; `entry` makes of each body what is wanted, or nothing of a damaged one.
fn list<T>(body: &[u8], entry: fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let (protocol, kind) = (libc::NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY);
    netlink::dump(protocol, kind, body, &mut |kind, body| {
        if kind == SOCK_DIAG_BY_FAMILY {
            found.push(entry(body)?);
        }
        Some(())
    })?;
    Ok(found)
}

/// One struct unix_diag_msg with its attributes; nothing for a damaged one.
pub fn unix_socket(body: &[u8]) -> Option<UnixSocket> {
    let mut found = UnixSocket {
        kind: *body.get(1)?,
        state: *body.get(2)?,
        inode: u32::from_ne_bytes(number(body, 4)?).into(),
        ..UnixSocket::default()
    };
    let mut rest = body.get(ENTRY..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let kind = u16::from_ne_bytes(number(rest, 2)?);
        let value = rest.get(4..length)?;
        let word = |at: usize| number(value, at).map(u32::from_ne_bytes);
        match kind {
            0 => found.name = trimmed(value),
            1 => found.file = Some(word(0)?.into()),
            2 => found.peer = Some(word(0)?.into()),
            3 => {
                found.waiting = value
                    .chunks_exact(4)
                    .map(|inode| u32::from_ne_bytes(inode.try_into().expect("four bytes")).into())
                    .collect()
            }
            4 => found.write_queue = word(4)?,
            6 => found.shutdown = *value.first()?,
            _ => {}
        }
        rest = rest
            .get(length.next_multiple_of(4).min(rest.len())..)
            .unwrap_or_default();
    }
    Some(found)
}

/// The name without what ends a path; an abstract one is all of it.
fn trimmed(name: &[u8]) -> Vec<u8> {
    match name.first() {
        Some(0) | None => name.to_vec(),
        Some(_) => name
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    use std::os::unix::fs::MetadataExt;

    use super::super::*;
    use super::*;

    fn inode(fd: &OwnedFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .unwrap()
            .ino()
    }

    #[test]
    fn a_pair_and_a_backlog_are_listed() {
        let (one, other) = pair(libc::SOCK_STREAM).unwrap();
        shutdown(one.as_fd(), libc::SHUT_WR).unwrap();
        let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
        let name = format!("\0cryonaut-diagnosis-{}", std::process::id());
        bind(listener.as_fd(), &Address::unix(name.as_bytes())).unwrap();
        listen(listener.as_fd(), 7).unwrap();
        let client = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
        connect(client.as_fd(), &Address::unix(name.as_bytes())).unwrap();
        let found = unix_sockets().unwrap();
        let of = |fd: &OwnedFd| found.iter().find(|entry| entry.inode == inode(fd)).unwrap();
        assert_eq!(of(&one).peer, Some(inode(&other)));
        assert_eq!((of(&one).shutdown, of(&other).shutdown), (2, 1));
        assert_eq!((of(&one).kind, of(&one).state), (1, 1));
        assert_eq!(of(&listener).waiting, [inode(&client)]);
        assert_eq!(of(&listener).write_queue, 7);
        assert_eq!(of(&listener).name, name.as_bytes());
        assert_eq!(of(&client).peer, Some(0));
        assert_eq!(of(&listener).peer, None);
    }

    #[test]
    fn damaged_answers_are_errors() {
        assert!(unix_socket(&[0; 15]).is_none());
        assert!(unix_socket(&[&[0; 16][..], &[40, 0, 2, 0]].concat()).is_none());
    }
}
