//! What can go wrong, for people: refusals (planned, nothing disturbed) and failures (undone).

use std::fmt;

use cryonaut_image::ImageError;
use serde::{Deserialize, Serialize};

/// A planned "cannot": found before anything was disturbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The process it is about: pid as the user sees it, 0 for the whole job.
    pub pid: i32,
    /// The process' name, empty for the whole job.
    pub process: String,
    /// What cannot be saved or rebuilt (`descriptor 5, a TCP socket`).
    pub object: String,
    /// Why.
    pub reason: String,
    /// What the user can do.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid != 0 {
            write!(f, "process {}", self.pid)?;
            if !self.process.is_empty() {
                write!(f, " ({})", self.process)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}: {}; {}", self.object, self.reason, self.remedy)
    }
}

/// All refusals found so far.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    /// Adds one about process `pid` called `process`.
    pub fn add(
        &mut self,
        (pid, process): (i32, &str),
        object: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Refusal {
            pid,
            process: process.into(),
            object: object.into(),
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }

    /// Adds one, unless it is there.
    pub fn push(&mut self, refusal: Refusal) {
        if !self.0.contains(&refusal) {
            self.0.push(refusal);
        }
    }

    /// Adds one about the whole job.
    pub fn add_for_job(
        &mut self,
        object: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add((0, ""), object, reason, remedy);
    }

    /// Gives those about a process its name that do not have it: what is planned from records knows pids.
    pub fn name_processes(&mut self, name: impl Fn(i32) -> Option<String>) {
        for refusal in &mut self.0 {
            if refusal.process.is_empty() && refusal.pid != 0 {
                refusal.process = name(refusal.pid).unwrap_or_default();
            }
        }
    }

    /// The refusals, in the order in which they were found.
    pub fn list(&self) -> &[Refusal] {
        &self.0
    }

    /// Nothing, or all refusals as one error.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is any.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Refused(self.0))
        }
    }
}

/// Why an operation of the engine did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Planned refusals; nothing was disturbed.
    #[error("{}", one_per_line(.0))]
    Refused(Vec<Refusal>),
    /// Refusals of which the reason may pass by itself when the job runs on; nothing was disturbed.
    #[error("{}", one_per_line(.0))]
    Unsettled(Vec<Refusal>),
    /// Refusals that came when programs had been told of the checkpoint; they were told that there is none, and the job runs on.
    #[error("{}", one_per_line(.0))]
    Withdrawn(Vec<Refusal>),
    /// The kernel does not permit it: what, and what to do.
    #[error("{0}; {1}")]
    NotPermitted(String, String),
    /// It failed on the way and was undone.
    #[error("{0}")]
    Failed(String),
    /// A pid that was free when the restart was planned is in use now; what had been built was undone.
    #[error("pid {0} was taken meanwhile; try again, or use --pids namespace")]
    PidTaken(i32),
    /// The number of a pseudo-terminal that was free when the restart was planned is in use now; what had been built was undone.
    #[error("the terminal /dev/pts/{0} was taken meanwhile; try again, or use --pids namespace")]
    TerminalTaken(u32),
    /// A signal to `cryo` ended it; it was undone.
    #[error("interrupted; the job was left as it was")]
    Interrupted,
    /// A task of the job would be hurt if its tracer were killed in the middle of a list; nothing was called in it. A process
    /// that nobody knows by its number has to do the work.
    #[error("this has to be done by a process apart")]
    NeedsProcessApart,
    /// The image cannot be used.
    #[error("{0}")]
    Image(#[from] ImageError),
}

impl Error {
    /// The same, of a checkpoint that programs had been told of.
    #[must_use]
    pub fn once_told(self) -> Self {
        match self {
            Self::Refused(refusals) | Self::Unsettled(refusals) => Self::Withdrawn(refusals),
            other => other,
        }
    }
}

fn one_per_line(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The result of an operation of the engine.
pub type Result<T> = std::result::Result<T, Error>;

impl From<cryonaut_tracee::Error> for Error {
    fn from(error: cryonaut_tracee::Error) -> Self {
        match &error {
            cryonaut_tracee::Error::System(tid, "attaching", cause) if cause.raw_os_error() == Some(libc::EPERM) => {
                Error::NotPermitted(
                    format!("process {tid} cannot be traced: permission denied"),
                    "it belongs to someone else, is traced already, or ptrace is restricted: `cryo doctor` tells which"
                        .into(),
                )
            }
            cryonaut_tracee::Error::System(_, what, cause) => Error::Failed(format!("{error}: {cause} ({what})")),
            _ => Error::Failed(error.to_string()),
        }
    }
}

impl From<cryonaut_procfs::ProcError> for Error {
    fn from(error: cryonaut_procfs::ProcError) -> Self {
        if error.is_denied() {
            Error::NotPermitted(
                error.to_string(),
                "only the owner of a process or root may checkpoint it".into(),
            )
        } else {
            Error::Failed(error.to_string())
        }
    }
}

/// Gives an I/O error its attempt.
pub(crate) trait Attempt<T> {
    /// Turns an error into [`Error::Failed`] with `what` before it.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Failed(format!("{}: {error}", what())))
    }
}
