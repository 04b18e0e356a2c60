//! Mounts by descriptors: open_tree(2), move_mount(2), fsopen(2) (Linux 5.2).

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::spawn::{check, check_int, owned};

// include/uapi/linux/mount.h
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSOPEN_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSMOUNT_CLOEXEC: u32 = 1;
const MOUNT_ATTR_NOSUID: u32 = 2;
const MOUNT_ATTR_NODEV: u32 = 4;

/// How much of what lies below is taken along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What a descriptor refers to alone: a file.
    Alone,
    /// A directory with all that is mounted in it.
    WithMounts,
}

/// A mount, not attached anywhere, of what a descriptor refers to.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the mount namespace, EINVAL for what lies in another one.
pub fn copy_of(place: BorrowedFd<'_>, extent: Extent) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if extent == Extent::WithMounts {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the path is a C string; the other arguments are numbers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a mount over what another descriptor refers to. The first descriptor leads into the attached mount from then on.
///
/// # Errors
/// EINVAL where one is a directory and the other is not, or `place` lies in another mount namespace.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both paths are C strings; the other arguments are numbers.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            place.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// A new file system in memory (tmpfs(5)) for at most so many bytes, not attached anywhere, which mountinfo shows with `source`.
/// Set-user-id programs and devices have no effect on it.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the mount namespace.
pub fn new_tmpfs(source: &CStr, bytes: u64) -> Result<OwnedFd> {
    // 0 would be no limit.
    let size = CString::new(bytes.max(1).to_string()).map_err(Error::other)?;
    let mode = (c"mode".to_owned(), c"755".to_owned());
    new_file_system(c"tmpfs", source, &[mode, (c"size".to_owned(), size)])
}

/// A new file system of a type (tmpfs(5), devpts) with options of that, each a name and its value, not attached anywhere.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the mount namespace, EINVAL for options that this kernel does not have.
pub fn new_file_system(
    kind: &CStr,
    source: &CStr,
    options: &[(CString, CString)],
) -> Result<OwnedFd> {
    let name = kind.as_ptr();
    // SAFETY: the name is a C string.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, name, FSOPEN_CLOEXEC) })?;
    let with_source = [(c"source".to_owned(), source.to_owned())];
    for (key, value) in with_source.iter().chain(options) {
        // SAFETY: key and value are C strings, as FSCONFIG_SET_STRING wants them.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })?;
    }
    made(&context)
}

/// How a mount shows what is on its file system (include/uapi/linux/mount.h).
pub mod attribute {
    /// Nothing can be changed by it.
    pub const READ_ONLY: u64 = 1;
    /// Set-user-id programs have no effect.
    pub const NO_SET_ID: u64 = super::MOUNT_ATTR_NOSUID as u64;
    /// Device nodes have no effect.
    pub const NO_DEVICES: u64 = super::MOUNT_ATTR_NODEV as u64;
    /// Nothing can be executed.
    pub const NO_EXECUTION: u64 = 8;
    /// Times of access stay; without this and the next they change where they are older than those of change.
    pub const NO_ACCESS_TIME: u64 = 0x10;
    /// Times of access always change.
    pub const STRICT_ACCESS_TIME: u64 = 0x20;
    /// Those of directories stay.
    pub const NO_DIRECTORY_ACCESS_TIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NO_LINKS: u64 = 0x0020_0000;
    /// How times of access change: the bits make one value, which can only be set when all of them are cleared.
    pub const ACCESS_TIME: u64 = 0x70;
    /// All of them.
    pub const ALL: u64 = READ_ONLY
        | NO_SET_ID
        | NO_DEVICES
        | NO_EXECUTION
        | ACCESS_TIME
        | NO_DIRECTORY_ACCESS_TIME
        | NO_LINKS;
}

/// What is changed of a mount (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Changes {
    /// Attributes that it gets, of [`attribute`].
    pub set: u64,
    /// Attributes that it loses before.
    pub clear: u64,
    /// Its propagation (`libc::MS_PRIVATE` and the like); 0 for what it has.
    pub propagation: u64,
    user_namespace: u64,
}

const _: () = assert!(size_of::<Changes>() == 32);

impl Changes {
    /// Of attributes alone.
    #[must_use]
    pub const fn of_attributes(set: u64, clear: u64) -> Self {
        Self {
            set,
            clear,
            propagation: 0,
            user_namespace: 0,
        }
    }

    /// Of the propagation alone.
    #[must_use]
    pub const fn of_propagation(propagation: u64) -> Self {
        Self {
            set: 0,
            clear: 0,
            propagation,
            user_namespace: 0,
        }
    }
}

/// Changes a mount, whose root the descriptor refers to (Linux 5.12).
///
/// # Errors
/// EPERM for attributes that only a more privileged user namespace may take away; EINVAL for what is no mount's root.
pub fn change(mount: BorrowedFd<'_>, changes: Changes) -> Result<()> {
    // SAFETY: the path is a C string, the structure has the size that is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const changes,
            size_of::<Changes>(),
        )
    })?;
    Ok(())
}

/// Makes a directory that a descriptor refers to the working directory (fchdir(2)).
///
/// # Errors
/// ENOTDIR, EACCES.
pub fn stand_in(directory: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: numbers only.
    check_int(unsafe { libc::fchdir(directory.as_raw_fd()) })?;
    Ok(())
}

/// The POSIX message queues of the calling process' IPC namespace as a directory (mq_overview(7)), not attached anywhere.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the mount namespace.
pub fn message_queues() -> Result<OwnedFd> {
    let name = c"mqueue".as_ptr();
    // SAFETY: the name is a C string.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, name, FSOPEN_CLOEXEC) })?;
    made(&context)
}

/// The file system that a context of fsopen(2) describes, not attached anywhere.
fn made(context: &OwnedFd) -> Result<OwnedFd> {
    // SAFETY: this command takes neither key nor value.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    })?;
    // SAFETY: numbers only.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        )
    })
}

/// Takes away what is mounted last at a path; what uses it keeps it until then (umount2(2), MNT_DETACH).
///
/// # Errors
/// EINVAL where nothing is mounted there.
pub fn detach(path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(Error::other)?;
    // SAFETY: the path is a C string.
    check_int(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })?;
    Ok(())
}

/// Makes an attached mount the root of the mount namespace, and takes the old root away from it. The working directory of the
/// caller is the new root then (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// EINVAL where the old root is no mount that can be moved (the initial RAM file system).
pub fn become_root(mount: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: numbers only.
    check_int(unsafe { libc::fchdir(mount.as_raw_fd()) })?;
    // SAFETY: both are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    detach(Path::new("."))?;
    crate::spawn::change_directory(c"/")
}
