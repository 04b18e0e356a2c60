//! The files of a job that was restarted from an image with embedded files: the mounts that make them appear.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cryonaut_procfs::{Mount, ProcessDirectory};

use crate::resource::memory::under;
use crate::view::SOURCE;

/// Whether a mount is one that a restart made for embedded files.
pub(crate) fn is_of_view(mount: &Mount) -> bool {
    mount.file_system == b"tmpfs" && mount.source == SOURCE.to_bytes()
}

/// The mounts with embedded files in a process' mount namespace.
pub(crate) fn mounts_of_view(directory: &ProcessDirectory) -> Vec<Mount> {
    let mut mounts = directory.mountinfo().unwrap_or_default();
    mounts.retain(is_of_view);
    mounts
}

/// Calls `found` with the path of everything that lies on such a mount, as the job names it.
pub(super) fn carried(mounts: &[Mount], base: &Path, found: &mut dyn FnMut(&[u8])) {
    for mount in mounts {
        let Ok(metadata) = std::fs::symlink_metadata(under(base, &mount.mount_point)) else {
            continue;
        };
        walk(base, &mount.mount_point, metadata.dev(), found);
    }
}

fn walk(base: &Path, path: &[u8], device: u64, found: &mut dyn FnMut(&[u8])) {
    use std::os::unix::ffi::OsStrExt;
    let place = under(base, path);
    let Ok(metadata) = std::fs::symlink_metadata(&place) else {
        return;
    };
    // Something else may be mounted over it, or in it.
    if metadata.dev() != device {
        return;
    }
    found(path);
    if !metadata.is_dir() {
        return;
    }
    for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
        let mut below = path.to_vec();
        if !below.ends_with(b"/") {
            below.push(b'/');
        }
        below.extend_from_slice(entry.file_name().as_bytes());
        walk(base, &below, device, found);
    }
}
