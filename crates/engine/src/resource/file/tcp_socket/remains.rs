//! What is left of connections that a job had when something killed it: for a minute the kernel gives nobody their port (TIME_WAIT),
//! or nobody else the pair of ports (FIN_WAIT2). Those that `cryo checkpoint --kill` ends leave nothing. The time is waited for,
//! since there is no other way to have a port for an ordinary user, and none at all to listen at it.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use cryonaut_procfs::{TcpEntry, system};

/// A little more than what may come one after the other: tcp_fin_timeout, and `TCP_TIMEWAIT_LEN` (include/net/tcp.h).
const LONGEST: Duration = Duration::from_secs(130);
/// How long something that does not show may be in the way: it ends between a look and the next attempt, or is about to show.
const BRIEFLY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// A port to listen at, or to connect from. None is waited for by those who let the kernel choose.
    Port(Option<u16>),
    /// A connection from a port to another.
    Pair(u16, u16),
}

impl Wanted {
    /// Whether remains of a connection have it.
    fn is_held_by(self, entry: &TcpEntry) -> bool {
        entry.inode == 0
            && match self {
                Self::Port(port) => Some(entry.port) == port,
                // Who took the port by bind(2) leaves it to nobody, wherever it was connected to.
                Self::Pair(own, peer) => {
                    entry.port == own || (entry.port, entry.peer_port) == (peer, own)
                }
            }
    }

    /// How long to try for it when nothing that is in the way shows.
    fn patience(self) -> Duration {
        match self {
            // That a living socket has it is the usual case.
            Self::Port(_) => Duration::ZERO,
            Self::Pair(..) => BRIEFLY,
        }
    }
}

/// Tries something that takes a port or a pair of them; as long as only remains may be in the way, again and again.
///
/// # Errors
/// Those of the attempt.
pub(super) fn outlast<T>(wanted: Wanted, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error)
                if is_in_the_way(&error)
                    && (start.elapsed() < wanted.patience()
                        || start.elapsed() < LONGEST && has_remains(wanted)) =>
            {
                if start.elapsed() < PAUSE {
                    tracing::info!(?wanted, "waiting for remains of an earlier connection");
                }
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Whether an address is in use, or a connection between the same two was closed a moment ago.
fn is_in_the_way(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL)
    )
}

fn has_remains(wanted: Wanted) -> bool {
    let entries = system::tcp_sockets().unwrap_or_default();
    entries.iter().any(|entry| wanted.is_held_by(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_by_a_living_socket_is_not_waited_for() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let taken = || std::net::TcpListener::bind(("127.0.0.1", port)).map(drop);
        let start = Instant::now();
        let error = outlast(Wanted::Port(Some(port)), taken).unwrap_err();
        assert!(is_in_the_way(&error) && start.elapsed() < LONGEST / 2);
    }

    #[test]
    fn only_what_no_process_has_is_waited_for() {
        let entry = TcpEntry {
            port: 1,
            peer_port: 2,
            state: 5,
            inode: 0,
        };
        assert!(Wanted::Pair(1, 2).is_held_by(&entry) && Wanted::Pair(2, 1).is_held_by(&entry));
        assert!(Wanted::Port(Some(1)).is_held_by(&entry));
        assert!(Wanted::Pair(1, 3).is_held_by(&entry) && !Wanted::Pair(2, 3).is_held_by(&entry));
        assert!(!Wanted::Pair(3, 1).is_held_by(&entry) && !Wanted::Port(None).is_held_by(&entry));
        let living = TcpEntry { inode: 7, ..entry };
        assert!(!Wanted::Pair(1, 2).is_held_by(&living));
    }
}
