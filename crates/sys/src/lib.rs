//! The kernel edge: raw system calls, kernel ABI structures with layout checks, and addresses of other processes.
//!
//! Nothing here decides anything. Every function is one system call (or one `ioctl`) with typed arguments, and
//! returns the kernel's error as [`std::io::Error`]. Everything that depends on the processor sits in [`arch`].

pub mod arch;
pub mod descriptor;
pub mod file;
pub mod file_owner;
pub mod ipc;
pub mod memory;
pub mod message_queue;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod ptrace;
pub mod remote;
pub mod socket;
pub mod spawn;
pub mod task;
pub mod terminal;
pub mod uapi;
pub mod wait;
pub mod watch;

pub use remote::RemotePtr;

/// The result of a system call; the error carries the errno.
pub type Result<T> = std::io::Result<T>;

/// The size of a page in bytes on every processor supported today.
pub const PAGE_SIZE: u64 = 4096;

/// Turns the return value of a libc wrapper (-1 and errno) into a [`Result`].
pub(crate) fn check(value: libc::c_long) -> Result<u64> {
    if value == -1 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(value as u64)
    }
}
