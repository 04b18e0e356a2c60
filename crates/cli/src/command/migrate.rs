//! `cryo migrate`: moves a job to another machine.

mod side;

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use cryonaut_engine::Error;
use cryonaut_engine::checkpoint::{
    self, CheckpointReport, CheckpointRequest, Output, Packing, Progress as Step, Receiver, Tracer,
};
use cryonaut_engine::freeze::Afterwards;
use cryonaut_engine::reference::Hashing;
use cryonaut_image::LEVELS;
use cryonaut_launch::registry::check_name;
use cryonaut_launch::{Child, ChildSpec, Direct, WatchedSignals};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::signal::SignalSet;
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::terminal::{Readiness, wait_ready};
use serde::Serialize;

use self::side::{Side, about_files};
use super::checkpoint::EmbeddingArguments;
use super::restart::Taking;
use super::run::interval;
use crate::apart::apart;
use crate::console::{Console, clean};
use crate::exit::{self, Code, Failure};
use crate::handover::{
    Accepted, Commit, Complete, Hello, Offer, PROTOCOL, Ready, Running, node, restart_options,
    token,
};
use crate::interrupt::stoppable_by;
use crate::job;
use crate::kept::quoted;
use crate::line::{Beating, Kind, Line, Trouble};
use crate::notify::NotifyArguments;
use crate::original::{Notes, Original, Stage, Standing};
use crate::progress::{Count, Progress};
use crate::subject::{ExternalArguments, Subject, TargetArguments};
use crate::units::{self, size};
use crate::when;

/// The longest that ssh may take to connect, with passwords asked for.
const CONNECTING: Duration = Duration::from_secs(300);
/// How many times the patience the other side may take to rebuild the job, while it says that it is at work.
const AT_WORK: u32 = 10;
/// How long the end of the original's init is waited for, where the copy is to run on this very machine.
const SAME_MACHINE: Duration = Duration::from_millis(500);
/// How long the transport has to end by itself.
const LEAVE: Duration = Duration::from_secs(5);

/// Moves a job to another machine
///
/// It goes over one connection of ssh, which runs `cryo receive` on HOST. The job stands still, its image goes there, is verified and
/// rebuilt, stopped; then the original is killed, and the copy let go. If anything fails before that, or cryo is killed, the job runs
/// on here. There are never two running copies, and always one that can be had: if the connection is lost in between, the image
/// stays on HOST, and cryo says how to bring it back. A job on a terminal runs detached there, until
/// `ssh -t HOST cryo attach NAME`.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED_FOR_MIGRATE)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The machine, as ssh names it: HOST or USER@HOST
    #[arg(value_name = "HOST", required_unless_present = "via", value_hint = ValueHint::Hostname)]
    host: Option<String>,
    /// Further arguments of ssh, after --: `-- -p 2222 -i KEY`
    #[arg(last = true, value_name = "SSH ARGUMENT", conflicts_with = "via")]
    ssh: Vec<OsString>,
    /// The command cryo on the other machine
    #[arg(
        long,
        value_name = "PATH",
        default_value = "cryo",
        conflicts_with = "via"
    )]
    remote_cryo: String,
    /// Instead of ssh, run this command with sh: its input and output must lead to a `cryo receive` that it, or somebody, runs
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    via: Option<String>,
    /// The name that the job has there [default: the one it has here, with a number if that is taken there]
    #[arg(long)]
    name: Option<String>,
    /// Compress the memory on the way, with zstd at this level (1, the fastest, to 19, the smallest)
    #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = clap::value_parser!(i32).range(*LEVELS.start() as i64..=*LEVELS.end() as i64))]
    compress: i32,
    /// Do not compress, for connections that are faster than the processor
    #[arg(long, conflicts_with = "compress")]
    no_compress: bool,
    /// For how long nothing need move, on the way or there, before the move is given up and the job runs on here; the other side
    /// may be at work on the image ten times as long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = interval)]
    patience: Duration,
    #[command(flatten)]
    taking: Taking,
    #[command(flatten)]
    embedding: EmbeddingArguments,
    #[command(flatten)]
    external: ExternalArguments,
    #[command(flatten)]
    notify: NotifyArguments,
}

/// What was moved.
#[derive(Serialize, Debug)]
struct Report {
    /// Where to.
    host: String,
    /// Its name in the list there.
    job: Option<String>,
    /// Its root's pid, as it is seen there.
    pid: i32,
    /// Whether it has a terminal of its own there.
    terminal: bool,
    processes: usize,
    threads: usize,
    /// What went over the connection.
    bytes: u64,
    still_seconds: f64,
    total_seconds: f64,
    remarks: Vec<String>,
}

impl Arguments {
    /// Moves it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let start = Instant::now();
        let side = self.side()?;
        // A job that cannot be found or is our own is known before anybody is called.
        let subject = self.find()?;
        let label = label_of(&subject);
        let signals = WatchedSignals::block()?;
        let (transport, mut line) = self.connect(&side)?;
        let stop = line.stop.clone();
        let met = stoppable_by(&signals, &stop, || self.meet(&mut line, &side, label))?;
        let accepted = match met {
            Ok(accepted) => accepted,
            Err((failure, trouble)) => {
                drop(line);
                return Err(side.unreached(failure, trouble, transport));
            }
        };
        drop(signals);
        let image = accepted.image.clone();
        let original = Original::of(&subject);
        drop(subject);
        let (notes, reader) = Notes::new()?;
        let done = apart(|| {
            let moved = self.go((line, accepted, notes), (&side, &original), start, console);
            match moved {
                Ok(()) => 0,
                Err(failure) => {
                    console.failure(&failure);
                    failure.status
                }
            }
        });
        let done = done.and_then(|status| match status {
            // It panicked (`fork_child`).
            exit::INSTEAD_OF_JOB => Err(Failure::new(
                Code::Unexpected,
                "what moved the job ended unexpectedly: please report it",
            )),
            status => Ok(status),
        });
        let judged = done.map_err(|failure| {
            // It was killed, or never began.
            let noted = reader.read();
            side.judge(failure, noted, &original, &image)
        });
        end(transport, LEAVE);
        judged
    }

    fn side(&self) -> Result<Side, Failure> {
        let ssh = match (&self.host, &self.via) {
            (_, Some(_)) => None,
            (Some(host), None) if host.starts_with('-') || host.is_empty() => {
                return Err(Failure::usage(format!("{host:?} is no name of a host")));
            }
            (Some(host), None) => {
                let mut words: Vec<String> = vec!["ssh".into()];
                words.extend(self.ssh.iter().map(|word| quoted(&word.to_string_lossy())));
                words.push(quoted(host));
                Some((words, quoted(&self.remote_cryo)))
            }
            (None, None) => return Err(Failure::usage("no HOST was given")),
        };
        let restart_options = restart_options(&self.taking, self.name.as_deref());
        let host = self.host.clone().unwrap_or("the other side".into());
        Ok(Side {
            host,
            ssh,
            embeds: self.embedding.hashing(),
            restart_options,
            same_machine: Cell::new(false),
        })
    }

    fn find(&self) -> Result<Subject, Failure> {
        let mut subject = Subject::find(&self.target.target, self.target.scope)?;
        subject.target.external = self.external.chosen_for_move();
        subject.target.embedding = Arc::new(self.embedding.chosen()?);
        subject.target.hashing = match self.embedding.hashing() {
            true => Hashing::Content,
            false => Hashing::None,
        };
        let known = subject.job.as_ref().map(|job| job.notification);
        subject.target.notification = self.notify.over(known.unwrap_or_default());
        let pids = subject.target.pids();
        let mut ancestor = spawn::parent_pid();
        while ancestor > 1 {
            if pids.contains(&ancestor) {
                return Err(Failure::usage(
                    "this cryo is part of the job that it is to move, and would move its own connection: call it from outside, \
                     such as another terminal",
                ));
            }
            let above = ProcessDirectory::open(ancestor).and_then(|found| found.stat());
            ancestor = above.map_or(0, |stat| stat.ppid);
        }
        Ok(subject)
    }

    /// Starts what carries the bytes. Keys on the terminal do not reach it: the move ends in order.
    fn connect(&self, side: &Side) -> Result<(Child, Line), Failure> {
        let failed = "make a pipe";
        let (theirs_in, ours_out) = io::pipe().map_err(Failure::system(failed))?;
        let (ours_in, theirs_out) = io::pipe().map_err(Failure::system(failed))?;
        let mut words: Vec<OsString> = Vec::new();
        match (&self.via, &side.ssh) {
            (Some(command), _) => words.extend(["sh".into(), "-c".into(), command.into()]),
            (None, Some((_, cryo))) => {
                words.extend(["ssh".into(), "-T".into()]);
                words.extend(self.ssh.iter().cloned());
                words.push(side.host.clone().into());
                words.push(format!("{cryo} receive").into());
            }
            (None, None) => return Err(Failure::usage("no HOST was given")),
        }
        let mut spec = ChildSpec::command(words);
        spec.session = cryonaut_launch::Session::Inherit;
        spec.stdio = [
            Some(OwnedFd::from(theirs_in)),
            Some(OwnedFd::from(theirs_out)),
            None,
        ];
        spec.signal_mask =
            SignalSet::of(&[libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP]);
        let transport = Direct.spawn(&spec)?;
        let (from, to) = (OwnedFd::from(ours_in), OwnedFd::from(ours_out));
        let patience = match side.ssh {
            Some(_) => CONNECTING.max(self.patience),
            None => self.patience,
        };
        let line = Line::new(File::from(from), File::from(to), patience);
        Ok((transport, line))
    }

    /// Hears who is there, and says what is to come.
    fn meet(
        &self,
        line: &mut Line,
        side: &Side,
        label: String,
    ) -> Result<Accepted, (Failure, Option<Trouble>)> {
        let told = |trouble: Trouble| (side.failure(&trouble), Some(trouble));
        let hello = line.await_greeting().map_err(|(trouble, noise)| {
            let said = match noise.is_empty() {
                true => String::new(),
                false => format!(" (it said: {})", beginning(&noise)),
            };
            let failure = Failure::new(
                Code::Failed,
                format!(
                    "no `cryo receive` answers at {}: {trouble}{said}",
                    side.host
                ),
            );
            (failure, Some(trouble))
        })?;
        // Nobody types a password any more.
        line.patience = self.patience;
        let hello: Hello = hello.read().map_err(told)?;
        if hello.protocol != PROTOCOL || hello.architecture != std::env::consts::ARCH {
            let failure = Failure::new(
                Code::Image,
                format!(
                    "{} has cryo {} for {}, this is cryo {} for {}: they cannot pass a job on",
                    side.host,
                    hello.version,
                    hello.architecture,
                    env!("CARGO_PKG_VERSION"),
                    std::env::consts::ARCH
                ),
            );
            return Err((failure, None));
        }
        side.same_machine.set(hello.node == node());
        let offer = Offer {
            version: env!("CARGO_PKG_VERSION").into(),
            node: node(),
            name: self.name.clone(),
            label,
            taking: self.taking.clone(),
            patience: self.patience,
        };
        line.send(Kind::Offer, &offer).map_err(told)?;
        let accepted = line.expect(Kind::Accepted).map_err(told)?;
        accepted.read().map_err(told)
    }

    /// The move itself, in a process apart: should the one that is known by its number be killed, this one ends in order what cannot
    /// be left half done.
    fn go(
        self,
        (line, accepted, notes): (Line, Accepted, Notes),
        (side, original): (&Side, &Original),
        start: Instant,
        console: Console,
    ) -> Result<(), Failure> {
        let signals = WatchedSignals::block()?;
        let subject = self.find()?;
        let stop = line.stop.clone();
        // Until the first byte is sent: the memory of a job is copied first.
        let beating = line.beat().map_err(Failure::system("start a thread"))?;
        let line = Rc::new(RefCell::new(Sending {
            line,
            beating: Some(beating),
            notes,
            bytes: 0,
            trouble: None,
            sent: false,
            ready: None,
        }));
        let init = subject.job.as_ref().and_then(|job| job.init);
        let request = CheckpointRequest {
            job_name: subject.job_name(),
            generation: subject.job.as_ref().map_or(0, |job| job.generation),
            target: subject.target,
            afterwards: Afterwards::Kill,
            output: Output::Receiver(Box::new(Shared(Rc::clone(&line)))),
            tracer: Tracer::Apart,
            packing: Packing {
                compress: (!self.no_compress).then_some(self.compress),
                envelope: None,
            },
        };
        // It leaves the terminal when the copy runs: nothing waits for a terminal that takes no more.
        let progress = Progress::new(console, Count::Written, "freezing");
        let moved = stoppable_by(&signals, &stop, || {
            checkpoint::checkpoint(request, &stop, &mut |step| show(&progress, step))
        })?;
        let mut sending = line.borrow_mut();
        // What is under way now is ended, whoever wants it to stop.
        sending.line.stop = Arc::default();
        let report = match moved {
            Ok(report) => report,
            Err(error) => return Err(sending.undo(error, (side, original), &accepted)),
        };
        // Should even this not be noted, it is seen that the job has ended.
        let _ = sending.notes.reached(Stage::Ended);
        if side.same_machine.get() {
            // There the job is to have its name.
            job::await_init(init, SAME_MACHINE);
        }
        let running = sending.commit().map_err(|trouble| {
            let why = match side.failure(&trouble).message {
                why if matches!(trouble, Trouble::Told(_)) => why,
                why => format!("it was not heard whether the copy runs: {why}"),
            };
            let gone = side.gone(&accepted.image);
            Failure::new(Code::Elsewhere, format!("{why}; {gone}"))
        })?;
        drop((sending, progress));
        tell((report, running), side, start, console);
        Ok(())
    }
}

fn show(progress: &Progress, step: Step) {
    match step {
        Step::Telling => progress.now("waiting for programs to get ready"),
        Step::Frozen => progress.now("collecting"),
        Step::Copying(bytes) => {
            progress.now("copying memory");
            progress.expect(bytes);
        }
        Step::Handing => progress.now("sending"),
        Step::Answering => progress.now("rebuilding there"),
        Step::Released | Step::Sent(_) => {}
    }
}

fn tell(
    (report, running): (CheckpointReport, Running),
    side: &Side,
    start: Instant,
    console: Console,
) {
    let still = report.still;
    let mut remarks = report.remarks;
    remarks.extend(report.warnings);
    remarks.extend(running.remarks.iter().map(|remark| clean(remark)));
    for remark in &remarks {
        console.remark(remark);
    }
    let report = Report {
        host: side.host.clone(),
        // It comes from there, and is pasted into a shell.
        job: running.name.filter(|name| check_name(name).is_ok()),
        pid: running.pid,
        terminal: running.terminal,
        processes: report.processes,
        threads: report.threads,
        bytes: report.bytes,
        still_seconds: still.as_secs_f64(),
        total_seconds: start.elapsed().as_secs_f64(),
        remarks,
    };
    if let Err(failure) = console.result(&report, || report.text(side)) {
        console.warning(&format!(
            "the job runs on {}, but: {}",
            side.host, failure.message
        ));
    }
}

impl Report {
    fn text(&self, side: &Side) -> String {
        let name = self.job.as_deref().unwrap_or("without a name");
        let attach = match (&self.job, self.terminal) {
            (Some(name), true) => format!(
                "\nit has a terminal there, with nobody at it: {}",
                side.command(&format!("attach {name}"), "-t")
            ),
            _ => String::new(),
        };
        format!(
            "moved {} with {}, {}; running on {}: {name}, pid {}\nstood still for {}, took {} in all{attach}",
            units::count(self.processes, "process", "processes"),
            units::count(self.threads, "thread", "threads"),
            size(self.bytes),
            self.host,
            self.pid,
            when::short(Duration::from_secs_f64(self.still_seconds)),
            when::short(Duration::from_secs_f64(self.total_seconds)),
        )
    }
}

/// What a job is called in file names.
fn label_of(subject: &Subject) -> String {
    match subject.job_name() {
        name if name.is_empty() => format!("process-{}", subject.target.named),
        name => name,
    }
}

/// The beginning of what somebody said, in one line.
fn beginning(text: &str) -> String {
    const LETTERS: usize = 200;
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(LETTERS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Waits a moment for the transport to end by itself, and ends it.
fn end(transport: Child, patience: Duration) -> Option<WaitStatus> {
    let mut gone = [Readiness::new(transport.pidfd.as_fd(), libc::POLLIN)];
    // Signals wake it early; they are blocked here.
    let _ = wait_ready(&mut gone, Some(patience));
    if gone[0].found == 0 {
        let _ = transport.signal(libc::SIGTERM);
        let mut gone = [Readiness::new(transport.pidfd.as_fd(), libc::POLLIN)];
        let _ = wait_ready(&mut gone, Some(LEAVE));
        if gone[0].found == 0 {
            let _ = transport.signal(libc::SIGKILL);
        }
    }
    let ended = spawn::wait_for(WaitFor::Pid(transport.pid), libc::WEXITED);
    ended.ok().map(|(_, status)| status)
}

/// A job on its way.
#[derive(Debug)]
struct Sending {
    line: Line,
    /// While nothing is sent.
    beating: Option<Beating>,
    notes: Notes,
    bytes: u64,
    trouble: Option<Trouble>,
    /// All of it was sent: there may be an image there.
    sent: bool,
    /// The other side has it, rebuilt and stopped.
    ready: Option<Ready>,
}

impl Sending {
    /// Says that all was sent, and waits until it is rebuilt.
    fn answer(&mut self) -> Result<Ready, Trouble> {
        drop(self.beating.take());
        self.line.expect_silence()?;
        self.notes.reached(Stage::Sent)?;
        self.sent = true;
        let complete = Complete {
            bytes: self.bytes,
            token: token()?,
        };
        self.line.limit(self.line.patience.saturating_mul(AT_WORK));
        self.line.send(Kind::Complete, &complete)?;
        let ready: Ready = self.line.expect(Kind::Ready)?.read()?;
        if ready.token != complete.token {
            return Err(Trouble::Nonsense("an answer to another question".into()));
        }
        self.notes.reached(Stage::Ready)?;
        Ok(ready)
    }

    /// Says that the original has ended, and waits until the copy runs.
    fn commit(&mut self) -> Result<Running, Trouble> {
        let answer = self.ready.take().map(|ready| ready.answer);
        let answer = answer.unwrap_or_default();
        self.line.limit(self.line.patience.saturating_mul(AT_WORK));
        self.line.send(Kind::Commit, &Commit { answer })?;
        self.line.expect(Kind::Running)?.read()
    }

    /// It came to nothing. The other side is told to forget it, if the original runs on for sure.
    fn undo(
        &mut self,
        error: Error,
        (side, original): (&Side, &Original),
        accepted: &Accepted,
    ) -> Failure {
        drop(self.beating.take());
        if self.ready.is_some() {
            // Something went wrong with killing it.
            let standing = original.look();
            if standing != Standing::Runs {
                let failure = Failure::new(Code::Failed, error.to_string());
                return side.doubt(failure, standing, &accepted.image);
            }
        }
        self.line.patience = LEAVE;
        let _ = self.line.send(Kind::Cancel, &());
        // Who fails there, and says so, leaves no image.
        let told = matches!(self.trouble, Some(Trouble::Told(_)));
        let failure = match self.trouble.take() {
            Some(Trouble::Stopped) | None => Failure::from(error),
            Some(trouble) => side.failure(&trouble),
        };
        let way_out = match failure.code {
            Code::Refused if about_files(&failure) && !side.embeds => {
                "the job runs on here (--self-contained takes its files along)".into()
            }
            _ if self.sent && !told => side.runs(&accepted.image),
            _ => "the job runs on here".to_owned(),
        };
        Failure {
            message: format!("{}; {way_out}", failure.message),
            ..failure
        }
    }
}

/// The sink of the image.
#[derive(Debug)]
struct Shared(Rc<RefCell<Sending>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const PIECE: usize = 256 << 10;
        let piece = &bytes[..bytes.len().min(PIECE)];
        let mut sending = self.0.borrow_mut();
        drop(sending.beating.take());
        if let Err(trouble) = sending.line.send_bytes(Kind::Image, piece) {
            let error = io::Error::other(trouble.to_string());
            sending.trouble = Some(trouble);
            return Err(error);
        }
        sending.bytes += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Receiver for Shared {
    fn answer(&mut self) -> cryonaut_engine::Result<()> {
        let mut sending = self.0.borrow_mut();
        match sending.answer() {
            Ok(ready) => {
                sending.ready = Some(ready);
                Ok(())
            }
            Err(trouble) => {
                let error = Error::Failed(trouble.to_string());
                sending.trouble = Some(trouble);
                Err(error)
            }
        }
    }
}
