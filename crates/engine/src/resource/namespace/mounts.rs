//! Mount namespaces that a restart makes afresh: those that show what is mounted here, with a /proc of their own.

use cryonaut_procfs::{Mount, ProcessDirectory};

use crate::resource::embedded;

/// Why a mount namespace cannot be made again; nothing when all its mounts but /proc are found here too. Mounts made here
/// since then are no obstacle: files are checked one by one at the restart.
pub(super) fn unusual(here: &ProcessDirectory, there: &ProcessDirectory) -> Option<String> {
    let (Ok(here), Ok(there)) = (here.mountinfo(), there.mountinfo()) else {
        return Some("it has a mount namespace of its own that cannot be read".into());
    };
    let foreign = foreign(&here, &there)?;
    Some(format!(
        "it has a mount namespace of its own, where {} is mounted, which is not the case here",
        String::from_utf8_lossy(&foreign.mount_point)
    ))
}

/// Whether it is a /dev/pts, which a restart makes anew where the job has pseudo-terminals.
fn is_own_terminals(mount: &Mount) -> bool {
    mount.mount_point == b"/dev/pts" && mount.file_system == b"devpts"
}

/// A mount of `there`, besides those at and below /proc, that is not found `here`.
pub(super) fn foreign<'a>(here: &[Mount], there: &'a [Mount]) -> Option<&'a Mount> {
    let mut left: Vec<&Mount> = here.iter().collect();
    let has_view = there.iter().any(embedded::is_of_view);
    there
        .iter()
        .filter(|mount| !mount.mount_point.starts_with(b"/proc/") && mount.mount_point != b"/proc")
        .filter(|mount| !is_own_terminals(mount))
        .filter(|mount| !has_view || !(embedded::is_of_view(mount) || is_at_its_place(here, mount)))
        .find(|mount| {
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
        assert_eq!(foreign(&here, &[private_root.clone(), proc.clone()]), None);
        assert_eq!(
            foreign(&here, &[private_root.clone(), proc, other.clone()]),
            None
        );
        assert_eq!(
            foreign(&here, &[private_root, other.clone(), other.clone()]),
            Some(&other)
        );
        assert_eq!(foreign(&[root], std::slice::from_ref(&other)), Some(&other));
    }
}
