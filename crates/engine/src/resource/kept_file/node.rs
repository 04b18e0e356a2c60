//! Special files that have no name any more: device nodes, and the files of sockets that are gone.
//!
//! mknod(2) makes device nodes for root of the initial user namespace only. What a node stands for is its type and number: where
//! it may not be made, another node of the same device, of those in /dev, serves as well. Not preserved then: owner, mode and
//! name of the node.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryonaut_sys::file;

use super::make::name_only;
use super::{KeptFile, place};
use crate::resource::file::reopen;

/// CAP_MKNOD (capabilities(7)).
const MAKE_NODES: u64 = 1 << 27;

/// A node and whether it was made for this, or is one that others use.
#[derive(Debug)]
pub(super) enum Node {
    Made(File),
    Found(File),
}

/// What a device node's number is, in a record.
pub(super) fn number(device: u64) -> (u32, u32) {
    ((device >> 32) as u32, device as u32)
}

/// Whether the node can be made, or another one of the same device is there.
pub(super) fn can_be(node: &KeptFile) -> bool {
    let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
    node.file_type() == libc::S_IFSOCK || capabilities & MAKE_NODES != 0 || usual(node).is_some()
}

/// Makes the node, or finds another one.
///
/// # Errors
/// When there is none.
pub(super) fn make(node: &KeptFile) -> std::io::Result<Node> {
    let kind = node.file_type();
    let make = |path: &Path| file::make_node(path, kind | 0o600, number(node.node));
    // A file system may keep devices from being opened (nodev).
    let open = |path: &Path| {
        let named = name_only(path)?;
        if node.opened {
            reopen(named.as_fd(), (libc::O_RDONLY | libc::O_NONBLOCK) as u32)?;
        }
        Ok(named)
    };
    place::make_bare(node, make, open)
        .map(Node::Made)
        .or_else(|error| match usual(node) {
            Some(path) => name_only(&path).map(Node::Found),
            None => Err(error),
        })
}

/// A node of the same device in /dev.
fn usual(node: &KeptFile) -> Option<PathBuf> {
    let (major, minor) = number(node.node);
    let wanted = libc::makedev(major, minor);
    let mut entries = std::fs::read_dir("/dev").ok()?.flatten();
    entries.find_map(|entry| {
        let found = entry.metadata().ok()?;
        let is_it = found.mode() & libc::S_IFMT == node.file_type() && found.rdev() == wanted;
        is_it.then(|| entry.path())
    })
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::*;
    use crate::resource::memory::FileIdentity;

    fn device(kind: u32, node: u64) -> KeptFile {
        let path = std::env::temp_dir().join(format!("cryonaut-node-{}", std::process::id()));
        KeptFile {
            standing: Standing::Nameless as i32,
            identity: Some(FileIdentity {
                path: path.into_os_string().into_encoded_bytes(),
                mode: kind | 0o640,
                ..FileIdentity::default()
            }),
            node,
            opened: kind == libc::S_IFCHR,
            ..KeptFile::default()
        }
    }

    #[test]
    fn a_device_is_found_by_its_number() {
        let null = device(libc::S_IFCHR, 1 << 32 | 3);
        let path = usual(&null).unwrap();
        let found = std::fs::metadata(path).unwrap();
        assert_eq!(found.rdev(), libc::makedev(1, 3));
        assert!(usual(&device(libc::S_IFBLK, 1 << 32 | 3)).is_none());
        assert!(can_be(&null));
    }

    #[test]
    fn a_socket_file_needs_no_privilege() {
        let socket = device(libc::S_IFSOCK, 0);
        let Node::Made(made) = make(&socket).unwrap() else {
            panic!("it was found");
        };
        let metadata = std::fs::metadata(file::own_path(made.as_fd())).unwrap();
        assert_eq!(metadata.mode() & libc::S_IFMT, libc::S_IFSOCK);
        assert_eq!(metadata.nlink(), 0);
    }
}
