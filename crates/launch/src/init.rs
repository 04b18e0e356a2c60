//! The init of a job's namespaces: pid 1 in them, forked from `cryo` without exec.
//!
//! It starts processes on request, reaps what ends, passes on signals that come from outside, and
//! knows nothing else. It is single-threaded. All its signals are blocked: a process of the job
//! cannot harm it, and from outside only SIGKILL and SIGSTOP have their usual effect.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cryonaut_sys::spawn::message::{self, Waiting};
use cryonaut_sys::spawn::signal::{self, SignalDescriptor, SignalSet};
use cryonaut_sys::spawn::{self, OnExec, WaitFor, WaitStatus};
use cryonaut_sys::terminal::{self, Readiness};

use crate::birth::{Birth, numbers_of};
use crate::child::{Ended, Role};
use crate::namespace::{
    Failure, Lifetime, NamespaceRequest, Step, TOLD_STATUS, Terminals, at, say, say_failure,
};
use crate::order::{self, Message, Request};

/// Signals that init passes on to the root when they come from outside.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// More unread notices of stops than this are not kept; how the root ends always is.
const MOST_OWED: usize = 64;

/// Lives as init; never returns. The processes of the job get pids from `first` on.
pub(crate) fn run(socket: BorrowedFd<'_>, request: &NamespaceRequest, first: i32) -> ! {
    match Init::set_up(socket, request) {
        Ok(mut init) => {
            // Programs take their pid for unique on the machine, and name what they share after it in places that all jobs see:
            // Open MPI its files in /tmp and /dev/shm. Where the number cannot be chosen they begin with 2.
            let _ = spawn::choose_next_id(first);
            say(init.link(), Message::Ready);
            // Without its loop init is of no use, and its end frees everything.
            let status = init.live().unwrap_or(125);
            spawn::exit_now(status)
        }
        Err(failure) => {
            say_failure(socket, &failure);
            spawn::exit_now(1)
        }
    }
}

/// Mounts a /dev/pts with no terminal in it. New ones get the permissions that they got here; those of a group only where that
/// group exists for us.
fn mount_terminals() -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let here = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let is_it = fields.next()? == "/dev/pts" && fields.next()? == "devpts";
        is_it.then(|| fields.next()).flatten()
    });
    let kept = here
        .unwrap_or_default()
        .split(',')
        .filter(|option| option.starts_with("gid=") || option.starts_with("mode="));
    let kept: Vec<&str> = kept.collect();
    let like_here = format!("newinstance,ptmxmode=0666,{}", kept.join(","));
    let mount = |options: &str| {
        let options = CString::new(options.trim_end_matches(',')).map_err(io::Error::other)?;
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        spawn::mount_with(
            c"devpts",
            c"/dev/pts",
            Some(c"devpts"),
            flags,
            Some(&options),
        )
    };
    match mount(&like_here) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            mount("newinstance,ptmxmode=0666,mode=0600")
        }
        outcome => outcome,
    }
}

struct Init {
    /// To the supervisor; `connected` says whether it is still there.
    socket: OwnedFd,
    connected: bool,
    lifetime: Lifetime,
    signals: SignalDescriptor,
    root: Option<i32>,
    /// The root's exit code, which becomes init's own.
    status: i32,
    /// Whether a process was ever started.
    started: bool,
    /// Whether a child was announced that the supervisor has not looked at yet; nothing is reaped then.
    unseen: bool,
    /// Whether the supervisor was told that no child is left.
    told_empty: bool,
    owed: VecDeque<Message>,
}

impl Init {
    fn set_up(socket: BorrowedFd<'_>, request: &NamespaceRequest) -> Result<Init, Failure> {
        let setup = at(Step::Setup);
        signal::set_signal_mask(SignalSet::FULL).map_err(&setup)?;
        // Keys on the user's terminal must not reach it.
        spawn::new_session().map_err(&setup)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        spawn::mount(c"proc", c"/proc", Some(c"proc"), flags).map_err(at(Step::Proc))?;
        if request.terminals == Terminals::Fresh {
            mount_terminals().map_err(at(Step::Terminals))?;
        }
        spawn::allow_inspection().map_err(&setup)?;
        spawn::set_thread_name(c"cryo-init").map_err(&setup)?;
        // A name in `ps` is a courtesy.
        let _ = spawn::set_command_line("cryo-init");
        let socket = spawn::copy_of(socket.as_raw_fd()).map_err(&setup)?;
        let kept = socket.as_raw_fd() as u32;
        // Their owners were copied along from the caller's memory and are never dropped here.
        spawn::close_range(3, kept - 1).map_err(&setup)?;
        spawn::close_range(kept + 1, u32::MAX).map_err(&setup)?;
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(&setup)?;
        for number in 0..3 {
            spawn::duplicate_onto(null.as_raw_fd(), number, OnExec::Close).map_err(&setup)?;
        }
        let mut watched = PASSED_ON.to_vec();
        watched.push(libc::SIGCHLD);
        let signals = SignalDescriptor::new(SignalSet::of(&watched)).map_err(&setup)?;
        Ok(Init {
            socket,
            connected: true,
            lifetime: request.lifetime,
            signals,
            root: None,
            status: 0,
            started: false,
            unseen: false,
            told_empty: false,
            owed: VecDeque::new(),
        })
    }

    fn link(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Works until it is time to end; returns the exit status.
    fn live(&mut self) -> io::Result<i32> {
        loop {
            let (signalled, spoken_to) = self.wait()?;
            if signalled {
                self.pass_signals_on()?;
            }
            if spoken_to {
                self.listen();
            }
            let empty = !self.unseen && self.reap()?;
            self.pay();
            if !self.connected && self.lifetime == Lifetime::WithSupervisor {
                return Ok(self.status);
            }
            let finished = empty && self.started && self.lifetime == Lifetime::Independent;
            if !self.connected && empty || finished && self.owed.is_empty() {
                return Ok(self.status);
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut wishes = vec![Readiness::new(self.signals.as_fd(), libc::POLLIN)];
        if self.connected {
            let answer = if self.owed.is_empty() {
                0
            } else {
                libc::POLLOUT
            };
            wishes.push(Readiness::new(self.link(), libc::POLLIN | answer));
        }
        terminal::wait_ready(&mut wishes, None)?;
        let spoken_to = wishes
            .get(1)
            .is_some_and(|wish| wish.found & !libc::POLLOUT != 0);
        Ok((wishes[0].found != 0, spoken_to))
    }

    fn pass_signals_on(&self) -> io::Result<()> {
        while let Some(signal) = self.signals.next()? {
            // Sender 0 lies outside. Signals from within are the job's own affair, and SIGCHLD is ours.
            if signal.number != libc::SIGCHLD
                && signal.sender == 0
                && let Some(root) = self.root
            {
                // The root may just have ended.
                let _ = spawn::kill(root, signal.number);
            }
        }
        Ok(())
    }

    /// Reaps what has ended; whether no child is left.
    fn reap(&mut self) -> io::Result<bool> {
        let changes = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
        loop {
            match spawn::wait_now(WaitFor::Any, changes) {
                Ok(Some((pid, status))) => self.note(pid, status),
                Ok(None) => {
                    self.told_empty = false;
                    return Ok(false);
                }
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    if self.started && !self.told_empty {
                        self.told_empty = true;
                        self.owed.push_back(Message::Empty);
                    }
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, pid: i32, status: WaitStatus) {
        if self.root != Some(pid) {
            return;
        }
        if let Some(ended) = Ended::of(status) {
            self.status = ended.exit_code().into();
            self.root = None;
            // Whoever views the job's terminal hears of it this way; a job without one has no such pipe.
            let _ = spawn::write_number(TOLD_STATUS, &[ended.exit_code()]);
        } else if self.owed.len() >= MOST_OWED {
            return;
        }
        self.owed.push_back(Message::Root(pid, status));
    }

    /// Sends what is owed to the supervisor, as far as it takes it.
    fn pay(&mut self) {
        while self.connected
            && let Some(message) = self.owed.front()
        {
            match message::send_message(self.link(), &message.encode(), &[], Waiting::Never) {
                Ok(()) => drop(self.owed.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.connected = false,
            }
        }
        if !self.connected {
            self.owed.clear();
            self.unseen = false;
        }
    }

    /// Serves one request.
    fn listen(&mut self) {
        let mut room = [0; order::LENGTH];
        let (request, descriptors) =
            match message::receive_message(self.link(), &mut room, Waiting::Never) {
                Ok((length, descriptors)) => (Request::decode(&room[..length]), descriptors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => (None, Vec::new()),
            };
        let reply = match request {
            Some(Request::Spawn) => return self.give_birth(descriptors),
            Some(Request::Seen) => {
                self.unseen = false;
                return;
            }
            Some(Request::LiveWithSupervisor) => {
                self.lifetime = Lifetime::WithSupervisor;
                Message::Done
            }
            Some(Request::LiveIndependently) => {
                self.lifetime = Lifetime::Independent;
                Message::Done
            }
            Some(Request::Hold(number)) => hold(&descriptors, number),
            Some(Request::Adopt(pid)) => {
                self.root = Some(pid);
                Message::Done
            }
            Some(Request::NextId(id)) => match spawn::choose_next_id(id) {
                Ok(()) => Message::Done,
                Err(error) => Message::NotDone(error.raw_os_error().unwrap_or(libc::EIO)),
            },
            None => {
                // The supervisor is gone, or speaks another language, which is as good.
                self.connected = false;
                self.unseen = false;
                return;
            }
        };
        say(self.link(), reply);
    }

    fn give_birth(&mut self, descriptors: Vec<OwnedFd>) {
        match clone_from_orders(descriptors) {
            Ok((started, role)) => {
                self.started = true;
                self.told_empty = false;
                self.unseen = true;
                if role == Role::Root {
                    self.root = Some(started.pid);
                }
                let born = Message::Born(started.pid).encode();
                let pidfd = [started.pidfd.as_raw_fd()];
                if message::send_message(self.link(), &born, &pidfd, Waiting::Block).is_err() {
                    self.unseen = false;
                }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                say(self.link(), Message::NotBorn(errno));
            }
        }
    }
}

fn clone_from_orders(descriptors: Vec<OwnedFd>) -> io::Result<(spawn::Started, Role)> {
    let mut descriptors = descriptors.into_iter();
    let orders = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
    let descriptors: Vec<OwnedFd> = descriptors.collect();
    let mut bytes = Vec::new();
    File::from(orders).read_to_end(&mut bytes)?;
    let birth = Birth::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    let role = birth.role;
    let mut prepared = birth.prepare(&numbers_of(&descriptors));
    Ok((prepared.start()?, role))
}

fn hold(descriptors: &[OwnedFd], number: i32) -> Message {
    let Some(descriptor) = descriptors.first() else {
        return Message::NotDone(libc::EBADF);
    };
    match spawn::duplicate_onto(descriptor.as_raw_fd(), number, OnExec::Close) {
        Ok(()) => Message::Done,
        Err(error) => Message::NotDone(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}
