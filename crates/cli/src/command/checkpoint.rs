//! `cryo checkpoint`: saves running processes to one file.

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use cryonaut_engine::Error;
use cryonaut_engine::checkpoint::{self, CheckpointReport, CheckpointRequest, Output, Tracer};
use cryonaut_engine::freeze::Afterwards;
use cryonaut_engine::pattern::Pattern;
use cryonaut_engine::reference::Hashing;
use cryonaut_engine::resource::embedded::{Embedding, Extent};
use cryonaut_engine::show::EmbeddedDescription;
use cryonaut_envelope::Wrapping;
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::{CheckpointEntry, Registry};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::apart::apart;
use crate::console::{Console, clean};
use crate::exit::{self, Failure};
use crate::interrupt::{Second, stoppable};
use crate::job;
use crate::notify::NotifyArguments;
use crate::packing::PackingArguments;
use crate::progress::{Count, Progress};
use crate::subject::{CutArguments, ExternalArguments, Subject, TargetArguments};
use crate::units::{self, size};
use crate::when;

/// Saves running processes to one file, and lets them run on
///
/// The file appears whole or not at all; an earlier one of that name stays until then. If anything stands in the way, every
/// reason is given and nothing is disturbed. Ctrl-C, a full disk or the death of cryo leave the processes running.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The image: a file, or - for standard output [default: TARGET.cryo]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    #[command(flatten)]
    afterwards: AfterwardsArguments,
    /// Read and hash every file that the job uses by reference, so that a restart knows it by its content (this is done before
    /// the job is stopped; files that are being written are read again while it stands still)
    #[arg(long)]
    hash_files: bool,
    #[command(flatten)]
    embedding: EmbeddingArguments,
    #[command(flatten)]
    external: ExternalArguments,
    #[command(flatten)]
    cut: CutArguments,
    #[command(flatten)]
    notify: NotifyArguments,
    #[command(flatten)]
    packing: PackingArguments,
}

/// Which files go into the image.
#[derive(Args, Debug, Clone, Default)]
pub(super) struct EmbeddingArguments {
    /// Put files that the job uses by reference into the image (programs, libraries, open and mapped files), for a restart where
    /// they are gone or others; with PATTERN only those that it stands for: a path, `*` for any characters, a directory for all
    /// below it (may be given several times)
    #[arg(long, value_name = "PATTERN", num_args = 0..=1, require_equals = true, conflicts_with = "self_contained")]
    embed: Option<Vec<OsString>>,
    /// Put all into the image that the job needs, also later: what --embed takes, loaders, libraries of libraries, scripts,
    /// terminal descriptions, Python's standard library, the directories that it works in
    #[arg(long)]
    self_contained: bool,
    /// Put these files into the image too, with all below directories (may be given several times)
    #[arg(long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// Leave these files out of the image (may be given several times)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// How much may be put into the image: bytes, or with K, M, G [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_size)]
    embed_limit: Option<u64>,
}

impl EmbeddingArguments {
    pub(super) fn chosen(&self) -> Result<Embedding, Failure> {
        let parse = |texts: &[OsString]| {
            let parsed = texts.iter().map(|text| Pattern::parse(text));
            parsed
                .collect::<std::io::Result<Vec<_>>>()
                .map_err(Failure::system("understand a pattern"))
        };
        let extent = match (&self.embed, self.self_contained) {
            (_, true) => Extent::SelfContained,
            (Some(patterns), _) => Extent::References(parse(patterns)?),
            (None, false) => Extent::Nothing,
        };
        Ok(Embedding {
            extent,
            include: parse(&self.include)?,
            exclude: parse(&self.exclude)?,
            limit: self.embed_limit,
        })
    }

    /// What is embedded is known by its content.
    pub(super) fn hashing(&self) -> bool {
        self.self_contained || self.embed.is_some()
    }
}

#[derive(Args, Debug, Clone, Copy)]
#[group(multiple = false)]
struct AfterwardsArguments {
    /// The processes run on (the default)
    #[arg(long)]
    leave_running: bool,
    /// The processes are left stopped, as by SIGSTOP
    #[arg(long)]
    stop: bool,
    /// The processes are killed, once the image is complete, verified and on disk
    #[arg(long)]
    kill: bool,
}

impl AfterwardsArguments {
    fn chosen(self) -> Afterwards {
        match self {
            AfterwardsArguments { stop: true, .. } => Afterwards::Stop,
            AfterwardsArguments { kill: true, .. } => Afterwards::Kill,
            _ => Afterwards::LeaveRunning,
        }
    }
}

/// What was saved.
#[derive(Serialize, Debug)]
struct Report {
    /// The image's path, absolute; none for standard output.
    image: Option<PathBuf>,
    job: Option<String>,
    processes: usize,
    threads: usize,
    bytes: u64,
    pages: u64,
    still_seconds: f64,
    total_seconds: f64,
    afterwards: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    embedded: Vec<EmbeddedDescription>,
    remarks: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Arguments {
    /// A checkpoint of this target into a file, which ends it.
    pub fn killing(target: TargetArguments, file: PathBuf, notify: NotifyArguments) -> Self {
        Self {
            target,
            output: Some(file),
            afterwards: AfterwardsArguments {
                leave_running: false,
                stop: false,
                kill: true,
            },
            hash_files: false,
            external: ExternalArguments::default(),
            cut: CutArguments::default(),
            notify,
            packing: PackingArguments::default(),
            embedding: EmbeddingArguments::default(),
        }
    }

    /// Makes the checkpoint.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let to_stream = self.output.as_deref() == Some(Path::new("-"));
        if to_stream && std::io::stdout().is_terminal() && !self.packing.is_text() {
            return Err(Failure::usage(
                "an image is no text for a terminal: redirect it (`-o - | ssh HOST 'cat > FILE'`), or name a file with -o",
            ));
        }
        let afterwards = self.afterwards.chosen();
        let subject = self.find()?;
        // It may ask for a passphrase: before anything is stopped, and once.
        let wrapping = self.packing.wrapping()?;
        // A suspended job would run for an instant if its tracer were killed, one with terminals would miss what waits in them.
        if subject.target.suspension.is_none()
            && !cryonaut_engine::resource::seccomp::confines(&subject.target)
            && !cryonaut_engine::resource::file::pty::has_masters(&subject.target)
            && let Some(status) = self.clone().save(
                subject,
                (afterwards, Tracer::Named),
                wrapping.clone(),
                console,
            )?
        {
            return Ok(status);
        }
        apart(|| {
            let saved = self.find().and_then(|subject| {
                self.save(subject, (afterwards, Tracer::Apart), wrapping, console)
            });
            match saved {
                Ok(status) => status.unwrap_or(exit::Code::Unexpected as u8),
                Err(failure) => {
                    console.failure(&failure);
                    failure.status
                }
            }
        })
    }

    fn find(&self) -> Result<Subject, Failure> {
        let mut subject = Subject::find(&self.target.target, self.target.scope)?;
        subject.target.external = self.external.chosen();
        subject.target.cut = self.cut.chosen();
        subject.target.embedding = Arc::new(self.embedding.chosen()?);
        subject.target.hashing = match self.hash_files || self.embedding.hashing() {
            true => Hashing::Content,
            false => Hashing::None,
        };
        let known = subject.job.as_ref().map(|job| job.notification);
        subject.target.notification = self.notify.over(known.unwrap_or_default());
        Ok(subject)
    }

    /// Does it, and says what was saved; gives nothing where a process apart has to do it.
    fn save(
        self,
        subject: Subject,
        (afterwards, tracer): (Afterwards, Tracer),
        wrapping: Option<Wrapping>,
        console: Console,
    ) -> Result<Option<u8>, Failure> {
        let to_stream = self.output.as_deref() == Some(Path::new("-"));
        let path = match (to_stream, self.output) {
            (true, _) => None,
            (false, Some(path)) => Some(path),
            (false, None) => Some(subject.usual_file()),
        };
        let output = match &path {
            Some(path) => Output::File(path.clone()),
            None => Output::Stream(standard_output()?),
        };
        let suspended = subject.target.suspension.is_some();
        let afterwards = match (suspended, afterwards) {
            // It stands still already.
            (true, Afterwards::Stop) => Afterwards::LeaveRunning,
            _ => afterwards,
        };
        let (job_name, job) = (subject.job_name(), subject.job);
        let request = CheckpointRequest {
            target: subject.target,
            afterwards,
            output,
            job_name,
            generation: job.as_ref().map_or(0, |job| job.generation),
            tracer,
            packing: self.packing.packing(wrapping),
        };
        let Some(report) = save(request, console)? else {
            return Ok(None);
        };
        if afterwards == Afterwards::Kill {
            // Whoever is told that it was killed finds its name free.
            job::await_init(job.as_ref().and_then(|job| job.init), LEAVING);
        }
        let path = path.map(|path| std::path::absolute(&path).unwrap_or(path));
        if let (Some(job), Some(path)) = (&job, &path) {
            note(&job.name, path, report.bytes, console);
        }
        for remark in &report.remarks {
            console.remark(remark);
        }
        for warning in &report.warnings {
            console.warning(warning);
        }
        let report = Report {
            remarks: report.remarks,
            warnings: report.warnings,
            embedded: report.embedded,
            image: path,
            job: job.map(|job| job.name),
            processes: report.processes,
            threads: report.threads,
            bytes: report.bytes,
            pages: report.pages,
            still_seconds: report.still.as_secs_f64(),
            total_seconds: report.total.as_secs_f64(),
            afterwards: match afterwards {
                Afterwards::LeaveRunning if suspended => "suspended, as before",
                Afterwards::LeaveRunning => "running",
                Afterwards::Stop => "stopped",
                Afterwards::Kill => "killed",
            },
        };
        match to_stream {
            true => console.result_beside(&report, || report.text())?,
            false => console.result(&report, || report.text())?,
        }
        Ok(Some(0))
    }
}

impl Report {
    fn text(&self) -> String {
        let count = |count: usize, one: &str, several: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {several}"),
        };
        let place = match &self.image {
            Some(path) => format!(" in {}", path.display()),
            None => String::new(),
        };
        format!(
            "saved {} with {}{place}, {}\nstood still for {}, took {} in all; now {}",
            count(self.processes, "process", "processes"),
            count(self.threads, "thread", "threads"),
            BinaryBytes(self.bytes),
            when::short(std::time::Duration::from_secs_f64(self.still_seconds)),
            when::short(std::time::Duration::from_secs_f64(self.total_seconds)),
            self.afterwards,
        ) + &self.files()
    }

    /// How many files are in the image, and the largest.
    fn files(&self) -> String {
        const FEW: usize = 3;
        let mut files: Vec<_> = self
            .embedded
            .iter()
            .filter(|file| file.kind == "file")
            .collect();
        if files.is_empty() {
            return String::new();
        }
        let stored: u64 = files.iter().map(|file| file.stored_bytes).sum();
        files.sort_by_key(|file| std::cmp::Reverse(file.stored_bytes));
        let largest: Vec<String> = files
            .iter()
            .take(FEW)
            .map(|file| format!("{} {}", clean(&file.path), size(file.stored_bytes)))
            .collect();
        format!(
            "\n{} in the image, {}; the largest: {}",
            units::count(files.len(), "file", "files"),
            size(stored),
            largest.join(", ")
        )
    }
}

fn standard_output() -> Result<File, Failure> {
    let copy = std::io::stdout().as_fd().try_clone_to_owned();
    Ok(File::from(
        copy.map_err(Failure::system("use standard output"))?,
    ))
}

/// How long the init of a job that was killed may take to end.
const LEAVING: Duration = Duration::from_secs(10);

/// Gives nothing where a process apart has to do it.
fn save(request: CheckpointRequest, console: Console) -> Result<Option<CheckpointReport>, Failure> {
    // Ctrl-Z is among them: it would stop cryo while the job stands still.
    let signals = WatchedSignals::block()?;
    let progress = Progress::new(console, Count::Written, "freezing");
    let report = stoppable(&signals, Second::EndsAtOnce, |stop| {
        checkpoint::checkpoint(request, stop, &mut |step| match step {
            checkpoint::Progress::Telling => progress.now("waiting for programs to get ready"),
            checkpoint::Progress::Frozen => progress.now("collecting"),
            checkpoint::Progress::Copying(bytes) => {
                progress.now("copying memory");
                progress.expect(bytes);
            }
            checkpoint::Progress::Released => progress.now("writing; the job runs on"),
            checkpoint::Progress::Sent(_) => progress.now("sending; the job runs on"),
            checkpoint::Progress::Handing => progress.now("sending"),
            checkpoint::Progress::Answering => progress.now("rebuilding there"),
        })
    })?;
    match report {
        Err(Error::NeedsProcessApart) => Ok(None),
        report => Ok(Some(report?)),
    }
}

/// Notes the image in the list of jobs. The image is what counts: a list that cannot be written is only told of.
fn note(job: &str, path: &Path, bytes: u64, console: Console) {
    let entry = CheckpointEntry {
        path: path.to_owned(),
        taken_at: when::now(),
        bytes,
    };
    let noted = Registry::open().and_then(|registry| registry.add_checkpoint(job, entry));
    match noted {
        // Killed with its checkpoint, it is no running job any more.
        Ok(_) | Err(cryonaut_launch::registry::RegistryError::NoSuchJob(_)) => {}
        Err(error) => console.warning(&format!(
            "the image is not in the list of `cryo list`: {error}"
        )),
    }
}
