//! What the list of jobs knows of a job that is suspended.
//!
//! It is noted before anything is stopped, so that `cryo` may die at any instant: what is noted as begun is looked up in
//! the kernel, which alone says whether a process stands still.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Job, NewJob, ProcessIdentity, Registry, RegistryError};

/// By what a job is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By the freezer of cgroup v2: nothing but thawing it, or killing the job, ends it.
    Freezer,
    /// By SIGSTOP: anybody's SIGCONT ends it.
    Signals,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// `cryo suspend` has begun; if it is no longer there, it was killed on the way.
    Suspending,
    /// It is done.
    Suspended,
    /// `cryo resume` has begun.
    Resuming,
}

/// One process of a suspended job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendedProcess {
    /// Which one.
    #[serde(flatten)]
    pub identity: ProcessIdentity,
    /// Job control had stopped it before: it stays stopped.
    #[serde(default)]
    pub stopped_before: bool,
    /// It was told of the suspension, and is told when that is over.
    #[serde(default)]
    pub told: bool,
    /// The memory that it was using, most used first: start and end of each range.
    #[serde(default)]
    pub hot: Vec<(u64, u64)>,
}

/// A suspension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// By what.
    pub way: Way,
    /// How far it has come.
    pub phase: Phase,
    /// The directories of the frozen cgroups.
    pub cgroups: Vec<PathBuf>,
    /// The processes.
    pub processes: Vec<SuspendedProcess>,
    /// The signal for *continue*, for those that were told.
    #[serde(default)]
    pub continued: Option<i32>,
}

impl Suspension {
    /// Whether any of its processes is alive.
    pub fn is_alive(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.identity.is_alive())
    }
}

impl Job {
    /// Whether this process is suspended with it.
    pub fn holds(&self, pid: i32) -> bool {
        let named =
            |process: &SuspendedProcess| process.identity.pid == pid && process.identity.is_alive();
        self.suspension
            .as_ref()
            .is_some_and(|suspension| suspension.processes.iter().any(named))
    }
}

impl Registry {
    /// Keeps others from suspending or resuming the job whose first process this is, as long as the result lives; waits for
    /// those that do.
    ///
    /// # Errors
    /// When the file for it cannot be made.
    pub fn claim(&self, root: i32) -> Result<File, RegistryError> {
        let path = self.directory.join(claim_name(root));
        loop {
            let claim = self.lock_file(&claim_name(root))?;
            // Who held it before may have removed it, and somebody else has made and locked a new one since.
            let place = |facts: fs::Metadata| (facts.dev(), facts.ino());
            let (locked, named) = (claim.metadata(), fs::metadata(&path));
            if locked.map(place).ok() == named.map(place).ok() {
                return Ok(claim);
            }
        }
    }

    /// The job that this process belongs to: one that is suspended with it, or has it as its first.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn job_of(&self, pid: i32) -> Result<Option<Job>, RegistryError> {
        let mut jobs = self.list()?;
        let found = jobs
            .iter()
            .position(|job| job.root.pid == pid && job.root.is_alive())
            .or_else(|| jobs.iter().position(|job| job.holds(pid)));
        Ok(found.map(|found| jobs.swap_remove(found)))
    }

    /// Enters a job that is about to be suspended and that nobody has started here.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn register_suspended(
        &self,
        new: NewJob,
        suspension: Suspension,
    ) -> Result<Job, RegistryError> {
        self.enter(new, |job| {
            job.adopted = true;
            job.suspension = Some(suspension);
        })
    }

    /// Notes that a job runs again; one that was entered for being suspended leaves the list.
    ///
    /// # Errors
    /// When the list cannot be changed; a job that is not in it is none.
    pub fn note_resumed(&self, name: &str) -> Result<(), RegistryError> {
        let changed = self.change(name, |job| job.suspension = None);
        match changed {
            Ok(job) if job.adopted => {
                // Whoever waits for it finds no such job then.
                let _ = fs::remove_file(self.directory.join(claim_name(job.root.pid)));
                self.remove(name)
            }
            Ok(_) | Err(RegistryError::NoSuchJob(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The file that is locked by who suspends or resumes the job of this first process.
pub(super) fn claim_name(root: i32) -> String {
    format!(".{root}.claim")
}
