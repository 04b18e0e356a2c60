//! A job's own terminal: who holds it, and who views it.

mod escape;
mod frame;
mod holder;
mod key;
mod scrollback;
mod viewer;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use cryonaut_sys::spawn::signal::{self, SignalSet};
use cryonaut_sys::spawn::{self, WaitFor};
use cryonaut_sys::terminal::{self, Readiness, Settings};

pub use frame::Replay;
pub use holder::{Holding, hold};
pub use key::DetachKey;
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

/// The user's terminal in raw mode: every byte passes as it is.
///
/// Dropping it puts the settings back, also when a panic unwinds. For every other end of the process,
/// SIGKILL included, a small child process watches over a pipe and puts them back when it closes.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    saved: Settings,
    watcher: i32,
    alarm: Option<io::PipeWriter>,
}

impl RawMode {
    /// Puts the terminal into raw mode.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<RawMode> {
        let terminal = terminal.try_clone_to_owned()?;
        let saved = Settings::of(terminal.as_fd())?;
        let (quiet, alarm) = io::pipe()?;
        let mask = signal::set_signal_mask(SignalSet::FULL)?;
        let watcher = spawn::fork_child(|| watch(&terminal, &quiet, &saved));
        signal::set_signal_mask(mask)?;
        // From here on dropping it tidies up.
        let raw = RawMode {
            terminal,
            saved,
            watcher: watcher?.pid,
            alarm: Some(alarm),
        };
        saved.raw().apply(raw.terminal.as_fd())?;
        Ok(raw)
    }

    /// Puts the settings back for a while, for instance while the caller is stopped.
    pub fn suspend(&self) -> io::Result<()> {
        self.saved.apply(self.terminal.as_fd())
    }

    /// Goes back into raw mode.
    pub fn resume(&self) -> io::Result<()> {
        self.saved.raw().apply(self.terminal.as_fd())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing; the watcher would not fare better.
        let _ = self.saved.apply(self.terminal.as_fd());
        if let Some(alarm) = self.alarm.take() {
            // A byte instead of the bare end says that all is well.
            let _ = terminal::write_some(alarm.as_fd(), b".");
        }
        let _ = spawn::wait_for(WaitFor::Pid(self.watcher), libc::WEXITED);
    }
}

/// The watcher: waits for the end of the pipe and puts the settings back. All its signals are
/// blocked, SIGTTOU among them, which would stop it.
fn watch(terminal: &OwnedFd, quiet: &io::PipeReader, saved: &Settings) -> i32 {
    // Its own session, so that what ends the caller's process group spares it.
    let _ = spawn::new_session();
    let _ = spawn::set_thread_name(c"cryo-terminal");
    let _ = spawn::set_command_line("cryo-terminal");
    let (low, high) = {
        let (one, two) = (terminal.as_raw_fd() as u32, quiet.as_raw_fd() as u32);
        (one.min(two), one.max(two))
    };
    // The caller's copies of the descriptors, its end of the pipe above all.
    if low > 0 {
        let _ = spawn::close_range(0, low - 1);
    }
    let _ = spawn::close_range(low + 1, high - 1);
    let _ = spawn::close_range(high + 1, u32::MAX);
    let mut byte = [0];
    let status = match terminal::read_some(quiet.as_fd(), &mut byte) {
        Ok(1) => 0,
        _ => i32::from(saved.apply(terminal.as_fd()).is_err()),
    };
    // Owners of what was closed above must not be dropped.
    spawn::exit_now(status)
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
