//! What a user namespace has: which ids it maps to which of the namespace around it, whether setgroups(2) is permitted in it, and
//! who made it (user_namespaces(7)).

use std::io;

use cryonaut_procfs::namespace::{IdRange as Mapping, parse_id_map};

use super::damaged;
use crate::Result;

/// The ids of a user namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IdMaps {
    /// Ids of users; none where they have not been mapped yet.
    #[prost(message, repeated, tag = "1")]
    pub users: Vec<IdRange>,
    /// Ids of groups.
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<IdRange>,
    /// Whether setgroups(2) is denied.
    #[prost(bool, tag = "3")]
    pub setgroups_denied: bool,
    /// The user who made it, as `cryo` sees users.
    #[prost(uint32, tag = "4")]
    pub owner: u32,
}

/// Ids that follow each other, in a namespace and outside.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IdRange {
    /// The first id inside.
    #[prost(uint32, tag = "1")]
    pub inside: u32,
    /// The first id in the namespace around it.
    #[prost(uint32, tag = "2")]
    pub outside: u32,
    /// How many there are.
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

impl From<Mapping> for IdRange {
    fn from(mapping: Mapping) -> Self {
        Self {
            inside: mapping.inside,
            outside: mapping.outside,
            count: mapping.count,
        }
    }
}

/// Reads the ids of the user namespace that the calling process is in; ids outside are those of the namespace around it.
///
/// # Errors
/// Those of reading a file; where ids of projects are mapped, which nobody but quotas knows.
pub(super) fn look() -> io::Result<IdMaps> {
    let map = |name: &str| {
        let text = std::fs::read(format!("/proc/self/{name}"))?;
        let map = parse_id_map(&text).map_err(io::Error::other)?;
        Ok::<Vec<IdRange>, io::Error>(map.into_iter().map(IdRange::from).collect())
    };
    if !map("projid_map")?.is_empty() {
        return Err(io::Error::other("it maps ids of projects (projid_map)"));
    }
    Ok(IdMaps {
        users: map("uid_map")?,
        groups: map("gid_map")?,
        setgroups_denied: std::fs::read("/proc/self/setgroups")?.starts_with(b"deny"),
        owner: 0,
    })
}

/// What a status file tells of users and groups.
pub(super) fn ids(status: &[u8]) -> Vec<&[u8]> {
    let is_of_ids = |line: &&[u8]| {
        [b"Uid:".as_slice(), b"Gid:", b"Groups:"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    status
        .split(|&byte| byte == b'\n')
        .filter(is_of_ids)
        .collect()
}

impl IdMaps {
    /// Whether ids are mapped to themselves.
    pub(super) fn are_identity(&self) -> bool {
        let are = |map: &[IdRange]| {
            !map.is_empty() && map.iter().all(|range| range.inside == range.outside)
        };
        are(&self.users) && are(&self.groups)
    }

    /// Refuses maps that the kernel would not have taken.
    pub(super) fn check(&self) -> Result<()> {
        // UID_GID_MAP_MAX_EXTENTS (include/linux/user_namespace.h).
        const MOST: usize = 340;
        let possible = |map: &Vec<IdRange>| {
            let ends = |range: &IdRange| {
                range.count > 0
                    && range.inside.checked_add(range.count - 1).is_some()
                    && range.outside.checked_add(range.count - 1).is_some()
            };
            map.len() <= MOST && map.iter().all(ends)
        };
        match possible(&self.users) && possible(&self.groups) {
            true => Ok(()),
            false => Err(damaged("the ids of a user namespace")),
        }
    }

    /// Why it cannot be made in a fresh user namespace, where only the user and the group given are mapped, and setgroups(2) is
    /// denied; `around` is the namespace that it lies in, 0 for that fresh one.
    pub(super) fn beyond(&self, around: u64, (user, group): (u32, u32)) -> Option<String> {
        let reaches = |map: &[IdRange], own: u32| {
            around == 0
                && map
                    .iter()
                    .any(|range| range.outside != own || range.count != 1)
        };
        if self.owner != user || reaches(&self.users, user) || reaches(&self.groups, group) {
            return Some(format!(
                "it is about other users or groups than {user} and {group}, the only ones that exist in a user namespace that \
                 you may make"
            ));
        }
        self.permits_setgroups().then(|| {
            "setgroups(2) is permitted in it, which an ordinary user may not permit".into()
        })
    }

    /// Whether setgroups(2) has any effect: it takes groups.
    fn permits_setgroups(&self) -> bool {
        !self.setgroups_denied && !self.groups.is_empty()
    }

    /// What comes back otherwise in a fresh user namespace, where setgroups(2) is denied.
    pub(super) fn remark(&self) -> Option<&'static str> {
        (!self.setgroups_denied && self.groups.is_empty()).then_some(
            "in a user namespace that the job has made itself, and where no groups are mapped yet, setgroups is denied now",
        )
    }

    /// The group outside that an id inside stands for.
    pub(super) fn group_outside(&self, inside: u32) -> Option<u32> {
        let holds =
            |range: &&IdRange| (range.inside..=range.inside + (range.count - 1)).contains(&inside);
        let range = self.groups.iter().find(holds)?;
        Some(range.outside + (inside - range.inside))
    }

    /// A user and a group who exist in it, if it has both.
    pub(super) fn first(&self) -> Option<(u32, u32)> {
        Some((self.users.first()?.inside, self.groups.first()?.inside))
    }

    /// A map as it is written to uid_map or gid_map.
    pub(super) fn text(map: &[IdRange]) -> String {
        let line =
            |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
        map.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(outside: u32, count: u32, setgroups_denied: bool) -> IdMaps {
        let range = IdRange {
            inside: 0,
            outside,
            count,
        };
        IdMaps {
            users: vec![range],
            groups: vec![range],
            setgroups_denied,
            owner: 1000,
        }
    }

    #[test]
    fn only_own_ids_can_be_mapped_by_an_ordinary_user() {
        let own = (1000, 1000);
        assert_eq!(maps(1000, 1, true).beyond(0, own), None);
        assert!(maps(1000, 2, true).beyond(0, own).is_some());
        assert!(maps(1001, 1, true).beyond(0, own).is_some());
        assert!(maps(1000, 1, false).beyond(0, own).is_some());
        // Deeper ones map what the one around them maps.
        assert_eq!(maps(0, 1, true).beyond(7, own), None);
    }

    #[test]
    fn maps_are_written_as_the_kernel_reads_them() {
        let maps = maps(100_000, 65_536, false);
        let text = IdMaps::text(&maps.users);
        assert_eq!(text, "0 100000 65536\n");
        let back: Vec<IdRange> = parse_id_map(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(IdRange::from)
            .collect();
        assert_eq!(back, maps.users);
        assert_eq!(maps.group_outside(65_535), Some(165_535));
        assert_eq!(maps.group_outside(65_536), None);
    }

    #[test]
    fn impossible_maps_are_damage() {
        assert!(maps(1000, 1, true).check().is_ok());
        assert!(maps(1000, 0, true).check().is_err());
        assert!(maps(u32::MAX, 2, true).check().is_err());
    }

    #[test]
    fn ids_are_told_from_the_rest() {
        let one = b"Name:\tx\nUid:\t1\t1\t1\t1\nGid:\t2\t2\t2\t2\nGroups:\t3 \n";
        let other = b"Name:\ty\nUid:\t1\t1\t1\t1\nGid:\t2\t2\t2\t2\nGroups:\t3 \n";
        assert_eq!(ids(one).len(), 3);
        assert_eq!(ids(one), ids(other));
    }
}
