//! What a network namespace without devices but the loopback one has: whether that is up, and settings that were changed
//! (network_namespaces(7), /proc/sys/net).
//!
//! What else there may be, such as devices, addresses, routes, rules of netfilter, shows by comparison: a fresh namespace is given the
//! same settings and the same state of its loopback device; what it lists must be what this one lists. Sockets in it are the
//! business of those who know them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::socket::{device, diagnosis, namespace_cookie, netlink, socket};
use cryonaut_sys::spawn::namespace as flag;
use cryonaut_sys::{namespace, spawn};

use super::{damaged, visit};
use crate::Result;
use crate::error::Attempt;

/// What a network namespace has that a fresh one has not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Network {
    /// Whether its loopback device is up.
    #[prost(bool, tag = "1")]
    pub loopback_up: bool,
    /// Settings below /proc/sys/net that were changed, by their names.
    #[prost(message, repeated, tag = "2")]
    pub settings: Vec<Setting>,
}

/// A setting of a network namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Setting {
    /// Its name below /proc/sys/net, such as `ipv4/ip_forward`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value as the file shows it, without the end of the line.
    #[prost(string, tag = "2")]
    pub value: String,
}

const SETTINGS: &str = "/proc/sys/net";

/// Something that the kernel lists over netlink.
struct Listing {
    protocol: i32,
    /// The type of the request.
    request: u16,
    /// Length in bytes of the fixed part of its messages.
    fixed: usize,
    /// Attributes that change by themselves.
    fickle: &'static [u16],
    what: &'static str,
}

/// linux/rtnetlink.h, linux/if_link.h, linux/netfilter/nf_tables.h.
const LISTINGS: [Listing; 7] = [
    Listing {
        protocol: libc::NETLINK_ROUTE,
        request: libc::RTM_GETLINK,
        fixed: 16,
        // Statistics, and what is among the settings as well.
        fickle: &[7, 23, 26, 35, 47, 48],
        what: "network devices",
    },
    Listing {
        protocol: libc::NETLINK_ROUTE,
        request: libc::RTM_GETADDR,
        fixed: 8,
        // When it was given.
        fickle: &[6],
        what: "addresses",
    },
    Listing {
        protocol: libc::NETLINK_ROUTE,
        request: libc::RTM_GETROUTE,
        fixed: 12,
        // When it was used.
        fickle: &[12],
        what: "routes",
    },
    Listing {
        protocol: libc::NETLINK_ROUTE,
        request: libc::RTM_GETRULE,
        fixed: 12,
        fickle: &[],
        what: "routing rules",
    },
    Listing {
        protocol: libc::NETLINK_ROUTE,
        request: libc::RTM_GETQDISC,
        fixed: 20,
        // Statistics.
        fickle: &[3, 7],
        what: "queueing disciplines",
    },
    Listing {
        protocol: libc::NETLINK_ROUTE,
        // RTM_GETNEXTHOP
        request: 106,
        fixed: 8,
        fickle: &[],
        what: "next hops",
    },
    Listing {
        protocol: libc::NETLINK_NETFILTER,
        // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
        request: 10 << 8 | 1,
        fixed: 4,
        fickle: &[],
        what: "rules of netfilter (nftables)",
    },
];

/// Rules of netfilter in the older way, by the files that name their tables.
const TABLES: [&str; 3] = ["ip_tables_names", "ip6_tables_names", "arp_tables_names"];

/// What a namespace lists: each row without what changes by itself.
type Rows = BTreeMap<&'static str, Vec<Vec<u8>>>;

fn rows() -> Rows {
    let mut all = Rows::new();
    for listing in &LISTINGS {
        let mut found = Vec::new();
        let body = vec![0; listing.fixed];
        let outcome = netlink::dump(listing.protocol, listing.request, &body, &mut |_, body| {
            let (fixed, rest) = body.split_at_checked(listing.fixed)?;
            let mut row = fixed.to_vec();
            let kept = netlink::attributes(rest).filter(|(kind, _)| !listing.fickle.contains(kind));
            for (kind, value) in kept {
                row.extend(kind.to_ne_bytes());
                row.extend((value.len() as u16).to_ne_bytes());
                row.extend(value);
            }
            found.push(row);
            Some(())
        });
        // A kernel that does not know them has none.
        if let Err(error) = outcome {
            found.push(error.to_string().into_bytes());
        }
        found.sort_unstable();
        all.insert(listing.what, found);
    }
    for table in TABLES {
        let names = std::fs::read(format!("/proc/self/net/{table}")).unwrap_or_default();
        let rows = all.entry("rules of netfilter (iptables)").or_default();
        rows.push(names);
    }
    all
}

/// Whether the loopback device, which is the first of every network namespace, is up.
fn loopback_is_up() -> io::Result<bool> {
    const FLAGS: usize = 8;
    let mut up = false;
    netlink::dump(
        libc::NETLINK_ROUTE,
        libc::RTM_GETLINK,
        &[0; 16],
        &mut |_, body| {
            let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
            up |= word(4)? == 1 && word(FLAGS)? & libc::IFF_UP as u32 != 0;
            Some(())
        },
    )?;
    Ok(up)
}

/// All settings of this namespace that may be changed.
fn settings() -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut BTreeMap<String, String>) {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(about) = entry.metadata() else {
                continue;
            };
            if about.is_dir() {
                walk(&path, found);
            } else if about.permissions().mode() & 0o200 != 0
                && let Ok(value) = std::fs::read_to_string(&path)
                && let Ok(name) = path.strip_prefix(SETTINGS)
            {
                let name = name.to_string_lossy().into_owned();
                found.insert(name, value.trim_end().to_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(Path::new(SETTINGS), &mut found);
    found
}

/// Looks at the network namespace of the calling process, which has another one afterwards.
///
/// # Errors
/// Those of the system; what the namespace has that cannot be made again.
pub(super) fn look() -> io::Result<Network> {
    let (listed, set) = (rows(), settings());
    let loopback_up = loopback_is_up()?;
    spawn::unshare(flag::NETWORK)?;
    let fresh = settings();
    let changed = set
        .iter()
        .filter(|(name, value)| fresh.get(*name) != Some(value));
    let network = Network {
        loopback_up,
        settings: changed
            .map(|(name, value)| Setting {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
    };
    network.set_up()?;
    let now = rows();
    match listed
        .iter()
        .find(|(what, rows)| now.get(*what) != Some(rows))
    {
        Some((what, _)) => Err(io::Error::other(format!(
            "it has other {what} than a network namespace begins with"
        ))),
        None => Ok(network),
    }
}

/// A network namespace that some process lives in and we do not.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ForeignNetwork {
    /// The number that sockets tell of it (SO_NETNS_COOKIE).
    #[prost(uint64, tag = "1")]
    pub(crate) cookie: u64,
    /// Its inode number.
    #[prost(uint64, tag = "2")]
    pub(crate) inode: u64,
    /// The unix sockets in it, as the kernel words them.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(crate) unix_sockets: Vec<Vec<u8>>,
}

/// Looks for sockets in the network namespaces of processes that are not ours. One that cannot be looked into is left out: its
/// sockets are found nowhere then.
pub(crate) fn look_into_networks<'a>(
    processes: impl Iterator<Item = &'a ProcessDirectory>,
) -> Vec<ForeignNetwork> {
    let Ok(ours) = ProcessDirectory::open(spawn::own_pid()) else {
        return Vec::new();
    };
    let mut seen: BTreeSet<u64> = ours.namespace("net").into_iter().collect();
    let mut found = Vec::new();
    for process in processes {
        let Ok(inode) = process.namespace("net") else {
            continue;
        };
        if !seen.insert(inode) {
            continue;
        }
        let look_into = || -> Result<ForeignNetwork> {
            let file = process.open_file("ns/net")?;
            let what = || "finding whose a network namespace is".to_owned();
            let around = File::from(namespace::owner(file.as_fd()).attempt(what)?);
            let around_number = around.metadata().attempt(what)?.ino();
            let way = if around_number == ours.namespace("user")? {
                vec![&file]
            } else {
                vec![&around, &file]
            };
            let network = visit::visit(&way, look_for_sockets)?;
            Ok(ForeignNetwork { inode, ..network })
        };
        found.extend(look_into());
    }
    found
}

fn look_for_sockets() -> io::Result<ForeignNetwork> {
    let any = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    Ok(ForeignNetwork {
        cookie: namespace_cookie(any.as_fd())?,
        inode: 0,
        unix_sockets: diagnosis::unix_rows()?,
    })
}

impl Network {
    /// Gives the network namespace of the calling process, a fresh one, these settings and this state.
    ///
    /// # Errors
    /// Those of the system; a setting that cannot be what it was.
    pub(super) fn set_up(&self) -> io::Result<()> {
        let about = |setting: &Setting, error: String| {
            io::Error::other(format!("{SETTINGS}/{}: {error}", setting.name))
        };
        // Those for all devices come before those of one by their names, and where one setting changes others, what is right is
        // left alone.
        for setting in &self.settings {
            let path = Path::new(SETTINGS).join(&setting.name);
            let now = std::fs::read_to_string(&path);
            if now.is_ok_and(|now| now.trim_end() == setting.value) {
                continue;
            }
            std::fs::write(&path, &setting.value)
                .map_err(|error| about(setting, error.to_string()))?;
        }
        if self.loopback_up {
            device::raise_loopback()?;
        }
        for setting in &self.settings {
            let now = std::fs::read_to_string(Path::new(SETTINGS).join(&setting.name))?;
            if now.trim_end() != setting.value {
                return Err(about(setting, format!("it stays at {}", now.trim_end())));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        let is_name = |setting: &Setting| {
            let name = Path::new(&setting.name);
            let mut parts = name.components();
            parts.all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        match self.settings.iter().all(is_name) {
            true => Ok(()),
            false => Err(damaged("a setting of a network namespace")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let network = |name: &str| Network {
            loopback_up: true,
            settings: vec![Setting {
                name: name.into(),
                value: "1".into(),
            }],
        };
        assert!(network("ipv4/ip_forward").check().is_ok());
        assert!(network("../kernel/core_pattern").check().is_err());
        assert!(network("/etc/passwd").check().is_err());
    }

    #[test]
    fn everything_is_listed() {
        let rows = rows();
        assert!(!rows["network devices"].is_empty());
        assert!(settings().contains_key("ipv4/ip_forward") || settings().is_empty());
    }
}
