//! The restart as one operation: open, plan, rebuild, release.
//!
//! Between the last two is a seam: [`Rebuilt`] is a job that is there in full and of which nothing has run. Whoever asked for the
//! restart is given it, does what has to be done before the job runs (enters it in the list of jobs, keeps its terminal, hears that
//! the original of a job that moves has ended), and commits it or drops it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryonaut_image::{ImageReader, RecordSet, SeekableImage};
use cryonaut_launch::{
    Child, Direct, Lifetime, NamespaceRequest, Namespaces, Nursery, Terminals, TimeOffset,
    TimeOffsets, UserNamespace,
};
use cryonaut_procfs::ProcessDirectory;

use crate::checkpoint::temporary_file;
use crate::error::Attempt;
use crate::host::{Changed, ClampLimits, Grown, Host, Inherited};
use crate::notify::Notification;
use crate::plan::Plan;
use crate::rebuild::Rebuild;
use crate::relocate::{Relocated, Relocation, relocate};
use crate::resource::file::has_own_terminals;
use crate::resource::memory::printable;
use crate::resource::notice;
use crate::resource::process::ProcessRecord;
use crate::view::{self, View};
use crate::{Error, Refusal, Result};

/// Where an image comes from.
#[derive(Debug)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// A stream, which is read to its end first.
    Stream(File),
}

/// Which pids a restarted job gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pids {
    /// Its own, here.
    Keep,
    /// Its own, in a fresh pid namespace.
    Namespace,
    /// Here where they are free and the user may, else in a fresh pid namespace.
    #[default]
    Auto,
}

/// How a restart is to be done.
#[derive(Debug, Default)]
pub struct RestartRequest {
    /// The pids.
    pub pids: Pids,
    /// Replacements for standard input, output and error where these lie outside the job.
    pub standard: [Option<File>; 3],
    /// What takes the place of pipes that led out of the job, by their names; none, where that is told later, only for asking in
    /// advance.
    pub inherited: Option<Arc<BTreeMap<String, Inherited>>>,
    /// How files that changed are taken.
    pub changed: Changed,
    /// How files that grew are taken.
    pub grown: Grown,
    /// Where files are now.
    pub relocations: Vec<Relocation>,
    /// What becomes of hard limits that the user may not set.
    pub clamp_limits: ClampLimits,
    /// Processes that will have ended when it is done, by their pids here: for asking in advance.
    pub leaving: BTreeSet<i32>,
    /// Files that the image provides ([`view::provided`]): for asking in advance.
    pub provided: BTreeSet<Vec<u8>>,
    /// What the calling process has entered, if it has ([`view::enter`]).
    pub view: Option<View>,
    /// Where the image comes from, for programs that ask: an absolute path, empty if it has none.
    pub source: Vec<u8>,
}

impl RestartRequest {
    /// This machine, as it is to be taken.
    fn host(&self, shares_pids: bool) -> Result<Host> {
        Ok(Host {
            inherited: self.inherited.clone(),
            grown: self.grown,
            clamp_limits: self.clamp_limits,
            leaving: self.leaving.clone(),
            provided: self.provided.clone(),
            source: self.source.clone(),
            ..Host::look(shares_pids, self.changed)?
        })
    }
}

/// A job that runs again.
#[derive(Debug)]
pub struct Restarted {
    /// Its first process.
    pub root: Child,
    /// Where it lives.
    pub nursery: Nursery,
    /// The master side of the terminal that it was given, if it was on one.
    pub terminal: Option<OwnedFd>,
    /// Things the user should know.
    pub remarks: Vec<String>,
}

/// A job that is rebuilt, and stopped: nothing of it has run. It becomes a running job by [`Rebuilt::commit`]. If it is dropped
/// instead, or this process dies, by SIGKILL too, all of it is killed, and nothing is left behind.
pub struct Rebuilt<'a> {
    /// Its first process.
    pub root: &'a Child,
    /// Where it lives.
    pub nursery: &'a Nursery,
    /// The image's job name.
    pub job_name: &'a str,
    /// How its programs are told of checkpoints.
    pub notification: Notification,
    /// How many times the job has been restarted, this one included.
    pub generation: u64,
    rebuild: Rebuild<'a>,
}

impl Rebuilt<'_> {
    /// The master side of the terminal that it was given, if it was on one.
    #[must_use]
    pub fn terminal(&self) -> Option<&OwnedFd> {
        self.rebuild.terminal.as_ref()
    }

    /// Lets it run: from here on nothing kills it. Calls `late` when that is so but for what is done between, if that may take
    /// its time: files on a file system that hangs.
    ///
    /// # Errors
    /// When it cannot be let go; then all of it is killed.
    pub fn commit(mut self, late: impl FnOnce()) -> Result<Committed> {
        let terminal = self.rebuild.terminal.take();
        Ok(Committed {
            remarks: self.rebuild.release(late)?,
            terminal,
        })
    }
}

/// That a job was let go. Only [`Rebuilt::commit`] makes one.
#[derive(Debug)]
pub struct Committed {
    terminal: Option<OwnedFd>,
    remarks: Vec<String>,
}

/// Opens an image; a stream is put into a temporary file first, so that all of it is verified before anything starts. One that
/// does not begin as an image does is given up at once: it may have no end.
///
/// # Errors
/// When it is no image, or damaged.
pub fn open(input: Input) -> Result<SeekableImage> {
    let file = match input {
        Input::File(path) => {
            let mut file = File::open(&path).attempt(|| format!("opening {}", path.display()))?;
            let metadata = file
                .metadata()
                .attempt(|| format!("opening {}", path.display()))?;
            if metadata.is_dir() {
                return Err(Error::Usage(format!(
                    "{} is a directory, not an image",
                    path.display()
                )));
            }
            if metadata.is_file() {
                file
            } else {
                spool(&mut file)?
            }
        }
        Input::Stream(mut stream) => spool(&mut stream)?,
    };
    Ok(SeekableImage::open(file)?)
}

/// Opens an image from a stream, as [`open`] does.
///
/// # Errors
/// As [`open`].
pub fn open_stream(stream: &mut dyn Read) -> Result<SeekableImage> {
    Ok(SeekableImage::open(spool(stream)?)?)
}

fn spool(stream: &mut dyn Read) -> Result<File> {
    let mut file = temporary_file()?;
    ImageReader::open(Tee {
        from: stream,
        to: &mut file,
    })?;
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let count = stream
            .read(&mut buffer)
            .attempt(|| "reading the image".into())?;
        if count == 0 {
            return Ok(file);
        }
        file.write_all(&buffer[..count])
            .attempt(|| "keeping the image while it is read".into())?;
    }
}

/// A stream whose bytes are kept as they are read.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: &'a mut File,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Plans a restart without creating anything.
///
/// # Errors
/// When the image is damaged.
pub fn plan(image: &SeekableImage, records: &RecordSet, host: &Host) -> Result<Plan> {
    let known: Vec<_> = crate::resource::REGISTRY
        .iter()
        .flat_map(|resource| resource.kinds().iter().copied())
        .collect();
    let mut plan = Plan::default();
    host.check_needs(&image.preamble().needs, &mut plan);
    for unknown in records.unknown(&known) {
        plan.refusals.add_for_job(
            format!(
                "records of kind {} version {}",
                unknown.name, unknown.version
            ),
            "this cryo does not know them",
            "restart with the version of cryo that made the image, or a newer one",
        );
    }
    for resource in crate::resource::REGISTRY {
        resource.plan(records, host, &mut plan)?;
    }
    let processes = records.all::<ProcessRecord>()?;
    plan.refusals.name_processes(|pid| {
        let process = processes.iter().find(|process| process.pid == pid)?;
        Some(printable(&process.name))
    });
    Ok(plan)
}

/// Brings a job back. Once it is rebuilt, and before any of it runs, `decide` is asked: it commits the job, or gives it up by an
/// error.
///
/// # Errors
/// [`Error::Refused`] before anything is created, or that of `decide`; otherwise too everything built is gone again.
pub fn restart<E: From<Error>>(
    image: &SeekableImage,
    mut request: RestartRequest,
    stop: &AtomicBool,
    decide: impl FnOnce(Rebuilt<'_>) -> std::result::Result<Committed, E>,
) -> std::result::Result<Restarted, E> {
    request.inherited.get_or_insert_default();
    let saved = image.records().map_err(Error::from)?;
    let Relocated { records, remarks } = relocate(&saved, &request.relocations)?;
    let (host, mut plan) = choose_host(image, &records, &request)?;
    let told = request.view.iter().flat_map(|view| &view.remarks);
    let remarks: Vec<String> = remarks.iter().chain(told).cloned().collect();
    plan.remarks.extend(remarks.iter().cloned());
    let building = Building {
        image,
        records: &records,
        stop,
    };
    if !host.shares_pids {
        let nursery = fresh_namespaces(image, &records, request.view.as_ref())?;
        return building
            .build((plan, request.standard), nursery, decide)
            .map_err(|(stumble, _)| stumble.into_error());
    }
    let mut kept = [None, None, None];
    for (kept, file) in kept.iter_mut().zip(&request.standard) {
        let copy = file.as_ref().map(File::try_clone).transpose();
        *kept = copy.attempt(|| "copying a descriptor".into())?;
    }
    let nursery = Nursery::Direct(Direct);
    match building.build((plan, request.standard), nursery, decide) {
        Err((Stumble::Built(Error::PidTaken(_) | Error::TerminalTaken(_)), Some(decide)))
            if request.pids == Pids::Auto =>
        {
            let request = RestartRequest {
                pids: Pids::Namespace,
                standard: kept,
                ..request
            };
            let (_, mut plan) = choose_host(image, &records, &request)?;
            plan.remarks.extend(remarks);
            let nursery = fresh_namespaces(image, &records, request.view.as_ref())?;
            building
                .build((plan, request.standard), nursery, decide)
                .map_err(|(stumble, _)| stumble.into_error())
        }
        outcome => outcome.map_err(|(stumble, _)| stumble.into_error()),
    }
}

fn fresh_namespaces(
    image: &SeekableImage,
    records: &RecordSet,
    view: Option<&View>,
) -> Result<Nursery> {
    let request = NamespaceRequest {
        user: UserNamespace::WhenNeeded,
        time_offsets: time_offsets(image)?,
        lifetime: Lifetime::WithSupervisor,
        terminals: if has_own_terminals(records)? {
            Terminals::Fresh
        } else {
            Terminals::Callers
        },
    };
    let namespaces = Namespaces::create(&request).map_err(|error| {
        Error::NotPermitted(
            format!("fresh namespaces cannot be made: {error}"),
            "`cryo doctor` tells what this machine permits".into(),
        )
    })?;
    if let Some(view) = view {
        namespaces
            .hold_mounts(view.mounts())
            .map_err(|error| Error::Failed(error.to_string()))?;
    }
    Ok(Nursery::Namespace(namespaces))
}

/// Whether an image could be restarted here by this user, once the processes that it was made of have ended. Makes nothing.
///
/// # Errors
/// [`Error::Refused`] with all that would stand in the way.
pub fn prove(image: &SeekableImage, records: &RecordSet, leaving: BTreeSet<i32>) -> Result<()> {
    let provided = view::provided(records, view::Choice::default())?;
    let request = RestartRequest {
        provided,
        leaving,
        // The user can say so then.
        clamp_limits: ClampLimits::Yes,
        ..RestartRequest::default()
    };
    let refusals = match choose_host(image, records, &request) {
        Err(Error::Refused(refusals)) => refusals,
        outcome => return outcome.map(drop),
    };
    let told = refusals.into_iter().map(|refusal| Refusal {
        reason: format!("a restart here would be refused: {}", refusal.reason),
        remedy: format!(
            "{}; or save it without --kill, and end it yourself",
            refusal.remedy
        ),
        ..refusal
    });
    Err(Error::Refused(told.collect()))
}

fn choose_host(
    image: &SeekableImage,
    records: &RecordSet,
    request: &RestartRequest,
) -> Result<(Host, Plan)> {
    let privileged = may_choose_pids();
    let keep = match request.pids {
        Pids::Keep => true,
        Pids::Namespace => false,
        Pids::Auto => privileged,
    };
    if keep {
        if !privileged {
            return Err(Error::NotPermitted(
                "only root (or CAP_CHECKPOINT_RESTORE) may give a process its old pid here".into(),
                "use --pids namespace".into(),
            ));
        }
        if request.leaving.is_empty() {
            await_notice(records)?;
        }
        let host = request.host(true)?;
        let planned = plan(image, records, &host)?;
        if planned.refusals.list().is_empty() || request.pids == Pids::Keep {
            let refusals = planned.refusals.clone();
            refusals.into_result()?;
            return Ok((host, planned));
        }
    }
    let host = request.host(false)?;
    let planned = plan(image, records, &host)?;
    let refusals = planned.refusals.clone();
    refusals.into_result()?;
    Ok((host, planned))
}

/// Waits a moment for the ids of processes that have ended already, and that their parents have not taken notice of yet: as of the
/// job itself, right after it was killed.
fn await_notice(records: &RecordSet) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let start = Instant::now();
    for process in records.all::<ProcessRecord>()? {
        let is_zombie = || {
            let stat = ProcessDirectory::open(process.pid).and_then(|found| found.stat());
            stat.is_ok_and(|stat| stat.state == 'Z' && stat.num_threads <= 1)
        };
        while is_zombie() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Whether this user may choose pids in this pid namespace: CAP_CHECKPOINT_RESTORE (40) or CAP_SYS_ADMIN (21).
pub fn may_choose_pids() -> bool {
    let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
    capabilities & (1 << 40 | 1 << 21) != 0
}

/// The clocks go on from where they were: offsets for a fresh time namespace.
fn time_offsets(image: &SeekableImage) -> Result<Option<TimeOffsets>> {
    let saved = |name: &str| {
        let needs = &image.preamble().needs;
        needs
            .iter()
            .find(|need| need.name == name)
            .and_then(|need| need.value.parse::<i128>().ok())
    };
    let (Some(monotonic), Some(boottime)) = (saved("clock.monotonic"), saved("clock.boottime"))
    else {
        return Ok(None);
    };
    let offset = |saved: i128, clock: i32| -> Result<TimeOffset> {
        let now = cryonaut_sys::task::clock(clock).attempt(|| "reading the clock".into())?;
        let difference = saved - now;
        let seconds = difference.div_euclid(1_000_000_000);
        Ok(TimeOffset {
            seconds: seconds as i64,
            nanoseconds: difference.rem_euclid(1_000_000_000) as u32,
        })
    };
    Ok(Some(TimeOffsets {
        monotonic: offset(monotonic, libc::CLOCK_MONOTONIC)?,
        boottime: offset(boottime, libc::CLOCK_BOOTTIME)?,
    }))
}

/// Why a job was not brought back.
enum Stumble<E> {
    /// It could not be built.
    Built(Error),
    /// It was, and was given up.
    Decided(E),
}

impl<E: From<Error>> Stumble<E> {
    fn into_error(self) -> E {
        match self {
            Stumble::Built(error) => error.into(),
            Stumble::Decided(error) => error,
        }
    }
}

/// What is built.
struct Building<'a> {
    image: &'a SeekableImage,
    records: &'a RecordSet,
    stop: &'a AtomicBool,
}

impl Building<'_> {
    /// Builds the job, and asks what is to become of it; who would decide comes back if it did not come to that. What a failure
    /// leaves in fresh namespaces ends with them, before the failure is told.
    fn build<E, D: FnOnce(Rebuilt<'_>) -> std::result::Result<Committed, E>>(
        &self,
        (plan, standard): (Plan, [Option<File>; 3]),
        nursery: Nursery,
        decide: D,
    ) -> std::result::Result<Restarted, (Stumble<E>, Option<D>)> {
        let mut remarks = plan.remarks.clone();
        let outcome = match self.build_in(plan, &nursery, standard) {
            Err(error) => Err((Stumble::Built(error), Some(decide))),
            Ok((root, notification, mut rebuild)) => {
                rebuild.stand_ready();
                let rebuilt = Rebuilt {
                    root: &root,
                    nursery: &nursery,
                    job_name: &self.image.preamble().job_name,
                    notification,
                    generation: self.image.preamble().generation + 1,
                    rebuild,
                };
                match decide(rebuilt) {
                    Ok(committed) => Ok((root, committed)),
                    Err(error) => Err((Stumble::Decided(error), None)),
                }
            }
        };
        match outcome {
            Ok((root, mut committed)) => {
                remarks.append(&mut committed.remarks);
                Ok(Restarted {
                    root,
                    nursery,
                    terminal: committed.terminal,
                    remarks,
                })
            }
            Err(error) => {
                if let Nursery::Namespace(namespaces) = nursery {
                    let _ = namespaces.end();
                }
                Err(error)
            }
        }
    }

    fn build_in<'b>(
        &'b self,
        plan: Plan,
        nursery: &'b Nursery,
        standard: [Option<File>; 3],
    ) -> Result<(Child, Notification, Rebuild<'b>)> {
        let notification = notice::recorded(self.records)?;
        let processes = self.records.all::<ProcessRecord>()?;
        let steps = plan.ordered()?;
        let mut rebuild = Rebuild::new(self.image, self.records, nursery, standard, self.stop)?;
        for step in steps {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let start = Instant::now();
            step.action.perform(&mut rebuild)?;
            tracing::debug!(step = %step, elapsed = ?start.elapsed(), "built");
        }
        let roots = || processes.iter().filter(|process| process.parent == 0);
        let first = roots()
            .find(|process| process.named)
            .or_else(|| roots().find(|process| process.zombie.is_none()))
            .map(|process| process.pid)
            .ok_or_else(|| Error::Failed("the image has no process".into()))?;
        let outer = rebuild.built(first)?.pid;
        let root = nursery
            .adopt(outer, first)
            .map_err(|error| Error::Failed(error.to_string()))?;
        Ok((root, notification, rebuild))
    }
}
