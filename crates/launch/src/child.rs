//! What to start, and what was started.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryonaut_sys::spawn::signal::SignalSet;
use cryonaut_sys::spawn::{self, OnExec, WaitStatus};
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::LaunchError;
use crate::birth::{EXEC, Report, STEPS};

/// The program of a new process.
#[derive(Debug)]
pub enum Program {
    /// A command, found and started as execvp(3) does: a name without a slash is searched for in the
    /// caller's PATH, a file without a known format is given to /bin/sh.
    Exec {
        /// The arguments, the first one being the name of the program. Not empty.
        arguments: Vec<OsString>,
        /// Changes to the caller's environment: a value to set, or `None` to leave the name out.
        environment: Vec<(OsString, Option<OsString>)>,
        /// Where it starts; `None` for where the caller is (with [`crate::Namespaces`]: where the
        /// caller was when it made them).
        directory: Option<PathBuf>,
    },
    /// An open ELF executable, started through execveat(2) with an empty environment.
    Image {
        /// The executable, for instance a memfd.
        file: OwnedFd,
        /// Its only argument, which is what `ps` shows.
        name: OsString,
    },
}

/// The session a new process lives in.
#[derive(Debug)]
pub enum Session {
    /// It leads a new one without a terminal.
    Own,
    /// It leads a new one whose controlling terminal is this, the slave side of a pty.
    OwnWithTerminal(OwnedFd),
    /// It stays in its parent's: the caller's, or the one of the namespaces' init.
    Inherit,
}

/// Whether a new process stops itself with SIGSTOP just before it starts its program, so that a
/// tracer can seize it first, or waits there until everything else is in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopBeforeExec {
    /// It goes straight on.
    #[default]
    No,
    /// It stops; SIGCONT lets it go on. [`Child::exec_outcome`] then tells whether exec worked.
    Yes,
    /// It waits at a gate for [`Child::open_gate`], neither stopped nor traced. Should the caller end first, it ends too.
    Gate,
}

/// What becomes of capabilities at exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privilege {
    /// What the kernel does: a user other than root loses them all.
    #[default]
    Ordinary,
    /// All permitted ones are kept (as ambient ones). A rebuilding stub in a user namespace needs this to
    /// choose the pids of its own children; it must drop them before the job runs.
    Kept,
}

/// What a new process is to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Its root: how it stops and ends is reported.
    #[default]
    Root,
    /// Any other process, which is reaped in silence.
    Other,
}

/// A process to be started by [`crate::Nursery::spawn`].
#[derive(Debug)]
pub struct ChildSpec {
    /// The pid it is to have, in its own pid namespace; `None` lets the kernel choose.
    pub inner_pid: Option<i32>,
    /// What it runs.
    pub program: Program,
    /// Its session.
    pub session: Session,
    /// Its standard input, output and error; `None` for the caller's own (closed if that is closed).
    pub stdio: [Option<OwnedFd>; 3],
    /// Further descriptors, each with the number it gets. All others close at exec.
    pub keep_descriptors: Vec<(OwnedFd, RawFd)>,
    /// Whether it stops before exec.
    pub stop_before_exec: StopBeforeExec,
    /// What becomes of its capabilities.
    pub privilege: Privilege,
    /// What it is to the job.
    pub role: Role,
    /// The signals it starts with blocked.
    pub signal_mask: SignalSet,
    /// The file `cgroup.procs` of the cgroup v2 that it enters before anything else, open for writing. Where the kernel does not
    /// let it enter it stays in its parent's.
    pub cgroup: Option<OwnedFd>,
}

impl ChildSpec {
    /// Starts this program as root of the job: any pid, own session, the caller's standard
    /// descriptors, no others, no signal blocked.
    pub fn new(program: Program) -> ChildSpec {
        ChildSpec {
            inner_pid: None,
            program,
            session: Session::Own,
            stdio: [None, None, None],
            keep_descriptors: Vec::new(),
            stop_before_exec: StopBeforeExec::No,
            privilege: Privilege::Ordinary,
            role: Role::Root,
            signal_mask: SignalSet::EMPTY,
            cgroup: None,
        }
    }

    /// A command with the caller's environment, in the caller's directory.
    pub fn command<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> ChildSpec {
        ChildSpec::new(Program::Exec {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            directory: None,
        })
    }

    /// Sets a variable of its environment, or leaves it out. Of a program that is started without the caller's environment nothing
    /// is changed.
    pub fn variable(mut self, name: &str, value: Option<&str>) -> ChildSpec {
        if let Program::Exec { environment, .. } = &mut self.program {
            environment.push((name.into(), value.map(OsString::from)));
        }
        self
    }

    /// Gives it this pseudo-terminal's slave side as controlling terminal and as all three standard
    /// descriptors.
    pub fn on_terminal(mut self, slave: OwnedFd) -> io::Result<ChildSpec> {
        self.stdio = [
            Some(slave.try_clone()?),
            Some(slave.try_clone()?),
            Some(slave.try_clone()?),
        ];
        self.session = Session::OwnWithTerminal(slave);
        Ok(self)
    }

    /// How the program is called in messages.
    pub fn name(&self) -> String {
        match &self.program {
            Program::Exec { arguments, .. } => arguments
                .first()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            Program::Image { name, .. } => name.to_string_lossy().into_owned(),
        }
    }
}

/// The descriptors above 2 that the calling process would pass on at exec, with their numbers: what
/// a wrapper such as `cryo run` must hand to its command (`make`'s job server, `<(…)` of bash).
pub fn inherited_descriptors() -> io::Result<Vec<(OwnedFd, RawFd)>> {
    let mut numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut inherited = Vec::new();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // Numbers can vanish in between, the directory's own one among them.
        if matches!(spawn::on_exec(number), Ok(OnExec::Keep)) {
            inherited.push((spawn::copy_of(number)?, number));
        }
    }
    Ok(inherited)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status (0 to 255).
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// The exit code of a command that passes this on: 128 + the signal's number for a signal, as
    /// shells do.
    pub fn exit_code(self) -> u8 {
        match self {
            Ended::Exited(status) => status as u8,
            Ended::Killed(signal) => (128 + signal) as u8,
        }
    }

    /// From a wait status as wait4(2) gives it of a process that has ended.
    pub(crate) fn of_wait_status(status: i32) -> Ended {
        match status & 0x7f {
            0 => Ended::Exited(status >> 8 & 0xff),
            signal => Ended::Killed(signal),
        }
    }

    pub(crate) fn of(status: WaitStatus) -> Option<Ended> {
        match status {
            WaitStatus::Exited(status) => Some(Ended::Exited(status)),
            WaitStatus::Killed(signal) => Some(Ended::Killed(signal)),
            WaitStatus::Stopped(_) | WaitStatus::Continued => None,
        }
    }
}

/// A process that was started. Dropping it does nothing to the process.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it.
    pub pid: i32,
    /// Its pid in its own pid namespace.
    pub inner_pid: i32,
    /// A descriptor that refers to it.
    pub pidfd: OwnedFd,
    pub(crate) shares_session: SharesSession,
    pub(crate) program: String,
    pub(crate) report: Option<OwnedFd>,
    /// What opens its gate, if it waits at one.
    pub(crate) gate: Option<PipeWriter>,
}

/// Whether a child is in the caller's own session, so that keys on the terminal reach it directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharesSession {
    Yes,
    No,
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Child {
    /// Waits until a child that stopped before exec has started its program, or says why it did not.
    ///
    /// For other children [`crate::Nursery::spawn`] has waited already.
    pub fn exec_outcome(&mut self) -> Result<(), LaunchError> {
        match self.next_report()? {
            // It says so only once; what follows is about exec itself.
            Report::Stopping => self.exec_outcome(),
            report => self.failure(report),
        }
    }

    /// Lets a child go on that waits at its gate ([`StopBeforeExec::Gate`]): [`Child::exec_outcome`] tells whether it has started
    /// its program.
    pub fn open_gate(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            // Somebody may have killed it there.
            let _ = gate.write_all(b"g");
        }
    }

    /// As [`Child::exec_outcome`], if that is known within this time; whether it is. A file system can hold an exec up for ever.
    ///
    /// # Errors
    /// As [`Child::exec_outcome`].
    pub fn exec_outcome_within(&mut self, limit: Duration) -> Result<bool, LaunchError> {
        let start = Instant::now();
        while let Some(report) = &self.report {
            let left = limit.saturating_sub(start.elapsed());
            let mut told = [Readiness::new(report.as_fd(), libc::POLLIN)];
            wait_ready(&mut told, Some(left)).map_err(|source| LaunchError::System {
                what: "learn whether the program started",
                source,
            })?;
            if told[0].found == 0 {
                match left.is_zero() {
                    true => return Ok(false),
                    // A signal came.
                    false => continue,
                }
            }
            match self.next_report()? {
                Report::Stopping => {}
                report => return self.failure(report).map(|()| true),
            }
        }
        Ok(true)
    }

    pub(crate) fn failure(&self, report: Report) -> Result<(), LaunchError> {
        let Report::Failed { step, errno } = report else {
            return Ok(());
        };
        let source = io::Error::from_raw_os_error(errno);
        let program = self.program.clone();
        Err(match (step, errno) {
            (EXEC, libc::ENOENT | libc::ENOTDIR) => LaunchError::NotFound { program, source },
            (EXEC, _) => LaunchError::NotExecutable { program, source },
            _ => LaunchError::Setup {
                step: STEPS.get(usize::from(step)).copied().unwrap_or("start"),
                source,
            },
        })
    }

    pub(crate) fn next_report(&mut self) -> Result<Report, LaunchError> {
        let Some(report) = self.report.take() else {
            return Ok(Report::Started);
        };
        let mut pipe = File::from(report);
        let mut bytes = [0; Report::LENGTH];
        let outcome = pipe.read_exact(&mut bytes);
        match outcome {
            Ok(()) => {
                self.report = Some(pipe.into());
                Ok(Report::decode(bytes))
            }
            // Exec closed the pipe, or the process died before it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Report::Started),
            Err(source) => Err(LaunchError::System {
                what: "learn whether the program started",
                source,
            }),
        }
    }

    /// Sends it a signal; `ESRCH` if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        cryonaut_sys::pidfd::send_signal(self.pidfd.as_fd(), signal)
    }
}

/// The pid that a pid descriptor refers to, as /proc here numbers it; `None` once it was reaped.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    Ok(pid.filter(|pid| *pid > 0))
}
