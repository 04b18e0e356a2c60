//! What sockets of the internet protocols have in common: places (address and port), and what the kernel lists of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cryonaut_sys::socket::diagnosis::{InternetSocket, internet_sockets};
use cryonaut_sys::socket::{self, Address, state};

use super::facts::Job;
use super::socket::{SocketOption, inode_of};
use super::unix_socket::holder;
use crate::host::Host;
use crate::plan::Plan;

/// An address and a port.
pub type Place = (IpAddr, u16);

/// Whether a socket bound to `own` is reached at `place`.
pub fn reaches(own: &Place, place: &Place) -> bool {
    own.1 == place.1 && (own.0 == place.0 || own.0.is_unspecified())
}

/// A place for people.
pub fn readable(place: &Place) -> String {
    std::net::SocketAddr::from(*place).to_string()
}

/// What the kernel lists of the sockets of a protocol.
#[derive(Debug, Default)]
pub struct Listing {
    all: Vec<InternetSocket>,
    by_ends: BTreeMap<(Place, Place), usize>,
    by_inode: BTreeMap<u64, usize>,
    /// The network namespace that this is, as the kernel numbers them.
    cookie: Option<u64>,
    trouble: Option<String>,
}

impl Listing {
    /// Asks the kernel about `IPPROTO_*`.
    pub fn read(protocol: i32) -> Self {
        let mut listing = Self::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            match internet_sockets(family, protocol) {
                Ok(mut found) => listing.all.append(&mut found),
                Err(error) => {
                    listing.trouble = Some(format!(
                        "the kernel does not list internet sockets ({error}): it lacks CONFIG_INET_DIAG, or its module is not loaded"
                    ))
                }
            }
        }
        for (index, found) in listing.all.iter().enumerate() {
            // One that nobody has any more comes second to one that somebody has.
            let kept = listing.by_ends.entry((found.own, found.peer));
            let kept = kept.or_insert(index);
            if listing.all[*kept].inode == 0 {
                *kept = index;
            }
            listing.by_inode.insert(found.inode, index);
        }
        let own = socket::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).ok();
        listing.cookie = own.and_then(|own| socket::namespace_cookie(own.as_fd()).ok());
        listing
    }

    /// Why sockets cannot be found in it, if they cannot.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether a socket is known to belong to another network namespace.
    pub fn is_elsewhere(&self, socket: BorrowedFd<'_>) -> bool {
        let cookie = socket::namespace_cookie(socket).ok();
        cookie.is_some() && self.cookie.is_some() && cookie != self.cookie
    }

    /// What is listed of a socket.
    pub fn of(&self, inode: u64) -> Option<&InternetSocket> {
        self.by_inode.get(&inode).map(|&index| &self.all[index])
    }

    /// The socket with these ends.
    pub fn between(&self, own: Place, peer: Place) -> Option<&InternetSocket> {
        self.by_ends
            .get(&(own, peer))
            .map(|&index| &self.all[index])
    }

    /// All sockets.
    pub fn all(&self) -> impl Iterator<Item = &InternetSocket> {
        self.all.iter()
    }

    /// The job's socket that listens at a place; one that listens at all addresses comes second.
    pub fn listener(&self, place: &Place, job: &Job<'_>) -> Option<&InternetSocket> {
        let listens = |found: &&InternetSocket| {
            found.state == state::LISTEN
                && reaches(&found.own, place)
                && job.socket(found.inode).is_some()
        };
        let found = self.all.iter().filter(listens);
        found.min_by_key(|found| (found.own.0.is_unspecified(), found.inode))
    }
}

/// Who has a socket, for messages.
pub fn whose(inode: u64) -> String {
    let holder = Some(inode).filter(|inode| *inode != 0).and_then(holder);
    holder.map_or("another process".into(), |(pid, name)| {
        format!("process {pid} ({name})")
    })
}

/// The processes outside the job that have one of these sockets, among those that may be looked at: by inode number.
pub fn holders_outside(sockets: &BTreeSet<u64>, job: &Job<'_>) -> BTreeMap<u64, (i32, String)> {
    let own = std::process::id() as i32;
    let pids = cryonaut_procfs::system::all_pids().unwrap_or_default();
    let others = pids
        .into_iter()
        .filter(|pid| *pid != own && !job.members.contains_key(pid));
    let mut found = BTreeMap::new();
    for pid in others {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in entries.into_iter().flatten().flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default();
            let inode = inode_of(link.as_os_str().as_bytes());
            if let Some(inode) = inode.filter(|inode| sockets.contains(inode)) {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                found.insert(inode, (pid, name.trim_end().to_owned()));
            }
        }
    }
    found
}

/// Whether an address is one of this machine's, so far as this network namespace shows it.
pub fn is_local(address: &Address) -> bool {
    let probe = socket::socket(address.family(), libc::SOCK_DGRAM, 0);
    probe.is_ok_and(|probe| socket::bind(probe.as_fd(), &address.with_port(0)).is_ok())
}

/// Whose a name may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It has to be one of this machine's.
    Required,
    /// The socket has it whether or not the machine has (IP_FREEBIND, IP_TRANSPARENT).
    Free,
}

impl Ownership {
    /// What a socket with these options needs; `foreign` is one whose name was not the machine's at the checkpoint.
    pub fn of(options: &[SocketOption], foreign: bool) -> Self {
        let free = options.iter().any(|option| {
            FREE_NAMES.contains(&(option.level, option.name))
                && option.value.iter().any(|byte| *byte != 0)
        });
        if free || foreign {
            Self::Free
        } else {
            Self::Required
        }
    }
}

/// IP_FREEBIND, IP_TRANSPARENT, IPV6_FREEBIND, IPV6_TRANSPARENT.
const FREE_NAMES: [(i32, i32); 4] = [
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
];

/// Gives a socket a name that the machine need not have; afterwards its option is as it was.
///
/// # Errors
/// Those of bind(2).
pub fn bind_freely(socket: BorrowedFd<'_>, own: &Address) -> std::io::Result<()> {
    let (level, name) = match own.family() {
        libc::AF_INET6 => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
        _ => (libc::IPPROTO_IP, libc::IP_FREEBIND),
    };
    let set = |value: i32| socket::set_option(socket, level, name, &value.to_ne_bytes());
    let before = socket::number_option(socket, level, name)?;
    set(1)?;
    let bound = socket::bind(socket, own);
    set(before)?;
    bound
}

/// Refuses a name that this machine or this user cannot give a socket.
pub fn check_name(
    address: &Address,
    ownership: Ownership,
    (label, object): ((i32, &str), &str),
    host: &Host,
    plan: &mut Plan,
) {
    let Some((ip, port)) = address.place() else {
        return;
    };
    if ownership == Ownership::Required && !is_local(address) {
        plan.refusals.add(
            label,
            object,
            format!("{ip} is no address of this machine"),
            format!("restart where it is, or add it (ip address add {ip} dev lo)"),
        );
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    let first = first
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    /// CAP_NET_BIND_SERVICE.
    const BIND: u64 = 1 << 10;
    let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
    if port != 0 && port < first && host.user != 0 && capabilities & BIND == 0 {
        plan.refusals.add(
            label,
            object,
            format!("only root may use ports below {first}"),
            "restart as root, or with CAP_NET_BIND_SERVICE",
        );
    }
}
