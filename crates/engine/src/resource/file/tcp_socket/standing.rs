//! How each TCP socket stands to others: found by its state, its names, and what the kernel lists.

use std::os::fd::BorrowedFd;

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::diagnosis::InternetSocket;
use cryonaut_sys::socket::{self, Address, End, Tcp, state};

use crate::Result;
use crate::error::Attempt;
use crate::resource::file::facts::Job;
use crate::resource::file::internet::{Listing, Place, is_local};
use crate::resource::file::socket::SocketFacts;

/// How a socket stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not connected.
    Alone,
    /// It waits for connections.
    Listening {
        /// How many may wait.
        backlog: u32,
    },
    /// Its peer is the job's socket with this inode number.
    Connected(u64),
    /// Its peer has closed and is gone; what that sent may be under way still.
    Gone,
    /// It waits to be accepted by the job.
    Waiting,
    /// It waits for an answer.
    Connecting,
    /// It was connected; both directions are closed.
    Ended,
    /// Its peer is outside the job: its place, and the inode number of the socket there, 0 if it is not of this machine.
    Outside(Place, u64),
    /// It cannot be told; why.
    Unknown(String),
}

/// A socket at a moment.
pub struct Sight {
    /// How it stands.
    pub standing: Standing,
    /// What TCP tells of it.
    pub tcp: Tcp,
    /// Its own address.
    pub own: Address,
    /// That of its peer.
    pub to: Option<Address>,
}

/// Whether a peer with this state has said that it sends nothing more.
pub fn has_heard_all(state: u8) -> bool {
    matches!(
        state,
        state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING | state::CLOSE
    )
}

impl Sight {
    /// Looks at a socket of the job.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn of(
        socket: BorrowedFd<'_>,
        facts: &SocketFacts,
        listing: &Listing,
        job: &Job<'_>,
    ) -> Result<Self> {
        let what = || "looking at a TCP socket".to_owned();
        let tcp = Tcp::of(socket).attempt(what)?;
        let own = socket::address(socket, End::Own).attempt(what)?;
        // A socket that waits for an answer tells whom it has asked to the listing only.
        let to = socket::address(socket, End::Peer).ok();
        let mut sight = Self {
            standing: Standing::Alone,
            tcp,
            own,
            to,
        };
        sight.standing = sight.standing_of(socket, facts, listing, job)?;
        Ok(sight)
    }

    fn standing_of(
        &mut self,
        socket: BorrowedFd<'_>,
        facts: &SocketFacts,
        listing: &Listing,
        job: &Job<'_>,
    ) -> Result<Standing> {
        if let Some(trouble) = listing.trouble() {
            return Ok(Standing::Unknown(trouble.into()));
        }
        if listing.is_elsewhere(socket) {
            let other = "it belongs to another network namespace than this cryo";
            return Ok(Standing::Unknown(other.into()));
        }
        if self.tcp.state == state::CLOSE {
            let events = descriptor::poll_now(socket, libc::POLLRDHUP)
                .attempt(|| "looking at a TCP socket".into())?;
            return Ok(if events & libc::POLLRDHUP != 0 {
                Standing::Ended
            } else {
                Standing::Alone
            });
        }
        if self.tcp.state == state::LISTEN {
            return Ok(Standing::Listening {
                backlog: self.tcp.backlog,
            });
        }
        let Some(listed) = listing.of(facts.inode) else {
            let gone = "the kernel does not list it in the network namespace of this cryo";
            return Ok(Standing::Unknown(gone.into()));
        };
        if matches!(self.tcp.state, state::SYN_SENT | state::SYN_RECV) {
            let ip = listed.peer.0;
            let ip = match (facts.family, ip) {
                (libc::AF_INET6, std::net::IpAddr::V4(ip)) => ip.to_ipv6_mapped().into(),
                _ => ip,
            };
            self.to = Some(Address::internet((ip, listed.peer.1).into()));
            return Ok(Standing::Connecting);
        }
        Ok(self.of_connected(listed, listing, job))
    }

    fn of_connected(&self, listed: &InternetSocket, listing: &Listing, job: &Job<'_>) -> Standing {
        let to = listed.peer;
        let peer = listing.between(to, listed.own);
        match peer {
            Some(peer) if peer.inode != 0 && job.socket(peer.inode).is_some() => {
                Standing::Connected(peer.inode)
            }
            Some(peer) if peer.inode != 0 => Standing::Outside(to, peer.inode),
            // Nobody has it: it waits to be accepted, or was closed by all.
            Some(peer) if is_waiting(peer) => match listing.listener(&to, job) {
                Some(_) => Standing::Waiting,
                None => {
                    let listens = |found: &&InternetSocket| {
                        found.state == state::LISTEN
                            && crate::resource::file::internet::reaches(&found.own, &to)
                    };
                    let listener = listing.all().find(listens);
                    Standing::Outside(to, listener.map_or(0, |listener| listener.inode))
                }
            },
            Some(_) => Standing::Gone,
            None => {
                let here = self.to.as_ref().is_some_and(is_local);
                if here && has_heard_all(self.tcp.state) {
                    Standing::Gone
                } else {
                    Standing::Outside(to, 0)
                }
            }
        }
    }
}

/// Whether a socket that nobody has waits to be accepted: all others of these have been closed.
pub fn is_waiting(listed: &InternetSocket) -> bool {
    listed.inode == 0
        && matches!(
            listed.state,
            state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV
        )
}
