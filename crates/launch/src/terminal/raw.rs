//! The user's terminal in raw mode, and how it comes back whatever becomes of us.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use cryonaut_sys::file::own_path;
use cryonaut_sys::spawn::signal::{self, SignalSet};
use cryonaut_sys::spawn::{self, WaitFor};
use cryonaut_sys::terminal::{self, Settings};

use super::is_terminal;

/// What the watcher is told: the length of what brings the screen back, in two bytes, little-endian, and that; or this: all is well.
const ALL_IS_WELL: u16 = u16::MAX;

/// The user's terminal in raw mode: every byte passes as it is.
///
/// Dropping it puts the settings back, also when a panic unwinds. For every other end of the process,
/// SIGKILL included, a small child process watches over a pipe and puts them back when it closes; it also prints what
/// [`RawMode::undo`] told it last.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    saved: Settings,
    watcher: i32,
    alarm: Option<io::PipeWriter>,
    told: RefCell<Vec<u8>>,
}

impl RawMode {
    /// Puts the terminal into raw mode. `screen` is what is printed on, if that is a terminal.
    pub fn enter(terminal: BorrowedFd<'_>, screen: Option<BorrowedFd<'_>>) -> io::Result<RawMode> {
        let terminal = terminal.try_clone_to_owned()?;
        let saved = Settings::of(terminal.as_fd())?;
        let (quiet, alarm) = io::pipe()?;
        // A watcher that is stopped is not waited for.
        spawn::set_nonblocking(alarm.as_fd())?;
        let screen = screen.and_then(|screen| own_description(screen).ok());
        let mask = signal::set_signal_mask(SignalSet::FULL)?;
        let watcher = spawn::fork_child(|| watch(&terminal, &quiet, screen.as_ref(), &saved));
        signal::set_signal_mask(mask)?;
        // From here on dropping it tidies up.
        let raw = RawMode {
            terminal,
            saved,
            watcher: watcher?.pid,
            alarm: Some(alarm),
            told: RefCell::new(Vec::new()),
        };
        saved.raw().apply(raw.terminal.as_fd())?;
        Ok(raw)
    }

    /// Tells what is to be printed should this process be killed.
    pub fn undo(&self, text: &[u8]) {
        let mut told = self.told.borrow_mut();
        let length = u16::try_from(text.len()).unwrap_or(ALL_IS_WELL);
        if let Some(alarm) = &self.alarm
            && *told != text
            && length != ALL_IS_WELL
        {
            let message = [&length.to_le_bytes(), text].concat();
            // So short that it goes out whole or not at all (pipe(7), PIPE_BUF).
            if terminal::write_some(alarm.as_fd(), &message).is_ok() {
                *told = text.to_vec();
            }
        }
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
            // Instead of the bare end.
            let _ = terminal::write_some(alarm.as_fd(), &ALL_IS_WELL.to_le_bytes());
        }
        let _ = spawn::wait_for(WaitFor::Pid(self.watcher), libc::WEXITED);
    }
}

/// An open file of our own for a terminal, which never waits; the flags of the user's are left alone, because other programs
/// share them.
///
/// # Errors
/// When it is no terminal, or cannot be opened once more.
pub(super) fn own_description(screen: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !is_terminal(screen) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut options = File::options();
    options
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    Ok(options.open(own_path(screen))?.into())
}

/// The watcher: waits for the end of the pipe and puts the terminal back. All its signals are
/// blocked, SIGTTOU among them, which would stop it.
fn watch(
    terminal: &OwnedFd,
    quiet: &io::PipeReader,
    screen: Option<&OwnedFd>,
    saved: &Settings,
) -> i32 {
    // Its own session, so that what ends the caller's process group spares it.
    let _ = spawn::new_session();
    let _ = spawn::set_thread_name(c"cryo-terminal");
    let _ = spawn::set_command_line("cryo-terminal");
    // The caller's copies of the descriptors, its end of the pipe above all.
    let mut kept: Vec<u32> = [Some(terminal.as_fd()), Some(quiet.as_fd())]
        .into_iter()
        .chain([screen.map(AsFd::as_fd)])
        .flatten()
        .map(|descriptor| descriptor.as_raw_fd() as u32)
        .collect();
    kept.sort_unstable();
    let mut from = 0;
    for number in kept {
        if number > from {
            let _ = spawn::close_range(from, number - 1);
        }
        from = number + 1;
    }
    let _ = spawn::close_range(from, u32::MAX);
    let mut undo = Vec::new();
    loop {
        match next_message(quiet) {
            Ok(Message::AllIsWell) => spawn::exit_now(0),
            Ok(Message::Undo(text)) => undo = text,
            Err(_) => break,
        }
    }
    let status = i32::from(saved.apply(terminal.as_fd()).is_err());
    if let Some(screen) = screen {
        // A terminal that does not take it is stopped or gone.
        let _ = terminal::write_some(screen.as_fd(), &undo);
    }
    // Owners of what was closed above must not be dropped.
    spawn::exit_now(status)
}

enum Message {
    AllIsWell,
    Undo(Vec<u8>),
}

fn next_message(mut quiet: &io::PipeReader) -> io::Result<Message> {
    let mut length = [0; 2];
    quiet.read_exact(&mut length)?;
    let length = u16::from_le_bytes(length);
    if length == ALL_IS_WELL {
        return Ok(Message::AllIsWell);
    }
    let mut text = vec![0; usize::from(length)];
    quiet.read_exact(&mut text)?;
    Ok(Message::Undo(text))
}
