//! Descriptors that no kind claims: refused by name.

use super::facts::{Description, Job, Place};
use super::hardware;
use crate::Refusals;
use crate::resource::{Level, Support};

/// What a link begins with: what it is, why it is refused, what to do.
const BY_LINK: &[(&str, &str, &str, &str)] = &[
    (
        "anon_inode:[io_uring]",
        "an io_uring",
        "the kernel has no way to hand one over",
        "switch io_uring off in the program (many have a setting, such as UV_USE_IO_URING=0)",
    ),
    (
        "anon_inode:[perf_event]",
        "a perf event",
        "the kernel has no way to hand one over",
        "stop measuring first",
    ),
    (
        "anon_inode:bpf",
        "a BPF object",
        "the kernel has no way to hand one over",
        "unload it first",
    ),
    (
        "anon_inode:[userfaultfd]",
        "a userfaultfd",
        "its registrations are not saved",
        "close it before the checkpoint",
    ),
    (
        "anon_inode:seccomp",
        "a seccomp listener",
        "the kernel has no way to hand one over",
        "close it first",
    ),
    (
        "anon_inode:landlock",
        "a Landlock ruleset",
        "it is not saved",
        "close it once it is in force",
    ),
    (
        "anon_inode:kvm",
        "a virtual machine",
        "its state is in the kernel",
        "save it by its own program's means",
    ),
    (
        TOO_DEEP,
        "a file or directory that lies too deep",
        "its path is longer than 4095 bytes, and the kernel neither shows nor takes such a one",
        "move what lies there, or a directory above it, further up, or close it before the checkpoint",
    ),
    (
        "/secretmem",
        "secret memory",
        "nobody else may read it",
        "close it before the checkpoint",
    ),
    (
        "/dmabuf:",
        "a device buffer",
        "its content is the device's",
        "close the device first",
    ),
];

/// What stands for the path of what lies so deep that the kernel shows none (PATH_MAX).
pub(super) const TOO_DEEP: &str = "(a path of more than 4095 bytes)";

/// Whether a path lies where files are the kernel's own doing.
pub(crate) fn is_kernel_file(link: &[u8]) -> bool {
    [b"/proc".as_slice(), b"/sys"].iter().any(|top| {
        link.strip_prefix(*top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// Whether a link is that of memory which nobody but the program, or only a device, may read.
pub(super) fn is_private_memory(link: &[u8]) -> bool {
    link == b"/secretmem (deleted)" || link == b"/secretmem" || link.starts_with(b"/dmabuf:")
}

/// Whether the path of a description leads through a directory that we may not search.
fn beyond_reach(job: &Job<'_>, description: &Description) -> bool {
    let owner = job.owner(description.first());
    let there = std::fs::symlink_metadata(owner.reach(&description.facts.link));
    there.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Refuses a descriptor that nobody claims.
pub(super) fn refuse(description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
    let label = job.owner(description.first()).label();
    let facts = &description.facts;
    if facts.is_socket() {
        let what = facts
            .socket
            .map_or("a socket".into(), |socket| socket.name());
        return refusals.add(
            label,
            format!("{}, {what}", job.name(description)),
            "sockets of this kind are not saved",
            "close it before the checkpoint",
        );
    }
    let known = BY_LINK
        .iter()
        .find(|(link, ..)| facts.link.starts_with(link.as_bytes()));
    let device = hardware::known(facts).map(|device| (device.what, device.reason, device.remedy));
    let known = known.map(|&(_, what, reason, remedy)| (what, reason, remedy));
    let (what, reason, remedy) = match known.or(device) {
        Some((what, reason, remedy)) => (what, reason.to_owned(), remedy),
        None if facts.place == Place::Deleted => (
            "a deleted file",
            "it has no name by which it could be opened again".to_owned(),
            "close it, or give the file a name again, before the checkpoint",
        ),
        None if matches!(facts.file_type(), libc::S_IFCHR | libc::S_IFBLK) => {
            let (major, minor) = facts.node;
            ("a device", format!("the state of device {major}:{minor} is in its driver"), "close it before the checkpoint")
        }
        None if facts.place == Place::Elsewhere && beyond_reach(job, description) => (
            "a file",
            "its path leads through a directory that may not be searched: Permission denied".to_owned(),
            "make the directories of its path searchable (chmod u+x), or checkpoint as root",
        ),
        None if facts.place == Place::Elsewhere => (
            "a file",
            "its path leads to another file or nowhere: it was moved over, or lies on a mount that the process cannot reach"
                .to_owned(),
            "close it, or put the file back in its place, before the checkpoint",
        ),
        None if facts.is_place() => (
            "a name (O_PATH) of what has no path",
            format!("it names {}, which cannot be opened again by a name", String::from_utf8_lossy(&facts.link)),
            "close it before the checkpoint",
        ),
        None => ("an object", "this version does not know such descriptors".to_owned(), "close it before the checkpoint"),
    };
    refusals.add(
        label,
        format!("{}, {what}", job.name(description)),
        reason,
        remedy,
    );
}

/// What is refused.
pub(super) const SUPPORT: &[Support] = &[
    Support {
        what: "Packet sockets, SCTP, vsock, AF_ALG and all other families of sockets, namespaces of others as descriptors",
        level: Level::Refused,
        how: "not saved yet; close them before the checkpoint",
    },
    Support {
        what: "io_uring, perf events, BPF objects, userfaultfd, seccomp listeners, KVM, device buffers",
        level: Level::Refused,
        how: "the kernel has no way to hand them over",
    },
    Support {
        what: "Files and directories whose path is longer than 4095 bytes (PATH_MAX): open, mapped, or as working directory",
        level: Level::Refused,
        how: "the kernel neither shows nor takes such a path; move them, or a directory above them, further up",
    },
    Support {
        what: "Files that their path no longer reaches",
        level: Level::Refused,
        how: "there is no path to open them by",
    },
];
