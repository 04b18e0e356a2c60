//! Waiting for tracees and children: waitpid(2) with `__WALL`.

use crate::Result;

/// What waitpid(2) reported of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It ended with this exit code (0..=255).
    Exited(i32),
    /// A signal ended it; the second value tells whether memory was dumped.
    Killed(i32, CoreDump),
    /// A tracee stopped: the stop's signal and the ptrace event number (0 for none).
    Stopped {
        /// The signal that the stop shows (`WSTOPSIG`), with bit 0x80 on system call stops.
        signal: i32,
        /// The `PTRACE_EVENT_*` number, 0 for a signal-delivery stop.
        event: i32,
    },
    /// SIGCONT continued it.
    Continued,
}

/// Whether a death by signal wrote a core dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreDump {
    /// It did.
    Written,
    /// It did not.
    None,
}

impl Status {
    /// Decodes a wait status as waitpid(2) and /proc/PID/stat give it.
    pub fn from_raw(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Status::Exited(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            let core = if libc::WCOREDUMP(status) {
                CoreDump::Written
            } else {
                CoreDump::None
            };
            Status::Killed(libc::WTERMSIG(status), core)
        } else if libc::WIFSTOPPED(status) {
            Status::Stopped {
                signal: (status >> 8) & 0xff,
                event: status >> 16,
            }
        } else {
            Status::Continued
        }
    }
}

/// Waits until task `tid` (a tracee or child, a thread included) changes state.
///
/// # Errors
/// ECHILD when it is neither; EINTR is retried.
pub fn wait_for(tid: i32) -> Result<Status> {
    loop {
        match wait(tid, libc::__WALL) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Looks without waiting whether task `tid` has changed state.
///
/// # Errors
/// ECHILD when it is neither a tracee nor a child.
pub fn poll(tid: i32) -> Result<Option<Status>> {
    Ok(wait(tid, libc::__WALL | libc::WNOHANG)?.map(|(_, status)| status))
}

/// Waits for any child or tracee of the calling thread.
///
/// # Errors
/// ECHILD without any; EINTR is retried.
pub fn wait_for_any() -> Result<(i32, Status)> {
    loop {
        match wait(-1, libc::__WALL) {
            Ok(Some(pair)) => return Ok(pair),
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(tid: i32, flags: i32) -> Result<Option<(i32, Status)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call, which writes one int to it.
    let pid = unsafe { libc::waitpid(tid, &raw mut status, flags) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some((pid, Status::from_raw(status)))),
    }
}
