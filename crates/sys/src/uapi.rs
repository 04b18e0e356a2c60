//! Numbers of the kernel (include/uapi/linux) that C libraries give other types, other values or not at all.
//!
//! glibc and musl are both supported: what is here is to be taken instead of its namesake in `libc`.

/// The bits of open flags that say whether a description reads and writes (include/uapi/asm-generic/fcntl.h). musl counts
/// `O_PATH` among them.
pub const O_ACCMODE: i32 = 0o3;

/// Which speculation controls a task has set (prctl(2)); musl has no name for it.
pub const PR_GET_SPECULATION_CTRL: i32 = 52;
/// Sets a speculation control (prctl(2)); musl has no name for it.
pub const PR_SET_SPECULATION_CTRL: i32 = 53;

// Resources with limits (include/uapi/asm-generic/resource.h); glibc's are unsigned, musl's signed.

/// The size of a core dump.
pub const RLIMIT_CORE: u32 = 4;
/// The highest number of a descriptor, and one.
pub const RLIMIT_NOFILE: u32 = 7;
/// Locked memory in bytes.
pub const RLIMIT_MEMLOCK: u32 = 8;
/// The limit of the address space, in bytes (include/uapi/asm-generic/resource.h).
pub const RLIMIT_AS: u32 = 9;
/// Pending signals of a user.
pub const RLIMIT_SIGPENDING: u32 = 11;
/// How nice a process may make itself: 20 less the nice value.
pub const RLIMIT_NICE: u32 = 13;
/// The highest real-time priority.
pub const RLIMIT_RTPRIO: u32 = 14;
/// Microseconds of real-time processing without a wait.
pub const RLIMIT_RTTIME: u32 = 15;
