//! `cryo restart`: brings processes back from an image.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{Write, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::TypedValueParser;
use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::host::{Changed, ClampLimits, Grown, Host, Inherited};
use cryonaut_engine::relocate::{Relocated, Relocation, relocate};
use cryonaut_engine::resource::file::{open_given, waits_for_keys};
use cryonaut_engine::restart::{self, Committed, Pids, Rebuilt, RestartRequest, Restarted};
use cryonaut_engine::view::{self, View};
use cryonaut_image::{RecordSet, SeekableImage};
use cryonaut_launch::registry::{Job, NewJob, Registry, check_name};
use cryonaut_launch::{Nursery, WatchedSignals};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::descriptor;
use cryonaut_sys::spawn::signal::ArrivedSignal;
use cryonaut_sys::spawn::{self, OnExec, Subreaper};
use serde::{Deserialize, Serialize};

use crate::blcr::{Ending, Manner};
use crate::console::Console;
use crate::exit::{self, Code, Failure};
use crate::interrupt::{stoppable_telling, told_to_stop};
use crate::job::{self, Detached, Foreground, Sight};
use crate::kept::expect_no_copy;
use crate::opening::{KeyArguments, open};
use crate::ourselves;
use crate::progress::{Count, Progress};
use crate::terminal::{self, DetachKeyArgument, User};

/// Brings processes back from an image, as they were
///
/// In the foreground, cryo passes signals on and ends with the job's exit status; a job that was on a terminal gets a new one,
/// shown on yours. The image stays as it is and can be restarted again. If anything stands in the way, every reason is given
/// and nothing is started.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED_FOR_RESTART)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    /// Return as soon as the job runs
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    key: DetachKeyArgument,
    #[command(flatten)]
    opening: KeyArguments,
    /// Write the pid of the job's first process, as it is seen here, to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pidfile: Option<PathBuf>,
    /// The name under which `cryo list` shows it [default: the one it had]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(super) conditions: Conditions,
    /// Standard input of processes that had one outside the job
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    stdin: Option<PathBuf>,
    /// Standard output of processes that had one outside the job (appended to)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    stdout: Option<PathBuf>,
    /// Standard error of processes that had one outside the job (appended to)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    stderr: Option<PathBuf>,
    /// How a restart by cr_restart differs.
    #[arg(skip)]
    blcr: Option<Manner>,
}

/// What takes the place of a pipe that led out of the job.
#[derive(Debug, Clone)]
pub struct InheritArgument {
    pipe: String,
    from: String,
}

impl std::str::FromStr for InheritArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((pipe, from)) if !pipe.is_empty() && !from.is_empty() => Ok(Self {
                pipe: pipe.to_owned(),
                from: from.to_owned(),
            }),
            _ => Err("it must be NAME=FD or NAME=FILE, such as 'pipe:[17]=5'".into()),
        }
    }
}

/// Under which conditions an image is restarted.
#[derive(Args, Debug, Clone, Default)]
pub struct Conditions {
    #[command(flatten)]
    pub(super) taking: Taking,
    /// What takes the place of a pipe that led out of the job: a descriptor of cryo, or a file, which is read or appended to;
    /// `cryo show` names these pipes
    #[arg(long, value_name = "NAME=FD|FILE")]
    inherit_fd: Vec<InheritArgument>,
}

/// How an image is taken: what can be said on another machine than where it is restarted.
#[derive(Args, Debug, Clone, Default, Serialize, Deserialize)]
pub struct Taking {
    /// Which pids the processes get
    #[arg(long, value_enum, default_value_t)]
    pub pids: PidsArgument,
    /// Take files that have changed since the checkpoint as they are now
    #[arg(long)]
    allow_changed: bool,
    /// What becomes of files that only got longer [default: those that the job writes are cut back once it runs again, those
    /// that it only reads are kept]
    #[arg(long, value_enum, value_name = "HOW")]
    grown: Option<GrownArgument>,
    /// What was at the path OLD, with all below it, is at NEW now: open files, mapped files, programs and libraries, directories
    /// (may be given several times; the longest OLD counts)
    #[arg(long, value_name = "OLD=NEW", value_parser = RelocationParser)]
    relocate: Vec<Relocation>,
    /// Lower hard limits that are above what you may set
    #[arg(long)]
    clamp_limits: bool,
}

/// The value of --pids.
#[derive(ValueEnum, Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub enum PidsArgument {
    /// Their own here; only root may, and they must be free
    Keep,
    /// Their own in fresh namespaces, where all are free
    Namespace,
    /// Their own here where that is possible, else in fresh namespaces
    #[default]
    Auto,
}

/// The value of --grown.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrownArgument {
    /// Cut them back to their old size, also those that the job only reads, once it runs again
    Truncate,
    /// Take them as they are
    Keep,
    /// Do not restart
    Refuse,
}

/// Reads the value of --relocate, which need not be UTF-8.
#[derive(Clone, Copy)]
struct RelocationParser;

impl TypedValueParser for RelocationParser {
    type Value = Relocation;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Relocation, clap::Error> {
        Relocation::parse(value.as_bytes()).map_err(|error| {
            let name = argument.map(ToString::to_string).unwrap_or_default();
            let value = value.to_string_lossy();
            let text = format!("invalid value '{value}' for '{name}': {error}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

impl Taking {
    /// The options that say so.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let named = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| value.get_name().to_owned())
        };
        if !matches!(self.pids, PidsArgument::Auto) {
            let value = named(&|| self.pids.to_possible_value());
            words.extend(value.map(|value| format!("--pids={value}")));
        }
        if self.allow_changed {
            words.push("--allow-changed".into());
        }
        let grown = named(&|| self.grown?.to_possible_value());
        words.extend(grown.map(|value| format!("--grown={value}")));
        words.extend(self.relocate.iter().map(|one| format!("--relocate={one}")));
        if self.clamp_limits {
            words.push("--clamp-limits".into());
        }
        words
    }
}

impl From<Taking> for Conditions {
    fn from(taking: Taking) -> Conditions {
        Conditions {
            taking,
            inherit_fd: Vec::new(),
        }
    }
}

impl Conditions {
    /// As the engine wants it.
    pub fn pids(&self) -> Pids {
        match self.taking.pids {
            PidsArgument::Keep => Pids::Keep,
            PidsArgument::Namespace => Pids::Namespace,
            PidsArgument::Auto => Pids::Auto,
        }
    }

    /// As the engine wants it.
    pub fn changed(&self) -> Changed {
        match self.taking.allow_changed {
            true => Changed::Allow,
            false => Changed::Refuse,
        }
    }

    /// As the engine wants it.
    pub fn grown(&self) -> Grown {
        match self.taking.grown {
            None => Grown::AsUsed,
            Some(GrownArgument::Truncate) => Grown::Truncate,
            Some(GrownArgument::Keep) => Grown::Keep,
            Some(GrownArgument::Refuse) => Grown::Refuse,
        }
    }

    /// Where files are now.
    pub fn relocations(&self) -> &[Relocation] {
        &self.taking.relocate
    }

    /// How files that differ here are taken.
    fn choice(&self) -> view::Choice {
        view::Choice {
            changed: self.changed(),
            grown: self.grown(),
        }
    }

    /// Lays the files of the image that are needed here over this machine's, for this process and the job.
    pub(super) fn enter_view(
        &self,
        image: &SeekableImage,
        signals: &WatchedSignals,
    ) -> Result<Option<View>, Failure> {
        let Relocated { records, .. } = relocate(&image.records()?, self.relocations())?;
        // The list of jobs lies where all of the user's processes see it. Where that cannot be, it is told later.
        let _ = Registry::open();
        if !self.provided(&records)?.is_empty() {
            ourselves::stand_by().map_err(Failure::system("start a process that stands by"))?;
        }
        let stop = told_to_stop(signals)?;
        Ok(view::enter(image, &records, self.choice(), &stop)?)
    }

    /// The paths of files that the image provides here.
    pub fn provided(&self, records: &RecordSet) -> Result<BTreeSet<Vec<u8>>, Failure> {
        Ok(view::provided(records, self.choice())?)
    }

    /// A restart under these conditions.
    pub(super) fn request(&self) -> Result<RestartRequest, Failure> {
        Ok(RestartRequest {
            pids: self.pids(),
            changed: self.changed(),
            grown: self.grown(),
            relocations: self.relocations().to_vec(),
            clamp_limits: self.clamp_limits(),
            inherited: Some(self.inherited()?),
            ..RestartRequest::default()
        })
    }

    /// This machine, as it is to be taken.
    pub fn host(&self, shares_pids: bool) -> Result<Host, Failure> {
        Ok(Host {
            inherited: Some(self.inherited()?),
            grown: self.grown(),
            clamp_limits: self.clamp_limits(),
            ..Host::look(shares_pids, self.changed())?
        })
    }

    /// As the engine wants it.
    pub fn clamp_limits(&self) -> ClampLimits {
        match self.taking.clamp_limits {
            true => ClampLimits::Yes,
            false => ClampLimits::No,
        }
    }

    /// What is given in place of pipes that led out of the job.
    pub fn inherited(&self) -> Result<Arc<BTreeMap<String, Inherited>>, Failure> {
        Ok(Arc::new(self.given()?))
    }

    /// The same before a view is entered: where that will be, files are opened now, since their paths may be hidden then.
    fn inherited_before_view(
        &self,
        image: &SeekableImage,
    ) -> Result<Arc<BTreeMap<String, Inherited>>, Failure> {
        let given = self.given()?;
        let Relocated { records, .. } = relocate(&image.records()?, self.relocations())?;
        match given.is_empty() || self.provided(&records)?.is_empty() {
            true => Ok(Arc::new(given)),
            false => Ok(Arc::new(open_given(&records, given)?)),
        }
    }

    fn given(&self) -> Result<BTreeMap<String, Inherited>, Failure> {
        let mut given = BTreeMap::new();
        for InheritArgument { pipe, from } in &self.inherit_fd {
            let source = match from.parse() {
                Ok(number) => Inherited::Descriptor(File::from(
                    descriptor::copy_of_number(number)
                        .map_err(Failure::system(format!("use descriptor {number}")))?,
                )),
                Err(_) => Inherited::Path(PathBuf::from(from)),
            };
            if given.insert(pipe.clone(), source).is_some() {
                return Err(Failure::usage(format!("--inherit-fd names {pipe} twice")));
            }
        }
        Ok(given)
    }
}

impl Arguments {
    /// Restarts the job.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let detach = self.detach;
        let outcome = self.restart(console);
        if detach {
            outcome
        } else {
            outcome.map_err(Failure::instead_of_job)
        }
    }

    /// Restarts the job in the foreground, in the manner of BLCR.
    pub(super) fn run_as_blcr(self, manner: Manner, console: Console) -> Result<u8, Failure> {
        let blcr = Some(manner);
        Self { blcr, ..self }.restart(console)
    }

    fn restart(self, console: Console) -> Result<u8, Failure> {
        let signals = WatchedSignals::block()?;
        if let Some(name) = &self.name {
            Registry::open()?.check_free(name)?;
        }
        let from_stream = self.image == Path::new("-");
        let terminal = if from_stream && !self.detach {
            Some(own_terminal()?)
        } else {
            None
        };
        let standard = self.standard()?;
        // Opened before anything is started, so that it cannot fail for its name any more.
        let pidfile = self.pidfile.as_deref().map(create).transpose()?;
        if !self.detach {
            spawn::set_child_subreaper(Subreaper::On).map_err(Failure::system("adopt orphans"))?;
        }
        let request = RestartRequest {
            standard,
            source: source(&self.image),
            ..self.conditions.request()?
        };
        let status = match self.detach {
            true => Code::Failed as u8,
            false => exit::INSTEAD_OF_JOB,
        };
        let (image, told) = stoppable_telling(&signals, status, |_| {
            expect_no_copy(&self.image)?;
            // It may ask for a passphrase, where a bar would be in the way.
            let image = open(&self.image, &self.opening)?;
            if from_stream {
                take_input(terminal.as_ref())?;
            }
            Ok(image)
        })?;
        if told.is_some() {
            return Err(cryonaut_engine::Error::Interrupted.into());
        }
        if !self.detach && !from_stream && self.stdin.is_none() {
            expect_keys(&image)?;
        }
        // Now, while there is one thread again, and before anything of the job is there to be seen.
        let inherited = Some(self.conditions.inherited_before_view(&image)?);
        let view = self.conditions.enter_view(&image, &signals)?;
        let request = RestartRequest {
            view,
            inherited,
            ..request
        };
        let mut job = None;
        let (restarted, told) = {
            let progress = Progress::new(console, Count::Read, "restarting");
            stoppable_telling(&signals, status, |seam| {
                progress.expect(image.summary().bytes);
                restart::restart(&image, request, seam.stop(), |rebuilt| {
                    let commit = || seam.commit();
                    let (listed, committed) = let_go(rebuilt, self.name, commit, console)?;
                    job = listed;
                    Ok(committed)
                })
            })?
        };
        drop(image);
        if let Some(mut file) = pidfile {
            let written = writeln!(file, "{}", restarted.root.pid);
            if let Err(error) = written {
                console.warning(&format!(
                    "the job runs as {}, but --pidfile cannot be written: {error}",
                    restarted.root.pid
                ));
            }
        }
        if let Some(manner) = &self.blcr
            && let Some(status) = manner.restarted(&restarted)?
        {
            return Ok(status);
        }
        let ending = self.blcr.as_ref().map(Manner::ending).unwrap_or_default();
        if self.detach {
            detach(restarted, job, console)
        } else {
            let sight = Sight {
                user: terminal.map_or(User::Standard, User::Terminal),
                keys: self.key.detach_key,
            };
            foreground((restarted, ending), job, sight, (signals, told), console)
        }
    }

    fn standard(&self) -> Result<[Option<File>; 3], Failure> {
        let input = self.stdin.as_deref().map(|path| {
            File::open(path).map_err(Failure::system(format!("open {}", path.display())))
        });
        let output = |path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path| {
                    let opened = File::options().append(true).create(true).open(path);
                    opened.map_err(Failure::system(format!("open {}", path.display())))
                })
                .transpose()
        };
        Ok([
            input.transpose()?,
            output(&self.stdout)?,
            output(&self.stderr)?,
        ])
    }
}

/// What programs are told of where the image comes from.
fn source(image: &Path) -> Vec<u8> {
    match std::path::absolute(image) {
        Ok(path) if image != Path::new("-") => path.into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(Failure::system(format!("create {}", path.display())))
}

/// Refuses a job that waits for keys at its terminal where nobody can type any.
fn expect_keys(image: &SeekableImage) -> Result<(), Failure> {
    let nobody = metadata_of_input()
        .is_ok_and(|input| input.file_type().is_char_device() && input.rdev() == NULL_DEVICE);
    if !nobody || !waits_for_keys(&image.records()?)? {
        return Ok(());
    }
    Err(Failure::usage(
        "the job waits for keys at its terminal, and there is nobody to type them: standard input is closed or /dev/null; add \
         --detach and have cryo attach take it up, restart it at a terminal (script -qc 'cryo restart FILE' /dev/null makes one), \
         or give it input by a pipe",
    ))
}

/// /dev/null (Documentation/admin-guide/devices.txt), as stat(2) tells it.
const NULL_DEVICE: u64 = 0x103;

fn metadata_of_input() -> std::io::Result<Metadata> {
    // Where it was closed it is /dev/null by now: the standard library sees to that.
    File::from(stdin().as_fd().try_clone_to_owned()?).metadata()
}

/// Standard input was the image; what is left of it is no input for the job. From now on it is the user's terminal, or nothing.
fn take_input(terminal: Option<&File>) -> Result<(), Failure> {
    let failed = "take the terminal for standard input";
    let nothing;
    let input = match terminal {
        Some(terminal) => terminal,
        None => {
            nothing = File::open("/dev/null").map_err(Failure::system("open /dev/null"))?;
            &nothing
        }
    };
    spawn::duplicate_onto(input.as_raw_fd(), 0, OnExec::Keep).map_err(Failure::system(failed))
}

fn own_terminal() -> Result<File, Failure> {
    File::options().read(true).write(true).open("/dev/tty").map_err(|error| {
        Failure::usage(format!(
            "the image comes from standard input, and there is no terminal for the job's own input ({error}): \
             add --detach, or name a file"
        ))
    })
}

/// Lets a rebuilt job run, which is in the list by then, under the name asked for or the one it had, and whose terminal stays open;
/// asks `commit` just before that.
pub(super) fn let_go(
    rebuilt: Rebuilt<'_>,
    name: Option<String>,
    commit: impl FnOnce() -> Result<(), Failure>,
    console: Console,
) -> Result<(Option<Job>, Committed), Failure> {
    let kept = rebuilt
        .terminal()
        .map(|master| terminal::keep(rebuilt.nursery, master))
        .transpose();
    let terminal_keeper = kept.unwrap_or_else(|failure| {
        console.warning(&format!(
            "the job's terminal will hang up when the process that holds it ends: {}",
            failure.message
        ));
        None
    });
    let command = ProcessDirectory::open(rebuilt.root.pid)
        .and_then(|directory| directory.command_line())
        .unwrap_or_default()
        .iter()
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let had = Some(rebuilt.job_name.to_owned()).filter(|name| check_name(name).is_ok());
    let new = NewJob {
        generation: rebuilt.generation,
        notification: rebuilt.notification,
        terminal_keeper,
        ..job::describe(rebuilt.nursery, rebuilt.root, name.or(had), command)?
    };
    let mut entry = job::enter(&new);
    let committed = commit().and_then(|()| Ok(rebuilt.commit(|| entry.open_list())?));
    match committed {
        Ok(committed) => Ok((entry.stays(console), committed)),
        Err(failure) => {
            entry.leaves();
            Err(failure)
        }
    }
}

fn detach(restarted: Restarted, job: Option<Job>, console: Console) -> Result<u8, Failure> {
    let there = (&restarted.nursery, &restarted.root);
    job::hold_detached(there, restarted.terminal, job.as_ref(), console);
    for remark in &restarted.remarks {
        console.remark(remark);
    }
    let report = Detached {
        pid: restarted.root.pid,
        name: job.map(|job| job.name),
        remarks: restarted.remarks,
    };
    console.result(&report, || report.text())?;
    Ok(0)
}

fn foreground(
    (restarted, ending): (Restarted, Ending),
    job: Option<Job>,
    sight: Sight,
    (signals, told): (WatchedSignals, Option<ArrivedSignal>),
    console: Console,
) -> Result<u8, Failure> {
    for remark in &restarted.remarks {
        console.remark(remark);
    }
    let mut foreground = Foreground::new(signals, &restarted.nursery, &restarted.root)?;
    foreground.ends(ending);
    if let Some(master) = restarted.terminal {
        foreground.attach(master, job.as_ref(), sight)?;
    }
    // It came too late to stop the restart.
    if let Some(signal) = told {
        foreground.hear(signal);
    }
    let name = job.as_ref().map(|job| job.name.as_str());
    let root = restarted.root.pid;
    let mut reap = || job::reap_orphans(&[root]);
    match &restarted.nursery {
        Nursery::Direct(_) => foreground.run(name, Some(&mut reap), console),
        Nursery::Namespace(_) => foreground.run(name, None, console),
    }
}
