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

/// What a guardian is told.
const DISMISSED: &[u8; 1] = b"d";
const TURN: &[u8; 1] = b"t";

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
        Self::of_two_minds(last_act, || {})
    }

    /// As [`Guardian::standing_by`], with another last act once it was told to turn ([`Guardian::turn`]).
    ///
    /// # Errors
    /// When no process can be started.
    pub fn of_two_minds(before: impl FnOnce(), after: impl FnOnce()) -> Result<Self> {
        let (mut told, link) = std::io::pipe().attempt(|| "making a pipe".into())?;
        let started = spawn::fork_child(|| {
            // Keys on the terminal, which may end `cryo`, must not end its guardian.
            let _ = set_signal_mask(SignalSet::FULL);
            let _ = spawn::new_session();
            let _ = spawn::set_thread_name(c"cryo-guardian");
            let _ = spawn::close_number(std::os::fd::AsRawFd::as_raw_fd(&link));
            let mut turned = false;
            loop {
                let mut word = [0];
                match told.read(&mut word) {
                    Ok(1) if word == *TURN => turned = true,
                    Ok(1) => return 0,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            if turned {
                after()
            } else {
                before()
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

    /// From here on its last act is the other one.
    ///
    /// # Errors
    /// When it could not be told: it has ended.
    pub fn turn(&mut self) -> Result<()> {
        let told = match &mut self.link {
            Some(link) => link.write_all(TURN),
            None => Ok(()),
        };
        told.attempt(|| "telling the guardian what to do from now on".into())
    }

    /// The commit: from here on the guardian does nothing, and goes.
    ///
    /// # Errors
    /// When it could not be told: then it does its last act.
    pub fn dismiss(mut self) -> Result<()> {
        let mut link = self.link.take().expect("it is taken only here and in drop");
        let told = link
            .write_all(DISMISSED)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guardian has done in the end.
    fn acts(tell: impl FnOnce(Guardian)) -> String {
        let (mut read, write) = std::io::pipe().unwrap();
        let note = |text: &'static [u8]| {
            let mut write = write.try_clone().unwrap();
            move || drop(write.write_all(text))
        };
        tell(Guardian::of_two_minds(note(b"before"), note(b"after")).unwrap());
        drop(write);
        let mut done = String::new();
        read.read_to_string(&mut done).unwrap();
        done
    }

    #[test]
    fn it_does_what_was_said_last() {
        assert_eq!(acts(drop), "before");
        assert_eq!(acts(|mut guardian| guardian.turn().unwrap()), "after");
        assert_eq!(acts(|guardian| guardian.dismiss().unwrap()), "");
        let turned = |mut guardian: Guardian| {
            guardian.turn().unwrap();
            guardian.dismiss().unwrap();
        };
        assert_eq!(acts(turned), "");
    }
}
