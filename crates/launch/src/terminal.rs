//! A job's own terminal, and carrying it to and from the user's.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use cryonaut_sys::spawn::signal::{self, SignalSet};
use cryonaut_sys::spawn::{self, WaitFor};
use cryonaut_sys::terminal::{self, Readiness, Settings};

use crate::LaunchError;
use crate::supervise::WatchedSignals;

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
        let master = terminal::open_master()?;
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

/// How many bytes wait in each direction at most before no more are read.
const MOST_WAITING: usize = 64 * 1024;
/// One write never takes more, so that it does not block once poll(2) has shown room: a pipe that is
/// writable has room for this many (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;

/// Carries bytes between a user's standard descriptors and the master side of a job's terminal.
///
/// Bytes are never lost: a slow output lets the job wait, as any terminal does. The flags of the
/// user's open files are left alone, because other programs share them.
#[derive(Debug)]
pub struct Carrier {
    input: OwnedFd,
    output: OwnedFd,
    master: OwnedFd,
    raw: Option<RawMode>,
    input_open: bool,
    output_open: bool,
    master_open: bool,
    ends_with_line: bool,
    to_master: VecDeque<u8>,
    to_output: VecDeque<u8>,
}

impl Carrier {
    /// Gets ready to carry. If `input` is a terminal, that goes into raw mode and its window size to
    /// the master; otherwise its end will be typed as the end-of-file character, at the start of a line.
    pub fn new(input: OwnedFd, output: OwnedFd, master: OwnedFd) -> io::Result<Carrier> {
        spawn::set_nonblocking(master.as_fd())?;
        let raw = is_terminal(input.as_fd())
            .then(|| RawMode::enter(input.as_fd()))
            .transpose()?;
        let carrier = Carrier {
            input,
            output,
            master,
            raw,
            input_open: true,
            output_open: true,
            master_open: true,
            ends_with_line: true,
            to_master: VecDeque::new(),
            to_output: VecDeque::new(),
        };
        carrier.resize()?;
        Ok(carrier)
    }

    /// Gives the job's terminal the size of the user's window, if there is one.
    pub fn resize(&self) -> io::Result<()> {
        for user in [self.input.as_fd(), self.output.as_fd()] {
            if is_terminal(user) {
                let size = terminal::window_size(user)?;
                return terminal::set_window_size(self.master.as_fd(), size);
            }
        }
        Ok(())
    }

    /// Whether every process has closed the job's terminal.
    pub fn is_closed(&self) -> bool {
        !self.master_open
    }

    /// Puts the user's terminal back for as long as the caller is stopped.
    pub fn suspend(&self) -> io::Result<()> {
        self.raw.as_ref().map_or(Ok(()), RawMode::suspend)
    }

    /// Takes the user's terminal up again.
    pub fn resume(&self) -> io::Result<()> {
        self.raw.as_ref().map_or(Ok(()), RawMode::resume)?;
        self.resize()
    }

    /// What to wait for before [`Carrier::carry`] has something to do.
    pub fn wishes(&self) -> Vec<Readiness<'_>> {
        let mut wishes = Vec::new();
        if self.input_open && self.master_open && self.to_master.len() < MOST_WAITING {
            wishes.push(Readiness::new(self.input.as_fd(), libc::POLLIN));
        }
        if self.master_open {
            let mut wanted = 0;
            if self.to_output.len() < MOST_WAITING {
                wanted |= libc::POLLIN;
            }
            if !self.to_master.is_empty() {
                wanted |= libc::POLLOUT;
            }
            // A master whose job has gone reports POLLHUP whether wanted or not: not while we cannot read.
            if wanted != 0 {
                wishes.push(Readiness::new(self.master.as_fd(), wanted));
            }
        }
        if self.output_open && !self.to_output.is_empty() {
            wishes.push(Readiness::new(self.output.as_fd(), libc::POLLOUT));
        }
        wishes
    }

    /// Carries what can be carried without waiting.
    pub fn carry(&mut self) -> io::Result<()> {
        if self.input_open
            && self.to_master.len() < MOST_WAITING
            && ready(&self.input, libc::POLLIN)?
        {
            self.read_input();
        }
        self.write_master();
        self.read_master();
        while self.output_open && !self.to_output.is_empty() && ready(&self.output, libc::POLLOUT)?
        {
            self.write_output();
        }
        if !self.output_open {
            // Nobody reads any more, as on a terminal that is gone; the job itself is not to wait for ever.
            self.to_output.clear();
        }
        Ok(())
    }

    /// Whether nothing printed waits to be shown, at this moment.
    pub fn is_drained(&self) -> io::Result<bool> {
        let printed = self.master_open && ready(&self.master, libc::POLLIN)?;
        Ok(self.to_output.is_empty() && !printed)
    }

    fn read_input(&mut self) {
        let mut room = [0; PIECE];
        match terminal::read_some(self.input.as_fd(), &mut room) {
            Ok(0) => self.end_input(),
            Ok(length) => {
                self.ends_with_line = room[length - 1] == b'\n';
                self.to_master.extend(&room[..length]);
            }
            Err(error) if again(&error) => {}
            Err(_) => self.end_input(),
        }
    }

    fn end_input(&mut self) {
        self.input_open = false;
        if self.raw.is_some() {
            // The user's terminal has gone; the hang-up signal tells the job.
            return;
        }
        if let Ok(settings) = Settings::of(self.master.as_fd())
            && settings.takes_lines()
        {
            // Within a line the first one only hands over what was typed so far (termios(3), VEOF).
            let times = if self.ends_with_line { 1 } else { 2 };
            self.to_master
                .extend(std::iter::repeat_n(settings.end_of_file(), times));
        }
    }

    fn write_master(&mut self) {
        while self.master_open && !self.to_master.is_empty() {
            let (piece, _) = self.to_master.as_slices();
            match terminal::write_some(self.master.as_fd(), &piece[..piece.len().min(PIECE)]) {
                Ok(length) => drop(self.to_master.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if again(&error) => return,
                // Nobody will read it; what was printed before may still be there to be shown.
                Err(_) => self.to_master.clear(),
            }
        }
    }

    fn read_master(&mut self) {
        let mut room = [0; PIECE];
        while self.master_open && self.to_output.len() < MOST_WAITING {
            match terminal::read_some(self.master.as_fd(), &mut room) {
                Ok(0) => self.close_master(),
                Ok(length) => self.to_output.extend(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if again(&error) => return,
                // EIO: no process has the slave side open any more.
                Err(_) => self.close_master(),
            }
        }
    }

    fn close_master(&mut self) {
        self.master_open = false;
        self.to_master.clear();
    }

    fn write_output(&mut self) {
        let (piece, _) = self.to_output.as_slices();
        match terminal::write_some(self.output.as_fd(), &piece[..piece.len().min(PIECE)]) {
            Ok(length) => drop(self.to_output.drain(..length)),
            Err(error) if again(&error) => {}
            Err(_) => self.output_open = false,
        }
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

/// Why carrying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryEnd {
    /// Every process closed the job's terminal.
    Closed,
    /// The descriptor watched became readable: the job has ended.
    Ended,
    /// This signal asks the caller to leave; the job knows nothing of it.
    Signal(i32),
}

/// Carries until the job's terminal closes, `end` (a pid descriptor) becomes readable, or SIGINT,
/// SIGTERM, SIGHUP or SIGQUIT asks to leave: what `cryo attach` does. The user's terminal is put back
/// when the carrier is dropped.
pub fn carry(
    carrier: &mut Carrier,
    end: Option<BorrowedFd<'_>>,
    signals: &WatchedSignals,
) -> Result<CarryEnd, LaunchError> {
    let system = LaunchError::system;
    loop {
        carrier.carry().map_err(system("carry the terminal"))?;
        let mut ended = false;
        {
            let mut wishes = vec![Readiness::new(signals.descriptor(), libc::POLLIN)];
            let own = end.map_or(1, |_| 2);
            wishes.extend(end.map(|end| Readiness::new(end, libc::POLLIN)));
            wishes.extend(carrier.wishes());
            terminal::wait_ready(&mut wishes, None).map_err(system("wait for events"))?;
            ended |= own == 2 && wishes[1].found != 0;
        }
        while let Some(signal) = signals.next()? {
            match signal.number {
                libc::SIGWINCH => carrier.resize().map_err(system("set the window size"))?,
                libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => {
                    return Ok(CarryEnd::Signal(signal.number));
                }
                _ => {}
            }
        }
        carrier.carry().map_err(system("carry the terminal"))?;
        let drained = carrier
            .is_drained()
            .map_err(system("look at the terminal"))?;
        if drained && ended {
            return Ok(CarryEnd::Ended);
        }
        if drained && carrier.is_closed() {
            return Ok(CarryEnd::Closed);
        }
    }
}
