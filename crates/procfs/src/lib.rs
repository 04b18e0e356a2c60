//! Reading `/proc`, for Cryonaut.
//!
//! Two layers. The **parsers** are pure functions over bytes, one module per file of `/proc`: they
//! never panic, whatever the bytes, and say in a [`ParseError`] which line of which file they did not
//! understand. The **reading layer**, [`ProcessDirectory`] and [`system`], opens and reads the files
//! and tells "the process has ended" ([`ProcError::is_gone`]) from "there is no such file"
//! ([`ProcError::is_missing`]) and "permission denied" ([`ProcError::is_denied`]).
//!
//! Formats are those of proc(5) and of the kernel's `fs/proc`; lines and files that some supported
//! kernels lack are `Option`s.
#![forbid(unsafe_code)]

pub mod auxv;
pub mod cgroup;
pub mod cpuinfo;
mod error;
pub mod fanotify;
pub mod fdinfo;
pub mod locks;
pub mod maps;
pub mod mountinfo;
pub mod namespace;
pub mod pagemap;
mod process;
pub mod scalar;
mod scan;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod strings;
pub mod swap;
pub mod system;
pub mod sysvipc;
pub mod tcp;
pub mod timers;

pub use auxv::AuxiliaryEntry;
pub use cgroup::CgroupMembership;
pub use cpuinfo::Processor;
pub use error::{ParseError, ProcCause, ProcError};
pub use fdinfo::{EpollTarget, EventFd, FdInfo, InotifyWatch, TimerFd};
pub use locks::{FileLock, LeaseState, LockAccess, LockFamily};
pub use maps::{Area, AreaName, Device, Permissions};
pub use mountinfo::{Mount, OptionalField};
pub use pagemap::PagemapEntry;
pub use process::ProcessDirectory;
pub use smaps::{SmapsArea, VmFlag, VmFlags};
pub use stat::Stat;
pub use status::Status;
pub use swap::SwapArea;
pub use tcp::TcpEntry;
pub use timers::{NotifyKind, NotifyTarget, Timer};
