//! `cryo run`: starts a job that can be checkpointed and restarted with its own pids.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Seek, stderr, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::checkpoint::temporary_file;
use cryonaut_engine::processor::InstructionSet;
use cryonaut_engine::restart::may_choose_pids;
use cryonaut_engine::suspend::{Cgroup, Standing, standing};
use cryonaut_launch::registry::{Job, NewJob, ProcessIdentity, Registry};
use cryonaut_launch::terminal::{DetachKey, Pty, WindowSize};
use cryonaut_launch::{
    Child, ChildSpec, Direct, NamespaceRequest, Namespaces, Nursery, StopBeforeExec, TimeOffsets,
    WatchedSignals, inherited_descriptors,
};
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::terminal::set_window_size;

use crate::console::Console;
use crate::exit::{self, Failure};
use crate::job::{self, Foreground, Sight};
use crate::notify::NotifyArguments;
use crate::terminal::{self, DetachKeyArgument, User};
use crate::when;

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
    #[arg(long, conflicts_with_all = ["every", "detach_key"])]
    detach: bool,
    /// Give it a terminal of its own, also where standard input and output are none
    #[arg(long)]
    terminal: bool,
    #[command(flatten)]
    key: DetachKeyArgument,
    /// Checkpoint it at this interval (30m, 2h, 90s), but not while it is suspended; failures are told and do not end the job
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
        if let Some(name) = &self.name {
            Registry::open()?.check_free(name)?;
        }
        let directory = self.dir.as_deref().map(checkpoint_directory).transpose()?;
        let nursery = self.nursery()?;
        if !self.detach {
            job::adopt_orphans(&nursery)?;
        }
        // Where the list of jobs cannot be used the job has no name, and that is told when it is to be entered.
        self.name = self
            .name
            .or_else(|| Registry::open().ok()?.free_name(&words(&self.command)).ok());
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
        let (job, ()) = job::register(new, console, || root.let_go())?;
        if self.detach {
            return detach(&nursery, &root, master, job, console);
        }
        let mut foreground = Foreground::new(signals, &nursery, &root)?;
        if let Some(master) = master {
            let sight = Sight {
                user: User::Standard,
                keys: self.detach_keys(),
            };
            foreground.attach(master, job.as_ref(), sight)?;
        }
        let name = job.as_ref().map(|job| job.name.as_str());
        let mut periodic = match (self.every, directory, name) {
            (Some(every), Some(directory), Some(name)) => Some(Periodic::new(
                (every, self.keep as usize),
                directory,
                name,
                console,
            )),
            _ => None,
        };
        let direct = matches!(nursery, Nursery::Direct(_));
        let wanted = direct || periodic.is_some();
        let mut each_second = || {
            let saver = periodic.as_mut().and_then(Periodic::look);
            if direct {
                job::reap_orphans(&[root.pid, saver.unwrap_or(0)]);
            }
        };
        let each_second: Option<&mut dyn FnMut()> = match wanted {
            true => Some(&mut each_second),
            false => None,
        };
        let status = foreground.run(name, each_second, console)?;
        if let Some(periodic) = periodic {
            periodic.finish();
        }
        drop(cgroup);
        Ok(status)
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

    /// Checkpoints at an interval are made by the process in the foreground, which therefore stays there.
    fn detach_keys(&self) -> DetachKey {
        match self.every {
            Some(_) => DetachKey::NONE,
            None => self.key.detach_key.clone(),
        }
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

/// Checkpoints at an interval. Each is made by a process of its own, so that the job's terminal never waits for it.
struct Periodic {
    every: Duration,
    keep: usize,
    directory: PathBuf,
    name: String,
    console: Console,
    last: Instant,
    saving: Option<Saving>,
}

/// A checkpoint under way.
struct Saving {
    process: Child,
    /// What it says about a failure.
    said: std::fs::File,
}

impl Periodic {
    fn new(
        (every, keep): (Duration, usize),
        directory: PathBuf,
        name: &str,
        console: Console,
    ) -> Periodic {
        let (last, saving) = (Instant::now(), None);
        Periodic {
            every,
            keep,
            directory,
            name: name.to_owned(),
            console,
            last,
            saving,
        }
    }

    /// Begins a checkpoint that is due, or sees to one that has ended; gives the pid of one under way.
    fn look(&mut self) -> Option<i32> {
        if let Some(saving) = self.saving.take() {
            match spawn::wait_now(WaitFor::Descriptor(saving.process.as_fd()), libc::WEXITED) {
                Ok(None) => self.saving = Some(saving),
                Ok(Some((_, status))) => self.ended(saving, status),
                Err(_) => {}
            }
        }
        if self.saving.is_none() && self.last.elapsed() >= self.every && !self.is_suspended() {
            // An interval counts from one beginning to the next; what a slow disk missed is not made up for.
            self.last = Instant::now();
            match self.begin() {
                Ok(saving) => self.saving = Some(saving),
                Err(failure) => self.warn(&failure.message),
            }
        }
        self.saving.as_ref().map(|saving| saving.process.pid)
    }

    /// Whether the job stands still: nothing changes in it, and to save it would bring back what was given back. Its turn comes when
    /// it goes on.
    fn is_suspended(&self) -> bool {
        let job = Registry::open().and_then(|registry| registry.find(&self.name));
        let suspension = job.ok().and_then(|job| job.suspension);
        suspension.is_some_and(|suspension| standing(&suspension) == Standing::Still)
    }

    fn begin(&self) -> Result<Saving, Failure> {
        let program = std::env::current_exe().map_err(Failure::system("find cryo itself"))?;
        let image = self
            .directory
            .join(format!("{}-{}.cryo", self.name, when::stamp()));
        let mut spec = ChildSpec::command([
            program.into_os_string(),
            "checkpoint".into(),
            self.name.clone().into(),
            "--output".into(),
            image.into(),
        ]);
        let said = temporary_file()?;
        let copy = || {
            said.try_clone()
                .map(OwnedFd::from)
                .map_err(Failure::system("use a temporary file"))
        };
        let nothing =
            std::fs::File::open("/dev/null").map_err(Failure::system("open /dev/null"))?;
        spec.stdio = [Some(nothing.into()), Some(copy()?), Some(copy()?)];
        let process = Direct.spawn(&spec)?;
        Ok(Saving { process, said })
    }

    fn ended(&self, mut saving: Saving, status: WaitStatus) {
        if status == WaitStatus::Exited(0) {
            self.prune();
            return;
        }
        let mut text = String::new();
        let read = saving
            .said
            .rewind()
            .and_then(|()| saving.said.read_to_string(&mut text));
        let why = match read {
            Ok(_) if !text.trim().is_empty() => text.trim().trim_start_matches("cryo: ").to_owned(),
            _ => format!("{status:?}"),
        };
        self.warn(&why);
    }

    fn warn(&self, why: &str) {
        self.console.warning(&format!(
            "no checkpoint of {} was made; the job runs on: {why}",
            self.name
        ));
    }

    /// Removes all but the newest images of this job's name.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return;
        };
        let mut images: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let file = path.file_name().and_then(|name| name.to_str());
                file.is_some_and(|file| is_image_of(file, &self.name))
            })
            .collect();
        images.sort();
        let surplus = images.len().saturating_sub(self.keep);
        for image in &images[..surplus] {
            if let Err(error) = std::fs::remove_file(image) {
                self.console.warning(&format!(
                    "the old checkpoint {} stays: {error}",
                    image.display()
                ));
            }
        }
    }

    /// Waits for a checkpoint under way, which fails by itself now that the job has ended, or has all it needs already.
    fn finish(mut self) {
        if let Some(saving) = self.saving.take()
            && let Ok((_, WaitStatus::Exited(0))) =
                spawn::wait_for(WaitFor::Descriptor(saving.process.as_fd()), libc::WEXITED)
        {
            self.prune();
        }
    }
}

/// Whether a file has the name of a periodic image of this job: NAME, a dash, a time stamp.
fn is_image_of(file: &str, job: &str) -> bool {
    let stamp = file
        .strip_prefix(job)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".cryo"));
    stamp.is_some_and(|stamp| {
        stamp.len() == "20310506T070809.123Z".len()
            && stamp.ends_with('Z')
            && stamp
                .chars()
                .all(|letter| letter.is_ascii_digit() || matches!(letter, 'T' | '.' | 'Z'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_images_are_pruned() {
        assert!(is_image_of(&format!("job-{}.cryo", when::stamp()), "job"));
        assert!(!is_image_of("job-mine.cryo", "job"));
        assert!(!is_image_of(
            &format!("job-2-{}.cryo", when::stamp()),
            "job"
        ));
        assert!(!is_image_of(
            &format!("job-{}.cryo.bak", when::stamp()),
            "job"
        ));
    }

    #[test]
    fn intervals_are_read() {
        assert_eq!(interval("30m"), Ok(Duration::from_secs(1800)));
        assert!(interval("10ms").is_err());
        assert!(interval("soon").unwrap_err().contains("30m"));
    }
}
