//! The checkpoint as one operation: target, freeze, collect, copy, release, and an image that is there or not.

mod pack;
mod read_back;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use cryonaut_image::{AtomicFile, Need, Preamble, SeekableImage, Summary};

use self::pack::Patient;
pub use self::pack::{Envelope, Packing, Seal};
use self::read_back::ReadBack;
use crate::collect::{Collection, collect};
use crate::copy_out::{Beginning, Keeping, copy_out};
use crate::error::Attempt;
use crate::freeze::{Afterwards, Frozen};
use crate::notify::Notified;
use crate::participants;
use crate::resource::file::{connection_remarks, external};
use crate::show::EmbeddedDescription;
use crate::target::{Inspection, Target};
use crate::{Error, Refusals, Result};

/// Where an image goes.
#[derive(Debug)]
pub enum Output {
    /// To a file, which appears whole or not at all.
    File(PathBuf),
    /// To a stream. The job does not wait for its reader: the image goes to a temporary file first.
    Stream(File),
    /// To somebody who brings the job back elsewhere: it is killed here on the strength of their word, and stands still until then.
    Receiver(Box<dyn Receiver>),
}

/// Somebody who takes an image, and answers for it.
pub trait Receiver: Write + std::fmt::Debug {
    /// Waits, after the last byte, until the job is rebuilt elsewhere, with its image in a safe place. When this comes back without
    /// an error the job is killed here.
    ///
    /// # Errors
    /// When it cannot be had there, or nothing is heard of it. The job runs on then.
    fn answer(&mut self) -> Result<()>;
}

/// Where a job that is killed is to be brought back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Return {
    /// On this machine: that has to be possible.
    Here,
    /// On another one, which says so itself.
    Elsewhere,
}

/// What is to be checkpointed, and how.
#[derive(Debug)]
pub struct CheckpointRequest {
    /// The processes.
    pub target: Target,
    /// What becomes of them.
    pub afterwards: Afterwards,
    /// Where the image goes.
    pub output: Output,
    /// The job's name, if it has one.
    pub job_name: String,
    /// How many times the job was restarted before.
    pub generation: u64,
    /// Who makes it.
    pub tracer: Tracer,
    /// How the image is packed.
    pub packing: Packing,
}

/// Who traces the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tracer {
    /// The process that users know by its number, and may kill.
    #[default]
    Named,
    /// A process apart, as jobs with delicate tasks need it (see `cryonaut_tracee::guest`).
    Apart,
}

/// What a checkpoint did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CheckpointReport {
    /// Processes saved, zombies included.
    pub processes: usize,
    /// Threads saved.
    pub threads: usize,
    /// Bytes of the image.
    pub bytes: u64,
    /// Pages stored.
    pub pages: u64,
    /// The files whose content was saved beside the job, by path.
    pub embedded: Vec<EmbeddedDescription>,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// What the user may have to do something about: it stays on the machine.
    pub warnings: Vec<String>,
    /// The processes that are alive in the image, by their pids as we see them.
    #[serde(skip)]
    pub saved: Vec<i32>,
    /// How long the job stood still.
    pub still: Duration,
    /// How long it all took.
    pub total: Duration,
}

/// Where a checkpoint has come to, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Programs that asked for it were told, and get ready.
    Telling,
    /// The job stands still.
    Frozen,
    /// This many bytes of memory are to be copied.
    Copying(u64),
    /// The job is released; the image is being made durable.
    Released,
    /// Bytes of a streamed image that the reader has taken.
    Sent(u64),
    /// The image goes to a receiver; the job stands still.
    Handing,
    /// The receiver rebuilds the job.
    Answering,
}

/// Makes a checkpoint.
///
/// # Errors
/// [`Error::Refused`] before anything is disturbed, [`Error::Withdrawn`] once programs were told; otherwise the job runs on and no image
/// is left.
pub fn checkpoint(
    request: CheckpointRequest,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckpointReport> {
    let start = Instant::now();
    let CheckpointRequest {
        target,
        afterwards,
        output,
        job_name,
        generation,
        tracer,
        packing,
    } = request;
    let mut target = Target {
        inspection: Inspection::BeforeFreeze,
        ..target
    };
    let found = inspect(&mut target);
    let due = match found {
        // Those who take part may be about to put an end to what stands in the way.
        Err(Error::Refused(_)) if participants::are_in(&target) => Inspected::NotYet,
        found => found.map(|()| Inspected::Already)?,
    };
    let save = Save {
        target,
        due,
        afterwards,
        job_name,
        generation,
        tracer,
        back: match &output {
            Output::Receiver(_) => Return::Elsewhere,
            Output::File(_) | Output::Stream(_) => Return::Here,
        },
        stop,
        start,
    };
    // The output comes first: where nothing can be written, nothing is stopped.
    match output {
        Output::File(path) if packing.is_plain() => {
            let file = AtomicFile::create(&path)?;
            let (file, held, report) = save.run(file, progress, |file| {
                file.sync()?;
                let verified = file
                    .file()
                    .try_clone()
                    .attempt(|| "reading the image back".into())?;
                Ok((file, verified))
            })?;
            file.commit()?;
            finish_kill(held, report, afterwards, start)
        }
        Output::File(path) => {
            let file = AtomicFile::create(&path)?;
            let (spool, held, mut report) = save.spool(progress)?;
            // For a job that is killed on the strength of it, every byte is read back.
            let mut sink = match afterwards {
                Afterwards::Kill => ReadBack::checked(file)?,
                _ => ReadBack::trusted(file),
            };
            report.bytes = packing.pack(spool, &mut sink, stop)?;
            let file = interruptibly(stop, move || {
                let file = sink.into_inner();
                file.sync()?;
                Ok(file)
            })?;
            file.commit()?;
            finish_kill(held, report, afterwards, start)
        }
        Output::Stream(mut stream) => {
            if afterwards == Afterwards::Kill {
                return Err(Error::Usage(
                    "--kill with -o - would lose the job if the reader fails, which a pipe does not tell: \
                     `cryo migrate TARGET HOST` moves it safely, or write to a file with -o FILE --kill"
                        .into(),
                ));
            }
            let (spool, held, mut report) = save.spool(progress)?;
            let mut sink = Patient::new(&mut stream, stop, progress);
            report.bytes = packing.pack(spool, &mut sink, stop)?;
            finish_kill(held, report, afterwards, start)
        }
        Output::Receiver(mut receiver) => {
            if afterwards != Afterwards::Kill {
                return Err(Error::Usage(
                    "a job that moves does not stay as well".into(),
                ));
            }
            let (spool, held, mut report) = save.spool(progress)?;
            progress(Progress::Handing);
            report.bytes = packing.pack(spool, &mut receiver, stop)?;
            progress(Progress::Answering);
            receiver.answer()?;
            finish_kill(held, report, afterwards, start)
        }
    }
}

/// A job that is to be killed. In this order they are dropped: who was told goes on only when it can.
struct Held {
    frozen: Frozen,
    notified: Notified,
}

fn finish_kill(
    held: Option<Held>,
    mut report: CheckpointReport,
    afterwards: Afterwards,
    start: Instant,
) -> Result<CheckpointReport> {
    if let Some(Held { frozen, notified }) = held {
        report.still = frozen.release(afterwards)?;
        notified.finish(afterwards);
    }
    report.total = start.elapsed();
    Ok(report)
}

/// Does something that a disk may hold up for ever, while the job stands still; the user can give it up.
fn interruptibly<T: Send + 'static>(
    stop: &AtomicBool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, wait) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let _ = done.send(work());
    });
    loop {
        match wait.recv_timeout(Duration::from_millis(20)) {
            Ok(outcome) => return outcome,
            Err(_) if stop.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Failed(
                    "making the image durable ended unexpectedly".into(),
                ));
            }
        }
    }
}

/// Refuses what cannot be saved. A job that starts and ends processes all the time can look wrong between two looks (a pipe whose
/// other end belongs to a process that was just born): it is looked at again as long as it changes.
fn inspect(target: &mut Target) -> Result<()> {
    const LOOKS: usize = 20;
    for _ in 0..LOOKS {
        let refusals = target.refusals();
        if refusals.list().is_empty() {
            return Ok(());
        }
        let before = target.pids();
        *target = target.again()?;
        if target.pids() == before {
            // Nothing was born or ended since: it is as it looks.
            refusals.into_result()?;
        }
    }
    target.refusals().into_result()
}

/// Whether the running job was looked at and found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inspected {
    /// It was.
    Already,
    /// It is looked at when its programs have got ready.
    NotYet,
}

struct Save<'a> {
    target: Target,
    due: Inspected,
    afterwards: Afterwards,
    job_name: String,
    generation: u64,
    tracer: Tracer,
    back: Return,
    stop: &'a AtomicBool,
    start: Instant,
}

/// What is saved, as far as the report tells.
struct Extent {
    processes: usize,
    threads: usize,
    embedded: Vec<EmbeddedDescription>,
    remarks: Vec<String>,
    warnings: Vec<String>,
    saved: Vec<i32>,
}

impl Save<'_> {
    /// Writes the image to a temporary file, as [`Save::run`] does.
    fn spool(
        self,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(File, Option<Held>, CheckpointReport)> {
        self.run(temporary_file()?, progress, |file| {
            let verified = file
                .try_clone()
                .attempt(|| "reading the image back".into())?;
            Ok((file, verified))
        })
    }

    /// Writes the image to `sink`. The job is released as soon as its memory is copied, but one that is to be killed stays frozen
    /// (and comes back in the result) until its image is durable and verified.
    fn run<W: Write + AsFd + Send + 'static>(
        mut self,
        sink: W,
        progress: &mut dyn FnMut(Progress),
        durable: impl FnOnce(W) -> Result<(W, File)> + Send + 'static,
    ) -> Result<(W, Option<Held>, CheckpointReport)> {
        if self.target.notification.notices.checkpoint.is_some() {
            progress(Progress::Telling);
        }
        let notified = Notified::tell(&self.target, self.stop)?;
        let judge = |error| notified.judge(error);
        self.look_again(notified.left_out()).map_err(judge)?;
        let (mut frozen, collection) = self.freeze(&notified, progress).map_err(judge)?;
        let pages: u64 = collection
            .spaces
            .iter()
            .flat_map(|space| &space.ranges)
            .map(|range| (range.end - range.start) / cryonaut_sys::PAGE_SIZE)
            .sum();
        progress(Progress::Copying(pages * cryonaut_sys::PAGE_SIZE));
        let mut remarks = notified.remarks().to_vec();
        remarks.extend(external::remarks(&collection.records)?);
        let mut warnings = Vec::new();
        connection_remarks(&collection.records, &mut remarks, &mut warnings)?;
        let extent = Extent {
            processes: frozen.processes.len(),
            threads: frozen.alive().map(|process| process.tasks.len()).sum(),
            embedded: crate::show::embedded(&collection.records)?,
            remarks,
            warnings,
            saved: frozen.alive().map(|process| process.pid).collect(),
        };
        let preamble = self.preamble(&collection, frozen.generation)?;
        let Collection {
            spaces,
            records,
            contents,
            later,
            connections,
            kept_connections,
            visitors,
            ..
        } = collection;
        frozen.connections = connections;
        frozen.kept = kept_connections;
        let beginning = Beginning {
            sink: match self.afterwards {
                Afterwards::Kill => ReadBack::checked(sink)?,
                _ => ReadBack::trusted(sink),
            },
            preamble,
            records,
        };
        let keeping = match &self.target.suspension {
            Some(_) => Keeping::GiveBack,
            None => Keeping::InMemory,
        };
        let mut copying = copy_out(&spaces, &contents, beginning, (keeping, self.stop))?;
        drop(visitors);
        tracing::debug!(elapsed = ?frozen.since.elapsed(), "copied");
        if self.afterwards == Afterwards::Kill {
            copying.copy_later(&later, &contents, self.stop)?;
            let (sink, summary) = copying.finish(self.stop)?;
            let (sink, file) = interruptibly(self.stop, move || durable(sink.into_inner()))?;
            // Its pages were read back as they were written; this is its structure, with all records, and what they come to here.
            let image = SeekableImage::open(file)?;
            if self.back == Return::Here {
                let leaving = frozen.processes.iter().map(|process| process.pid).collect();
                crate::restart::prove(&image, &image.records()?, leaving)?;
            }
            frozen.seal_connections()?;
            let report = self.report(extent, &summary, frozen.since.elapsed());
            return Ok((sink, Some(Held { frozen, notified }), report));
        }
        if self.target.suspension.is_some() {
            crate::suspend::push_out_again(&mut frozen, self.stop)?;
        }
        let still = frozen.release(self.afterwards)?;
        notified.finish(self.afterwards);
        progress(Progress::Released);
        copying.copy_later(&later, &contents, self.stop)?;
        let (sink, summary) = copying.finish(self.stop)?;
        let (sink, _) = durable(sink.into_inner())?;
        Ok((sink, None, self.report(extent, &summary, still)))
    }

    /// Looks at the job as its programs have made it ready, without those that left themselves out.
    fn look_again(&mut self, left_out: BTreeSet<i32>) -> Result<()> {
        if left_out.is_empty() && self.due == Inspected::Already {
            return Ok(());
        }
        let mut refusals = Refusals::default();
        for process in &self.target.processes {
            let parent = process.stat.ppid;
            if left_out.contains(&parent) && !left_out.contains(&process.pid) {
                refusals.add(
                    (parent, ""),
                    "leaving itself out",
                    format!(
                        "its child {} ({}) is to be saved",
                        process.pid,
                        process.name()
                    ),
                    "have its children leave themselves out too",
                );
            }
        }
        refusals.into_result()?;
        self.target.left_out.extend(left_out);
        self.target = self.target.again()?;
        if self.target.processes.is_empty() {
            return Err(Error::Usage(
                "all processes have left themselves out: nothing to checkpoint".into(),
            ));
        }
        inspect(&mut self.target)
    }

    /// Freezes and collects. What only a moment stands in the way of is tried again a little later, the job running on meanwhile.
    fn freeze(
        &self,
        notified: &Notified,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Frozen, Collection)> {
        const LONGEST: Duration = Duration::from_millis(200);
        const PATIENCE: Duration = Duration::from_secs(2);
        // Known before the job stands still.
        crate::host::processor()?;
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let mut frozen = Frozen::freeze(&self.target)?;
            frozen.told = notified.pids();
            frozen.tracer = self.tracer;
            frozen.afterwards = self.afterwards;
            frozen.boards = participants::of_all(&frozen);
            let boards = frozen.boards.values().flatten();
            let known = boards.map(|board| board.head.generation).max();
            frozen.generation = self.generation.max(known.unwrap_or(0));
            notified.check(&frozen)?;
            if self.tracer == Tracer::Named && frozen.is_delicate() {
                return Err(Error::NeedsProcessApart);
            }
            if let Some(suspension) = &self.target.suspension {
                frozen.thaw(suspension)?;
            }
            tracing::debug!(elapsed = ?frozen.since.elapsed(), "frozen");
            progress(Progress::Frozen);
            match collect(&mut frozen) {
                Err(Error::Unsettled(refusals)) => {
                    drop(frozen);
                    if start.elapsed() > PATIENCE {
                        return Err(Error::Refused(refusals));
                    }
                }
                collection => return Ok((frozen, collection?)),
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            tracing::debug!(?pause, "unsettled: released, to be frozen again");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }

    fn preamble(&self, collection: &Collection, generation: u64) -> Result<Preamble> {
        let mut preamble = Preamble::new(concat!("cryo ", env!("CARGO_PKG_VERSION")))?;
        preamble.job_name = self.job_name.clone();
        preamble.generation = generation;
        preamble.node = of_kernel("hostname");
        preamble.kernel = of_kernel("osrelease");
        preamble.needs = collection
            .needs
            .iter()
            .map(|(name, value)| Need {
                name: name.clone(),
                value: value.clone(),
            })
            .collect();
        Ok(preamble)
    }

    fn report(&self, extent: Extent, summary: &Summary, still: Duration) -> CheckpointReport {
        CheckpointReport {
            processes: extent.processes,
            threads: extent.threads,
            embedded: extent.embedded,
            remarks: extent.remarks,
            warnings: extent.warnings,
            saved: extent.saved,
            bytes: summary.bytes,
            pages: summary.stored_pages,
            still,
            total: self.start.elapsed(),
        }
    }
}

/// What the kernel says of itself (proc_sys_kernel(5)), empty where it does not.
fn of_kernel(name: &str) -> String {
    let text = std::fs::read(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// An unnamed file with room for an image: in TMPDIR, else /var/tmp, which is on disk nearly everywhere.
///
/// # Errors
/// When neither can be written.
pub fn temporary_file() -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let chosen = std::env::var_os("TMPDIR").map(PathBuf::from);
    let mut last = None;
    for directory in chosen
        .iter()
        .map(PathBuf::as_path)
        .chain([Path::new("/var/tmp"), Path::new("/tmp")])
    {
        let opened = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(directory);
        match opened {
            Ok(file) => return Ok(file),
            Err(error) => last = Some((directory.to_path_buf(), error)),
        }
    }
    let (directory, error) = last.expect("at least one was tried");
    Err(Error::Failed(format!(
        "no temporary file in {}: {error}; set TMPDIR to a directory with room for the image",
        directory.display()
    )))
}
