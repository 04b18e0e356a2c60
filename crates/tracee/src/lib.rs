//! Tasks under ptrace: states as types, remote system calls, remote memory.
//!
//! A task is [`Running`] (seized, not stopped) or [`Stopped`]; each operation consumes what it ends. That a task has
//! ended is an ordinary value, [`Error::Gone`]. Dropping either state lets the task run on, untraced.
//!
//! System calls inside a task go as a [`CallList`]: through a [`Guest`] in a live program, which finds its way back
//! alone if this process vanishes, or through a [`Stub`] in a process that is being rebuilt, which dies with us.
//! Nothing here contains `unsafe`: the kernel edge is `cryonaut-sys`.
#![forbid(unsafe_code)]

mod guest;
mod list;
mod memory;
mod stub;
mod task;
mod waiting;

pub use guest::{Guest, REGION, find_room, left_behind};
pub use list::{Argument, BufferId, CallId, CallList, Outcomes};
pub use memory::{read_exact, write_all};
pub use stub::Stub;
pub use task::{Filtered, JOB_OPTIONS, Running, Stop, Stopped, Stopping};

/// Why an operation on a tracee did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task has ended.
    #[error("task {0} has ended")]
    Gone(i32),
    /// The task did not stop in time: it sits in a kernel wait that nothing but its end interrupts (a vfork parent, say).
    #[error("task {0} does not stop: it waits in the kernel where nothing interrupts it")]
    Unstoppable(i32),
    /// The task was to make a call, but a cgroup that is frozen holds it: it makes it, and is back where it was, when that is thawed.
    #[error(
        "task {0} runs no call: somebody has frozen its cgroup; thaw it (docker unpause, systemctl thaw), then try again"
    )]
    Held(i32),
    /// The process gets no memory for the calls that it is to make: at a limit of its own that
    /// [`REGION`] bytes more would go beyond, ENOMEM or, for locked memory, EAGAIN (mmap(2)).
    #[error("process {0}: getting it a page of memory: {1}")]
    NoMemory(i32, #[source] std::io::Error),
    /// Task, what was tried, and the kernel's answer.
    #[error("task {0}: {1}: {2}")]
    System(i32, &'static str, #[source] std::io::Error),
    /// Task, and what of it is not as expected.
    #[error("task {0}: {1}")]
    Unexpected(i32, String),
}

/// The result of an operation on a tracee.
pub type Result<T> = std::result::Result<T, Error>;

/// Gives a system call's error its task and attempt; ESRCH means that the task has ended.
pub(crate) fn at<T>(tid: i32, what: &'static str, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH | libc::ECHILD) => Error::Gone(tid),
        _ => Error::System(tid, what, error),
    })
}
