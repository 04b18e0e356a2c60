//! `cryo run`: starts a job that can be checkpointed and restarted with its own pids.

use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::processor::InstructionSet;
use cryonaut_engine::restart::may_choose_pids;
use cryonaut_engine::suspend::Cgroup;
use cryonaut_launch::registry::{Job, NewJob, ProcessIdentity, Registry, Reservation};
use cryonaut_launch::terminal::{Pty, WindowSize};
use cryonaut_launch::{
    Child, ChildSpec, Direct, NamespaceRequest, Namespaces, Nursery, StopBeforeExec, TimeOffsets,
    WatchedSignals, inherited_descriptors,
};
use cryonaut_sys::terminal::set_window_size;

use crate::console::Console;
use crate::exit::{self, Failure};
use crate::job::{self, Foreground, Sight};
use crate::notify::NotifyArguments;
use crate::saver::Saver;
use crate::terminal::{self, DetachKeyArgument, User};

/// The variable that tells the programs of a job its name.
const JOB_NAME: &str = "CRYO_JOB";

/// Starts a command as a job that can be checkpointed and restarted
///
/// cryo stays in the foreground for it: it passes signals, the terminal and the exit status on. The detach keys (Ctrl-\ and then d)
/// leave the job to itself, as does the end of your terminal; `cryo attach` takes its terminal up again. Without root the job lives in
/// namespaces of its own, where a restart can give it its own pids again: there, its processes keep your uid and files, but
/// setuid programs (sudo) have no power, and other users' files show as nobody's. CRYO_JOB tells its processes the job's name.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED_FOR_JOB)]
pub struct Arguments {
    /// The job's name [default: made from the command]
    #[arg(long)]
    name: Option<String>,
    /// Start it in namespaces of its own, also as root
    #[arg(long)]
    namespaces: bool,
    /// Return as soon as it runs: nobody is attached to its terminal until `cryo attach`
    #[arg(long, conflicts_with = "detach_key")]
    detach: bool,
    /// Give it a terminal of its own, also where standard input and output are none
    #[arg(long)]
    terminal: bool,
    #[command(flatten)]
    key: DetachKeyArgument,
    /// Checkpoint it at this interval (30m, 2h, 90s), also while nobody is attached to it, but not while it is suspended. Failures do
    /// not end the job: they are told, and `cryo list` shows the last one
    #[arg(long, value_name = "TIME", value_parser = interval, requires = "dir")]
    every: Option<Duration>,
    /// Where the checkpoints of --every go, as NAME-TIME.cryo
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "every")]
    dir: Option<PathBuf>,
    /// How many checkpoints of --every are kept: the newest
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), requires = "every")]
    keep: u32,
    #[command(flatten)]
    notify: NotifyArguments,
    /// Keep it to instructions that every machine has on which it may be restarted: the C library, and other libraries that heed
    /// their own variables, choose by that; programs that ask the processor themselves do not
    #[arg(long, value_name = "SET", value_enum, default_value_t = Isa::Host)]
    isa: Isa,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Sets of instructions, by what offers them.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Isa {
    /// Every x86-64 processor
    Baseline,
    /// With SSE4.2: since about 2009
    #[value(name = "x86-64-v2")]
    V2,
    /// With AVX2: since about 2013
    #[value(name = "x86-64-v3")]
    V3,
    /// With AVX-512
    #[value(name = "x86-64-v4")]
    V4,
    /// This processor
    Host,
}

impl Isa {
    /// The variables that keep a program to it.
    fn environment(self) -> Vec<(&'static str, String)> {
        let set = match self {
            Self::Baseline => InstructionSet::Baseline,
            Self::V2 => InstructionSet::V2,
            Self::V3 => InstructionSet::V3,
            Self::V4 => InstructionSet::V4,
            Self::Host => return Vec::new(),
        };
        set.environment(|name| std::env::var_os(name))
    }
}

/// Reads a time of a second at least.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err("at least 1s".into()),
        Err(error) => Err(format!("{error}; write it as 30m, 2h or 90s")),
    }
}

impl Arguments {
    /// Starts the job and stands in for it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        match self.detach {
            true => self.stand_in(console),
            false => self.stand_in(console).map_err(Failure::instead_of_job),
        }
    }

    fn stand_in(mut self, console: Console) -> Result<u8, Failure> {
        let inherited =
            inherited_descriptors().map_err(Failure::system("look at the open descriptors"))?;
        let signals = WatchedSignals::block()?;
        let reserved = self.reserve()?;
        let directory = self.dir.as_deref().map(checkpoint_directory).transpose()?;
        let nursery = self.nursery()?;
        if !self.detach {
            job::adopt_orphans(&nursery)?;
        }
        let spec = ChildSpec::command(self.command.clone());
        let mut spec = spec.variable(JOB_NAME, self.name.as_deref());
        for (name, value) in self.isa.environment() {
            spec = spec.variable(name, Some(&value));
        }
        spec.keep_descriptors = inherited;
        // There it can be frozen as it is, daemons included.
        let cgroup = Cgroup::make_for_job().map(|(cgroup, enter)| {
            spec.cgroup = Some(enter);
            JobCgroup(cgroup)
        });
        let (mut spec, master) = self.give_terminal(spec)?;
        // Before the job is there, so that nothing can fail any more that it would miss.
        let keeper = master
            .as_ref()
            .map(|master| terminal::keep(&nursery, master))
            .transpose()?;
        spec.stop_before_exec = StopBeforeExec::Gate;
        let mut root = nursery.spawn(&spec)?;
        // Our copies of the job's terminal, which would hide its end.
        drop(spec);
        let new = self.describe((&nursery, &root), keeper, directory.clone())?;
        let job = let_go(&mut root, &new, console)?;
        // It has the name now.
        drop(reserved);
        let saver = self.start_saver(job.as_ref(), directory.as_deref(), console);
        if self.detach {
            return detach(&nursery, &root, master, job, console);
        }
        let mut foreground = Foreground::new(signals, &nursery, &root)?;
        if let Some(master) = master {
            let sight = Sight {
                user: User::Standard,
                keys: self.key.detach_key.clone(),
            };
            foreground.attach(master, job.as_ref(), sight)?;
        }
        let name = job.as_ref().map(|job| job.name.as_str());
        let awaited = [root.pid, saver.as_ref().map_or(0, Saver::pid)];
        let mut reap = || job::reap_orphans(&awaited);
        let each_second: Option<&mut dyn FnMut()> = match nursery {
            Nursery::Direct(_) => Some(&mut reap),
            Nursery::Namespace(_) => None,
        };
        let status = foreground.run(name, each_second, console)?;
        if let Some(saver) = saver {
            saver.finish();
        }
        drop(cgroup);
        Ok(status)
    }

    /// Has the job checkpointed at the interval that was asked for. It runs on without where that fails, which is told.
    fn start_saver(
        &self,
        job: Option<&Job>,
        directory: Option<&Path>,
        console: Console,
    ) -> Option<Saver> {
        let (every, directory) = self.every.zip(directory)?;
        let Some(job) = job else {
            console.warning("no checkpoints will be made of it: they find the job by its name");
            return None;
        };
        let errors = match self.detach {
            // Whoever waits for the end of what is printed here does not wait for the job.
            true => Stdio::null(),
            false => Stdio::inherit(),
        };
        Saver::start(job, every, self.keep, directory, errors)
            .inspect_err(|failure| {
                console.warning(&format!(
                    "no checkpoints will be made of it: {}",
                    failure.message
                ));
            })
            .ok()
    }

    /// The name that the job is told, which nobody else's gets meanwhile. Where the list of jobs cannot be used it has none, and
    /// that is told when it is to be entered.
    fn reserve(&mut self) -> Result<Option<Reservation>, Failure> {
        let reserved = Registry::open()
            .and_then(|registry| registry.reserve(self.name.as_deref(), &words(&self.command)));
        match reserved {
            Ok(reserved) => {
                self.name = Some(reserved.name().to_owned());
                Ok(Some(reserved))
            }
            Err(error) if self.name.is_some() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// With standard input and output on a terminal, or at wish, the job gets one of its own, otherwise it has the caller's
    /// descriptors.
    fn give_terminal(&self, spec: ChildSpec) -> Result<(ChildSpec, Option<OwnedFd>), Failure> {
        if !(self.terminal || job::on_terminal()) {
            return Ok((spec, None));
        }
        let failed = "give the job a terminal";
        let Pty { master, slave } =
            Pty::open(Some(stdin().as_fd())).map_err(Failure::system(failed))?;
        if !stdin().is_terminal() {
            // As terminals were before windows.
            let size = WindowSize {
                rows: 24,
                columns: 80,
                ..WindowSize::default()
            };
            set_window_size(master.as_fd(), size).map_err(Failure::system(failed))?;
        }
        let mut spec = spec.on_terminal(slave).map_err(Failure::system(failed))?;
        if !self.terminal && !stderr().is_terminal() {
            // `2>errors.log` is meant.
            spec.stdio[2] = None;
        }
        Ok((spec, Some(master)))
    }

    /// The job as the list of jobs wants it.
    fn describe(
        &self,
        (nursery, root): (&Nursery, &Child),
        terminal_keeper: Option<ProcessIdentity>,
        checkpoint_directory: Option<PathBuf>,
    ) -> Result<NewJob, Failure> {
        let supervisor = match self.detach {
            true => None,
            false => ProcessIdentity::of(std::process::id() as i32).ok(),
        };
        let new = job::describe(nursery, root, self.name.clone(), words(&self.command))?;
        Ok(NewJob {
            supervisor,
            terminal_keeper,
            checkpoint_directory,
            notification: self.notify.over(new.notification),
            ..new
        })
    }

    fn nursery(&self) -> Result<Nursery, Failure> {
        if may_choose_pids() && !self.namespaces {
            return Ok(Nursery::Direct(Direct));
        }
        // A time namespace from the beginning: a restart then changes nothing for the job but its clocks' offsets.
        let request = NamespaceRequest {
            time_offsets: Some(TimeOffsets::default()),
            ..NamespaceRequest::default()
        };
        Ok(Nursery::Namespace(Namespaces::create(&request)?))
    }
}

/// How long the list of jobs is held while the job's program is started.
const STARTING: Duration = Duration::from_secs(2);

/// Lets a job go that waits at its gate, and is in the list by then.
fn let_go(root: &mut Child, new: &NewJob, console: Console) -> Result<Option<Job>, Failure> {
    let mut entry = job::enter(new);
    root.open_gate();
    let started = root.exec_outcome_within(STARTING).and_then(|known| {
        if !known {
            // A file system may hang. Nobody else is to wait for it.
            entry.open_list();
            root.exec_outcome()?;
        }
        Ok(())
    });
    match started {
        Ok(()) => Ok(entry.stays(console)),
        Err(error) => {
            entry.leaves();
            Err(error.into())
        }
    }
}

/// A command line as text.
fn words(command: &[OsString]) -> Vec<String> {
    let words = command.iter();
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// The job's cgroup, removed when nobody is in it any more.
struct JobCgroup(Cgroup);

impl Drop for JobCgroup {
    fn drop(&mut self) {
        // With daemons in it, it stays, and is swept up by a later look.
        let _ = self.0.remove();
    }
}

/// Leaves the job to itself.
fn detach(
    nursery: &Nursery,
    root: &Child,
    master: Option<OwnedFd>,
    job: Option<Job>,
    console: Console,
) -> Result<u8, Failure> {
    job::hold_detached((nursery, root), master, job.as_ref(), console);
    let report = job::Detached {
        pid: root.pid,
        name: job.map(|job| job.name),
        remarks: Vec::new(),
    };
    console.result(&report, || report.text())?;
    Ok(0)
}

/// The directory, absolute and there, before the job starts.
fn checkpoint_directory(directory: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| directory.canonicalize())
        .map_err(Failure::system(format!(
            "use {} for checkpoints",
            directory.display()
        )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read() {
        assert_eq!(interval("30m"), Ok(Duration::from_secs(1800)));
        assert!(interval("10ms").is_err());
        assert!(interval("soon").unwrap_err().contains("30m"));
    }
}
