//! The process that holds a job's terminal for its viewers.
//!
//! It reads what the job prints whether anybody looks or not, keeps the end of it, and shows it to any number of viewers, who type
//! and whose windows count. It is no part of the job and not needed by it: the terminal itself is also kept open by the job's
//! init, or outside of namespaces by a keeper, from which the next holder takes it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor::poll_now;
use cryonaut_sys::terminal::{self, Readiness, Settings, WindowSize};
use cryonaut_sys::{pidfd, spawn};

use super::escape::{QuestionFilter, Questions};
use super::frame::{Frame, Link, Reading, Replay};
use super::scrollback::Scrollback;
use crate::LaunchError;
use crate::child::{Ended, pid_of};

/// How many bytes wait for a viewer, or to be typed, before no more are read.
const MOST_WAITING: usize = 64 * 1024;
/// One read and one frame of what is printed.
const PIECE: usize = 4096;
/// A viewer that takes nothing for so long is not waited for any more.
const STALLED: Duration = Duration::from_secs(5);
/// How often to look again at what nobody tells.
const MOMENT: Duration = Duration::from_millis(100);
/// How long to wait for word of how the root ended, and for viewers to take the last that was printed.
const FAREWELL: Duration = Duration::from_secs(2);
/// A program that reads single keys for so long after all input has ended is given the key for the end of file.
const SETTLED: Duration = Duration::from_millis(200);
/// And if it still reads them after so long, nobody will ever type what it waits for.
const UNHEARD: Duration = Duration::from_secs(5);

/// A terminal to be held.
#[derive(Debug)]
pub struct Holding {
    /// The master side.
    pub master: OwnedFd,
    /// The connection to whoever asked for it; it is told when all is ready, and may become a viewer.
    pub first: UnixStream,
    /// Where further viewers come.
    pub listener: Option<UnixListener>,
    /// A pid descriptor of the job's root; `None` if that has ended.
    pub root: Option<OwnedFd>,
    /// The pipe on which the job's init tells how the root ended.
    pub status: Option<OwnedFd>,
}

/// What is known of the root.
#[derive(Debug, Clone, Copy)]
enum Root {
    Lives,
    /// It has ended; how is not known yet.
    Ending(Instant),
    /// It has ended, with this exit code if that could be learnt.
    Ended(Option<u8>),
}

/// One connection.
#[derive(Debug)]
struct Guest {
    link: Link,
    /// Whether it has joined as a viewer, and when it last took something.
    joined: Option<Instant>,
    size: Option<WindowSize>,
    place: u64,
    /// Up to here it is shown what was printed before it came.
    replay_end: u64,
    filter: QuestionFilter,
    /// What it has typed while there was no room. More is not read from it; everybody else is heard.
    held: Vec<u8>,
    /// Whether it is to leave when the root has ended: it came before that.
    leaves: bool,
    told: bool,
    /// Its input, which was no terminal, has ended.
    silent: bool,
}

/// Holds a terminal until its job has ended and nobody has it open any more.
pub fn hold(holding: Holding) -> Result<(), LaunchError> {
    spawn::set_nonblocking(holding.master.as_fd())
        .map_err(LaunchError::system("hold the terminal"))?;
    if let Some(listener) = &holding.listener {
        listener
            .set_nonblocking(true)
            .map_err(LaunchError::system("wait for viewers"))?;
    }
    let mut first = Guest::new(holding.first)?;
    first.link.push(&Frame::Viewers(0));
    let mut holder = Holder {
        master: holding.master,
        listener: holding.listener,
        root: match holding.root {
            Some(_) => Root::Lives,
            None => Root::Ending(Instant::now()),
        },
        root_descriptor: holding.root,
        status: holding.status,
        open: true,
        typed: Vec::new(),
        kept: Scrollback::default(),
        guests: vec![first],
        size: None,
        over_since: None,
        silence: None,
    };
    holder.live()
}

#[derive(Debug)]
struct Holder {
    master: OwnedFd,
    listener: Option<UnixListener>,
    root: Root,
    root_descriptor: Option<OwnedFd>,
    status: Option<OwnedFd>,
    /// Whether any process has the terminal open.
    open: bool,
    typed: Vec<u8>,
    kept: Scrollback,
    guests: Vec<Guest>,
    size: Option<WindowSize>,
    over_since: Option<Instant>,
    /// While all input has ended and the job reads single keys.
    silence: Option<Silence>,
}

/// Keys are waited for, and nobody will type any.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    /// What was done about it.
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Typed,
    Told,
}

impl Guest {
    fn new(stream: UnixStream) -> Result<Guest, LaunchError> {
        Ok(Guest {
            link: Link::new(stream).map_err(LaunchError::system("talk to a viewer"))?,
            joined: None,
            size: None,
            place: 0,
            replay_end: 0,
            filter: QuestionFilter::default(),
            held: Vec::new(),
            leaves: false,
            told: false,
            silent: false,
        })
    }

    /// Whether it takes what it is shown, or did a moment ago.
    fn keeps_up(&self) -> bool {
        self.joined.is_none_or(|took| took.elapsed() < STALLED)
    }

    /// Whether to listen to it: not while much that it typed waits, unless it goes.
    fn is_heard(&self) -> bool {
        self.held.len() < MOST_WAITING
            || poll_now(self.link.as_fd(), 0).is_ok_and(|found| found & libc::POLLHUP != 0)
    }

    fn behind(&self, end: u64) -> usize {
        let behind = usize::try_from(end.saturating_sub(self.place)).unwrap_or(usize::MAX);
        behind.saturating_add(self.link.waiting())
    }
}

impl Holder {
    fn live(&mut self) -> Result<(), LaunchError> {
        loop {
            self.wait()
                .map_err(LaunchError::system("wait for events"))?;
            self.welcome();
            self.listen()?;
            // What it printed before its end is there to be read by then.
            self.learn_end();
            let printed = self.read_master();
            self.write_master();
            self.tell_end(printed);
            self.break_silence();
            self.show();
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// Whether more of what is printed may be read: every viewer that takes anything has taken most of it.
    fn may_read(&self) -> bool {
        let end = self.kept.end();
        let in_time = |guest: &Guest| {
            guest.joined.is_none() || !guest.keeps_up() || guest.behind(end) < MOST_WAITING
        };
        self.open && self.guests.iter().all(in_time)
    }

    fn wait(&self) -> io::Result<()> {
        let mut wishes = Vec::new();
        let mut timeout = None;
        wishes.extend(
            self.listener
                .as_ref()
                .map(|listener| Readiness::new(listener.as_fd(), libc::POLLIN)),
        );
        for guest in &self.guests {
            let reading = match guest.is_heard() {
                true => Reading::Wanted,
                false => Reading::Later,
            };
            if reading == Reading::Later {
                // Nothing tells that it goes.
                timeout = Some(MOMENT);
            }
            wishes.extend(guest.link.wish(reading));
        }
        let mut wanted = 0;
        if self.may_read() {
            wanted |= libc::POLLIN;
        }
        if self.open && !self.typed.is_empty() {
            wanted |= libc::POLLOUT;
        }
        if wanted != 0 {
            wishes.push(Readiness::new(self.master.as_fd(), wanted));
        } else {
            // Somebody may open the terminal again; a viewer may have stalled.
            timeout = Some(MOMENT);
        }
        match (self.root, &self.root_descriptor) {
            (Root::Lives, Some(root)) => wishes.push(Readiness::new(root.as_fd(), libc::POLLIN)),
            (Root::Ended(_), _) if !self.guests.is_empty() || !self.open => timeout = Some(MOMENT),
            (Root::Ended(_), _) => {}
            _ => timeout = Some(Duration::from_millis(10)),
        }
        if self.is_silent() {
            // Nobody tells of a change of settings.
            timeout = Some(timeout.map_or(MOMENT, |other: Duration| other.min(MOMENT)));
        }
        terminal::wait_ready(&mut wishes, timeout)?;
        Ok(())
    }

    fn welcome(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                // A stream that cannot be used is dropped, which its other end sees.
                Ok((stream, _)) => self.guests.extend(Guest::new(stream)),
                Err(_) => return,
            }
        }
    }

    fn listen(&mut self) -> Result<(), LaunchError> {
        let mut resized = false;
        for place in 0..self.guests.len() {
            if !self.guests[place].is_heard() {
                continue;
            }
            for frame in self.guests[place].link.read() {
                resized |= self.hear(place, frame);
            }
        }
        let before = self.guests.len();
        for guest in self.guests.iter_mut().filter(|guest| !guest.link.is_open()) {
            // What was typed last is to arrive, within reason.
            if self.typed.len() < 4 * MOST_WAITING {
                self.typed.append(&mut guest.held);
            }
        }
        self.guests.retain(|guest| guest.link.is_open());
        if resized || self.guests.len() < before {
            self.fit()?;
        }
        Ok(())
    }

    /// Does what a guest wants; whether that concerns windows.
    fn hear(&mut self, place: usize, frame: Frame) -> bool {
        let viewers = self.viewers();
        let lives = matches!(self.root, Root::Lives);
        let guest = &mut self.guests[place];
        match frame {
            Frame::Join(size, replay) if guest.joined.is_none() => {
                guest.joined = Some(Instant::now());
                guest.size = size;
                guest.leaves = lives;
                guest.place = self.kept.end();
                guest.replay_end = guest.place;
                if replay == Replay::Kept {
                    let (beginning, modes) = self.kept.beginning();
                    guest.place = beginning;
                    if !modes.is_empty() {
                        guest.link.push(&Frame::Printed(modes));
                    }
                }
                if size.is_some_and(|size| size.rows > 0 && size.columns > 0) {
                    self.nudge();
                }
                return true;
            }
            Frame::Resized(size) if guest.joined.is_some() => {
                guest.size = Some(size);
                return true;
            }
            Frame::Typed(bytes) if guest.joined.is_some() => {
                let room = guest.held.is_empty() && self.typed.len() < MOST_WAITING;
                let into = if room {
                    &mut self.typed
                } else {
                    &mut guest.held
                };
                into.extend(bytes);
            }
            Frame::InputEnded(times) if guest.joined.is_some() => {
                guest.silent = true;
                // For a program that reads single keys see `break_silence`.
                if let Ok(settings) = Settings::of(self.master.as_fd())
                    && settings.takes_lines()
                {
                    let ends = std::iter::repeat_n(settings.end_of_file(), usize::from(times));
                    match guest.held.is_empty() {
                        true => self.typed.extend(ends),
                        false => guest.held.extend(ends),
                    }
                }
            }
            Frame::Ask => guest.link.push(&Frame::Viewers(viewers)),
            Frame::RootEnded(code) => self.root = Root::Ended(Some(code)),
            Frame::HangUp => self.hang_up(),
            _ => {}
        }
        false
    }

    /// Whether there are viewers, and the input of all of them has ended.
    fn is_silent(&self) -> bool {
        let mut joined = self.guests.iter().filter(|guest| guest.joined.is_some());
        let waits = self.open && matches!(self.root, Root::Lives);
        waits && joined.clone().next().is_some() && joined.all(|guest| guest.silent)
    }

    /// A program that reads single keys sees no end of file. Once all input has ended it is typed the key for that, which line
    /// editors take for one; if it still reads keys then, the viewers are told.
    fn break_silence(&mut self) {
        let settings = Settings::of(self.master.as_fd()).ok();
        let keys = settings.filter(|settings| !settings.takes_lines());
        let Some(keys) = keys.filter(|_| self.is_silent() && self.typed.is_empty()) else {
            self.silence = None;
            return;
        };
        let silence = self.silence.get_or_insert(Silence {
            since: Instant::now(),
            step: Step::Nothing,
        });
        let lasts = silence.since.elapsed();
        if silence.step == Step::Nothing && lasts > SETTLED {
            silence.step = Step::Typed;
            // 0: no key has this meaning.
            self.typed
                .extend(Some(keys.end_of_file()).filter(|key| *key != 0));
        } else if silence.step == Step::Typed && lasts > UNHEARD {
            silence.step = Step::Told;
            for guest in self.guests.iter_mut().filter(|guest| guest.silent) {
                guest.link.push(&Frame::Unheard);
            }
        }
    }

    /// Closes the master side: when its keeper has done so too, the kernel tells the job.
    fn hang_up(&mut self) {
        if let Ok(nothing) = std::fs::File::open("/dev/null") {
            self.master = nothing.into();
            self.open = false;
            self.typed.clear();
        }
    }

    fn viewers(&self) -> u32 {
        let joined = self.guests.iter().filter(|guest| guest.joined.is_some());
        u32::try_from(joined.count()).unwrap_or(u32::MAX)
    }

    /// Has full-screen programs draw again for a viewer that has just come, also where the size stays the same: [`Holder::fit`]
    /// sets it right at once.
    fn nudge(&mut self) {
        if self.kept.end() > 0
            && let Ok(size) = terminal::window_size(self.master.as_fd())
            && size.rows > 1
        {
            let other = WindowSize {
                rows: size.rows - 1,
                ..size
            };
            // Without it the program draws at its next own change.
            let _ = terminal::set_window_size(self.master.as_fd(), other);
            self.size = None;
        }
    }

    /// Gives the terminal the size that every viewer can show.
    fn fit(&mut self) -> Result<(), LaunchError> {
        let sizes = self.guests.iter().filter_map(|guest| guest.size);
        let known = sizes.filter(|size| size.rows > 0 && size.columns > 0);
        let smallest = known.reduce(|one, other| {
            let pixels = |one: u16, other: u16| if one == other { one } else { 0 };
            WindowSize {
                rows: one.rows.min(other.rows),
                columns: one.columns.min(other.columns),
                width: pixels(one.width, other.width),
                height: pixels(one.height, other.height),
            }
        });
        match smallest {
            Some(size) if self.open && self.size != Some(size) => {
                self.size = Some(size);
                terminal::set_window_size(self.master.as_fd(), size)
                    .map_err(LaunchError::system("set the window size"))
            }
            Some(_) => Ok(()),
            // Nobody looks, or nobody has a window: it stays as it was.
            None => Ok(()),
        }
    }

    /// Reads what was printed.
    fn read_master(&mut self) -> Printed {
        let mut room = [0; PIECE];
        while self.may_read() || !self.open {
            match terminal::read_some(self.master.as_fd(), &mut room) {
                Ok(length) if length > 0 => {
                    self.open = true;
                    self.kept.print(&room[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.open = true;
                    return Printed::All;
                }
                // EIO: no process has the slave side open, at present.
                _ => {
                    self.open = false;
                    return Printed::All;
                }
            }
        }
        Printed::Part
    }

    fn write_master(&mut self) {
        while !self.typed.is_empty() {
            let piece = &self.typed[..self.typed.len().min(PIECE)];
            match terminal::write_some(self.master.as_fd(), piece) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.typed.clear(),
            }
            for guest in &mut self.guests {
                if self.typed.len() < MOST_WAITING {
                    self.typed.append(&mut guest.held);
                }
            }
        }
    }

    /// Learns how the root ended.
    fn learn_end(&mut self) {
        if let (Root::Lives, Some(root)) = (self.root, &self.root_descriptor)
            && poll_now(root.as_fd(), libc::POLLIN).is_ok_and(|found| found != 0)
        {
            self.root = Root::Ending(Instant::now());
        }
        if let Root::Ending(since) = self.root {
            let known = self.exit_code();
            if known.is_some() || since.elapsed() > FAREWELL {
                self.root = Root::Ended(known);
            }
        }
    }

    /// Tells the viewers of the root's end once they have been shown all it printed.
    fn tell_end(&mut self, printed: Printed) {
        let Root::Ended(code) = self.root else {
            return;
        };
        let closed = !self.open;
        let end = self.kept.end();
        for guest in &mut self.guests {
            let shown = printed == Printed::All && guest.place >= end;
            if !guest.told && guest.joined.is_some() && shown && (closed || guest.leaves) {
                guest.told = true;
                guest.link.push(&Frame::Over(code));
            }
        }
    }

    /// How the root ended, from its init or from the kernel.
    fn exit_code(&mut self) -> Option<u8> {
        if let Some(status) = &self.status {
            if poll_now(status.as_fd(), libc::POLLIN).is_ok_and(|found| found & libc::POLLIN != 0) {
                let mut code = [0];
                let mut pipe = std::fs::File::from(self.status.take()?);
                return (pipe.read(&mut code).ok()? == 1).then_some(code[0]);
            }
            return None;
        }
        let root = self.root_descriptor.as_ref()?;
        // Until its parent has waited for it /proc tells; after that, from Linux 6.15 on, its descriptor.
        let status = zombie_status(root.as_fd()).or_else(|| pidfd::exit_status(root.as_fd()))?;
        Some(Ended::of_wait_status(status).exit_code())
    }

    /// Sends viewers what they have not seen.
    fn show(&mut self) {
        let end = self.kept.end();
        // Whoever came last has the terminal that answers.
        let answers = self.guests.iter().rposition(|guest| guest.joined.is_some());
        for (place, guest) in self.guests.iter_mut().enumerate() {
            let Some(took) = &mut guest.joined else {
                guest.link.flush();
                continue;
            };
            loop {
                if guest.place < end && guest.link.waiting() < 4 * PIECE {
                    let replays = guest.place < guest.replay_end;
                    let most = match replays {
                        true => usize::try_from(guest.replay_end - guest.place)
                            .map_or(PIECE, |left| left.min(PIECE)),
                        false => PIECE,
                    };
                    let printed = self.kept.read(&mut guest.place, most);
                    let questions = match !replays && answers == Some(place) {
                        true => Questions::Pass,
                        false => Questions::Leave,
                    };
                    let shown = guest.filter.pass(printed, questions);
                    if !shown.is_empty() {
                        guest.link.push(&Frame::Printed(shown));
                    }
                }
                let sent = guest.link.flush();
                if sent > 0 || guest.link.waiting() == 0 {
                    *took = Instant::now();
                }
                if guest.link.waiting() > 0 || guest.place >= end {
                    break;
                }
            }
        }
    }

    fn is_done(&mut self) -> bool {
        let over = matches!(self.root, Root::Ended(_)) && !self.open;
        if !over {
            self.over_since = None;
            return false;
        }
        let since = *self.over_since.get_or_insert_with(Instant::now);
        let waits = |guest: &Guest| {
            guest.joined.is_some() && guest.keeps_up() && (!guest.told || guest.link.waiting() > 0)
        };
        // Whoever has only asked for the terminal to be held may still want to see what was printed.
        let undecided = |guest: &Guest| guest.joined.is_none() && since.elapsed() < FAREWELL;
        !self
            .guests
            .iter()
            .any(|guest| waits(guest) || undecided(guest))
    }
}

/// The wait status of a process that has ended and not been waited for (proc_pid_stat(5), field 52).
fn zombie_status(process: BorrowedFd<'_>) -> Option<i32> {
    let pid = pid_of(process).ok()??;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // What follows the last ')' begins with field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    fields.nth(48)?.parse().ok()
}

/// How much of what was printed has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    All,
    Part,
}
