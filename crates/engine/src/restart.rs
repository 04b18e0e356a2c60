//! The restart as one operation: open, plan, rebuild, release.

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
    /// The image's job name.
    pub job_name: String,
    /// How its programs are told of checkpoints.
    pub notification: Notification,
    /// How many times the job has been restarted, this one included.
    pub generation: u64,
    /// Things the user should know.
    pub remarks: Vec<String>,
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
    Ok(plan)
}

/// Brings a job back.
///
/// # Errors
/// [`Error::Refused`] before anything is created; otherwise everything built is gone again.
pub fn restart(
    image: &SeekableImage,
    mut request: RestartRequest,
    stop: &AtomicBool,
) -> Result<Restarted> {
    request.inherited.get_or_insert_default();
    let Relocated { records, remarks } = relocate(&image.records()?, &request.relocations)?;
    let (host, mut plan) = choose_host(image, &records, &request)?;
    let told = request.view.iter().flat_map(|view| &view.remarks);
    let remarks: Vec<String> = remarks.iter().chain(told).cloned().collect();
    plan.remarks.extend(remarks.iter().cloned());
    if !host.shares_pids {
        return build(
            image,
            &records,
            plan,
            fresh_namespaces(image, &records, request.view.as_ref())?,
            request.standard,
            stop,
        );
    }
    let mut kept = [None, None, None];
    for (kept, file) in kept.iter_mut().zip(&request.standard) {
        let copy = file.as_ref().map(File::try_clone).transpose();
        *kept = copy.attempt(|| "copying a descriptor".into())?;
    }
    let nursery = Nursery::Direct(Direct);
    match build(image, &records, plan, nursery, request.standard, stop) {
        Err(Error::PidTaken(_) | Error::TerminalTaken(_)) if request.pids == Pids::Auto => {
            let request = RestartRequest {
                pids: Pids::Namespace,
                standard: kept,
                ..request
            };
            let (_, mut plan) = choose_host(image, &records, &request)?;
            plan.remarks.extend(remarks);
            build(
                image,
                &records,
                plan,
                fresh_namespaces(image, &records, request.view.as_ref())?,
                request.standard,
                stop,
            )
        }
        outcome => outcome,
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

/// Builds the job. What a failure leaves in fresh namespaces ends with them, before the failure is told.
fn build(
    image: &SeekableImage,
    records: &RecordSet,
    plan: Plan,
    nursery: Nursery,
    standard: [Option<File>; 3],
    stop: &AtomicBool,
) -> Result<Restarted> {
    let notification = notice::recorded(records)?;
    let mut remarks = plan.remarks.clone();
    match build_in(image, records, plan, &nursery, standard, stop) {
        Ok((root, terminal, mut said)) => {
            remarks.append(&mut said);
            Ok(Restarted {
                root,
                nursery,
                terminal,
                job_name: image.preamble().job_name.clone(),
                notification,
                generation: image.preamble().generation + 1,
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

type Built = (Child, Option<OwnedFd>, Vec<String>);

fn build_in(
    image: &SeekableImage,
    records: &RecordSet,
    plan: Plan,
    nursery: &Nursery,
    standard: [Option<File>; 3],
    stop: &AtomicBool,
) -> Result<Built> {
    let processes = records.all::<ProcessRecord>()?;
    let steps = plan.ordered()?;
    let mut rebuild = Rebuild::new(image, records, nursery, standard, stop)?;
    for step in steps {
        if stop.load(Ordering::Relaxed) {
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
    let terminal = rebuild.terminal.take();
    let root = nursery
        .adopt(outer, first)
        .map_err(|error| Error::Failed(error.to_string()))?;
    let remarks = rebuild.release()?;
    Ok((root, terminal, remarks))
}
