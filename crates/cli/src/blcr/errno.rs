//! Failures as BLCR's commands report them: an error number, of which the exit code is the low byte.

use std::error::Error as _;
use std::io;

use cryonaut_engine::Error;

use crate::exit::{Code, Failure};

/// A callback puts the checkpoint off.
pub const CR_ETEMPFAIL: i32 = 2354;
/// A program cannot be checkpointed.
pub const CR_EPERMFAIL: i32 = 2355;
/// A program has no support.
pub const CR_ENOSUPPORT: i32 = 2356;
/// The image is of another machine.
pub const CR_EBADARCH: i32 = 2359;
/// A process is traced.
pub const CR_EPTRACED: i32 = 2360;
/// A process traces.
pub const CR_EPTRACER: i32 = 2361;
/// A callback failed in a restart.
pub const CR_ERSTRTABRT: i32 = 2362;

/// Why something failed.
#[derive(Debug)]
pub struct Trouble {
    /// The error number.
    pub number: i32,
    /// What is known besides.
    pub details: Vec<String>,
}

impl Trouble {
    /// An error number of which all is said.
    pub fn new(number: i32) -> Self {
        Self {
            number,
            details: Vec::new(),
        }
    }

    /// The exit code.
    pub fn status(&self) -> u8 {
        self.number as u8
    }

    /// What the error number means.
    pub fn text(&self) -> String {
        text(self.number)
    }
}

/// What an error number means.
pub fn text(number: i32) -> String {
    let own = match number {
        CR_ETEMPFAIL => "cancelled by application: try again later",
        CR_EPERMFAIL => "cancelled by application: unable to checkpoint",
        CR_ENOSUPPORT => "support missing from application",
        CR_EBADARCH => "the context file was made on another architecture",
        CR_EPTRACED => "a process is being traced",
        CR_EPTRACER => "a process traces another one",
        CR_ERSTRTABRT => "given up by a callback",
        _ => {
            let text = io::Error::from_raw_os_error(number).to_string();
            return text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
        }
    };
    own.to_owned()
}

/// An error of the system.
pub fn of_system(error: &io::Error) -> Trouble {
    Trouble::new(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The number of the system's error that is at the bottom of it, if one is.
fn cause(error: &Error) -> Option<i32> {
    let mut next = error.source();
    let mut found = None;
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            found = error.raw_os_error().or(found);
        }
        next = error.source();
    }
    found
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        let number = match &error {
            Error::Usage(_) => libc::ESRCH,
            Error::Refused(_) | Error::Unsettled(_) | Error::Withdrawn(_) => libc::EOPNOTSUPP,
            Error::NotPermitted(..) => libc::EPERM,
            Error::Interrupted => libc::EINTR,
            Error::Image(_) => cause(&error).unwrap_or(libc::EIO),
            Error::PidTaken(_) | Error::TerminalTaken(_) => libc::EBUSY,
            Error::Failed(_) | Error::NeedsProcessApart => libc::EIO,
        };
        let details = match error {
            Error::Refused(refusals) | Error::Unsettled(refusals) | Error::Withdrawn(refusals) => {
                refusals.iter().map(ToString::to_string).collect()
            }
            error => vec![error.to_string()],
        };
        Trouble { number, details }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let number = match failure.code {
            Code::Usage => libc::ESRCH,
            Code::Refused => libc::EOPNOTSUPP,
            Code::NotPermitted => libc::EPERM,
            Code::Image => libc::EINVAL,
            _ => libc::EIO,
        };
        let details = match failure.refusals.as_slice() {
            [] => vec![failure.message],
            refusals => refusals.iter().map(ToString::to_string).collect(),
        };
        Trouble { number, details }
    }
}
