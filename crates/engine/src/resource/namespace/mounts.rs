//! Mount namespaces that a restart makes afresh: those that show what is mounted here, with a /proc of their own.

use cryonaut_procfs::{Mount, ProcessDirectory};

use super::unmounted::Unmounted;
use crate::resource::embedded;

/// What is mounted in a job's namespace and not here, provided that it was there when the namespace was born: those that use it cannot
/// be restarted. Mounts made here since then are no obstacle: files are checked one by one at the restart. None where the job has
/// mounted something itself.
pub(super) fn unmounted(here: &ProcessDirectory, there: &ProcessDirectory) -> Option<Unmounted> {
    let (Ok(here), Ok(there)) = (here.mountinfo(), there.mountinfo()) else {
        return None;
    };
    let born = born_with(&here, &there);
    let foreign: Vec<(usize, &Mount)> = foreign(&here, &there).collect();
    if foreign.iter().any(|(index, _)| *index >= born) {
        return None;
    }
    let gone = foreign.into_iter().map(|(_, mount)| mount.clone());
    Some(Unmounted::new(gone.collect(), there.clone()))
}

/// How many of the first mounts of a namespace it was born with, as far as that can be told: they are shown in the order in which
/// they were made, and the first thing that `cryo` mounts in a namespace that it has made is a /proc.
fn born_with(here: &[Mount], there: &[Mount]) -> usize {
    let is_proc = |mount: &Mount| mount.mount_point == b"/proc" && mount.file_system == b"proc";
    let is_new =
        |mount: &Mount| is_proc(mount) && here.iter().all(|other| other.device != mount.device);
    there.iter().position(is_new).unwrap_or(0)
}

/// Whether it is a /dev/pts, which a restart makes anew where the job has pseudo-terminals.
fn is_own_terminals(mount: &Mount) -> bool {
    mount.mount_point == b"/dev/pts" && mount.file_system == b"devpts"
}

/// The mounts of `there`, besides those at and below /proc, that are not found `here`, with their places in the list.
fn foreign<'a>(here: &'a [Mount], there: &'a [Mount]) -> impl Iterator<Item = (usize, &'a Mount)> {
    let mut left: Vec<&Mount> = here.iter().collect();
    let has_view = there.iter().any(embedded::is_of_view);
    let is_of_view = |mount: &Mount| embedded::is_of_view(mount) || is_at_its_place(here, mount);
    there
        .iter()
        .enumerate()
        .filter(|(_, mount)| {
            !mount.mount_point.starts_with(b"/proc/") && mount.mount_point != b"/proc"
        })
        .filter(|(_, mount)| !is_own_terminals(mount))
        .filter(move |(_, mount)| !has_view || !is_of_view(mount))
        .filter(move |(_, mount)| {
            let same = |other: &&Mount| {
                (
                    &other.mount_point,
                    &other.root,
                    other.device,
                    &other.file_system,
                    &other.options,
                ) == (
                    &mount.mount_point,
                    &mount.root,
                    mount.device,
                    &mount.file_system,
                    &mount.options,
                )
            };
            // Mounts at one place may be stacked: each counts once.
            match left.iter().position(same) {
                Some(index) => {
                    left.swap_remove(index);
                    false
                }
                None => true,
            }
        })
}

/// Whether a mount shows what is at its place here without it: as a restart makes them in directories that it lays out anew.
fn is_at_its_place(here: &[Mount], mount: &Mount) -> bool {
    let below = |above: &Mount| {
        let rest = mount
            .mount_point
            .strip_prefix(above.mount_point.as_slice())?;
        let whole = above.mount_point == b"/" || rest.is_empty() || rest.starts_with(b"/");
        whole.then(|| rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    };
    let around = here.iter().filter(|above| below(above).is_some());
    // Of several at one place the last covers the others.
    let Some(above) = around.max_by_key(|above| above.mount_point.len()) else {
        return false;
    };
    let mut root = above.root.clone();
    let rest = below(above).unwrap_or_default();
    if !rest.is_empty() {
        if !root.ends_with(b"/") {
            root.push(b'/');
        }
        root.extend(rest);
    }
    (above.device, &above.options, &root) == (mount.device, &mount.options, &mount.root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(line: &str) -> Mount {
        cryonaut_procfs::mountinfo::parse(line.as_bytes())
            .unwrap()
            .remove(0)
    }

    #[test]
    fn only_proc_may_be_mounted_otherwise() {
        let root = mount("27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n");
        let private_root = mount("127 90 254:0 / / rw,relatime - ext4 /dev/vda rw\n");
        let proc = mount("128 127 0:99 / /proc rw,nosuid - proc proc rw\n");
        let other = mount("129 127 0:50 / /data rw - tmpfs tmpfs rw\n");
        let here = [root.clone(), other.clone()];
        let found = |here: &[Mount], there: &[Mount]| {
            let found: Vec<usize> = foreign(here, there).map(|(index, _)| index).collect();
            found
        };
        let none: [usize; 0] = [];
        assert_eq!(found(&here, &[private_root.clone(), proc.clone()]), none);
        let all = [private_root.clone(), proc.clone(), other.clone()];
        assert_eq!(found(&here, &all), none);
        let twice = [private_root.clone(), other.clone(), other.clone()];
        assert_eq!(found(&here, &twice), [2]);
        let root = [root];
        assert_eq!(found(&root, std::slice::from_ref(&other)), [0]);
        // Before its own /proc it has what it was born with; without one nobody can tell.
        let before = [private_root, other.clone(), proc, other.clone()];
        assert_eq!(born_with(&root, &before), 2);
        assert_eq!(born_with(&root, &twice), 0);
    }
}
