//! The loop of a command that stands in the foreground for its job.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cryonaut_sys::spawn::signal::{
    self, ArrivedSignal, IntervalTimer, SignalDescriptor, SignalSet,
};
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::terminal::{self, Readiness};

use crate::LaunchError;
use crate::child::{Child, Ended, SharesSession};
use crate::nursery::Nursery;
use crate::order::Message;
use crate::terminal::Viewer;

const WATCHED: [i32; 10] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGWINCH,
    libc::SIGCHLD,
];

/// The signals a supervisor reacts to, blocked and readable. Dropping it puts the mask back.
///
/// Make it in the main thread before other threads start and before the job is born, so that no
/// Ctrl-C falls into a gap.
#[derive(Debug)]
pub struct WatchedSignals {
    descriptor: SignalDescriptor,
    before: Option<SignalSet>,
}

impl WatchedSignals {
    /// Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT, SIGWINCH and
    /// SIGCHLD in the calling thread.
    pub fn block() -> Result<WatchedSignals, LaunchError> {
        let set = SignalSet::of(&WATCHED);
        let descriptor =
            SignalDescriptor::new(set).map_err(LaunchError::system("open a signal descriptor"))?;
        let before = signal::block_signals(set).map_err(LaunchError::system("block signals"))?;
        Ok(WatchedSignals {
            descriptor,
            before: Some(before),
        })
    }

    /// Keeps them blocked for good: of a terminal that goes its users are told more than once, and who has begun to leave in order
    /// must not die of the last time.
    pub fn stay_blocked(&mut self) {
        self.before = None;
    }

    /// Readable when a signal has come.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The next signal that has come.
    pub fn next(&self) -> Result<Option<ArrivedSignal>, LaunchError> {
        self.descriptor
            .next()
            .map_err(LaunchError::system("read a signal"))
    }
}

impl Drop for WatchedSignals {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Cannot fail with a mask that the kernel gave.
            let _ = signal::set_signal_mask(before);
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The job's root ended. Everything it printed on a carried terminal has been shown.
    RootEnded(Ended),
    /// This signal stopped the job's root.
    RootStopped(i32),
    /// The job's root goes on.
    RootContinued,
    /// No process of the job is left. Known only of a job in namespaces of its own.
    AllGone,
    /// The caller got a signal; [`Supervisor::forward`] does with it what is usual.
    Signal(ArrivedSignal),
    /// The interval of [`Supervisor::tick_every`] has passed.
    Tick,
    /// The user wants to leave the job to itself: the detach keys were typed, or the terminal has gone.
    Detached,
    /// The process that held the job's terminal has gone.
    HolderLost,
    /// The user's input has ended, and the job waits for single keys on its terminal.
    Unheard,
    /// The time given to [`Supervisor::next_event`] is up.
    TimedOut,
}

/// How standing in for a job came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The job's root ended.
    Ended(Ended),
    /// The user has left; the job runs on.
    Detached,
    /// The process that held the job's terminal has gone; the job runs on.
    HolderLost,
    /// The user's input has ended, and the job waits for single keys on its terminal, which nobody will type.
    Unheard,
}

/// Stands in the foreground for a job: learns what becomes of it, passes signals on, carries its
/// terminal.
#[derive(Debug)]
pub struct Supervisor<'a> {
    nursery: &'a Nursery,
    root: Root,
    signals: WatchedSignals,
    ticks: Option<IntervalTimer>,
    viewer: Option<Viewer>,
    pending: VecDeque<Event>,
    /// Whether somebody asked the caller to stop, and the job was told to stop too.
    stopping: bool,
    /// The root's end, held back until its last output is shown.
    ended: Option<Ended>,
    /// Whether the holder of the terminal knows of it.
    told_end: bool,
    gone: bool,
}

#[derive(Debug)]
struct Root {
    pid: i32,
    inner_pid: i32,
    pidfd: OwnedFd,
    shares_session: SharesSession,
    reaped: bool,
}

impl<'a> Supervisor<'a> {
    /// Supervises the job with this root, which was started in this nursery.
    pub fn new(
        signals: WatchedSignals,
        nursery: &'a Nursery,
        root: &Child,
    ) -> Result<Supervisor<'a>, LaunchError> {
        let pidfd = root
            .pidfd
            .try_clone()
            .map_err(LaunchError::system("duplicate a descriptor"))?;
        Ok(Supervisor {
            nursery,
            root: Root {
                pid: root.pid,
                inner_pid: root.inner_pid,
                pidfd,
                shares_session: root.shares_session,
                reaped: false,
            },
            signals,
            ticks: None,
            viewer: None,
            told_end: false,
            pending: VecDeque::new(),
            stopping: false,
            ended: None,
            gone: false,
        })
    }

    /// Views the job's terminal from now on.
    pub fn attach(&mut self, viewer: Viewer) {
        self.viewer = Some(viewer);
        self.told_end = false;
    }

    /// Has the holder of the job's terminal close its master side.
    pub fn hang_up(&mut self) {
        if let Some(viewer) = &mut self.viewer {
            viewer.hang_up();
        }
    }

    /// Stops viewing; dropping the viewer puts the user's terminal back.
    pub fn detach(&mut self) -> Option<Viewer> {
        self.viewer.take()
    }

    /// Yields [`Event::Tick`] each time this interval has passed. Ticks missed come as one.
    pub fn tick_every(&mut self, interval: Duration) -> Result<(), LaunchError> {
        let ticks = IntervalTimer::every(interval).map_err(LaunchError::system("set a timer"))?;
        self.ticks = Some(ticks);
        Ok(())
    }

    /// Waits for the next event, carrying the terminal meanwhile; `None` waits for ever.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Event, LaunchError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(viewer) = &mut self.viewer {
                viewer
                    .carry()
                    .map_err(LaunchError::system("carry the terminal"))?;
                if viewer.is_unheard() {
                    self.pending.push_back(Event::Unheard);
                }
            }
            self.release_end();
            match &self.viewer {
                Some(viewer) if viewer.is_detached() => return Ok(Event::Detached),
                Some(viewer) if viewer.is_lost() && self.pending.is_empty() => {
                    return Ok(Event::HolderLost);
                }
                _ => {}
            }
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let patience = self.viewer.as_ref().and_then(Viewer::patience);
            self.wait(left.into_iter().chain(patience).min())?;
            self.look()?;
            let expired = left.is_some_and(|left| left.is_zero());
            if expired && self.pending.is_empty() && self.ended.is_none() {
                return Ok(Event::TimedOut);
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), LaunchError> {
        let mut wishes = vec![Readiness::new(self.signals.descriptor(), libc::POLLIN)];
        wishes.extend(
            self.ticks
                .as_ref()
                .map(|ticks| Readiness::new(ticks.as_fd(), libc::POLLIN)),
        );
        match self.nursery {
            Nursery::Namespace(namespaces) if !self.gone => {
                wishes.push(Readiness::new(namespaces.socket(), libc::POLLIN));
            }
            Nursery::Direct(_) if !self.root.reaped => {
                wishes.push(Readiness::new(self.root.pidfd.as_fd(), libc::POLLIN));
            }
            _ => {}
        }
        wishes.extend(self.viewer.iter().flat_map(Viewer::wishes));
        terminal::wait_ready(&mut wishes, timeout)
            .map_err(LaunchError::system("wait for events"))?;
        Ok(())
    }

    /// Turns what is there into events, without waiting.
    fn look(&mut self) -> Result<(), LaunchError> {
        while let Some(signal) = self.signals.next()? {
            self.hear(signal);
        }
        if let Some(ticks) = &self.ticks
            && ticks.fired().map_err(LaunchError::system("read a timer"))? > 0
        {
            self.pending.push_back(Event::Tick);
        }
        match self.nursery {
            Nursery::Namespace(_) => self.hear_init(),
            Nursery::Direct(_) => self.ask_kernel(),
        }
    }

    /// Takes a signal in that came for the one who stands in for the job, as if it came now.
    pub fn hear(&mut self, signal: ArrivedSignal) {
        match (signal.number, &mut self.viewer) {
            (libc::SIGCHLD, _) => {}
            (libc::SIGWINCH, Some(viewer)) => {
                // A terminal that has gone has no size.
                let _ = viewer.resize();
            }
            // The user's terminal has gone, not the job's.
            (libc::SIGHUP, Some(_)) => self.pending.push_back(Event::Detached),
            _ => self.pending.push_back(Event::Signal(signal)),
        }
    }

    fn hear_init(&mut self) -> Result<(), LaunchError> {
        let Some(namespaces) = self.nursery.namespaces() else {
            return Ok(());
        };
        while !self.gone {
            match namespaces.notice() {
                Ok(None) => break,
                Ok(Some(Message::Root(pid, status))) if pid == self.root.inner_pid => {
                    self.root_changed(status);
                }
                Ok(Some(Message::Empty)) => self.pending.push_back(Event::AllGone),
                Ok(Some(_)) => {}
                Err(LaunchError::InitGone) => {
                    self.gone = true;
                    if !self.pending.contains(&Event::AllGone) {
                        self.pending.push_back(Event::AllGone);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ask_kernel(&mut self) -> Result<(), LaunchError> {
        let changes = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
        while !self.root.reaped {
            let root = WaitFor::Descriptor(self.root.pidfd.as_fd());
            let change = spawn::wait_now(root, changes)
                .map_err(LaunchError::system("wait for the job's root"))?;
            match change {
                Some((_, status)) => self.root_changed(status),
                None => break,
            }
        }
        Ok(())
    }

    fn root_changed(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Stopped(signal) => self.pending.push_back(Event::RootStopped(signal)),
            WaitStatus::Continued => self.pending.push_back(Event::RootContinued),
            WaitStatus::Exited(_) | WaitStatus::Killed(_) => {
                self.root.reaped = true;
                self.ended = Ended::of(status);
            }
        }
    }

    /// Lets the root's end become an event once all it printed is shown, or somebody wants to leave.
    fn release_end(&mut self) {
        let Some(ended) = self.ended else {
            return;
        };
        let shown = match &mut self.viewer {
            Some(viewer) => {
                if !self.told_end {
                    viewer.tell_end(ended);
                    self.told_end = true;
                }
                viewer.over().is_some() || viewer.is_lost()
            }
            None => true,
        };
        let leaving = self
            .pending
            .iter()
            .any(|event| matches!(event, Event::Signal(_) | Event::Detached));
        if shown || leaving {
            self.ended = None;
            // Before AllGone, which may wait already.
            self.pending.push_front(Event::RootEnded(ended));
        }
    }

    /// Whoever stood in for the job leaves, and ends: no signal is to hinder that any more.
    pub fn leave(&mut self) {
        self.signals.stay_blocked();
    }

    /// Passes a signal on to the job.
    ///
    /// What a key on the terminal caused goes to the root's whole process group, as the kernel does
    /// it; anything else to the root alone. SIGTSTP becomes SIGSTOP for a root that does not catch
    /// it: in a session of its own without a shell the kernel ignores SIGTSTP (an orphaned group).
    pub fn forward(&mut self, signal: &ArrivedSignal) -> Result<(), LaunchError> {
        const SI_KERNEL: i32 = 0x80;
        let from_terminal = signal.code == SI_KERNEL;
        match signal.number {
            libc::SIGTSTP => {
                self.stopping = true;
                if self.root.shares_session == SharesSession::No {
                    let caught = self.root_catches(libc::SIGTSTP);
                    self.signal_group(if caught { libc::SIGTSTP } else { libc::SIGSTOP });
                } else if !from_terminal {
                    self.signal_root(libc::SIGTSTP);
                }
            }
            libc::SIGCONT => {
                self.stopping = false;
                self.signal_group(libc::SIGCONT);
            }
            // Of no meaning to a job that has no part in the caller's terminal.
            libc::SIGWINCH => {}
            // The key has reached the job already.
            _ if from_terminal && self.root.shares_session == SharesSession::Yes => {}
            number if from_terminal => self.signal_group(number),
            number => self.signal_root(number),
        }
        Ok(())
    }

    fn signal_root(&self, number: i32) {
        if !self.root.reaped {
            // It may just have ended, or belong to somebody else after a setuid program.
            let _ = cryonaut_sys::pidfd::send_signal(self.root.pidfd.as_fd(), number);
        }
    }

    fn signal_group(&self, number: i32) {
        if self.root.reaped {
            return;
        }
        let own = spawn::process_group(0).unwrap_or(0);
        match spawn::process_group(self.root.pid) {
            Ok(group) if group > 1 && group != own => {
                let _ = spawn::kill(-group, number);
            }
            _ => self.signal_root(number),
        }
    }

    fn root_catches(&self, number: i32) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.root.pid));
        let caught = status.ok().and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
        caught.is_some_and(|caught| SignalSet::of(&[number]).bits() & caught != 0)
    }

    /// Stops the caller too when the root stopped at a terminal's wish, so that the user's shell takes
    /// over; goes on with the job at SIGCONT. A root stopped by a plain SIGSTOP of somebody else's
    /// stops alone: whoever continues it will not know of the caller.
    fn stop_with_root(&mut self, signal: i32) -> Result<(), LaunchError> {
        let wished = matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
        // Without a shell that does job control nobody would continue us.
        let shell = spawn::process_group(0).ok() != spawn::session(0).ok();
        if !(self.stopping || wished) || !shell {
            return Ok(());
        }
        self.stopping = false;
        if let Some(viewer) = &self.viewer {
            viewer
                .suspend()
                .map_err(LaunchError::system("put the terminal back"))?;
        }
        spawn::stop_self().map_err(LaunchError::system("stop"))?;
        // SIGCONT itself is pending now and will be passed on.
        if let Some(viewer) = &mut self.viewer {
            viewer
                .resume()
                .map_err(LaunchError::system("take the terminal up again"))?;
        }
        Ok(())
    }

    /// Stands in for the job until its root ends or the user leaves. `on_tick` runs at each
    /// [`Event::Tick`], and the terminal waits for it.
    ///
    /// # Errors
    /// [`LaunchError::InitGone`] when the namespaces ended without the root's end being known.
    pub fn run(&mut self, on_tick: &mut dyn FnMut()) -> Result<Outcome, LaunchError> {
        loop {
            match self.next_event(None)? {
                Event::RootEnded(ended) => return Ok(Outcome::Ended(ended)),
                Event::Detached => return Ok(Outcome::Detached),
                Event::HolderLost => return Ok(Outcome::HolderLost),
                Event::Unheard => return Ok(Outcome::Unheard),
                Event::AllGone if self.gone && self.ended.is_none() => {
                    return Err(LaunchError::InitGone);
                }
                Event::AllGone | Event::RootContinued | Event::TimedOut => {}
                Event::RootStopped(signal) => self.stop_with_root(signal)?,
                Event::Signal(signal) => self.forward(&signal)?,
                Event::Tick => on_tick(),
            }
        }
    }
}
