//! Seccomp filters of a stopped tracee (ptrace(2), seccomp(2)).
//!
//! Both requests need CAP_SYS_ADMIN in the initial user namespace, and a caller that is under no seccomp itself
//! (`get_nth_filter` in kernel/seccomp.c).

use super::{Request, request};
use crate::Result;

const PTRACE_SECCOMP_GET_FILTER: Request = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: Request = 0x420d;

/// Bytes of one instruction, `struct sock_filter`.
pub const INSTRUCTION: usize = 8;
/// Instructions of the longest program that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// `struct seccomp_metadata`.
#[repr(C)]
struct Metadata {
    filter: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Metadata>() == 16);

/// Reads the program of filter number `index` of a task, 0 being the oldest: instructions of [`INSTRUCTION`] bytes.
///
/// # Errors
/// ENOENT when the task has no more than `index` filters; EACCES without the privilege; EINVAL for a task without filters;
/// EMEDIUMTYPE for one that the kernel keeps in no form that can be read; EIO where the kernel lacks the request.
pub fn filter(tid: i32, index: usize) -> Result<Vec<u8>> {
    let mut program = vec![0_u8; LONGEST * INSTRUCTION];
    let count = request(
        PTRACE_SECCOMP_GET_FILTER,
        tid,
        index,
        program.as_mut_ptr() as usize,
    )?;
    program.truncate(count as usize * INSTRUCTION);
    Ok(program)
}

/// Reads the `SECCOMP_FILTER_FLAG_*` that the kernel remembers of filter number `index`: whether it logs.
///
/// # Errors
/// As [`filter`]; EIO before Linux 4.16.
pub fn filter_flags(tid: i32, index: usize) -> Result<u64> {
    let mut metadata = Metadata {
        filter: index as u64,
        flags: 0,
    };
    request(
        PTRACE_SECCOMP_GET_METADATA,
        tid,
        size_of::<Metadata>(),
        (&raw mut metadata) as usize,
    )?;
    Ok(metadata.flags)
}
