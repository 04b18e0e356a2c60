//! System V IPC (sysvipc(7)) as seen from this process: segments, semaphores and message queues of its IPC namespace.

use crate::{Result, check};

/// The greatest value of a System V semaphore, `SEMVMX` (include/uapi/linux/sem.h).
pub const GREATEST_SEMAPHORE_VALUE: u16 = 32767;
/// In the mode of a segment: it is destroyed with its last attachment, `SHM_DEST` (include/uapi/linux/shm.h).
pub const SEGMENT_MARKED: u32 = 0o1000;
/// In the mode of a segment: its pages are locked in memory, `SHM_LOCKED`.
pub const SEGMENT_LOCKED: u32 = 0o2000;

/// Attaches a shared memory segment for reading, where the kernel likes; the address (shmat(2)). It stays until the process ends.
///
/// # Errors
/// EACCES without permission; EINVAL or EIDRM when there is no such segment; ENOMEM.
pub fn attach_segment(identifier: i32) -> Result<u64> {
    // SAFETY: the kernel chooses a free address, so no memory of ours is replaced, and nobody makes a reference of it.
    let address = unsafe { libc::shmat(identifier, std::ptr::null(), libc::SHM_RDONLY) };
    check(address as i64)
}

/// Which pages of a shared mapping of ours exist: one byte each, whose lowest bit says so (mincore(2)). `address` and `length` are
/// those of whole pages. Pages in swap do not show.
///
/// # Errors
/// ENOMEM where nothing is mapped.
pub fn pages_there(address: u64, length: u64) -> Result<Vec<u8>> {
    let mut there = vec![0; (length / crate::PAGE_SIZE) as usize];
    // SAFETY: mincore writes one byte for each page of `length`, for which `there` has room; it only looks at the range.
    check(unsafe { libc::mincore(address as *mut _, length as usize, there.as_mut_ptr()) }.into())?;
    Ok(there)
}

/// The values of all `count` semaphores of a set (semctl(2), GETALL).
///
/// # Errors
/// EACCES, EINVAL, EIDRM.
pub fn semaphore_values(set: i32, count: usize) -> Result<Vec<u16>> {
    // The set may have been removed, and another made that has its id: never with more than the kernel's greatest number.
    const MOST: usize = 32_000;
    let mut values = vec![0_u16; count.max(MOST)];
    // SAFETY: the kernel writes one value for each semaphore of the set, of which there are at most 32,000 (`SEMMSL`), and there is
    // room for more.
    check(unsafe { libc::semctl(set, 0, libc::GETALL, values.as_mut_ptr()) }.into())?;
    values.truncate(count);
    Ok(values)
}

/// How many bytes a message queue may hold (msgctl(2), `msg_qbytes`).
///
/// # Errors
/// EACCES, EINVAL, EIDRM.
pub fn queue_capacity(queue: i32) -> Result<u64> {
    // SAFETY: a structure of integers may be all zero.
    let mut state: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills `state`, which lives through the call.
    check(unsafe { libc::msgctl(queue, libc::IPC_STAT, &raw mut state) }.into())?;
    Ok(state.msg_qbytes)
}

/// A copy of the message at `index` of a queue, which stays there: its type and its text of at most `room` bytes. `None` after the
/// last one (msgrcv(2), MSG_COPY; a kernel with CONFIG_CHECKPOINT_RESTORE).
///
/// # Errors
/// ENOSYS on a kernel without it; E2BIG for a longer message; EACCES, EINVAL, EIDRM.
pub fn copy_of_message(queue: i32, index: usize, room: usize) -> Result<Option<(i64, Vec<u8>)>> {
    // In whole words: the first is the type, then comes the text.
    let mut buffer = vec![0_u64; 1 + room.div_ceil(8)];
    let flags = libc::MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: behind the first word `buffer` has room for `room` bytes, and the kernel writes no more.
    let got = unsafe {
        libc::msgrcv(
            queue,
            buffer.as_mut_ptr().cast(),
            room,
            index as libc::c_long,
            flags,
        )
    };
    match check(got as i64) {
        Ok(length) => {
            let bytes = buffer[1..].iter().flat_map(|word| word.to_ne_bytes());
            Ok(Some((
                buffer[0] as i64,
                bytes.take(length as usize).collect(),
            )))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOMSG) => Ok(None),
        Err(error) => Err(error),
    }
}
