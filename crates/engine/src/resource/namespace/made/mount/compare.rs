//! In what a mount namespace differs from the one around the job, by what mountinfo shows of both.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryonaut_procfs::Mount;
use cryonaut_procfs::mountinfo::OptionalField;
use cryonaut_sys::mount::attribute;

use super::{MountKind, MountTree, Mounted, Propagation};
use crate::resource::file::path_of;
use crate::resource::memory::printable;

/// How the mounts of a namespace, `there`, come about from those outside, `here`; what is in file systems in memory is not in it yet.
///
/// # Errors
/// The first mount that cannot be made again, and why.
pub(super) fn describe(here: &[Mount], there: &[Mount]) -> Result<MountTree, String> {
    let comparison = Comparison::new(here, there);
    let default = match there.iter().find(|mount| mount.mount_point == b"/") {
        Some(root) => comparison.propagation(root)?,
        None => return Err("nothing is its root".into()),
    };
    let mut tree = MountTree {
        propagation: default as i32,
        ..MountTree::default()
    };
    let mut along = Along::default();
    for (index, mount) in there.iter().enumerate() {
        if let Some(original) = comparison.original(index)
            && !comparison.has_new_root()
        {
            // What is hidden nobody can tell from what it was.
            if comparison.is_hidden(index) {
                continue;
            }
            let propagation = comparison.propagation(mount)?;
            if original.options != mount.options || propagation != default {
                tree.mounts.push(Mounted {
                    outside: Some(attributes(&original.options)),
                    ..comparison.present(mount, propagation)
                });
            }
            continue;
        }
        if comparison.is_own_of_job(mount) {
            continue;
        }
        if let Some(outside) = along.brings(mount) {
            if comparison.is_hidden(index) {
                continue;
            }
            let propagation = comparison.propagation(mount)?;
            tree.mounts.push(Mounted {
                outside: Some(outside),
                ..comparison.present(mount, propagation)
            });
            continue;
        }
        if comparison.is_hidden(index) {
            return Err(format!(
                "what is mounted at {} is hidden by another mount",
                printable(&mount.mount_point)
            ));
        }
        tree.mounts.push(comparison.new_mount(mount, &mut along)?);
    }
    if !comparison.has_new_root() {
        let missing = (0..here.len()).filter(|index| !comparison.is_kept(*index));
        tree.taken_away = missing
            .map(|index| here[index].mount_point.clone())
            .collect();
    }
    Ok(tree)
}

/// Mounts that come with one that was bound together with what is mounted in it.
#[derive(Default)]
struct Along {
    /// Where, and what (device and root); the attributes outside.
    places: BTreeMap<Key, u64>,
}

/// A place, and what is mounted there: device and root.
type Key = (Vec<u8>, (u32, u32), Vec<u8>);

impl Along {
    fn brings(&self, mount: &Mount) -> Option<u64> {
        self.places.get(&key(&mount.mount_point, mount)).copied()
    }
}

fn key(place: &[u8], mount: &Mount) -> Key {
    let device = (mount.device.major, mount.device.minor);
    (place.to_vec(), device, mount.root.clone())
}

/// The mount that a path leads to.
fn leads_to<'a>(mounts: &'a [Mount], place: &Path) -> Option<&'a Mount> {
    let is_top = |mount: &&Mount| {
        let mut others = mounts.iter();
        let on_other = others.any(|other| other.id == mount.parent && other.id != mount.id);
        mount.mount_point == b"/" && !on_other
    };
    let mut current = mounts.iter().find(is_top)?;
    // Of what is mounted on it the first on the way.
    for _ in mounts {
        let on_the_way = mounts.iter().filter(|other| {
            other.parent == current.id
                && other.id != current.id
                && place.starts_with(path_of(&other.mount_point))
        });
        match on_the_way.min_by_key(|other| other.mount_point.len()) {
            Some(next) => current = next,
            None => break,
        }
    }
    Some(current)
}

struct Comparison<'a> {
    here: &'a [Mount],
    there: &'a [Mount],
    /// The mount outside that one of the namespace is, by their indexes.
    originals: Vec<Option<usize>>,
}

impl<'a> Comparison<'a> {
    fn new(here: &'a [Mount], there: &'a [Mount]) -> Self {
        let mut left: BTreeSet<usize> = (0..here.len()).collect();
        let mut originals = Vec::new();
        for mount in there {
            // A restart makes the job's own /proc and terminals, and what is mounted over that of the machine stays below it.
            let is_own = |other: &Mount| {
                let names = [&b"proc"[..], b"devpts"];
                mount.root == b"/"
                    && names.contains(&mount.file_system.as_slice())
                    && other.file_system == mount.file_system
            };
            let found = left.iter().copied().find(|&index| {
                let other = &here[index];
                other.mount_point == mount.mount_point
                    && (is_own(other)
                        || (other.device, &other.root, &other.file_system)
                            == (mount.device, &mount.root, &mount.file_system))
            });
            originals.push(found);
            if let Some(index) = found {
                left.remove(&index);
            }
        }
        Self {
            here,
            there,
            originals,
        }
    }

    fn original(&self, index: usize) -> Option<&Mount> {
        self.originals[index].map(|index| &self.here[index])
    }

    fn is_kept(&self, index: usize) -> bool {
        self.originals.contains(&Some(index))
    }

    /// Whether its root is not the one outside.
    fn has_new_root(&self) -> bool {
        let root = self
            .there
            .iter()
            .position(|mount| mount.mount_point == b"/");
        root.is_some_and(|root| self.originals[root].is_none())
    }

    /// Whether it is what a restart mounts for the whole job: its /proc, and terminals. A restart does that again.
    fn is_own_of_job(&self, mount: &Mount) -> bool {
        let around = self.there.iter().position(|other| other.id == mount.parent);
        let is_place = match mount.file_system.as_slice() {
            b"proc" => mount.mount_point == b"/proc" && mount.super_options == b"rw",
            b"devpts" => mount.mount_point == b"/dev/pts",
            _ => false,
        };
        is_place
            && mount.root == b"/"
            && !self.has_new_root()
            && around.is_some_and(|around| self.originals[around].is_some())
    }

    /// Whether other mounts cover the place where one is mounted, or it.
    fn is_hidden(&self, index: usize) -> bool {
        let mount = &self.there[index];
        let shown = leads_to(self.there, path_of(&mount.mount_point));
        shown.is_none_or(|shown| shown.id != mount.id)
    }

    fn present(&self, mount: &Mount, propagation: Propagation) -> Mounted {
        Mounted {
            place: mount.mount_point.clone(),
            kind: MountKind::Present as i32,
            attributes: attributes(&mount.options),
            propagation: propagation as i32,
            ..Mounted::default()
        }
    }

    fn new_mount(&self, mount: &Mount, along: &mut Along) -> Result<Mounted, String> {
        let propagation = self.propagation(mount)?;
        let present = self.present(mount, propagation);
        if let Some((source, outside)) = self.source(mount) {
            let (with_mounts, brought) = self.brought(&source, mount);
            along.places.extend(brought);
            return Ok(Mounted {
                kind: MountKind::Bound as i32,
                source,
                with_mounts,
                outside: Some(outside),
                ..present
            });
        }
        let what = |reason: &str| {
            let place = printable(&mount.mount_point);
            let system = printable(&mount.file_system);
            format!("at {place} a file system of type {system} is mounted {reason}")
        };
        let kind = match mount.file_system.as_slice() {
            b"tmpfs" => MountKind::Memory,
            b"devpts" => MountKind::Terminals,
            _ => return Err(what("that is mounted nowhere outside of it")),
        };
        let same = |other: &Mount| other.device == mount.device && other.id != mount.id;
        if self.there.iter().any(same) {
            return Err(what("which it has several mounts of"));
        }
        let options = given_options(kind, &mount.super_options)
            .map_err(|option| what(&format!("with the option {option}, which is not saved")))?;
        Ok(Mounted {
            kind: kind as i32,
            device: mount.device.number(),
            label: mount.source.clone(),
            options,
            ..present
        })
    }

    /// The path outside of what a mount shows, if it is found there, and the attributes that it has there.
    fn source(&self, mount: &Mount) -> Option<(Vec<u8>, u64)> {
        if mount.file_system == b"proc" {
            // Whichever the job has for itself is found there at a restart.
            let place = [b"/proc", mount.root.as_slice()].concat();
            let place = place.strip_suffix(b"/").unwrap_or(&place).to_vec();
            let outside = leads_to(self.here, path_of(&place))?;
            let plain = mount.super_options == b"rw" && outside.file_system == b"proc";
            return plain.then(|| (place, attributes(&outside.options)));
        }
        let shows = |other: &&Mount| {
            other.device == mount.device && path_of(&mount.root).starts_with(path_of(&other.root))
        };
        self.here.iter().filter(shows).find_map(|other| {
            let rest = path_of(&mount.root)
                .strip_prefix(path_of(&other.root))
                .ok()?;
            let mut place = path_of(&other.mount_point).to_owned();
            if !rest.as_os_str().is_empty() {
                place.push(rest);
            }
            let shown = leads_to(self.here, &place)?;
            let place = place.into_os_string().into_encoded_bytes();
            (shown.id == other.id).then(|| (place, attributes(&other.options)))
        })
    }

    /// Whether what is mounted outside in `source` is all mounted in `mount` too, and where it is then: it has come with it.
    fn brought(&self, source: &[u8], mount: &Mount) -> (bool, Vec<(Key, u64)>) {
        let mut places = Vec::new();
        for other in self.here {
            let Ok(rest) = path_of(&other.mount_point).strip_prefix(path_of(source)) else {
                continue;
            };
            if rest.as_os_str().is_empty() {
                continue;
            }
            let hidden = leads_to(self.here, path_of(&other.mount_point))
                .is_none_or(|shown| shown.id != other.id);
            let place = path_of(&mount.mount_point).join(rest);
            let place = place.as_os_str().as_bytes();
            let there = self.there.iter().find(|there| {
                let same = (there.device, &there.root) == (other.device, &other.root);
                let own = there.file_system == b"proc" && other.file_system == b"proc";
                there.mount_point == place && (same || own)
            });
            match there {
                Some(there) => places.push((key(place, there), attributes(&other.options))),
                None if hidden => {}
                None => return (false, Vec::new()),
            }
        }
        (!places.is_empty(), places)
    }

    fn propagation(&self, mount: &Mount) -> Result<Propagation, String> {
        let group = |field: &OptionalField| match field {
            OptionalField::Shared(group) => Some(*group),
            _ => None,
        };
        let mut found = Propagation::Private;
        for field in &mount.optional_fields {
            let refused = |what: &str| {
                Err(format!(
                    "what is mounted at {} {what}",
                    printable(&mount.mount_point)
                ))
            };
            found = match field {
                OptionalField::Shared(own) => {
                    let others = self.here.iter().chain(self.there);
                    let count = others
                        .flat_map(|other| other.optional_fields.iter().filter_map(group))
                        .filter(|other| other == own)
                        .count();
                    if count != 1 || found == Propagation::Slave {
                        return refused("shares what is mounted in it with another mount");
                    }
                    Propagation::Shared
                }
                OptionalField::Master(group_of_master) => {
                    let mut others = self.there.iter().flat_map(|other| &other.optional_fields);
                    if found == Propagation::Shared
                        || others.any(|field| group(field) == Some(*group_of_master))
                    {
                        return refused("gets what is mounted in another mount of it");
                    }
                    Propagation::Slave
                }
                OptionalField::Unbindable => Propagation::Unbindable,
                OptionalField::PropagateFrom(_) => found,
                OptionalField::Unknown(_) => {
                    return refused("takes part in propagation in an unknown way");
                }
            };
        }
        Ok(found)
    }
}

/// The attributes that options of a mount stand for.
fn attributes(options: &[u8]) -> u64 {
    let mut found = attribute::STRICT_ACCESS_TIME;
    for option in options.split(|byte| *byte == b',') {
        match option {
            b"ro" => found |= attribute::READ_ONLY,
            b"nosuid" => found |= attribute::NO_SET_ID,
            b"nodev" => found |= attribute::NO_DEVICES,
            b"noexec" => found |= attribute::NO_EXECUTION,
            b"nodiratime" => found |= attribute::NO_DIRECTORY_ACCESS_TIME,
            b"nosymfollow" => found |= attribute::NO_LINKS,
            b"relatime" => found &= !attribute::STRICT_ACCESS_TIME,
            b"noatime" => {
                found &= !attribute::STRICT_ACCESS_TIME;
                found |= attribute::NO_ACCESS_TIME;
            }
            _ => {}
        }
    }
    found
}

/// The options of a file system that its maker gives; the others follow from its root directory and its maker.
///
/// # Errors
/// One that cannot be given again.
fn given_options(kind: MountKind, options: &[u8]) -> Result<Vec<String>, String> {
    let (given, follow): (&[&str], &[&str]) = match kind {
        MountKind::Terminals => (&["mode", "ptmxmode"], &["rw"]),
        _ => (
            &["size", "nr_inodes", "huge", "mode"],
            &["rw", "uid", "gid", "inode64", "inode32"],
        ),
    };
    let mut found = Vec::new();
    for option in String::from_utf8_lossy(options).split(',') {
        let name = option.split('=').next().unwrap_or_default();
        if given.contains(&name) {
            found.push(option.to_owned());
        } else if !follow.contains(&name) {
            return Err(option.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 27 0:20 / /proc rw,relatime shared:2 - proc proc rw\n\
        31 27 0:21 / /dev rw,nosuid shared:3 - devtmpfs dev rw\n\
        32 31 0:22 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs shm rw\n\
        33 27 0:23 / /data rw,relatime shared:5 - ext4 /dev/vdb rw\n";

    fn mounts(text: &str) -> Vec<Mount> {
        cryonaut_procfs::mountinfo::parse(text.as_bytes()).unwrap()
    }

    fn tree(there: &str) -> Result<MountTree, String> {
        describe(&mounts(HERE), &mounts(there))
    }

    const COPIED: &str = "\
        127 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        130 127 0:20 / /proc rw,relatime - proc proc rw\n\
        131 127 0:21 / /dev rw,nosuid - devtmpfs dev rw\n\
        132 131 0:22 / /dev/shm rw,nosuid,nodev - tmpfs shm rw\n";

    #[test]
    fn the_difference_alone_is_told() {
        let more = "\
            133 127 0:23 / /data ro,relatime - ext4 /dev/vdb rw\n\
            140 127 0:50 / /mnt rw,nosuid,noatime shared:9 - tmpfs some rw,size=64k,mode=700,inode64\n\
            141 127 254:0 /srv/x /opt ro,relatime - ext4 /dev/vda rw\n";
        let tree = tree(&format!("{COPIED}{more}")).unwrap();
        assert_eq!(tree.taken_away, Vec::<Vec<u8>>::new());
        let [data, memory, bound] = tree.mounts.as_slice() else {
            panic!("{tree:?}");
        };
        assert_eq!(
            (data.kind(), data.attributes),
            (MountKind::Present, attribute::READ_ONLY)
        );
        assert_eq!(memory.kind(), MountKind::Memory);
        assert_eq!(memory.options, ["size=64k", "mode=700"]);
        assert_eq!(memory.propagation(), Propagation::Shared);
        assert_eq!(
            memory.attributes,
            attribute::NO_SET_ID | attribute::NO_ACCESS_TIME
        );
        assert_eq!(bound.kind(), MountKind::Bound);
        assert_eq!(bound.source, b"/srv/x");
    }

    #[test]
    fn what_was_taken_away_is_told() {
        let tree = tree(COPIED).unwrap();
        assert_eq!(tree.taken_away, [b"/data".to_vec()]);
        assert_eq!(tree.mounts, []);
    }

    #[test]
    fn a_new_root_is_made_of_what_is_outside() {
        let there = "\
            200 190 254:0 / / ro,relatime - ext4 /dev/vda rw\n\
            201 200 0:20 / /proc ro,relatime - proc proc rw\n\
            202 200 0:21 / /dev ro,nosuid - devtmpfs dev rw\n\
            203 202 0:22 / /dev/shm ro,nosuid,nodev - tmpfs shm rw\n\
            204 200 0:23 / /data ro,relatime - ext4 /dev/vdb rw\n";
        // The root is the one outside: only its attributes are others.
        let same = tree(there).unwrap();
        assert!(
            same.mounts
                .iter()
                .all(|one| one.kind() == MountKind::Present)
        );
        let there = "\
            200 190 0:60 / / rw,relatime - tmpfs new rw\n\
            201 200 254:0 /usr /usr ro,relatime - ext4 /dev/vda rw\n\
            202 200 0:21 / /dev rw,nosuid - devtmpfs dev rw\n\
            203 202 0:22 / /dev/shm rw,nosuid,nodev - tmpfs shm rw\n\
            204 200 0:20 / /proc rw,relatime - proc proc rw\n";
        let new = tree(there).unwrap();
        let kinds: Vec<_> = new.mounts.iter().map(Mounted::kind).collect();
        use MountKind::{Bound, Memory, Present};
        assert_eq!(kinds, [Memory, Bound, Bound, Present, Bound]);
        assert!(new.mounts[2].with_mounts && !new.mounts[1].with_mounts);
    }

    #[test]
    fn what_cannot_be_made_again_is_named() {
        let refused = |more: &str| tree(&format!("{COPIED}{more}")).unwrap_err();
        let fuse = refused("140 127 0:51 / /mnt rw - fuse.sshfs host rw\n");
        assert!(
            fuse.contains("/mnt") && fuse.contains("fuse.sshfs"),
            "{fuse}"
        );
        let quota = refused("140 127 0:51 / /mnt rw - tmpfs x rw,usrquota\n");
        assert!(quota.contains("usrquota"), "{quota}");
        let hidden =
            refused("140 127 0:51 / /mnt/a rw - tmpfs x rw\n141 127 0:52 / /mnt rw - tmpfs y rw\n");
        assert!(hidden.contains("hidden"), "{hidden}");
        let outside = refused("140 127 254:0 /srv /mnt rw shared:1 - ext4 /dev/vda rw\n");
        assert!(outside.contains("shares"), "{outside}");
    }
}
