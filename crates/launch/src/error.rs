//! What can go wrong while a job is started, told to a person.

use std::io;

/// A job or a process of it could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such program.
    #[error("cannot start {program}: {source}; check the name, PATH and the working directory")]
    NotFound {
        /// The program as it was asked for.
        program: String,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// The program is there but cannot be started.
    #[error(
        "cannot start {program}: {source}; check that it is an executable file for this machine"
    )]
    NotExecutable {
        /// The program as it was asked for.
        program: String,
        /// The error of the attempt.
        source: io::Error,
    },
    /// The pid that the child was to have belongs to another process.
    #[error(
        "pid {pid} is taken by another process; restart in namespaces of its own (--pids namespace), where every pid is free"
    )]
    PidTaken {
        /// That pid.
        pid: i32,
    },
    /// A pid was asked for without the right to choose it.
    #[error(
        "not permitted to choose pid {pid} here: that needs CAP_CHECKPOINT_RESTORE; restart in namespaces of its own (--pids namespace)"
    )]
    PidNotPermitted {
        /// That pid.
        pid: i32,
    },
    /// The new process could not be set up before it started its program.
    #[error("the new process could not {step}: {source}")]
    Setup {
        /// What it was doing.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Fresh namespaces could not be made.
    #[error("cannot {step}: {source}; {advice}")]
    Namespaces {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// The init process of the namespaces has ended, and with it every process in them.
    #[error("the job's init process has ended, and all processes of the job with it")]
    InitGone,
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A system call failed that should not.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl LaunchError {
    /// The exit code of a command that fails with this: 127 for a program not found, 126 for one that
    /// cannot be started, as env(1) does, and 125 for the command's own failures.
    pub fn exit_code(&self) -> u8 {
        match self {
            LaunchError::NotFound { .. } => 127,
            LaunchError::NotExecutable { .. } => 126,
            _ => 125,
        }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
        move |source| LaunchError::System { what, source }
    }
}
