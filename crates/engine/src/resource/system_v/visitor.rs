//! A process of ours in the job's IPC namespace, where alone its objects can be seen. It has no part in the job; it ends, and its
//! attachments with it, when it is dropped or when we end.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor};
use cryonaut_sys::{namespace, pidfd};
use prost::Message;

use super::survey::Findings;
use crate::error::Attempt;
use crate::{Error, Result, finisher};

/// The process. It ends when this is dropped.
#[derive(Debug)]
pub struct Visitor {
    pid: i32,
    pidfd: std::os::fd::OwnedFd,
    _link: PipeWriter,
}

impl Visitor {
    /// Sends a process into the IPC namespace of the process of `directory`, if that is not ours, and has it find something there.
    ///
    /// # Errors
    /// When it cannot get there, or what it did failed.
    pub(super) fn send(
        directory: &ProcessDirectory,
        elsewhere: bool,
        find: impl FnOnce() -> Result<Findings>,
    ) -> Result<(Self, Findings)> {
        let what = || "looking at System V objects".to_owned();
        let (mut answer, mut tell) = std::io::pipe().attempt(what)?;
        let (mut told, link) = std::io::pipe().attempt(what)?;
        let namespaces = if elsewhere {
            let ipc = directory.open_file("ns/ipc")?;
            // That of the process may lie below the one that its IPC namespace belongs to.
            let user = match namespace::owner(ipc.as_fd()) {
                Ok(owner) => File::from(owner),
                Err(_) => directory.open_file("ns/user")?,
            };
            Some((ipc, user))
        } else {
            None
        };
        let started = spawn::fork_child(|| {
            let _ = set_signal_mask(SignalSet::FULL);
            let _ = spawn::new_session();
            let _ = spawn::set_thread_name(c"cryo-visitor");
            let _ = spawn::close_number(link.as_raw_fd());
            let _ = spawn::close_number(answer.as_raw_fd());
            let entered = namespaces.as_ref().map_or(Ok(()), enter);
            let findings = entered.and_then(|()| find());
            let findings = findings.unwrap_or_else(|error| Findings {
                error: error.to_string(),
                ..Findings::default()
            });
            let sent = tell.write_all(&findings.encode_to_vec());
            let _ = spawn::close_number(tell.as_raw_fd());
            // Until the other end is closed.
            let _ = told.read(&mut [0]);
            i32::from(sent.is_err())
        })
        .attempt(what)?;
        let visitor = Self {
            pid: started.pid,
            pidfd: started.pidfd,
            _link: link,
        };
        drop(tell);
        let mut bytes = Vec::new();
        answer.read_to_end(&mut bytes).attempt(what)?;
        match Findings::decode(bytes.as_slice()) {
            Ok(findings) if findings.error.is_empty() => Ok((visitor, findings)),
            Ok(findings) => Err(Error::Failed(findings.error)),
            Err(_) => Err(finisher::killed(&what())),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // Its own end would do, but others that were started meanwhile may have the link open too.
        let _ = pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = spawn::wait_for(WaitFor::Pid(self.pid), libc::WEXITED);
    }
}

/// Enters an IPC namespace; where that takes capabilities that we lack, the user namespace around it first.
fn enter((ipc, user): &(File, File)) -> Result<()> {
    let what = || "entering the job's IPC namespace".to_owned();
    match namespace::enter(ipc.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            namespace::enter(user.as_fd()).attempt(what)?;
            namespace::enter(ipc.as_fd()).attempt(what)?;
        }
        outcome => outcome.attempt(what)?,
    }
    // Memory of one that has changed its user namespace is shown to nobody otherwise.
    spawn::allow_inspection().attempt(what)
}
