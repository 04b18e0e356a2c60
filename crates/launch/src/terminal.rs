//! A job's own terminal: who holds it, and who views it.

mod escape;
mod frame;
mod holder;
mod key;
mod modes;
mod raw;
mod scrollback;
mod viewer;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use cryonaut_sys::terminal::{self, Readiness, Settings};

pub use frame::Replay;
pub use holder::{Holding, hold};
pub use key::DetachKey;
pub use raw::RawMode;
pub use scrollback::KEPT;
pub use viewer::{View, ViewEnd, Viewer, ask_for_viewers, await_holder, view};

pub use cryonaut_sys::terminal::{WindowSize, is_terminal};

/// A pseudo-terminal (pty(7)).
#[derive(Debug)]
pub struct Pty {
    /// The side that carries: what is written here is typed, what is read here was printed.
    pub master: OwnedFd,
    /// The side that is the job's terminal. Drop the caller's copies once the job has it, or the end
    /// of the job will not show on the master.
    pub slave: OwnedFd,
}

impl Pty {
    /// Opens a new one, with the settings and the window size of `like` if that is a terminal.
    pub fn open(like: Option<BorrowedFd<'_>>) -> io::Result<Pty> {
        Pty::on(terminal::open_master()?, like)
    }

    /// The same with a master that has just been opened and unlocked.
    pub fn on(master: OwnedFd, like: Option<BorrowedFd<'_>>) -> io::Result<Pty> {
        let slave = terminal::open_slave(master.as_fd())?;
        if let Some(like) = like.filter(|like| is_terminal(*like)) {
            Settings::of(like)?.apply(slave.as_fd())?;
            terminal::set_window_size(slave.as_fd(), terminal::window_size(like)?)?;
        }
        Ok(Pty { master, slave })
    }

    /// Where the slave side is found.
    pub fn slave_path(&self) -> io::Result<PathBuf> {
        let number = terminal::slave_number(self.master.as_fd())?;
        Ok(PathBuf::from(format!("/dev/pts/{number}")))
    }
}

fn again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn ready(descriptor: &OwnedFd, wanted: i16) -> io::Result<bool> {
    let mut wish = [Readiness::new(descriptor.as_fd(), wanted)];
    terminal::wait_ready(&mut wish, Some(std::time::Duration::ZERO))?;
    Ok(wish[0].found != 0)
}
