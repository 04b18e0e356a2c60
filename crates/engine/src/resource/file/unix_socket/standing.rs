//! How each unix socket stands to others: found in what the kernel lists of the whole network namespace
//! (sock_diag(7)), and of those that the job has made itself.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::socket::diagnosis::{self, UnixSocket as Listed};
use cryonaut_sys::socket::namespace_cookie;

use crate::resource::file::facts::{Description, Job};
use crate::resource::file::socket::SocketFacts;
use crate::resource::namespace::look_into_networks;

/// TCP_LISTEN (include/net/tcp_states.h), which unix sockets use as well.
const LISTENING: u8 = 10;

/// How a socket stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no peer and waits for none.
    Alone,
    /// It waits for connections.
    Listening {
        /// How many may wait.
        backlog: u32,
        /// The inode number of each that waits, in order; 0 for one whose client has gone.
        waiting: Vec<u64>,
    },
    /// Its peer is the job's socket with this inode number.
    Connected(u64),
    /// Its peer has gone.
    Gone,
    /// It waits to be accepted by the job's socket with this inode number.
    Waiting(u64),
    /// Its peer is outside the job; the inode number, or 0 where nobody outside has accepted it yet.
    Outside(u64),
    /// It is not listed: it belongs to another network namespace, or the kernel lists none; why.
    Unknown(String),
}

/// What the kernel lists of all unix sockets.
#[derive(Debug, Default)]
pub struct Listing {
    sockets: BTreeMap<u64, Listed>,
    /// For each client that waits, the socket that is to accept it.
    waiting: BTreeMap<u64, u64>,
    /// Kind and name of those that listen.
    listening: BTreeSet<(i32, Vec<u8>)>,
    /// The network namespaces of the job's making: by the numbers that sockets tell of them (SO_NETNS_COOKIE), those of their inodes.
    networks: BTreeMap<u64, u64>,
    trouble: Option<String>,
}

impl Listing {
    /// Asks the kernel.
    pub fn read() -> Self {
        match diagnosis::unix_sockets() {
            Ok(all) => {
                let mut listing = Self::default();
                all.into_iter().for_each(|socket| listing.add(socket));
                listing
            }
            Err(error) => Self {
                trouble: Some(format!(
                    "the kernel does not list unix sockets ({error}): it lacks CONFIG_UNIX_DIAG, or its module is not loaded"
                )),
                ..Self::default()
            },
        }
    }

    /// Asks the kernel, also in network namespaces that the job has made itself: those of these processes.
    pub fn read_all<'a>(processes: impl Iterator<Item = &'a ProcessDirectory>) -> Self {
        let mut listing = Self::read();
        for network in look_into_networks(processes) {
            listing.networks.insert(network.cookie, network.inode);
            let rows = network.unix_sockets.iter();
            rows.filter_map(|row| diagnosis::unix_socket(row))
                .for_each(|socket| listing.add(socket));
        }
        listing
    }

    fn add(&mut self, socket: Listed) {
        let clients = socket.waiting.iter().filter(|client| **client != 0);
        self.waiting
            .extend(clients.map(|client| (*client, socket.inode)));
        if socket.state == LISTENING {
            let name = socket.name.clone();
            self.listening.insert((socket.kind.into(), name));
        }
        if socket.inode != 0 {
            self.sockets.insert(socket.inode, socket);
        }
    }

    /// The network namespace of the job's making that a socket belongs to, by its inode number; 0 for ours.
    pub fn network_of(&self, socket: BorrowedFd<'_>) -> u64 {
        if self.networks.is_empty() {
            return 0;
        }
        let cookie = namespace_cookie(socket).ok();
        cookie
            .and_then(|cookie| self.networks.get(&cookie))
            .copied()
            .unwrap_or(0)
    }

    /// Whether a socket was bound to the file with this inode number, of which the kernel lists the lower half.
    pub fn is_bound_to(&self, inode: u64) -> bool {
        let mut files = self.sockets.values().filter_map(|socket| socket.file);
        files.any(|file| file as u32 == inode as u32)
    }

    /// What is listed of a socket.
    pub fn of(&self, inode: u64) -> Option<&Listed> {
        self.sockets.get(&inode)
    }

    /// Whether a socket of this kind listens at a name.
    pub fn listens_at(&self, kind: i32, name: &[u8]) -> bool {
        self.listening.contains(&(kind, name.to_vec()))
    }

    /// Forgets some sockets.
    pub fn leave_out(&mut self, inodes: impl Iterator<Item = u64>) {
        for inode in inodes {
            self.sockets.remove(&inode);
        }
    }

    /// All sockets.
    pub fn all(&self) -> impl Iterator<Item = &Listed> {
        self.sockets.values()
    }

    /// How a socket of the job stands.
    pub fn standing(&self, facts: &SocketFacts, job: &Job<'_>) -> Standing {
        let Some(listed) = self.of(facts.inode) else {
            let other = "it belongs to another network namespace than this cryo";
            return Standing::Unknown(self.trouble.clone().unwrap_or_else(|| other.into()));
        };
        if facts.listens {
            return Standing::Listening {
                backlog: listed.write_queue,
                waiting: listed.waiting.clone(),
            };
        }
        match (listed.peer, self.waiting.get(&facts.inode)) {
            (_, Some(&listener)) if job.socket(listener).is_some() => Standing::Waiting(listener),
            (_, Some(_)) => Standing::Outside(0),
            (None, None) => Standing::Alone,
            (Some(0), None) => Standing::Gone,
            (Some(peer), None) if job.socket(peer).is_some() => Standing::Connected(peer),
            (Some(peer), None) => Standing::Outside(peer),
        }
    }

    /// Whether the peer of a unix socket is outside the job.
    pub fn leads_outside(&self, description: &Description, job: &Job<'_>) -> bool {
        let facts = description.facts.socket;
        let facts = facts.filter(|facts| facts.family == libc::AF_UNIX);
        facts.is_some_and(|facts| matches!(self.standing(&facts, job), Standing::Outside(_)))
    }
}

/// Who has a socket that is none of the job's: pid and name, of the processes that this user may look into.
pub fn holder(inode: u64) -> Option<(i32, String)> {
    let wanted = format!("socket:[{inode}]");
    let pids = cryonaut_procfs::system::all_pids().ok()?;
    pids.into_iter().find_map(|pid| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links
            .any(|link| link.as_os_str() == wanted.as_str())
            .then(|| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                (pid, name.trim_end().to_owned())
            })
    })
}
