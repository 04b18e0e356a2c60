//! Work that has to come to its end whatever becomes of `cryo`: done by a process that no key and no signal but SIGKILL to itself
//! ends.

use std::ffi::CStr;
use std::io::{PipeWriter, Read};
use std::os::fd::AsRawFd;

use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};

use crate::error::Attempt;
use crate::{Error, Result};

/// What such a process has said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// All that it wrote.
    pub bytes: Vec<u8>,
    pid: i32,
}

impl Answer {
    /// Waits for its end, which may come after its answer. One that is not waited for ends by itself.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn await_end(&self, what: &str) -> Result<WaitStatus> {
        spawn::wait_for(WaitFor::Pid(self.pid), libc::WEXITED)
            .attempt(|| what.to_owned())
            .map(|(_, status)| status)
    }
}

/// Has a process called `name` do `work`, which writes its answer to the pipe and gives an exit status; waits for the answer.
///
/// # Errors
/// When it cannot be started, or its answer cannot be read; `what` is being done then.
pub(crate) fn ask(
    name: &CStr,
    what: &str,
    work: impl FnOnce(&mut PipeWriter) -> i32,
) -> Result<Answer> {
    let attempt = || what.to_owned();
    let (mut told, mut link) = std::io::pipe().attempt(attempt)?;
    let started = spawn::fork_child(|| {
        let _ = set_signal_mask(SignalSet::FULL);
        // No terminal is its own, so none stops it.
        let _ = spawn::new_session();
        let _ = spawn::set_thread_name(name);
        let _ = spawn::close_number(told.as_raw_fd());
        work(&mut link)
    })
    .attempt(attempt)?;
    drop(link);
    let mut answer = Answer {
        bytes: Vec::new(),
        pid: started.pid,
    };
    let read = told.read_to_end(&mut answer.bytes);
    if read.is_err() {
        let _ = answer.await_end(what);
    }
    read.attempt(attempt)?;
    Ok(answer)
}

/// That such a process gave no answer.
pub(crate) fn killed(what: &str) -> Error {
    Error::Failed(format!(
        "{what}: the process that did it was killed from outside"
    ))
}

/// Kills a process that does `work` after so long, and waits until all that work for it have ended.
#[cfg(test)]
pub(crate) fn kill_after(delay: std::time::Duration, work: impl FnOnce() -> Result<()>) {
    use std::os::fd::AsFd;

    // Every process that works on it holds the other end.
    let (mut working, held) = std::io::pipe().unwrap();
    let killed = spawn::fork_child(|| {
        let _ = spawn::close_number(working.as_raw_fd());
        i32::from(work().is_err())
    })
    .unwrap();
    drop(held);
    std::thread::sleep(delay);
    cryonaut_sys::pidfd::send_signal(killed.pidfd.as_fd(), libc::SIGKILL).unwrap();
    spawn::wait_for(WaitFor::Pid(killed.pid), libc::WEXITED).unwrap();
    working.read_to_end(&mut Vec::new()).unwrap();
}
