//! What is left of connections that a job had when something killed it (TIME_WAIT): for a minute the kernel gives nobody their
//! port. Those that `cryo checkpoint --kill` ends leave nothing. The time is waited for, since there is no other way to have a port
//! for an ordinary user, and none at all to listen at it.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use cryonaut_procfs::system;
use cryonaut_sys::socket::state::TIME_WAIT;

/// A little more than `TCP_TIMEWAIT_LEN` (include/net/tcp.h).
const LONGEST: Duration = Duration::from_secs(65);
const PAUSE: Duration = Duration::from_millis(100);

/// Tries something that takes a port; as long as only remains may be in the way, again and again.
///
/// # Errors
/// Those of the attempt.
pub(super) fn outlast(port: Option<u16>, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && start.elapsed() < LONGEST && has_remains(port) => {
                if start.elapsed() < PAUSE {
                    tracing::info!(?port, "waiting for remains of an earlier connection");
                }
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn is_taken(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

fn has_remains(port: Option<u16>) -> bool {
    let entries = system::tcp_sockets().unwrap_or_default();
    let mut remains = entries.iter().filter(|entry| entry.state == TIME_WAIT);
    remains.any(|entry| Some(entry.port) == port)
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
        let error = outlast(Some(port), taken).unwrap_err();
        assert!(is_taken(&error) && start.elapsed() < LONGEST / 2);
    }
}
