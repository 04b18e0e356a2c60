//! Showing a held terminal on the user's, and typing into it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cryonaut_sys::terminal::{self, Readiness};

use super::frame::{Frame, Link, Reading, Replay};
use super::key::{DetachKey, KeyWatch, Typed};
use super::modes::Modes;
use super::raw::own_description;
use super::{RawMode, WindowSize, again, is_terminal, ready};
use crate::LaunchError;
use crate::child::Ended;
use crate::supervise::WatchedSignals;

/// How many bytes wait in each direction at most before no more are read.
const MOST_WAITING: usize = 64 * 1024;
/// One write never takes more, so that it does not block once poll(2) has shown room: a pipe that is
/// writable has room for this many (pipe(7), PIPE_BUF). A terminal may have room for less.
const PIECE: usize = 4096;

/// Carries bytes between a user's standard descriptors and the holder of a job's terminal.
///
/// The flags of the user's open files are left alone, because other programs share them. Dropping it takes the viewer off the
/// terminal and puts the user's back.
#[derive(Debug)]
pub struct Viewer {
    input: OwnedFd,
    /// Of our own, and never waiting, if it is a terminal that can be opened once more.
    output: OwnedFd,
    /// What is printed on is a terminal.
    on_screen: bool,
    link: Link,
    raw: Option<RawMode>,
    keys: KeyWatch,
    detached: bool,
    input_open: bool,
    output_open: bool,
    ends_with_line: bool,
    to_output: VecDeque<u8>,
    /// What the job has made of the user's terminal.
    modes: Modes,
    over: Option<Option<u8>>,
    unheard: bool,
}

/// What a viewer shows, and to whom it listens.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is shown first.
    pub replay: Replay,
    /// The keys that detach it.
    pub keys: DetachKey,
}

impl Viewer {
    /// Joins the holder at the other end of this stream. If `input` is a terminal, that goes into raw mode and its window counts;
    /// otherwise its end will be typed as the end-of-file character, at the start of a line, and to a program that reads single
    /// keys too.
    pub fn join(
        input: OwnedFd,
        output: OwnedFd,
        holder: UnixStream,
        view: View,
    ) -> io::Result<Viewer> {
        let mut link = Link::new(holder)?;
        let on_screen = is_terminal(output.as_fd());
        let screen = on_screen.then_some(output.as_fd());
        let raw = is_terminal(input.as_fd())
            .then(|| RawMode::enter(input.as_fd(), screen))
            .transpose()?;
        let output = own_description(output.as_fd()).unwrap_or(output);
        let size = size_of_window([input.as_fd(), output.as_fd()])?;
        link.push(&Frame::Join(size, view.replay));
        link.flush();
        let keys = match raw {
            Some(_) => view.keys,
            // Where nobody types, keys mean nothing.
            None => DetachKey::NONE,
        };
        Ok(Viewer {
            input,
            output,
            on_screen,
            link,
            raw,
            keys: KeyWatch::new(keys),
            detached: false,
            input_open: true,
            output_open: true,
            ends_with_line: true,
            to_output: VecDeque::new(),
            modes: Modes::default(),
            over: None,
            unheard: false,
        })
    }

    /// Tells the holder the size of the user's window, if there is one.
    pub fn resize(&mut self) -> io::Result<()> {
        if let Some(size) = size_of_window([self.input.as_fd(), self.output.as_fd()])? {
            self.link.push(&Frame::Resized(size));
            self.link.flush();
        }
        Ok(())
    }

    /// Tells the holder how the root ended, so that it knows when all is shown.
    pub fn tell_end(&mut self, ended: Ended) {
        self.link.push(&Frame::RootEnded(ended.exit_code()));
        self.link.flush();
    }

    /// Whether the detach keys were typed.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// Whether the holder has gone.
    pub fn is_lost(&self) -> bool {
        self.over.is_none() && !self.link.is_open()
    }

    /// Whether the input has ended, and the job has gone on waiting for single keys since; true once for each time that it is told.
    pub fn is_unheard(&mut self) -> bool {
        std::mem::take(&mut self.unheard)
    }

    /// Has the holder close the terminal's master side.
    pub fn hang_up(&mut self) {
        self.link.push(&Frame::HangUp);
        self.link.flush();
    }

    /// Once the root has ended and all it printed is shown: its exit code, if that is known.
    pub fn over(&self) -> Option<Option<u8>> {
        self.over.filter(|_| self.to_output.is_empty())
    }

    /// Puts the user's terminal back for as long as the caller is stopped.
    pub fn suspend(&self) -> io::Result<()> {
        self.print_apart(&self.modes.leave());
        self.raw.as_ref().map_or(Ok(()), RawMode::suspend)
    }

    /// Takes the user's terminal up again.
    pub fn resume(&mut self) -> io::Result<()> {
        self.raw.as_ref().map_or(Ok(()), RawMode::resume)?;
        self.print_apart(&self.modes.enter());
        self.resize()
    }

    /// Prints on the user's terminal what does not come from the job.
    fn print_apart(&self, text: &[u8]) {
        if self.raw.is_some()
            && self.on_screen
            && !text.is_empty()
            && ready(&self.output, libc::POLLOUT).is_ok_and(|ready| ready)
        {
            // A terminal that does not take it is stopped or gone.
            let _ = terminal::write_some(self.output.as_fd(), text);
        }
    }

    /// How long until [`Viewer::carry`] has something to do in any case.
    pub fn patience(&self) -> Option<Duration> {
        self.keys.patience()
    }

    /// What to wait for before [`Viewer::carry`] has something to do.
    pub fn wishes(&self) -> Vec<Readiness<'_>> {
        let mut wishes = Vec::new();
        if self.input_open && self.link.is_open() && self.link.waiting() < MOST_WAITING {
            wishes.push(Readiness::new(self.input.as_fd(), libc::POLLIN));
        }
        let reading = match self.to_output.len() < MOST_WAITING {
            true => Reading::Wanted,
            false => Reading::Later,
        };
        wishes.extend(self.link.wish(reading));
        if self.output_open && !self.to_output.is_empty() {
            wishes.push(Readiness::new(self.output.as_fd(), libc::POLLOUT));
        }
        wishes
    }

    /// Carries what can be carried without waiting.
    pub fn carry(&mut self) -> io::Result<()> {
        let held_back = self.keys.give_up();
        self.send(held_back);
        if self.input_open
            && self.link.waiting() < MOST_WAITING
            && ready(&self.input, libc::POLLIN)?
        {
            self.read_input();
        }
        self.link.flush();
        if self.to_output.len() < MOST_WAITING {
            for frame in self.link.read() {
                match frame {
                    Frame::Printed(bytes) => self.to_output.extend(bytes),
                    Frame::Over(code) => self.over = Some(code),
                    Frame::Unheard => self.unheard = true,
                    _ => {}
                }
            }
        }
        while self.output_open
            && !self.to_output.is_empty()
            && ready(&self.output, libc::POLLOUT)?
            && self.write_output()
        {}
        if !self.output_open {
            // Nobody reads any more, as on a terminal that is gone; the job itself is not to wait for ever.
            self.to_output.clear();
        }
        Ok(())
    }

    fn send(&mut self, typed: Vec<u8>) {
        if !typed.is_empty() {
            self.link.push(&Frame::Typed(typed));
        }
    }

    fn read_input(&mut self) {
        let mut room = [0; PIECE];
        match terminal::read_some(self.input.as_fd(), &mut room) {
            Ok(0) => self.end_input(),
            Ok(length) => {
                self.ends_with_line = room[length - 1] == b'\n';
                let (passed, typed) = self.keys.pass(&room[..length]);
                self.send(passed);
                self.detached |= typed == Typed::DetachKey;
            }
            Err(error) if again(&error) => {}
            Err(_) => self.end_input(),
        }
    }

    fn end_input(&mut self) {
        self.input_open = false;
        if self.raw.is_none() {
            // Within a line the first one only hands over what was typed so far (termios(3), VEOF).
            let times = if self.ends_with_line { 1 } else { 2 };
            self.link.push(&Frame::InputEnded(times));
        } else {
            // The user's terminal has gone.
            self.detached = true;
        }
    }

    /// Writes what is taken at once; false when nothing more is.
    fn write_output(&mut self) -> bool {
        let (piece, _) = self.to_output.as_slices();
        let piece = piece[..piece.len().min(PIECE)].to_vec();
        let before = self.modes.leave();
        self.tell_modes(&piece, before);
        match terminal::write_some(self.output.as_fd(), &piece) {
            Ok(length) => {
                self.to_output.drain(..length);
                self.modes.note(piece[..length].iter().copied());
            }
            Err(error) if again(&error) => return false,
            Err(_) => self.output_open = false,
        }
        if let Some(raw) = &self.raw {
            raw.undo(&self.modes.leave());
        }
        true
    }

    /// Before this is printed: whether it is before or after it that we are killed, the watcher knows what to undo.
    fn tell_modes(&self, piece: &[u8], mut before: Vec<u8>) {
        const ESCAPE: u8 = 0x1b;
        const SHIFT_OUT: u8 = 0x0e;
        if let Some(raw) = &self.raw
            && piece.iter().any(|byte| matches!(*byte, ESCAPE | SHIFT_OUT))
        {
            let mut after = self.modes.clone();
            after.note(piece.iter().copied());
            let text = after.leave();
            if text != before {
                before.extend(text);
            }
            raw.undo(&before);
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // What was typed last is to arrive; the holder reads at once.
        self.link.flush();
        self.print_apart(&self.modes.leave());
    }
}

fn size_of_window(user: [BorrowedFd<'_>; 2]) -> io::Result<Option<WindowSize>> {
    user.into_iter()
        .find(|descriptor| is_terminal(*descriptor))
        .map(terminal::window_size)
        .transpose()
}

/// Why viewing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewEnd {
    /// The job's root has ended, or nobody has the terminal open any more; with the exit code, if that is known.
    Over(Option<u8>),
    /// The detach keys were typed, or the user's terminal has gone.
    Detached,
    /// The holder has gone.
    Lost,
    /// This signal asks the caller to leave; the job knows nothing of it.
    Signal(i32),
}

/// Views until the job ends, the user leaves, or SIGINT, SIGTERM, SIGHUP or SIGQUIT asks to leave: what `cryo attach` does.
pub fn view(viewer: &mut Viewer, signals: &WatchedSignals) -> Result<ViewEnd, LaunchError> {
    let system = LaunchError::system;
    loop {
        viewer.carry().map_err(system("carry the terminal"))?;
        if let Some(code) = viewer.over() {
            return Ok(ViewEnd::Over(code));
        }
        if viewer.is_detached() {
            return Ok(ViewEnd::Detached);
        }
        if viewer.is_lost() {
            return Ok(ViewEnd::Lost);
        }
        {
            let mut wishes = vec![Readiness::new(signals.descriptor(), libc::POLLIN)];
            wishes.extend(viewer.wishes());
            terminal::wait_ready(&mut wishes, viewer.patience())
                .map_err(system("wait for events"))?;
        }
        while let Some(signal) = signals.next()? {
            match signal.number {
                libc::SIGWINCH => viewer.resize().map_err(system("set the window size"))?,
                libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => {
                    return Ok(ViewEnd::Signal(signal.number));
                }
                libc::SIGTSTP => {
                    viewer.suspend().map_err(system("put the terminal back"))?;
                    cryonaut_sys::spawn::stop_self().map_err(system("stop"))?;
                    viewer
                        .resume()
                        .map_err(system("take the terminal up again"))?;
                }
                _ => {}
            }
        }
    }
}

/// How many viewers the holder at the other end of this stream has; `None` if it does not say so in time.
pub fn ask_for_viewers(holder: UnixStream, patience: Duration) -> Option<u32> {
    let mut link = Link::new(holder).ok()?;
    link.push(&Frame::Ask);
    await_viewers(&mut link, patience)
}

/// Waits until a holder that was just started says that it is ready.
pub fn await_holder(holder: &UnixStream, patience: Duration) -> bool {
    holder
        .try_clone()
        .ok()
        .and_then(|copy| await_viewers(&mut Link::new(copy).ok()?, patience))
        .is_some()
}

fn await_viewers(link: &mut Link, patience: Duration) -> Option<u32> {
    let start = std::time::Instant::now();
    loop {
        link.flush();
        for frame in link.read() {
            if let Frame::Viewers(count) = frame {
                return Some(count);
            }
        }
        let left = patience.saturating_sub(start.elapsed());
        if !link.is_open() || left.is_zero() {
            return None;
        }
        let mut wishes: Vec<Readiness<'_>> = link.wish(Reading::Wanted).into_iter().collect();
        terminal::wait_ready(&mut wishes, Some(left)).ok()?;
    }
}
