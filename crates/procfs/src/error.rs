//! What goes wrong: a file that does not look as expected, and a file that cannot be read.

use std::io;
use std::path::{Path, PathBuf};

/// `ENOENT`: the file, or the whole process directory, is not there.
const ENOENT: i32 = 2;
/// `ESRCH`: the file is open but its process has ended.
const ESRCH: i32 = 3;
/// Longest piece of the offending text that an error carries.
const SNIPPET_LENGTH: usize = 96;

/// A file of `/proc` that does not have the format its man page (proc(5)) and the kernel source give it.
///
/// Either the kernel is newer than this code, or what was parsed is not that file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("/proc file {file:?}, line {line}: {what} in \"{text}\"")]
pub struct ParseError {
    /// The file's name inside `/proc` or `/proc/PID`, for example `smaps`.
    pub file: &'static str,
    /// Line in that file, from 1; for binary files always 1.
    pub line: usize,
    /// What was expected and not found.
    pub what: &'static str,
    /// The beginning of the offending text, with unprintable bytes escaped.
    pub text: String,
}

impl ParseError {
    /// Builds the error, keeping the beginning of `text`.
    pub(crate) fn new(file: &'static str, line: usize, what: &'static str, text: &[u8]) -> Self {
        let shown = &text[..text.len().min(SNIPPET_LENGTH)];
        Self {
            file,
            line,
            what,
            text: shown.escape_ascii().to_string(),
        }
    }
}

/// Why a file of `/proc` could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcCause {
    /// The process or thread has ended (its directory is gone, or reads say `ESRCH`).
    #[error("the process or thread has ended")]
    Ended,
    /// The kernel refused: the process lives, but the file is not there (`ENOENT`: an option this
    /// kernel was built without, a closed descriptor), or permission is lacking.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file was read but does not have the expected format.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// A file of `/proc` that could not be read or understood.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {cause}", path.display())]
pub struct ProcError {
    /// The path as a person would type it, for example `/proc/17/smaps`.
    pub path: PathBuf,
    /// Why. It is part of the message, so it is not the error's `source` too.
    pub cause: ProcCause,
}

impl ProcError {
    /// Wraps a failed system call on `path`; `ESRCH` means that the process has ended.
    pub(crate) fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        let cause = match source.raw_os_error() {
            Some(ESRCH) => ProcCause::Ended,
            _ => ProcCause::Io(source),
        };
        Self {
            path: path.as_ref().to_path_buf(),
            cause,
        }
    }

    /// Wraps a failed parse of `path`.
    pub(crate) fn parse(path: impl AsRef<Path>, source: ParseError) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            cause: ProcCause::Parse(source),
        }
    }

    /// The process or thread ended before or while its file was read.
    pub fn is_gone(&self) -> bool {
        matches!(self.cause, ProcCause::Ended)
    }

    /// The process lives but has no such file: a descriptor that was closed, the `exe` of a kernel
    /// thread or zombie, or a file that this kernel does not offer.
    pub fn is_missing(&self) -> bool {
        self.errno() == Some(ENOENT)
    }

    /// The reader lacks permission (`EACCES` or `EPERM`), see "ptrace access mode" in ptrace(2).
    pub fn is_denied(&self) -> bool {
        matches!(&self.cause, ProcCause::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The error number of the failed system call, where one failed.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            ProcCause::Io(error) => error.raw_os_error(),
            ProcCause::Ended | ProcCause::Parse(_) => None,
        }
    }
}
