//! A freezer that is open for a moment, because calls are to be made in the job that it holds.
//!
//! All tasks stand still under ptrace meanwhile. Should `cryo` die, they would run: a watcher, which learns of it at once, closes
//! the freezer then.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor};

use super::freezer::Cgroup;
use crate::Result;
use crate::error::Attempt;

/// An open freezer with its watcher. Dropping it closes it.
#[derive(Debug)]
pub struct Thawed {
    cgroups: Vec<Cgroup>,
    link: Option<PipeWriter>,
    pid: i32,
}

impl Thawed {
    /// Opens the freezers of these cgroups.
    ///
    /// # Errors
    /// When no watcher can be started or one of them cannot be opened; all are closed then.
    pub(crate) fn open(cgroups: Vec<Cgroup>) -> Result<Self> {
        let mut switches = Vec::new();
        for cgroup in &cgroups {
            let path = cgroup.path().join("cgroup.freeze");
            let file = File::options().write(true).open(&path);
            switches.push(file.attempt(|| format!("opening {}", path.display()))?);
        }
        let (mut told, link) = std::io::pipe().attempt(|| "making a pipe".into())?;
        let started = spawn::fork_child(|| {
            // Keys on the terminal, which may end `cryo`, must not end its watcher.
            let _ = set_signal_mask(SignalSet::FULL);
            let _ = spawn::new_session();
            let _ = spawn::set_thread_name(c"cryo-watcher");
            let _ = spawn::close_number(link.as_raw_fd());
            if told.read(&mut [0]).unwrap_or(0) == 0 {
                for mut switch in &switches {
                    let _ = switch.write_all(b"1");
                }
            }
            0
        })
        .attempt(|| "starting a watcher".into())?;
        let thawed = Self {
            cgroups,
            link: Some(link),
            pid: started.pid,
        };
        for cgroup in &thawed.cgroups {
            cgroup
                .thaw()
                .attempt(|| format!("thawing {}", cgroup.path().display()))?;
        }
        Ok(thawed)
    }

    /// Closes them; the job's tasks go into them as soon as they are let go.
    ///
    /// # Errors
    /// When the kernel does not close one.
    pub(crate) fn freeze_again(mut self) -> Result<()> {
        for cgroup in &self.cgroups {
            cgroup
                .ask_to_freeze()
                .attempt(|| format!("freezing {}", cgroup.path().display()))?;
        }
        if let Some(mut link) = self.link.take() {
            // If it cannot be told, it closes what is closed.
            let _ = link.write_all(b"d");
        }
        let _ = spawn::wait_for(WaitFor::Pid(self.pid), libc::WEXITED);
        Ok(())
    }
}

impl Drop for Thawed {
    fn drop(&mut self) {
        // The watcher does the rest.
        if self.link.take().is_some() {
            let _ = spawn::wait_for(WaitFor::Pid(self.pid), libc::WEXITED);
        }
    }
}
