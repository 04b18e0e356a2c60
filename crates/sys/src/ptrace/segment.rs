//! Descriptors of segments, debug registers and I/O permissions of a stopped tracee, on x86.

use super::{Request, request};
use crate::{Result, check};

const PTRACE_PEEKUSER: libc::c_long = 3;
const PTRACE_POKEUSER: Request = 6;
const PTRACE_GET_THREAD_AREA: Request = 25;
const PTRACE_SET_THREAD_AREA: Request = 26;
const NT_386_IOPERM: usize = 0x201;
/// `offsetof(struct user, u_debugreg)`.
const DEBUG_REGISTERS: usize = 848;
/// The first entry of the global descriptor table that belongs to tasks (`GDT_ENTRY_TLS_MIN` of 64-bit kernels).
const FIRST_AREA: u32 = 12;

/// Entries of the global descriptor table that each task has of its own.
pub const AREAS: u32 = 3;

/// `struct user_desc`: a segment as modify_ldt(2) and set_thread_area(2) describe it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its entry in the table.
    pub entry: u32,
    /// Its base address.
    pub base: u32,
    /// Its limit, in bytes or pages.
    pub limit: u32,
    /// From bit 0: 32-bit, contents (2 bits), read or execute only, limit in pages, not present, usable.
    pub flags: u32,
}

const _: () = assert!(size_of::<Segment>() == 16);

impl Segment {
    /// The flags of an entry that nobody has set: read only, not present.
    pub const EMPTY_FLAGS: u32 = 1 << 3 | 1 << 5;

    /// Whether nobody has set it.
    pub fn is_empty(&self) -> bool {
        (self.base, self.limit, self.flags) == (0, 0, Self::EMPTY_FLAGS)
    }

    /// The bytes of the structure.
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let words = [self.entry, self.base, self.limit, self.flags];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Reads one of the [`AREAS`] segments that a task has in the global descriptor table.
///
/// # Errors
/// EIO on kernels that run no 32-bit programs: there they cannot be set either.
pub fn thread_area(tid: i32, number: u32) -> Result<Segment> {
    let mut segment = Segment::default();
    let entry = (FIRST_AREA + number) as usize;
    request(
        PTRACE_GET_THREAD_AREA,
        tid,
        entry,
        (&raw mut segment) as usize,
    )?;
    Ok(segment)
}

/// Sets one of the segments that a task has in the global descriptor table; its `entry` says which.
///
/// # Errors
/// EINVAL for a segment that the kernel does not permit; EIO as [`thread_area`].
pub fn set_thread_area(tid: i32, segment: &Segment) -> Result<()> {
    let address = std::ptr::from_ref(segment) as usize;
    request(PTRACE_SET_THREAD_AREA, tid, segment.entry as usize, address).map(drop)
}

/// Reads debug register `number` (0 to 3 and 7): a breakpoint that a tracer has set in the task, and that outlives it.
///
/// # Errors
/// ESRCH when it is not stopped or has ended.
pub fn debug_register(tid: i32, number: usize) -> Result<u64> {
    let mut value = 0_u64;
    // SAFETY: the kernel stores eight bytes at the address given last, which outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            PTRACE_PEEKUSER,
            tid,
            DEBUG_REGISTERS + number * 8,
            &raw mut value,
        )
    })?;
    Ok(value)
}

/// Sets a debug register; the addresses come before register 7, which arms them.
///
/// # Errors
/// EINVAL for an address in the kernel or a combination that does not exist; ENOSPC when all are in use by others.
pub fn set_debug_register(tid: i32, number: usize, value: u64) -> Result<()> {
    let address = DEBUG_REGISTERS + number * 8;
    request(PTRACE_POKEUSER, tid, address, value as usize).map(drop)
}

/// Whether a task may use I/O ports (ioperm(2)). What iopl(2) permits is not shown.
pub fn uses_ports(tid: i32) -> bool {
    let mut bitmap = [0_u8; 64];
    let mut vector = libc::iovec {
        iov_base: bitmap.as_mut_ptr().cast(),
        iov_len: bitmap.len(),
    };
    let found = request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_386_IOPERM,
        (&raw mut vector) as usize,
    );
    found.is_ok() && vector.iov_len > 0
}
