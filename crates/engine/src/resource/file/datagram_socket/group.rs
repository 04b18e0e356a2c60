//! Multicast groups that a socket is a member of.
//!
//! No interface lists the groups of a socket, but the kernel tells of any group whether the socket is a member, with its sources
//! (MCAST_MSFILTER). Asked are those groups that /proc/net/igmp and /proc/net/igmp6 list for the interfaces of this machine.

use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;

use cryonaut_sys::socket;

use crate::error::Attempt;
use crate::plan::Plan;
use crate::resource::memory::printable;
use crate::{Error, Result};

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// Room of a struct sockaddr_storage.
const STORAGE: usize = 128;
/// Bytes of struct group_filter before its sources: interface, padding, group, mode, number of sources.
const FILTER: usize = 8 + STORAGE + 8;
/// The most sources that are asked for (`igmp_max_msf` is 10 where nobody has changed it).
const SOURCES: usize = 64;
/// The sources are left out: none, as joining alone makes it.
const EXCLUDE: u32 = 0;

/// A membership.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Membership {
    /// The name of the interface.
    #[prost(bytes = "vec", tag = "1")]
    pub interface: Vec<u8>,
    /// The group: 4 or 16 bytes in network order.
    #[prost(bytes = "vec", tag = "2")]
    pub group: Vec<u8>,
    /// Whether `sources` are left out (0) or the only ones (1).
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Sources, like the group.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub sources: Vec<Vec<u8>>,
}

/// A group that somebody on this machine is a member of.
pub struct Candidate {
    number: u32,
    interface: Vec<u8>,
    group: Vec<u8>,
}

/// All groups that sockets of this machine may be members of.
pub fn candidates() -> Vec<Candidate> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = four(&text("/proc/net/igmp"));
    found.append(&mut six(&text("/proc/net/igmp6")));
    found
}

/// A line for each interface (number, name, a colon), and below it one for each group, as the word that holds its bytes.
fn four(text: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut interface = None;
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !line.starts_with('\t') {
            let name = words.next().unwrap_or_default().trim_end_matches(':');
            interface = first.parse().ok().map(|number| (number, name));
        } else if let (Some((number, name)), Ok(group)) =
            (interface, u32::from_str_radix(first, 16))
        {
            found.push(Candidate {
                number,
                interface: name.as_bytes().to_vec(),
                group: group.to_ne_bytes().to_vec(),
            });
        }
    }
    found
}

/// A line for each group: number and name of the interface, the group.
fn six(text: &str) -> Vec<Candidate> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let interface = words.next()?.as_bytes().to_vec();
        let group = u128::from_str_radix(words.next()?, 16).ok()?;
        let group = Ipv6Addr::from(group).octets().to_vec();
        Some(Candidate {
            number,
            interface,
            group,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn level_of(group: &[u8]) -> i32 {
    match group.len() {
        4 => libc::IPPROTO_IP,
        _ => libc::IPPROTO_IPV6,
    }
}

/// An address as a struct sockaddr_storage.
fn storage(address: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; STORAGE];
    let (family, at) = match address.len() {
        4 => (libc::AF_INET, 4),
        _ => (libc::AF_INET6, 8),
    };
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes[at..at + address.len()].copy_from_slice(address);
    bytes
}

/// A struct group_filter.
fn filter(number: u32, group: &[u8], (mode, count): (u32, usize)) -> Vec<u8> {
    let mut bytes = number.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&storage(group));
    bytes.extend_from_slice(&mode.to_ne_bytes());
    bytes.extend_from_slice(&(count as u32).to_ne_bytes());
    bytes
}

/// The groups of a socket.
pub fn of(socket: BorrowedFd<'_>, candidates: &[Candidate]) -> Vec<Membership> {
    let mut found: Vec<Membership> = Vec::new();
    for candidate in candidates {
        let group = &candidate.group;
        let mut asked = filter(candidate.number, group, (EXCLUDE, SOURCES));
        asked.resize(FILTER + SOURCES * STORAGE, 0);
        let Ok(told) = socket::ask_option(socket, level_of(group), MCAST_MSFILTER, asked) else {
            continue;
        };
        let word = |at: usize| {
            let word = told.get(at..at + 4)?;
            Some(u32::from_ne_bytes(word.try_into().ok()?))
        };
        let (Some(mode), Some(count)) = (word(FILTER - 8), word(FILTER - 4)) else {
            continue;
        };
        let at = if group.len() == 4 { 4 } else { 8 };
        let sources = told[FILTER..].chunks_exact(STORAGE).take(count as usize);
        let membership = Membership {
            interface: candidate.interface.clone(),
            group: group.clone(),
            mode,
            sources: sources
                .map(|source| source[at..at + group.len()].to_vec())
                .collect(),
        };
        if !found.contains(&membership) {
            found.push(membership);
        }
    }
    found
}

/// Refuses groups on interfaces that this machine lacks.
pub fn check(groups: &[Membership], (label, object): ((i32, &str), &str), plan: &mut Plan) {
    for membership in groups {
        if socket::interface_number(&membership.interface).is_err() {
            let name = printable(&membership.interface);
            plan.refusals.add(
                label,
                object,
                format!("it is a member of a multicast group on {name}, and there is no such interface here"),
                format!("restart where it is, or make it (ip link add {name} type dummy)"),
            );
        }
    }
}

/// Makes a socket a member of its groups again.
///
/// # Errors
/// When it may not be one.
pub fn join(socket: BorrowedFd<'_>, groups: &[Membership]) -> Result<()> {
    let what = || "joining a multicast group".to_owned();
    for membership in groups {
        let fits = |address: &Vec<u8>| [4, 16].contains(&address.len());
        if !fits(&membership.group) || !membership.sources.iter().all(fits) {
            return Err(Error::Failed(
                "the image is damaged: a multicast group makes no sense".into(),
            ));
        }
        let level = level_of(&membership.group);
        let number = socket::interface_number(&membership.interface).attempt(what)?;
        // struct group_req: interface, padding, group.
        let mut request = number.to_ne_bytes().to_vec();
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(&storage(&membership.group));
        socket::set_option(socket, level, MCAST_JOIN_GROUP, &request).attempt(what)?;
        if membership.mode == EXCLUDE && membership.sources.is_empty() {
            continue;
        }
        let shape = (membership.mode, membership.sources.len());
        let mut wanted = filter(number, &membership.group, shape);
        for source in &membership.sources {
            wanted.extend_from_slice(&storage(source));
        }
        socket::set_option(socket, level, MCAST_MSFILTER, &wanted).attempt(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_interfaces_are_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    2\teth0      :     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n";
        let found = four(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].interface, b"eth0");
        assert_eq!(
            (found[1].number, found[1].group.as_slice()),
            (2, &[224, 0, 0, 251][..])
        );
        let found = six("1    lo              ff020000000000000000000000000001     1 0000000C 0\n");
        assert_eq!(
            (found[0].number, found[0].group[0], found[0].group[15]),
            (1, 0xff, 1)
        );
        assert!(four("x\n\tzz\n1\n").is_empty() && six("1 lo zz\n").is_empty());
    }
}
