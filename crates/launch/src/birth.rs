//! The way of a new process from clone to exec.
//!
//! Everything it needs is laid out before the clone ([`Prepared`]), because the parent may have
//! threads: between clone and exec the child makes system calls only. The same plan, written into
//! bytes, travels to the init of a namespace, which then is the one to clone.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use cryonaut_sys::spawn::signal::{self, SignalSet};
use cryonaut_sys::spawn::{self, CloneRequest, OnExec, Started, StringArray};
use cryonaut_sys::terminal;

use crate::LaunchError;
use crate::child::{ChildSpec, Privilege, Program, Role, Session, StopBeforeExec};
use crate::order::{Decoder, Encoder};

/// What a child was doing when it failed, by the number it reports.
pub(crate) const STEPS: [&str; 8] = [
    "start its program",
    "move its descriptors out of the way",
    "lead a session of its own",
    "take the terminal as its controlling terminal",
    "put its descriptors into place",
    "enter its working directory",
    "keep its capabilities",
    "set its signal mask",
];
pub(crate) const EXEC: u8 = 0;

/// What a child says over its report pipe, which exec closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The pipe closed without a word.
    Started,
    /// It is about to stop itself.
    Stopping,
    /// It ends now because this failed.
    Failed { step: u8, errno: i32 },
}

impl Report {
    pub(crate) const LENGTH: usize = 6;

    fn encode(self) -> [u8; Report::LENGTH] {
        let (kind, step, errno) = match self {
            Report::Started => (0, 0, 0),
            Report::Stopping => (1, 0, 0),
            Report::Failed { step, errno } => (2, step, errno),
        };
        let [a, b, c, d] = errno.to_le_bytes();
        [kind, step, a, b, c, d]
    }

    pub(crate) fn decode([kind, step, a, b, c, d]: [u8; Report::LENGTH]) -> Report {
        match kind {
            0 => Report::Started,
            1 => Report::Stopping,
            _ => Report::Failed {
                step,
                errno: i32::from_le_bytes([a, b, c, d]),
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionKind {
    Own,
    OwnWithTerminal,
    Inherit,
}

/// What a new process is to be, without the descriptors themselves: those are named by their place
/// in a list that travels beside it, in which the report pipe comes first.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) inner_pid: Option<i32>,
    pub(crate) role: Role,
    session: SessionKind,
    stop: StopBeforeExec,
    privilege: Privilege,
    signal_mask: SignalSet,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: Option<CString>,
    image: Option<usize>,
    terminal: Option<usize>,
    cgroup: Option<usize>,
    gate: Option<usize>,
    placements: Vec<(usize, RawFd)>,
    closed: Vec<RawFd>,
}

/// A birth with the caller's ends of what belongs to it.
pub(crate) struct Planned {
    pub(crate) birth: Birth,
    /// Numbers of the descriptors, in order; they belong to the specification and to `speaker`.
    pub(crate) numbers: Vec<RawFd>,
    pub(crate) listener: PipeReader,
    pub(crate) speaker: PipeWriter,
    pub(crate) gate: Option<Gate>,
}

/// What a new process waits at ([`StopBeforeExec::Gate`]).
pub(crate) struct Gate {
    /// A byte opens it; its end ends the process.
    pub(crate) opens: PipeWriter,
    /// The process' side, which stays open until the process has it.
    _waits: PipeReader,
}

impl Birth {
    pub(crate) fn plan(spec: &ChildSpec) -> Result<Planned, LaunchError> {
        let (listener, speaker) = io::pipe().map_err(LaunchError::system("open a pipe"))?;
        let mut numbers = vec![speaker.as_raw_fd()];
        let mut list = |number: RawFd| {
            numbers.push(number);
            numbers.len() - 1
        };
        let mut birth = Birth {
            inner_pid: spec.inner_pid,
            role: spec.role,
            session: SessionKind::Own,
            stop: spec.stop_before_exec,
            privilege: spec.privilege,
            signal_mask: spec.signal_mask,
            candidates: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            image: None,
            terminal: None,
            cgroup: None,
            gate: None,
            placements: Vec::new(),
            closed: Vec::new(),
        };
        let gate = match spec.stop_before_exec {
            StopBeforeExec::Gate => {
                let (waits, opens) = io::pipe().map_err(LaunchError::system("open a pipe"))?;
                birth.gate = Some(list(waits.as_raw_fd()));
                Some(Gate {
                    opens,
                    _waits: waits,
                })
            }
            StopBeforeExec::No | StopBeforeExec::Yes => None,
        };
        match &spec.session {
            Session::Own => {}
            Session::OwnWithTerminal(slave) => {
                birth.session = SessionKind::OwnWithTerminal;
                birth.terminal = Some(list(slave.as_raw_fd()));
            }
            Session::Inherit => birth.session = SessionKind::Inherit,
        }
        for (number, given) in (0..).zip(&spec.stdio) {
            match given {
                Some(descriptor) => birth
                    .placements
                    .push((list(descriptor.as_raw_fd()), number)),
                None if spawn::on_exec(number).is_ok() => {
                    birth.placements.push((list(number), number));
                }
                None => birth.closed.push(number),
            }
        }
        for (descriptor, number) in &spec.keep_descriptors {
            if *number < 0 {
                return Err(LaunchError::Invalid(format!(
                    "descriptor number {number} is negative"
                )));
            }
            birth
                .placements
                .push((list(descriptor.as_raw_fd()), *number));
        }
        birth.cgroup = spec.cgroup.as_ref().map(|cgroup| list(cgroup.as_raw_fd()));
        if let Program::Image { file, .. } = &spec.program {
            birth.image = Some(list(file.as_raw_fd()));
        }
        birth.set_program(&spec.program)?;
        Ok(Planned {
            birth,
            numbers,
            listener,
            speaker,
            gate,
        })
    }

    fn set_program(&mut self, program: &Program) -> Result<(), LaunchError> {
        match program {
            Program::Image { name, .. } => self.arguments = vec![c_string(name)?],
            Program::Exec {
                arguments,
                environment,
                directory,
            } => {
                let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
                    return Err(LaunchError::Invalid("no command was given".into()));
                };
                let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
                for (name, value) in environment {
                    match value {
                        Some(value) => variables.insert(name.clone(), value.clone()),
                        None => variables.remove(name),
                    };
                }
                self.candidates = candidates(name, variables.get(OsStr::new("PATH")))?;
                self.arguments = arguments
                    .iter()
                    .map(|a| c_string(a))
                    .collect::<Result<_, _>>()?;
                self.environment = variables
                    .into_iter()
                    .map(|(mut name, value)| {
                        name.push("=");
                        name.push(value);
                        c_string(&name)
                    })
                    .collect::<Result<_, _>>()?;
                self.directory = directory
                    .as_ref()
                    .map(|path| c_string(path.as_os_str()))
                    .transpose()?;
            }
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.number(self.inner_pid.unwrap_or(0).into());
        out.number((self.role == Role::Root).into());
        out.number(match self.session {
            SessionKind::Own => 0,
            SessionKind::OwnWithTerminal => 1,
            SessionKind::Inherit => 2,
        });
        out.number(match self.stop {
            StopBeforeExec::No => 0,
            StopBeforeExec::Yes => 1,
            StopBeforeExec::Gate => 2,
        });
        out.number((self.privilege == Privilege::Kept).into());
        out.number(self.signal_mask.bits() as i64);
        for strings in [&self.candidates, &self.arguments, &self.environment] {
            out.strings(strings);
        }
        out.strings(self.directory.as_slice());
        out.number(self.image.map_or(-1, |place| place as i64));
        out.number(self.terminal.map_or(-1, |place| place as i64));
        out.number(self.cgroup.map_or(-1, |place| place as i64));
        out.number(self.gate.map_or(-1, |place| place as i64));
        out.number(self.placements.len() as i64);
        for (place, number) in &self.placements {
            out.number(*place as i64);
            out.number((*number).into());
        }
        out.number(self.closed.len() as i64);
        for number in &self.closed {
            out.number((*number).into());
        }
        out.bytes
    }

    /// Reads what [`Birth::encode`] wrote; `None` if it is not that.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Birth> {
        let mut from = Decoder { bytes };
        let inner_pid = Some(from.number()? as i32).filter(|pid| *pid != 0);
        let role = if from.number()? == 1 {
            Role::Root
        } else {
            Role::Other
        };
        let session = match from.number()? {
            0 => SessionKind::Own,
            1 => SessionKind::OwnWithTerminal,
            _ => SessionKind::Inherit,
        };
        let stop = match from.number()? {
            0 => StopBeforeExec::No,
            1 => StopBeforeExec::Yes,
            _ => StopBeforeExec::Gate,
        };
        let privilege = if from.number()? == 1 {
            Privilege::Kept
        } else {
            Privilege::Ordinary
        };
        let signal_mask = SignalSet::from_bits(from.number()? as u64);
        let candidates = from.strings()?;
        let arguments = from.strings()?;
        let environment = from.strings()?;
        let directory = from.strings()?.into_iter().next();
        let image = usize::try_from(from.number()?).ok();
        let terminal = usize::try_from(from.number()?).ok();
        let cgroup = usize::try_from(from.number()?).ok();
        let gate = usize::try_from(from.number()?).ok();
        let mut placements = Vec::new();
        for _ in 0..from.number()? {
            placements.push((from.number()? as usize, from.number()? as RawFd));
        }
        let mut closed = Vec::new();
        for _ in 0..from.number()? {
            closed.push(from.number()? as RawFd);
        }
        Some(Birth {
            inner_pid,
            role,
            session,
            stop,
            privilege,
            signal_mask,
            candidates,
            arguments,
            environment,
            directory,
            image,
            terminal,
            cgroup,
            gate,
            placements,
            closed,
        })
    }

    /// Lays out all that the child needs, in memory that it inherits.
    pub(crate) fn prepare(self, numbers: &[RawFd]) -> Prepared {
        let shells = self
            .candidates
            .iter()
            .map(|path| {
                let start = [c"/bin/sh".to_owned(), path.clone()];
                let rest = self.arguments.iter().skip(1).cloned();
                StringArray::new(start.into_iter().chain(rest).collect())
            })
            .collect();
        let highest = self.placements.iter().map(|(_, number)| *number).max();
        Prepared {
            shells,
            arguments: StringArray::new(self.arguments.clone()),
            environment: StringArray::new(self.environment.clone()),
            lowest_free: highest.unwrap_or(0).max(2) + 1,
            numbers: numbers.to_vec(),
            not_the_childs: None,
            parent: 0,
            birth: self,
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString, LaunchError> {
    CString::new(text.as_bytes()).map_err(|_| {
        LaunchError::Invalid(format!("{} contains a zero byte", text.to_string_lossy()))
    })
}

/// The files that execvp(3) would try for this name. Those that are not there are left out, unless none is.
fn candidates(name: &OsStr, path: Option<&OsString>) -> Result<Vec<CString>, LaunchError> {
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(name)?]);
    }
    let search = path.map_or(b"/bin:/usr/bin".as_slice(), |path| path.as_bytes());
    let mut missing = None;
    let mut hidden = None;
    let mut found = Vec::new();
    for directory in search.split(|byte| *byte == b':') {
        // An empty entry means the working directory.
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        let file = OsString::from_vec([directory, b"/", name.as_bytes()].concat());
        // A relative entry counts from where the child will be, which is not known here.
        let absolute = directory[0] == b'/';
        match std::fs::metadata(&file) {
            Err(error) if absolute && error.kind() == io::ErrorKind::PermissionDenied => {
                hidden = Some(c_string(&file)?);
            }
            Err(_) if absolute => missing = Some(c_string(&file)?),
            _ => found.push(c_string(&file)?),
        }
    }
    if found.is_empty() {
        // A directory that may not be searched, such as another user's, says less than one where the
        // program is known not to be.
        found.extend(missing.or(hidden));
    }
    Ok(found)
}

/// A birth laid out in memory, ready to clone.
pub(crate) struct Prepared {
    birth: Birth,
    shells: Vec<StringArray>,
    arguments: StringArray,
    environment: StringArray,
    lowest_free: RawFd,
    numbers: Vec<RawFd>,
    /// A descriptor of the caller's that the child must not have a copy of.
    pub(crate) not_the_childs: Option<RawFd>,
    /// Who starts it, by its pid.
    parent: i32,
}

impl Prepared {
    /// Clones the caller into the new process. The error is clone3's own: `EEXIST` for a pid taken.
    pub(crate) fn start(&mut self) -> io::Result<Started> {
        let pid = self.birth.inner_pid;
        let request = CloneRequest {
            flags: 0,
            set_tid: pid.as_slice(),
            exit_signal: libc::SIGCHLD,
        };
        self.parent = std::process::id() as i32;
        // The child must not run the caller's signal handlers.
        let mask = signal::set_signal_mask(SignalSet::FULL)?;
        let started = spawn::clone_child(&request, || self.be_born());
        let restored = signal::set_signal_mask(mask);
        let started = started?;
        restored?;
        Ok(started)
    }

    fn be_born(&mut self) -> i32 {
        let (step, error) = match self.go() {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.say(Report::Failed { step, errno });
        if step == EXEC && matches!(errno, libc::ENOENT | libc::ENOTDIR) {
            127
        } else {
            126
        }
    }

    fn say(&self, report: Report) {
        // Nobody is left to tell if this fails.
        let _ = spawn::write_number(self.numbers[0], &report.encode());
    }

    fn go(&mut self) -> Result<std::convert::Infallible, (u8, io::Error)> {
        let at = |step: u8| move |error: io::Error| (step, error);
        signal::reset_signal_actions();
        if let Some(number) = self.not_the_childs {
            spawn::close_number(number).map_err(at(4))?;
        }
        for number in &mut self.numbers {
            *number = spawn::duplicate_above(*number, self.lowest_free).map_err(at(1))?;
        }
        if let Some(place) = self.birth.cgroup {
            // 0 is the writer itself. It can do without.
            let _ = spawn::write_number(self.numbers[place], b"0");
        }
        if self.birth.session != SessionKind::Inherit {
            spawn::new_session().map_err(at(2))?;
        }
        if let Some(place) = self.birth.terminal {
            terminal::set_controlling_terminal(self.numbers[place]).map_err(at(3))?;
        }
        spawn::close_on_exec_from(3).map_err(at(4))?;
        for (place, number) in &self.birth.placements {
            let from = self.numbers[*place];
            spawn::duplicate_onto(from, *number, OnExec::Keep).map_err(at(4))?;
        }
        for number in &self.birth.closed {
            spawn::close_number(*number).map_err(at(4))?;
        }
        if let Some(directory) = &self.birth.directory {
            spawn::change_directory(directory).map_err(at(5))?;
        }
        if self.birth.privilege == Privilege::Kept {
            spawn::keep_capabilities_over_exec().map_err(at(6))?;
        }
        signal::set_signal_mask(self.birth.signal_mask).map_err(at(7))?;
        if self.birth.stop == StopBeforeExec::Yes {
            // A process that waits to be traced must not wait for ever for a tracer that was killed.
            let _ = spawn::set_parent_death_signal(libc::SIGKILL);
            // It may have been killed before.
            if spawn::parent_pid() != self.parent {
                spawn::exit_now(126);
            }
            self.say(Report::Stopping);
            spawn::stop_self().map_err(at(0))?;
        }
        if let Some(place) = self.birth.gate {
            self.say(Report::Stopping);
            // Its end is that of whoever started this process: nobody knows it yet.
            if !matches!(spawn::read_number(self.numbers[place], &mut [0]), Ok(1)) {
                spawn::exit_now(126);
            }
        }
        Err((EXEC, self.execute()))
    }

    fn execute(&self) -> io::Error {
        if let Some(place) = self.birth.image {
            return spawn::execute_number(self.numbers[place], &self.arguments, &self.environment);
        }
        let mut denied = None;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for (path, shell) in self.birth.candidates.iter().zip(&self.shells) {
            last = spawn::execute(path, &self.arguments, &self.environment);
            match last.raw_os_error() {
                Some(libc::ENOEXEC) => return spawn::execute(c"/bin/sh", shell, &self.environment),
                Some(libc::EACCES) => denied = Some(libc::EACCES),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV) => {}
                _ => return last,
            }
        }
        denied.map_or(last, io::Error::from_raw_os_error)
    }
}

/// The descriptors' numbers, for a list of owned ones.
pub(crate) fn numbers_of(descriptors: &[OwnedFd]) -> Vec<RawFd> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Waits until the process is stopped, as /proc shows it; gives up when it is gone.
pub(crate) fn wait_stopped(pid: i32) -> io::Result<()> {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        match state {
            Some('T' | 't') => return Ok(()),
            Some('Z' | 'X') | None => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            // It announced the stop a few instructions before; there is no event to wait for.
            _ => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
}

/// Refuses more descriptors than one message to an init can carry.
pub(crate) fn check_count(numbers: &[RawFd]) -> Result<(), LaunchError> {
    let most = spawn::message::MOST_DESCRIPTORS - 1;
    if numbers.len() > most {
        return Err(LaunchError::Invalid(format!(
            "{} descriptors are to be passed to one process, at most {most} are possible",
            numbers.len()
        )));
    }
    Ok(())
}
