//! Where a checkpoint goes, and what becomes of what is there already.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cryonaut_engine::checkpoint::{Output, Receiver};
use cryonaut_sys::spawn;

use super::caller::Caller;
use super::errno::{Trouble, of_system};

/// Where it goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To a file.
    File(PathBuf),
    /// To an open descriptor.
    Descriptor(i32),
}

/// What becomes of a file that has the name already.
#[derive(Clone, Debug, Default)]
pub enum Policy {
    /// It stays until the new one is whole, and goes then.
    #[default]
    Replace,
    /// It gets another name then: this one, or a free one.
    Backup(Option<PathBuf>),
    /// There must be none.
    Refuse,
}

/// How many numbered names are tried.
const MOST_BACKUPS: u32 = 65536;

/// A destination that is ready to be written to.
#[derive(Debug)]
pub struct Prepared {
    /// The file, if it is one.
    pub path: Option<PathBuf>,
    /// Removed again if nothing comes of it.
    made: Option<PathBuf>,
    stream: Option<File>,
}

impl Destination {
    /// Its absolute path, if it has one.
    pub fn path(&self, caller: Caller) -> Option<PathBuf> {
        match self {
            Destination::File(path) => Some(std::path::absolute(path).unwrap_or(path.clone())),
            Destination::Descriptor(number) => {
                let process = caller.process.unwrap_or_else(spawn::own_pid);
                let path = fs::read_link(format!("/proc/{process}/fd/{number}")).ok()?;
                path.is_absolute().then_some(path)
            }
        }
    }

    /// What is open there, if it is such that the job may have it open too, and is not to have it in its image: device and number of
    /// the file.
    pub fn identity(&self, caller: Caller) -> Option<(u64, u64)> {
        let Destination::Descriptor(number) = self else {
            return None;
        };
        let status = caller.open(*number).ok()?.metadata().ok()?;
        let kind = status.file_type();
        let is_own = kind.is_file() || kind.is_fifo() || kind.is_socket();
        is_own.then(|| (status.dev(), status.ino()))
    }

    /// Sees that it can be written to.
    pub fn prepare(&self, policy: &Policy, caller: Caller) -> Result<Prepared, Trouble> {
        let mut prepared = Prepared {
            path: None,
            made: None,
            stream: None,
        };
        let path = match self {
            Destination::Descriptor(number) => {
                prepared.stream = Some(open_number(*number, caller)?);
                return Ok(prepared);
            }
            Destination::File(path) => path,
        };
        match fs::metadata(path).map(|status| status.file_type()) {
            Ok(kind) if kind.is_dir() => return Err(Trouble::new(libc::EISDIR)),
            Ok(_) if matches!(policy, Policy::Refuse) => return Err(Trouble::new(libc::EEXIST)),
            Ok(kind) if kind.is_file() => {
                if let Policy::Backup(name) = policy {
                    prepared.made = Some(back_up(path, name.as_deref())?);
                }
            }
            Ok(kind) if kind.is_fifo() || kind.is_socket() => {
                prepared.stream = Some(open_fifo(path)?);
                return Ok(prepared);
            }
            Ok(_) => return Err(Trouble::new(libc::EINVAL)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if matches!(policy, Policy::Refuse) {
                    // It is ours from now on.
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o400)
                        .open(path)
                        .map_err(|error| of_system(&error))?;
                    prepared.made = Some(path.clone());
                }
            }
            Err(error) => return Err(of_system(&error)),
        }
        prepared.path = Some(path.clone());
        Ok(prepared)
    }
}

impl Prepared {
    /// As the engine has it.
    pub fn output(&mut self, purpose: Purpose) -> Output {
        match (self.stream.take(), purpose) {
            (Some(stream), Purpose::ToLive) => Output::Stream(stream),
            (Some(stream), Purpose::ToEnd) => Output::Receiver(Box::new(Whole(stream))),
            (None, _) => Output::File(self.path.clone().unwrap_or_default()),
        }
    }

    /// The checkpoint is made: the file is for its owner to read.
    pub fn keep(self) -> Result<(), Trouble> {
        match &self.path {
            Some(path) => fs::set_permissions(path, Permissions::from_mode(0o400))
                .map_err(|error| of_system(&error)),
            None => Ok(()),
        }
    }

    /// There is none: nothing is left of it.
    pub fn undo(self) {
        if let Some(path) = self.made {
            // What cannot be removed is an empty file, or another name of a whole one.
            let _ = fs::remove_file(path);
        }
    }
}

/// What becomes of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They go on.
    ToLive,
    /// They are killed, once all is written.
    ToEnd,
}

/// An open descriptor, for a job that ends with its checkpoint: it stands still until every byte is there.
#[derive(Debug)]
struct Whole(File);

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Receiver for Whole {
    fn answer(&mut self) -> cryonaut_engine::Result<()> {
        match self.0.sync_all() {
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(
                cryonaut_engine::Error::Failed(format!("making the image durable: {error}")),
            ),
            _ => Ok(()),
        }
    }
}

fn open_number(number: i32, caller: Caller) -> Result<File, Trouble> {
    let file = caller.open(number)?;
    let status = file.metadata().map_err(|error| of_system(&error))?;
    match status.is_dir() {
        true => Err(Trouble::new(libc::EISDIR)),
        false => Ok(file),
    }
}

/// ENXIO where nobody reads.
fn open_fifo(path: &Path) -> Result<File, Trouble> {
    let probe = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| of_system(&error))?;
    // Somebody reads: this one does not wait, and its writes do.
    let file = OpenOptions::new().write(true).open(path);
    drop(probe);
    file.map_err(|error| of_system(&error))
}

/// Gives what is there a second name.
fn back_up(path: &Path, name: Option<&Path>) -> Result<PathBuf, Trouble> {
    if let Some(name) = name {
        let fresh = fs::hard_link(path, name);
        let outcome = match fresh {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(name).and_then(|()| fs::hard_link(path, name))
            }
            outcome => outcome,
        };
        return match outcome {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => Err(of_system(&error)),
        };
    }
    for number in 1..=MOST_BACKUPS {
        let mut name = OsString::from(path);
        name.push(format!(".~{number}~"));
        match fs::hard_link(path, &name) {
            Ok(()) => return Ok(name.into()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(of_system(&error)),
        }
    }
    Err(Trouble::new(libc::EEXIST))
}
