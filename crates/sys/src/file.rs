//! Files by their content and attributes: holes, extended attributes, memory files, file systems.

use std::ffi::{CStr, CString, OsStr};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `f_type` of tmpfs, which memory files and shared memory are on (include/uapi/linux/magic.h).
pub const TMPFS: i64 = 0x0102_1994;
/// `f_type` of an overlay.
pub const OVERLAYFS: i64 = 0x794c_7630;
/// `f_type` of ramfs.
pub const RAMFS: i64 = 0x8584_58f6;
/// `f_type` of hugetlbfs.
pub const HUGETLBFS: i64 = 0x9584_58f6;

/// Flags of memfd_create(2) that the C library may not know (include/uapi/linux/memfd.h).
pub mod memory_file {
    /// Seals may be added.
    pub const ALLOW_SEALING: u32 = 2;
    /// On hugetlbfs; the page size's logarithm goes from bit 26 on.
    pub const HUGETLB: u32 = 4;
    /// Not executable, and sealed so (Linux 6.3).
    pub const NOEXEC_SEAL: u32 = 8;
    /// Executable (Linux 6.3).
    pub const EXEC: u32 = 16;
    /// Where the page size's logarithm goes.
    pub const HUGE_SHIFT: u32 = 26;
}

/// What statfs(2) and statvfs(3) tell of the file system that a file is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type: a magic number of statfs(2).
    pub kind: i64,
    /// Bytes of a block; on hugetlbfs of a page.
    pub block: u64,
    /// Bytes that an ordinary user may still store.
    pub free: u64,
    /// Whether programs on it may not be executed (ST_NOEXEC).
    pub no_execution: bool,
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Error::other)
}

fn checked(result: i64) -> Result<i64> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The file system that a path leads to, links followed (statfs(2)).
///
/// # Errors
/// ENOENT, EACCES.
pub fn file_system(path: &Path) -> Result<FileSystem> {
    let path = c_string(path)?;
    // SAFETY: all zeros is a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string, `found` outlives the call.
    checked(i64::from(unsafe {
        libc::statfs(path.as_ptr(), &raw mut found)
    }))?;
    // SAFETY: all zeros is a valid statvfs.
    let mut more: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    checked(i64::from(unsafe {
        libc::statvfs(path.as_ptr(), &raw mut more)
    }))?;
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    Ok(FileSystem {
        kind: found.f_type as _,
        block,
        free: found.f_bavail.saturating_mul(block),
        no_execution: more.f_flag & libc::ST_NOEXEC != 0,
    })
}

/// Whether the effective user may do all of `access` (`R_OK`, `W_OK`, `X_OK`) with what the path leads to (faccessat2(2)).
pub fn may_access(path: &Path, access: i32) -> bool {
    let Ok(path) = c_string(path) else {
        return false;
    };
    // SAFETY: `path` is a C string.
    let result =
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), access, libc::AT_EACCESS) };
    result == 0
}

/// The first run of data of a file at or after `from`, as (first byte, first byte after it); none behind the last. Moves the
/// position of `file`. File systems that know no holes say that all is data (lseek(2), SEEK_DATA).
///
/// # Errors
/// EINVAL where the file cannot tell.
pub fn next_data(file: BorrowedFd<'_>, from: u64) -> Result<Option<(u64, u64)>> {
    let offset = i64::try_from(from).map_err(Error::other)?;
    // SAFETY: lseek takes numbers only.
    let start = match checked(unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_DATA) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        start => start?,
    };
    // SAFETY: as above.
    let end = checked(unsafe { libc::lseek(file.as_raw_fd(), start, libc::SEEK_HOLE) })?;
    Ok(Some((start as u64, end as u64)))
}

/// The extended attributes of what a path leads to that the caller may read: names with values (listxattr(2)).
///
/// # Errors
/// ENOTSUP where the file system has none.
pub fn extended_attributes(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = c_string(path)?;
    let names = sized(|buffer, size| {
        // SAFETY: `path` is a C string, and `buffer` has room for `size` bytes.
        unsafe { libc::listxattr(path.as_ptr(), buffer.cast(), size) }
    })?;
    let mut found = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = CString::new(name).map_err(Error::other)?;
        let value = sized(|buffer, size| {
            // SAFETY: as above.
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), size) }
        });
        // One that may not be read, or has gone meanwhile, is none.
        if let Ok(value) = value {
            found.push((name.into_bytes(), value));
        }
    }
    Ok(found)
}

/// What a call gives that tells the size it needs when it is given none.
fn sized(call: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>> {
    loop {
        let size = checked(call(std::ptr::null_mut(), 0) as i64)? as usize;
        let mut buffer = vec![0; size];
        match checked(call(buffer.as_mut_ptr(), size) as i64) {
            // It grew in between.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            Err(error) => return Err(error),
            Ok(length) => {
                buffer.truncate(length as usize);
                return Ok(buffer);
            }
        }
    }
}

/// Sets an extended attribute of what a path leads to (setxattr(2)).
///
/// # Errors
/// EPERM, ENOTSUP, ENOSPC.
pub fn set_extended_attribute(path: &Path, name: &[u8], value: &[u8]) -> Result<()> {
    let path = c_string(path)?;
    let name = CString::new(name).map_err(Error::other)?;
    // SAFETY: two C strings, and as many bytes as are told.
    checked(i64::from(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    }))
    .map(drop)
}

/// Sets the time of last change of what a path leads to, in nanoseconds since 1970 (utimensat(2)); that of access stays.
///
/// # Errors
/// EPERM, EACCES for all but the owner.
pub fn set_modified(path: &Path, nanoseconds: i64) -> Result<()> {
    let path = c_string(path)?;
    let times = [
        libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        libc::timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
        },
    ];
    // SAFETY: a C string, and two times.
    checked(i64::from(unsafe {
        libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0)
    }))
    .map(drop)
}

/// Makes a memory file with the flags of [`memory_file`], close-on-exec (memfd_create(2)).
///
/// # Errors
/// EINVAL for flags that this kernel does not know or sizes that it does not have, EACCES where `vm.memfd_noexec` forbids
/// it, ENOMEM.
pub fn make_memory_file(name: &CStr, flags: u32) -> Result<OwnedFd> {
    // SAFETY: `name` is a C string.
    let made = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) };
    checked(i64::from(made))?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// Makes a FIFO or a device node (mknod(2)): `mode` has the type, `device` is of no matter for FIFOs.
///
/// # Errors
/// EEXIST, EACCES, EPERM for devices.
pub fn make_node(path: &Path, mode: u32, device: (u32, u32)) -> Result<()> {
    let path = c_string(path)?;
    let device = libc::makedev(device.0, device.1);
    // SAFETY: `path` is a C string.
    checked(i64::from(unsafe {
        libc::mknod(path.as_ptr(), mode, device)
    }))
    .map(drop)
}

/// The target of a symbolic link that a descriptor names (`O_PATH`), by the path in /proc of that descriptor (readlinkat(2)).
///
/// # Errors
/// EACCES, ENOENT, EINVAL for what is no symbolic link.
pub fn link_target(descriptor: &Path) -> Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    let named = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(descriptor)?;
    let mut target = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: an empty C string, and as much room as is told.
    let length = checked(unsafe {
        libc::readlinkat(
            named.as_raw_fd(),
            c"".as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    } as i64)?;
    target.truncate(length as usize);
    Ok(target)
}

/// Gives what a descriptor names (also with `O_PATH`, also a symbolic link) to a user and a group (fchownat(2), AT_EMPTY_PATH).
///
/// # Errors
/// EPERM without CAP_CHOWN, EINVAL for ids that have no meaning in the user namespace.
pub fn change_owner(descriptor: BorrowedFd<'_>, user: u32, group: u32) -> Result<()> {
    // SAFETY: an empty C string and numbers.
    checked(i64::from(unsafe {
        libc::fchownat(
            descriptor.as_raw_fd(),
            c"".as_ptr(),
            user,
            group,
            libc::AT_EMPTY_PATH,
        )
    }))?;
    Ok(())
}

/// The path by which this process reaches what one of its own descriptors is open for.
pub fn own_path(descriptor: BorrowedFd<'_>) -> std::path::PathBuf {
    Path::new("/proc/self/fd").join(OsStr::new(&descriptor.as_raw_fd().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn memory() -> std::fs::File {
        make_memory_file(c"test", memory_file::ALLOW_SEALING)
            .unwrap()
            .into()
    }

    #[test]
    fn data_is_found_between_holes() {
        let file = memory();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"x", 5 << 20).unwrap();
        let (start, end) = next_data(file.as_fd(), 0).unwrap().unwrap();
        assert!(start <= 5 << 20 && end > 5 << 20 && end - start <= 2 << 20);
        assert_eq!(next_data(file.as_fd(), end).unwrap(), None);
    }

    #[test]
    fn memory_files_are_on_a_memory_file_system() {
        let file = memory();
        let found = file_system(&own_path(file.as_fd())).unwrap();
        assert_eq!(found.kind, TMPFS);
        assert!(may_access(&own_path(file.as_fd()), libc::R_OK | libc::W_OK));
        assert!(!may_access(Path::new("/none"), libc::R_OK));
    }

    #[test]
    fn times_and_attributes_are_set_through_a_descriptor() {
        let file = memory();
        let path = own_path(file.as_fd());
        set_modified(&path, -1_500_000_000).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (-2, 500_000_000));
        // Kernels before 6.6 have no attributes of users on memory file systems.
        if set_extended_attribute(&path, b"user.a", b"b").is_ok() {
            let found = extended_attributes(&path).unwrap();
            assert!(found.contains(&(b"user.a".to_vec(), b"b".to_vec())));
        }
    }

    #[test]
    fn fifos_are_made() {
        let path = std::env::temp_dir().join(format!("cryonaut-node-{}", std::process::id()));
        make_node(&path, libc::S_IFIFO | 0o600, (0, 0)).unwrap();
        let made = std::fs::symlink_metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(made.mode() & libc::S_IFMT, libc::S_IFIFO);
    }
}
