//! A job that is suspended: it stands still under ptrace for our calls, and goes back to what held it.

use cryonaut_launch::registry::{Suspension, Way};

use cryonaut_tracee::Stop;

use super::{Frozen, FrozenProcess};
use crate::Result;
use crate::suspend::{Cgroup, Thawed};

impl Frozen {
    /// Opens the freezers that hold the job, whose tasks stand still under ptrace: they run no instruction of their own, but our
    /// calls. However this ends, they go back into them. Which these are the kernel says: of a suspension that was begun only, some
    /// processes may not be held yet, or by a freezer that was not noted.
    ///
    /// # Errors
    /// When that cannot be seen to; they are frozen as before.
    pub fn thaw(&mut self, suspension: &Suspension) -> Result<()> {
        let names = |process: &&mut FrozenProcess| {
            let mut listed = suspension.processes.iter();
            listed.any(|listed| {
                listed.identity.pid == process.pid
                    && listed.identity.is_alive()
                    && !listed.stopped_before
            })
        };
        match suspension.way {
            Way::Signals => {
                let held = self.processes.iter_mut().filter(names);
                held.for_each(|process| process.suspended = true);
            }
            Way::Freezer => self.thawed = Some(Thawed::open(self.freezers())?),
        }
        Ok(())
    }

    /// The freezers of suspensions that hold any of its processes.
    fn freezers(&self) -> Vec<Cgroup> {
        let mut freezers = Vec::new();
        for process in self.alive() {
            if let Some(cgroup) = Cgroup::of(process.pid)
                && (cgroup.is_of_suspend() || cgroup.is_of_run())
                && cgroup.is_asked_to_freeze()
                && !freezers.contains(&cgroup)
            {
                freezers.push(cgroup);
            }
        }
        freezers
    }

    /// Removes everything of ours from the job, which goes on standing still. After this nothing need run in it any more to let it
    /// go: no process is left out because of another.
    ///
    /// # Errors
    /// The first one: a part of the job has ended meanwhile.
    pub fn withdraw(&mut self) -> Result<()> {
        self.processes
            .iter_mut()
            .map(FrozenProcess::leave)
            .fold(Ok(()), Result::and)
    }

    /// Puts a suspended job back into the freezer: from there its tasks go nowhere when they are let go.
    pub(super) fn go_back(&mut self) -> Result<()> {
        match self.thawed.take() {
            Some(thawed) => self.withdraw().and(thawed.freeze_again()),
            None => Ok(()),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // An error here means that a part of the job has ended.
        let _ = self.go_back();
    }
}

/// The stop that a process was found in, for its record: the signal of a job-control stop.
pub(crate) fn job_stop(process: &FrozenProcess) -> Option<i32> {
    process
        .tasks
        .first()
        .and_then(|task| match task.stopped.stop() {
            Stop::Group(signal) if !process.suspended => Some(signal),
            Stop::Group(_) | Stop::Trap => None,
        })
}
