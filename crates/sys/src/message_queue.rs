//! POSIX message queues (mq_overview(7)) as descriptors: their limits, and their messages.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Result, check};

/// `f_type` of the file system that the queues are on (include/uapi/linux/magic.h).
pub const MQUEUE: i64 = 0x1980_0202;
/// The size that the file of every queue has, `FILENT_SIZE` (ipc/mqueue.c).
pub const FILE_SIZE: u64 = 80;
/// Priorities are less, `MQ_PRIO_MAX` (include/uapi/linux/mqueue.h).
pub const PRIORITIES: u32 = 32768;
/// The most messages that a queue may ever hold, `HARD_MSGMAX` (include/linux/ipc_namespace.h).
pub const MOST_MESSAGES: u64 = 65536;
/// The longest message there may ever be, in bytes, `HARD_MSGSIZEMAX`.
pub const LONGEST_MESSAGE: u64 = 16 * 1024 * 1024;

/// The time until which calls wait.
static LONG_AGO: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// What mq_getattr(3) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// How many messages it may hold (`mq_maxmsg`).
    pub capacity: u64,
    /// How long one may be, in bytes (`mq_msgsize`).
    pub longest: u64,
    /// How many there are (`mq_curmsgs`).
    pub messages: u64,
}

impl Attributes {
    /// `struct mq_attr` that makes a queue of this kind: in native byte order, flags 0.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [0, self.capacity, self.longest, 0, 0, 0, 0, 0];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// A new queue without a name, for reading and writing, that does not block (mq_open(3), mq_unlink(3)).
///
/// # Errors
/// EINVAL for more than fs.mqueue.* allow, EMFILE for more than RLIMIT_MSGQUEUE does, ENOSPC.
pub fn unnamed(attributes: &Attributes) -> Result<OwnedFd> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("cryo-{}-{number}", std::process::id());
    let name = CString::new(name).map_err(std::io::Error::other)?;
    let limits = attributes.to_bytes();
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: `name` is a C string and `limits` a `struct mq_attr`; both live through the call.
    let queue = check(unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            name.as_ptr(),
            flags,
            0o600,
            limits.as_ptr(),
        )
    })?;
    // SAFETY: the kernel has just made this descriptor, which nobody else knows.
    let queue = unsafe { OwnedFd::from_raw_fd(queue as i32) };
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) })?;
    Ok(queue)
}

/// Limits and state of a queue (mq_getattr(3)).
///
/// # Errors
/// EBADF for what is no queue.
pub fn attributes(queue: BorrowedFd<'_>) -> Result<Attributes> {
    // `struct mq_attr`: flags, mq_maxmsg, mq_msgsize, mq_curmsgs, four words reserved.
    let mut words = [0_i64; 8];
    let none = std::ptr::null::<i64>();
    // SAFETY: nothing is set; the kernel fills the eight words of `words`, which lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_getsetattr,
            queue.as_raw_fd(),
            none,
            words.as_mut_ptr(),
        )
    })?;
    let word = |index: usize| u64::try_from(words[index]).unwrap_or(0);
    Ok(Attributes {
        capacity: word(1),
        longest: word(2),
        messages: word(3),
    })
}

/// Takes the oldest message of the highest priority out of a queue: its length and priority (mq_receive(3)). `room` must be as long
/// as the longest message may be. It never waits.
///
/// # Errors
/// EAGAIN or, where the description blocks, ETIMEDOUT when there is none; EMSGSIZE when there is too little room; EBADF when it may not be
/// read from.
pub fn receive(queue: BorrowedFd<'_>, room: &mut [u8]) -> Result<(usize, u32)> {
    let mut priority = 0_u32;
    // SAFETY: the kernel writes at most `room.len()` bytes to `room` and one word to `priority`; both live through the call.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedreceive,
            queue.as_raw_fd(),
            room.as_mut_ptr(),
            room.len(),
            &raw mut priority,
            &raw const LONG_AGO,
        )
    })?;
    Ok((length as usize, priority))
}

/// Puts a message into a queue, behind those of its priority (mq_send(3)). It never waits.
///
/// # Errors
/// EAGAIN or, where the description blocks, ETIMEDOUT when it is full; EMSGSIZE for one that is too long; EINVAL for a priority of
/// [`PRIORITIES`] or more; EBADF when it may not be written to; ENOMEM.
pub fn send(queue: BorrowedFd<'_>, text: &[u8], priority: u32) -> Result<()> {
    // SAFETY: the kernel reads `text.len()` bytes of `text`, which lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedsend,
            queue.as_raw_fd(),
            text.as_ptr(),
            text.len(),
            priority,
            &raw const LONG_AGO,
        )
    })
    .map(drop)
}
