//! `cr_checkpoint`: saves processes to a context file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryonaut_engine::Error;
use cryonaut_engine::checkpoint::{self, CheckpointReport, CheckpointRequest, Packing, Tracer};
use cryonaut_engine::dialogue::{self, Customs, Details, Dialogue};
use cryonaut_engine::freeze::Afterwards;
use cryonaut_engine::reference::Hashing;
use cryonaut_engine::resource::embedded::{Embedding, Extent};
use cryonaut_engine::target::{Cut, External, Scope, Target};
use cryonaut_launch::WatchedSignals;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::task;

use super::caller::Caller;
use super::destination::{Destination, Policy, Prepared, Purpose};
use super::errno::{
    CR_ENOSUPPORT, CR_EPERMFAIL, CR_EPTRACED, CR_EPTRACER, CR_ETEMPFAIL, Trouble, of_system,
};
use super::options::{Known, Line, Value, option, parse};
use super::{Messages, Speech, USAGE, VERSION, complain, print, signal, tell};
use crate::apart::apart;
use crate::interrupt::{Second, stoppable};
use crate::subject::{ScopeArguments, Subject};

const HELP: &str = "\
Usage: cr_checkpoint [options] ID
Saves running processes to a context file, which cr_restart brings back.

What ID is (the last one counts):
  -T, --tree               a process with all its descendants (the default)
  -p, --pid, --process     one process
  -g, --pgid, --group      a process group
  -s, --sid, --session     a session
Where the context file goes:
  -c, --cwd                to context.ID in the working directory (the default)
  -f, --file FILE          to this file
  -F, --fd FD              to this open descriptor
What becomes of an older file of that name (the last one counts):
  --atomic, --clobber      it stays until the new one is whole (the default)
  --backup[=NAME]          it is kept, as NAME or with a number after its name
  --noclobber              it must not be there
What becomes of the processes (the last one counts):
  --run                    they go on (the default)
  -S, --signal NUM         they get this signal when all is done
  --stop, --term, --kill, --abort, --cont
Other options:
  --save-exe, --save-private, --save-shared, --save-all
                           the content of files that they use goes into the context file
  --save-none              it does not (the default)
  --ptraced-error, --ptraced-skip, --ptraced-allow
                           a process that is traced: fail (the default), leave it out, try
  --ptracer-error, --ptracer-skip
                           a process that traces others: fail (the default), leave it out
  --sync, --nosync         the file is on disk at the end in any case
  -t, --time SEC           give up when callbacks take longer (the default is an hour)
  --kmsg-none, --kmsg-error, --kmsg-warning
                           say more: never, after a failure (the default), always
  -v, --verbose, -q, --quiet, -?, -h, --help, --version
";

const KNOWN: &[Known] = &[
    option("tree", "T", Value::None),
    option("pid", "p", Value::None),
    option("process", "", Value::None),
    option("pgid", "g", Value::None),
    option("group", "", Value::None),
    option("sid", "s", Value::None),
    option("session", "", Value::None),
    option("cwd", "c", Value::None),
    option("file", "f", Value::Needed),
    option("fd", "F", Value::Needed),
    option("dir", "d", Value::Needed),
    option("atomic", "", Value::None),
    option("clobber", "", Value::None),
    option("backup", "", Value::Allowed),
    option("noclobber", "", Value::None),
    option("run", "", Value::None),
    option("signal", "S", Value::Needed),
    option("stop", "", Value::None),
    option("term", "", Value::None),
    option("kill", "", Value::None),
    option("abort", "", Value::None),
    option("cont", "", Value::None),
    option("save-exe", "", Value::None),
    option("save-private", "", Value::None),
    option("save-shared", "", Value::None),
    option("save-all", "", Value::None),
    option("save-none", "", Value::None),
    option("ptraced-error", "", Value::None),
    option("ptraced-skip", "", Value::None),
    option("ptraced-allow", "", Value::None),
    option("ptracer-error", "", Value::None),
    option("ptracer-skip", "", Value::None),
    option("sync", "", Value::None),
    option("nosync", "", Value::None),
    option("time", "t", Value::Needed),
    option("kmsg-none", "", Value::None),
    option("kmsg-error", "", Value::None),
    option("kmsg-warning", "", Value::None),
    option("verbose", "v", Value::None),
    option("quiet", "q", Value::None),
    option("help", "h", Value::None),
    option("version", "", Value::None),
    option("", "?", Value::None),
    // For libcr, which starts this command.
    option("answer-to", "", Value::Needed),
    option("ring", "", Value::Needed),
    option("for-process", "", Value::Needed),
];

/// How long callbacks may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is done about a process that is traced, or traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tracing {
    /// There is no checkpoint.
    #[default]
    Fail,
    /// It is left out.
    Skip,
    /// It is tried.
    Allow,
}

#[derive(Debug, Default)]
struct Request {
    /// As BLCR numbers scopes.
    scope: u32,
    id: i32,
    destination: Option<Destination>,
    policy: Policy,
    /// What the processes get in the end; 0 is nothing.
    signal: i32,
    extent: Extent,
    traced: Tracing,
    tracing: Tracing,
    patience: Duration,
    speech: Speech,
    messages: Messages,
    caller: Caller,
}

/// What a command line comes to.
enum Wish {
    /// Something to print.
    Print(String),
    Save(Box<Request>),
}

/// Why a command line makes no sense.
struct Misuse {
    speech: Speech,
    text: String,
    status: u8,
}

/// Makes the checkpoint.
pub fn run(words: Vec<OsString>) -> u8 {
    let wish = match understand(words) {
        Ok(wish) => wish,
        Err(misuse) => {
            complain(misuse.speech, &format!("cr_checkpoint: {}", misuse.text));
            if misuse.status == USAGE {
                complain(misuse.speech, "Try cr_checkpoint --help");
            }
            return misuse.status;
        }
    };
    let request = match wish {
        Wish::Print(text) => return print(&text),
        Wish::Save(request) => request,
    };
    match request.caller.process {
        Some(_) => request.make(),
        None => in_child(request),
    }
}

/// Has a child do it. Where this process is itself among those that are saved, its restarted life finds that it has no child: then
/// it was saved.
fn in_child(mut request: Box<Request>) -> u8 {
    if request.id == 0 {
        let own = spawn::own_pid();
        request.id = match request.scope {
            1 => spawn::process_group(0).unwrap_or(own),
            2 => spawn::session(0).unwrap_or(own),
            _ => own,
        };
    }
    let failed = |error: std::io::Error| request_failed(&request, &of_system(&error));
    // Until this is closed the child waits: nothing that leads to it must be open when it looks at this process.
    let (mut wait, go) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return failed(error),
    };
    let own = spawn::own_pid();
    let started = spawn::fork_child(|| {
        let _ = spawn::set_parent_death_signal(libc::SIGTERM);
        let _ = spawn::close_number(std::os::fd::AsRawFd::as_raw_fd(&go));
        let _ = std::io::Read::read(&mut wait, &mut [0]);
        if spawn::parent_pid() != own {
            return libc::EINTR;
        }
        i32::from(request.make())
    });
    let pid = match started {
        Ok(started) => started.pid,
        Err(error) => return failed(error),
    };
    drop(wait);
    drop(go);
    match spawn::wait_for(WaitFor::Pid(pid), libc::WEXITED) {
        Ok((_, WaitStatus::Exited(status))) => status as u8,
        Ok(_) => libc::EPERM as u8,
        Err(_) => 0,
    }
}

fn understand(words: Vec<OsString>) -> Result<Wish, Misuse> {
    let is_quiet = words.iter().any(|word| word == "-q" || word == "--quiet");
    let speech = match is_quiet {
        true => Speech::Quiet,
        false => Speech::Normal,
    };
    let misuse = |status: u8, text: &str| Misuse {
        speech,
        text: text.to_owned(),
        status,
    };
    let usage = |text: &str| misuse(USAGE, text);
    let invalid = |text: &str| misuse(libc::EINVAL as u8, text);
    let Line { options, operands } = parse(words, KNOWN).map_err(|text| usage(&text))?;
    let mut request = Request {
        scope: 3,
        patience: PATIENCE,
        speech,
        ..Request::default()
    };
    for (name, value) in options {
        let value = value.unwrap_or_default();
        let number = || value.to_str().and_then(|text| text.parse::<i32>().ok());
        let go_to = |request: &mut Request, place: Option<Destination>| {
            let place = place.ok_or_else(|| invalid("this is no destination"))?;
            match request.destination.replace(place) {
                None => Ok(()),
                Some(_) => Err(invalid("there is more than one destination")),
            }
        };
        match name.as_str() {
            "tree" => request.scope = 3,
            "pid" | "process" => request.scope = 0,
            "pgid" | "group" => request.scope = 1,
            "sid" | "session" => request.scope = 2,
            // What it is called depends on the operand.
            "cwd" => go_to(&mut request, Some(Destination::File(PathBuf::new())))?,
            "file" => go_to(&mut request, Some(Destination::File(value.into())))?,
            "fd" => {
                let number = number().filter(|number| *number >= 0);
                go_to(&mut request, number.map(Destination::Descriptor))?;
            }
            "dir" => {
                return Err(invalid(
                    "there are no directories of context files: use --file",
                ));
            }
            "backup" => {
                request.policy = Policy::Backup(
                    Some(value)
                        .filter(|name| !name.is_empty())
                        .map(PathBuf::from),
                );
            }
            "atomic" | "clobber" => request.policy = Policy::Replace,
            "noclobber" => request.policy = Policy::Refuse,
            "signal" => {
                request.signal =
                    signal(&value).ok_or_else(|| invalid("there is no such signal"))?;
            }
            "answer-to" => request.caller.answer = number(),
            "ring" => request.caller.ring = number(),
            "for-process" => request.caller.process = number(),
            "time" => {
                let seconds = number().and_then(|number| u64::try_from(number).ok());
                request.patience = match seconds.ok_or_else(|| invalid("this is no time"))? {
                    // As long as anybody lives.
                    0 => Duration::from_secs(u64::from(u32::MAX)),
                    seconds => Duration::from_secs(seconds),
                };
            }
            "help" | "?" => return Ok(Wish::Print(HELP.to_owned())),
            "version" => {
                return Ok(Wish::Print(format!("cr_checkpoint version {VERSION}\n")));
            }
            other => request.flag(other),
        }
    }
    request.name(&operands).map_err(|text| usage(&text))?;
    Ok(Wish::Save(Box::new(request)))
}

impl Request {
    /// What an option without a value says.
    fn flag(&mut self, name: &str) {
        match name {
            "run" => self.signal = 0,
            "stop" => self.signal = libc::SIGSTOP,
            "term" => self.signal = libc::SIGTERM,
            "kill" => self.signal = libc::SIGKILL,
            "abort" => self.signal = libc::SIGABRT,
            "cont" => self.signal = libc::SIGCONT,
            "save-none" => self.extent = Extent::Nothing,
            "save-exe" | "save-private" | "save-shared" | "save-all" => {
                self.extent = Extent::References(Vec::new());
            }
            "ptraced-error" => self.traced = Tracing::Fail,
            "ptraced-skip" => self.traced = Tracing::Skip,
            "ptraced-allow" => self.traced = Tracing::Allow,
            "ptracer-error" => self.tracing = Tracing::Fail,
            "ptracer-skip" => self.tracing = Tracing::Skip,
            "kmsg-none" => self.messages = Messages::Never,
            "kmsg-error" => self.messages = Messages::OnFailure,
            "kmsg-warning" => self.messages = Messages::Always,
            // Being quiet was seen before; what is written is durable in any case.
            _ => {}
        }
    }

    /// Takes the operand.
    fn name(&mut self, operands: &[OsString]) -> Result<(), String> {
        let [id] = operands else {
            return Err("give one ID".into());
        };
        let number = id.to_str().and_then(|text| text.parse::<i32>().ok());
        let id = number
            .filter(|id| *id >= 0)
            .ok_or_else(|| format!("{} is no ID", id.to_string_lossy()))?;
        self.id = id;
        let is_usual = match &self.destination {
            None => true,
            Some(Destination::File(path)) => path.as_os_str().is_empty(),
            Some(Destination::Descriptor(_)) => false,
        };
        if is_usual {
            self.destination = Some(Destination::File(format!("context.{id}").into()));
        }
        Ok(())
    }

    /// Makes the checkpoint, and says what came of it; gives the exit status.
    fn make(&self) -> u8 {
        match self.attempt(Tracer::Named) {
            Err(Obstacle::NeedsProcessApart) => {}
            outcome => return self.conclude(outcome),
        }
        let done = apart(|| self.conclude(self.attempt(Tracer::Apart)));
        done.unwrap_or_else(|failure| request_failed(self, &failure.into()))
    }

    fn conclude(&self, outcome: Result<Vec<String>, Obstacle>) -> u8 {
        match outcome {
            Ok(remarks) => {
                if self.messages == Messages::Always {
                    tell(self.speech, &remarks);
                }
                self.answer(0, &remarks);
                0
            }
            Err(Obstacle::Trouble(trouble)) => request_failed(self, &trouble),
            Err(Obstacle::NeedsProcessApart) => request_failed(self, &Trouble::new(libc::EIO)),
        }
    }

    /// Tells the library: the error number, and what is known besides.
    fn answer(&self, number: i32, details: &[String]) {
        self.caller.answer(number, details.join("\n").as_bytes());
    }

    fn attempt(&self, tracer: Tracer) -> Result<Vec<String>, Obstacle> {
        let destination = self
            .destination
            .as_ref()
            .ok_or(Trouble::new(libc::EINVAL))?;
        let subject = self.find(destination)?;
        let is_delicate = subject.target.suspension.is_some()
            || cryonaut_engine::resource::seccomp::confines(&subject.target)
            || cryonaut_engine::resource::file::pty::has_masters(&subject.target);
        if is_delicate && tracer == Tracer::Named {
            return Err(Obstacle::NeedsProcessApart);
        }
        let said = Arc::clone(&subject.target.dialogue);
        let processes = subject.target.pids();
        let mut prepared = destination.prepare(&self.policy, self.caller)?;
        match self.save(subject, &mut prepared, tracer) {
            Ok(report) => {
                prepared.keep()?;
                self.finish(&report)?;
                let mut remarks = report.remarks;
                remarks.extend(report.warnings);
                Ok(remarks)
            }
            Err(Error::NeedsProcessApart) => {
                prepared.undo();
                Err(Obstacle::NeedsProcessApart)
            }
            Err(error) => {
                prepared.undo();
                let mut trouble = Trouble::from(error);
                let has_ended = |pid: &i32| {
                    let stat = ProcessDirectory::open(*pid).and_then(|directory| directory.stat());
                    stat.map_or(true, |stat| matches!(stat.state, 'Z' | 'X'))
                };
                if processes.iter().all(has_ended) {
                    trouble.number = libc::ESRCH;
                }
                if said.code() != 0 {
                    trouble.number = said.code() as i32;
                }
                Err(trouble.into())
            }
        }
    }

    fn find(&self, destination: &Destination) -> Result<Subject, Trouble> {
        let (pid, scope) = dialogue::scope_of(self.scope, self.id).map_err(Trouble::new)?;
        const KERNEL_THREAD: u32 = 0x0020_0000;
        let stat = ProcessDirectory::open(pid).and_then(|directory| directory.stat());
        if pid == 1 || stat.is_ok_and(|stat| stat.flags & KERNEL_THREAD != 0) {
            return Err(Trouble::new(libc::EPERM));
        }
        self.leave_out_other_requests();
        let mut subject = Subject::find(&pid.to_string(), ScopeArguments::of(scope))?;
        let target = &mut subject.target;
        target.external = External::Close;
        // Who names a process alone has it without its children, without a word.
        target.cut = Cut::Gone;
        target.embedding = Arc::new(Embedding {
            extent: self.extent.clone(),
            ..Embedding::default()
        });
        target.hashing = match self.extent {
            Extent::Nothing => Hashing::None,
            _ => Hashing::Content,
        };
        if let Some(job) = &subject.job {
            target.notification = job.notification;
        }
        target.notification.grace = self.patience;
        let maker = self.caller.process.unwrap_or_else(spawn::own_pid);
        let place = destination.path(self.caller).unwrap_or_default();
        let details = Details {
            maker: maker as u32,
            scope: self.scope,
            named: self.id as u32,
            signal: self.signal as u32,
            place: place.into_os_string().into_vec(),
        };
        let own = destination.identity(self.caller);
        target.dialogue = Arc::new(Dialogue::new(details, Customs::Blcr, own));
        let hidden = target.processes.iter().find_map(|one| one.seclusion());
        if let Some((reason, remedy)) = hidden {
            return Err(Trouble {
                number: libc::EPERM,
                details: vec![format!("{reason}; {remedy}")],
            });
        }
        self.look_for_tracing(target)?;
        Ok(subject)
    }

    /// What else the program that has started this has going on with checkpoints is no part of it.
    fn leave_out_other_requests(&self) {
        let Some(process) = self.caller.process else {
            return;
        };
        let stats = cryonaut_procfs::system::all_stats().unwrap_or_default();
        let children = stats.iter().filter(|stat| stat.ppid == process);
        for child in children.filter(|stat| is_checkpoint(stat.pid)) {
            cryonaut_engine::target::leave_out(child.pid);
        }
    }

    /// Fails because of processes that are traced, or trace, or leaves them out.
    fn look_for_tracing(&self, target: &mut Target) -> Result<(), Trouble> {
        let mut skipped = Vec::new();
        let tracers: Vec<i32> = cryonaut_procfs::system::all_pids()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|pid| ProcessDirectory::open(pid).ok()?.status().ok())
            .map(|status| status.tracer_pid)
            .filter(|tracer| *tracer != 0)
            .collect();
        for process in &target.processes {
            let tracer = process.status.tracer_pid;
            let found = [
                (tracer != 0, self.traced, CR_EPTRACED),
                (tracers.contains(&process.pid), self.tracing, CR_EPTRACER),
            ];
            for (is_so, wanted, number) in found {
                match wanted {
                    Tracing::Fail if is_so && is_checkpoint(tracer) => {
                        return Err(Trouble::new(libc::EBUSY));
                    }
                    Tracing::Fail if is_so => return Err(Trouble::new(number)),
                    Tracing::Skip if is_so => skipped.push(process.pid),
                    _ => {}
                }
            }
        }
        if !skipped.is_empty() {
            target.left_out.extend(skipped);
            *target = target.again()?;
            if target.processes.is_empty() {
                return Err(Trouble::new(libc::ESRCH));
            }
        }
        Ok(())
    }

    fn save(
        &self,
        subject: Subject,
        prepared: &mut Prepared,
        tracer: Tracer,
    ) -> Result<CheckpointReport, Error> {
        let takes_part = dialogue::are_in(&subject.target);
        let (afterwards, purpose) = match self.signal {
            libc::SIGKILL => (Afterwards::Kill, Purpose::ToEnd),
            // Where callbacks are to run before, it is sent like any other.
            libc::SIGSTOP if !takes_part => (Afterwards::Stop, Purpose::ToLive),
            _ => (Afterwards::LeaveRunning, Purpose::ToLive),
        };
        let job_name = subject.job_name();
        let request = CheckpointRequest {
            generation: subject.job.as_ref().map_or(0, |job| job.generation),
            target: subject.target,
            afterwards,
            output: prepared.output(purpose),
            job_name,
            tracer,
            packing: Packing::default(),
        };
        let failed = |failure: crate::exit::Failure| Error::Failed(failure.message);
        let signals = WatchedSignals::block().map_err(|error| Error::Failed(error.to_string()))?;
        stoppable(&signals, Second::EndsAtOnce, |stop| {
            checkpoint::checkpoint(request, stop, &mut |_| {})
        })
        .map_err(failed)?
    }

    /// Waits for the callbacks, and sends the signal.
    fn finish(&self, report: &CheckpointReport) -> Result<(), Trouble> {
        if self.signal == libc::SIGKILL {
            return Ok(());
        }
        let mut failed = 0;
        for pid in &report.saved {
            if let Ok(target) = Target::find(*pid, Scope::Process) {
                failed = failed.max(dialogue::await_finished(&target, self.patience));
            }
        }
        let signal = match failed {
            0 => self.signal,
            _ => libc::SIGKILL,
        };
        if signal != 0 {
            for pid in &report.saved {
                // One that has ended needs none.
                let _ = task::kill(*pid, signal);
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(Trouble::new(failed as i32)),
        }
    }
}

/// Whether a process is one that makes a checkpoint.
fn is_checkpoint(pid: i32) -> bool {
    let name = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = std::env::current_exe().ok();
    pid != 0 && name.is_some() && name == own
}

/// Says why there is no checkpoint; gives the exit status.
fn request_failed(request: &Request, trouble: &Trouble) -> u8 {
    let text = match trouble.number {
        CR_ETEMPFAIL | CR_EPERMFAIL => format!("Checkpoint {}", trouble.text()),
        CR_ENOSUPPORT => "Checkpoint failed: support missing from application".into(),
        libc::ENOSYS => "Checkpoint failed: support missing from kernel".into(),
        libc::ESRCH => "Checkpoint failed: no processes checkpointed".into(),
        _ => format!("Checkpoint failed: {}", trouble.text()),
    };
    complain(request.speech, &text);
    if request.messages != Messages::Never {
        tell(request.speech, &trouble.details);
    }
    request.answer(trouble.number, &trouble.details);
    trouble.status()
}

/// Why an attempt came to nothing.
enum Obstacle {
    Trouble(Trouble),
    /// A process apart has to do it.
    NeedsProcessApart,
}

impl From<Trouble> for Obstacle {
    fn from(trouble: Trouble) -> Self {
        Obstacle::Trouble(trouble)
    }
}
