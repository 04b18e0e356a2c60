//! How `cryo` ends: exit codes, and what is said about a failure.

use std::error::Error as _;
use std::io;

use cryonaut_engine::{Error, Refusal};
use cryonaut_image::ImageError;
use cryonaut_launch::LaunchError;
use cryonaut_launch::registry::RegistryError;
use serde::{Deserialize, Serialize};

/// The exit codes of all commands but those that pass a job's status on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Something that should not happen.
    Unexpected = 1,
    /// The command line, or what it names, makes no sense.
    Usage = 2,
    /// It was refused; nothing was disturbed.
    Refused = 3,
    /// It failed on the way and was undone.
    Failed = 4,
    /// The image is damaged, or made for another machine or version.
    Image = 5,
    /// The kernel does not permit it.
    NotPermitted = 6,
    /// The job has ended here, and its image is on the other machine, or it runs there.
    Elsewhere = 7,
    /// It is not known whether the job has ended here; its image is on the other machine.
    InDoubt = 8,
}

/// The exit code of `cryo run` and `cryo restart` for failures of their own, as env(1) has it.
pub const INSTEAD_OF_JOB: u8 = 125;

/// The exit codes as `--help` and the man pages tell them.
pub const DOCUMENTED: &str = "\
Exit codes:
  0  success
  1  something unexpected: please report it
  2  the command line, or what it names, makes no sense
  3  refused: each reason was given, nothing was disturbed
  4  failed on the way and undone: a job runs on as before
  5  the image is damaged, or made for another machine or version
  6  not permitted to this user: `cryo doctor` tells what is";

/// The exit codes of `cryo migrate`.
pub const DOCUMENTED_FOR_MIGRATE: &str = "\
Exit codes:
  0  the job runs on the other machine, and no longer here
  1  something unexpected: please report it
  2  the command line, or what it names, makes no sense
  3  refused, here or there: each reason was given; the job runs on here
  4  failed on the way and undone: the job runs on here
  5  the image is damaged, or made for another machine or version; the job runs on here
  6  not permitted to this user, here or there; the job runs on here
  7  the job has ended here, and it is not known whether it runs there: its image is there, and how to restart it was said
  8  what moved the job was killed in the one moment after which nobody knows whether it has ended here: how to find out, and how
     to restart it there, was said";

/// The exit codes of the commands that stand in for a job.
pub const DOCUMENTED_FOR_JOB: &str = "\
Exit codes:
  The job's own status, 128 + N if signal N ended it; for failures of cryo itself:
  125  cryo failed: the reason was given
  126  the command was found but cannot be started
  127  the command was not found
  0 when you detach from it, or start it with --detach (then failures of cryo itself are those of the other commands)";

/// The exit codes of `cryo attach`.
pub const DOCUMENTED_FOR_ATTACH: &str = "\
Exit codes:
  The job's own status, 128 + N if signal N ended it; otherwise:
  0    detached: the job runs on
  125  cryo failed: the reason was given";

/// The exit codes of `cryo suspend`.
pub const DOCUMENTED_FOR_SUSPEND: &str = "\
Exit codes:
  With --for the command's own status, 128 + N if signal N ended it, and for failures of cryo itself, a refusal too:
  125  cryo failed, or could not resume the job: the reason was given
  Otherwise those of the other commands:
  0  success
  1  something unexpected: please report it
  2  the command line, or what it names, makes no sense
  3  refused: each reason was given, nothing was disturbed
  4  failed on the way and undone: the job runs on, or stays suspended, as before
  6  not permitted to this user: `cryo doctor` tells what is";

/// The exit codes of `cryo restart`.
pub const DOCUMENTED_FOR_RESTART: &str = "\
Exit codes:
  In the foreground the job's own status, 128 + N if signal N ended it, and 125 for failures of cryo itself.
  With --detach those of the other commands:
  0  success
  1  something unexpected: please report it
  2  the command line, or what it names, makes no sense
  3  refused: each reason was given, nothing was disturbed
  4  failed on the way and undone: nothing of the job is left behind
  5  the image is damaged, or made for another machine or version
  6  not permitted to this user: `cryo doctor` tells what is";

/// Why a command failed, in words for people.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// What, why, and what to do.
    pub message: String,
    /// All refusals, where it is one.
    pub refusals: Vec<Refusal>,
    /// The exit status.
    pub status: u8,
}

impl Failure {
    /// A failure without refusals.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            refusals: Vec::new(),
            status: code as u8,
        }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, message)
    }

    /// An attempt at something that the system did not let happen.
    pub fn system(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| {
            let code = match error.kind() {
                io::ErrorKind::PermissionDenied => Code::NotPermitted,
                _ => Code::Failed,
            };
            Failure::new(code, format!("cannot {what}: {error}"))
        }
    }

    /// The same failure of a command that would have ended with a job's status.
    pub fn instead_of_job(self) -> Failure {
        let status = match self.status {
            // The command's own, from env(1).
            126 | 127 => self.status,
            _ => INSTEAD_OF_JOB,
        };
        Failure { status, ..self }
    }
}

/// A chain of causes in one line. Causes that the message already quotes are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Usage(message) => Failure::new(Code::Usage, message),
            Error::Refused(refusals) | Error::Unsettled(refusals) => Failure {
                refusals,
                ..Failure::new(Code::Refused, "refused, nothing was disturbed")
            },
            Error::Withdrawn(refusals) => Failure {
                refusals,
                ..Failure::new(
                    Code::Refused,
                    "refused when programs had been told of it; they were told that there is no checkpoint, and the job runs on",
                )
            },
            Error::NotPermitted(..) => Failure::new(Code::NotPermitted, error.to_string()),
            Error::Failed(message) => Failure::new(Code::Failed, message),
            Error::Interrupted
            | Error::PidTaken(_)
            | Error::TerminalTaken(_)
            | Error::NeedsProcessApart => Failure::new(Code::Failed, error.to_string()),
            Error::Image(error) => error.into(),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        let code = match &error {
            ImageError::NotAFile { .. } => Code::Usage,
            ImageError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Code::NotPermitted
            }
            ImageError::Io { .. } => Code::Failed,
            _ => Code::Image,
        };
        let advice = match error
            .source()
            .and_then(|cause| cause.downcast_ref::<io::Error>())
        {
            Some(cause) if cause.raw_os_error() == Some(libc::ENOSPC) => {
                "; free some space or choose another file with -o; the job is unharmed"
            }
            _ => "",
        };
        Failure::new(code, format!("{}{advice}", chain(&error)))
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        let code = match error {
            RegistryError::BadName(_)
            | RegistryError::NameTaken(_)
            | RegistryError::NoSuchJob(_)
            | RegistryError::Elsewhere(_) => Code::Usage,
            RegistryError::Untrusted { .. } => Code::NotPermitted,
            RegistryError::File { .. } => Code::Failed,
        };
        Failure::new(code, chain(&error))
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Failure {
        let code = match &error {
            LaunchError::NotFound { .. }
            | LaunchError::NotExecutable { .. }
            | LaunchError::Invalid(_) => Code::Usage,
            LaunchError::PidNotPermitted { .. } | LaunchError::Namespaces { .. } => {
                Code::NotPermitted
            }
            LaunchError::PidTaken { .. } => Code::Refused,
            _ => Code::Failed,
        };
        let status = error.exit_code();
        Failure {
            status: if status == INSTEAD_OF_JOB {
                code as u8
            } else {
                status
            },
            ..Failure::new(code, chain(&error))
        }
    }
}
