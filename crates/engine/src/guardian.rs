//! A process that finishes what must not stop half-way.
//!
//! A job has many processes, and the kernel lets nobody kill them all, or spare them all, by one act. Between the first and the
//! last of them a guardian stands by: should `cryo` die there, it kills the whole job. What is left is the image. Likewise one
//! stands by while processes wait for `cryo` to wake them.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use cryonaut_sys::pidfd;
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor};

use crate::Result;
use crate::error::Attempt;
use crate::target::{leave_out, leave_out_no_more};

/// A guardian on watch. Dropping it without [`Guardian::dismiss`] has it do its last act.
#[derive(Debug)]
pub struct Guardian {
    link: Option<PipeWriter>,
    pid: i32,
}

impl Guardian {
    /// Puts a guardian over these processes, which kills them if it is left alone.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn watch(processes: &[BorrowedFd<'_>]) -> Result<Self> {
        Self::standing_by(|| {
            for process in processes {
                let _ = pidfd::send_signal(*process, libc::SIGKILL);
            }
        })
    }

    /// Starts a guardian that does `last_act` if this process dies, or drops it, before it is dismissed.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn standing_by(last_act: impl FnOnce()) -> Result<Self> {
        let (mut told, link) = std::io::pipe().attempt(|| "making a pipe".into())?;
        let started = spawn::fork_child(|| {
            // Keys on the terminal, which may end `cryo`, must not end its guardian.
            let _ = set_signal_mask(SignalSet::FULL);
            let _ = spawn::new_session();
            let _ = spawn::set_thread_name(c"cryo-guardian");
            let _ = spawn::close_number(std::os::fd::AsRawFd::as_raw_fd(&link));
            if told.read(&mut [0]).unwrap_or(0) == 0 {
                last_act();
            }
            0
        })
        .attempt(|| "starting a guardian".into())?;
        // Where the job is what started this `cryo`, its guardian is in scope, too.
        leave_out(started.pid);
        Ok(Self {
            link: Some(link),
            pid: started.pid,
        })
    }

    /// The commit: from here on the guardian does nothing, and goes.
    ///
    /// # Errors
    /// When it could not be told: then it does its last act.
    pub fn dismiss(mut self) -> Result<()> {
        let mut link = self.link.take().expect("it is taken only here and in drop");
        let told = link
            .write_all(b"d")
            .attempt(|| "dismissing the guardian".into());
        drop(link);
        self.await_end();
        told
    }

    fn await_end(&self) {
        let _ = spawn::wait_for(WaitFor::Pid(self.pid), libc::WEXITED);
        leave_out_no_more(self.pid);
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if self.link.take().is_some() {
            self.await_end();
        }
    }
}

/// Borrows descriptors that may be missing.
pub fn present<'a>(
    descriptors: impl Iterator<Item = Option<&'a std::os::fd::OwnedFd>>,
) -> Vec<BorrowedFd<'a>> {
    descriptors.flatten().map(AsFd::as_fd).collect()
}
