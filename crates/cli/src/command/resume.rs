//! `cryo resume`: lets a suspended job go on.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::Error;
use cryonaut_engine::suspend::{self, Prefetch, ResumeReport, Standing, discover, standing};
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::{Job, ProcessIdentity, Registry, RegistryError, Suspension};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn;
use serde::Serialize;

use super::suspend::{Onto, changed};
use crate::console::Console;
use crate::exit::{self, Failure};
use crate::interrupt::{Second, stoppable, to_the_end};
use crate::subject::{ScopeArguments, Subject};
use crate::{units, when};

/// Lets a suspended job go on
///
/// It runs at once. Memory that it was using is brought back from swap in the background, most used first, by a process of cryo
/// that goes when it has done so.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// A process id, or a name that `cryo list` shows
    #[arg(value_name = "TARGET", value_hint = ValueHint::Other, required_unless_present = "from")]
    target: Option<String>,
    #[command(flatten)]
    scope: ScopeArguments,
    /// What is brought back from swap before the job asks for it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = PrefetchChoice::Hot)]
    prefetch: PrefetchChoice,
    /// An image is not resumed but restarted
    #[arg(long, value_name = "IMAGE", hide = true)]
    from: Option<PathBuf>,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum PrefetchChoice {
    /// Nothing: memory comes when it is used
    None,
    /// What was used when the job was suspended, while it runs again
    Hot,
    /// All of it, before it runs again
    All,
}

/// What was done, for scripts.
#[derive(Serialize, Debug)]
struct Report<'a> {
    job: &'a str,
    processes: usize,
    running_after_seconds: f64,
    total_seconds: f64,
    /// The cgroup, frozen by somebody else, in which it still stands still.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_above: Option<&'a Path>,
    remarks: &'a [String],
}

impl Arguments {
    /// Resumes.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        if let Some(image) = &self.from {
            return Err(Failure::usage(format!(
                "{0} is an image, and a suspended job has none: `cryo restart {0}` brings back what was saved in it; \
                 `cryo resume NAME` lets a job go on that `cryo list` shows as suspended",
                image.display()
            )));
        }
        let target = self.target.as_deref().unwrap_or_default();
        let held = Held::find(target, self.scope)?;
        let what = match self.prefetch {
            PrefetchChoice::None => Prefetch::None,
            PrefetchChoice::Hot => Prefetch::Hot,
            PrefetchChoice::All => Prefetch::All,
        };
        let name = held.name.clone();
        to_the_end(|| {
            let report = held.resume(what)?;
            tell(&name, &report, console, Onto::StandardOutput)
        })?;
        Ok(0)
    }
}

/// Resumes a job that was suspended for a command, telling so beside its output. It does not stay suspended because the list of
/// jobs has lost it, or cannot be used any more.
pub fn after_command(
    name: &str,
    suspension: Option<&Suspension>,
    what: Prefetch,
    console: Console,
) -> Result<(), Failure> {
    let report = match (
        Held::find(name, ScopeArguments::default()),
        suspension.map(|suspension| (suspension, standing(suspension))),
    ) {
        (Ok(held), _) => held.resume(what)?,
        // It was killed meanwhile, or somebody else has resumed it.
        (Err(failure), None | Some((_, Standing::Running))) => {
            console.remark(&failure.message);
            return Ok(());
        }
        (Err(failure), Some((suspension, _))) => {
            console.warning(&failure.message);
            let never = AtomicBool::new(false);
            suspend::resume(suspension, &[], Prefetch::None, &mut |_| Ok(()), &never)?
        }
    };
    tell(name, &report, console, Onto::StandardError)
}

fn tell(name: &str, report: &ResumeReport, console: Console, onto: Onto) -> Result<(), Failure> {
    for remark in &report.remarks {
        console.remark(remark);
    }
    let told = Report {
        job: name,
        processes: report.processes,
        running_after_seconds: report.until_running.as_secs_f64(),
        total_seconds: report.total.as_secs_f64(),
        frozen_above: report.frozen_above.as_deref(),
        remarks: &report.remarks,
    };
    let processes = units::count(report.processes, "process", "processes");
    let text = || match &report.frozen_above {
        None => format!(
            "resumed {name}, {processes}: running again after {}",
            when::short(report.until_running)
        ),
        Some(above) => format!(
            "ended the suspension of {name}, {processes}, but it still stands still: somebody else has frozen {} (docker pause, \
             systemctl freeze), and has to thaw it",
            above.display()
        ),
    };
    match onto {
        Onto::StandardOutput => console.result(&told, text),
        Onto::StandardError => console.result_beside(&told, text),
    }
}

/// A suspended job, claimed.
struct Held {
    registry: Registry,
    _claim: Option<std::fs::File>,
    name: String,
    job: Option<Job>,
    suspension: Suspension,
    pids: Vec<i32>,
    remarks: Vec<String>,
}

impl Held {
    fn find(text: &str, scope: ScopeArguments) -> Result<Self, Failure> {
        let registry = Registry::open()?;
        let seen = Seen::look(&registry, text, scope)?;
        let claim = match registry.claim(seen.root.pid) {
            Ok(claim) => Some(claim),
            // A job must not stay suspended because there is no room for a file that keeps others away.
            Err(RegistryError::File { source, .. }) if is_full(&source) => None,
            Err(error) => return Err(error.into()),
        };
        // As it is now that nobody else changes it.
        let now = Seen::look(&registry, text, scope)?;
        if now.root != seen.root {
            return Err(changed(text));
        }
        let Seen { job, pids, .. } = now;
        let noted = job.as_ref().and_then(|job| job.suspension.clone());
        let Some(suspension) = noted.or_else(|| discover(&pids)) else {
            return Err(not_suspended(text, &pids, &registry));
        };
        let remarks = match standing(&suspension) {
            Standing::Still => Vec::new(),
            Standing::Partly => vec!["only a part of it was standing still".to_owned()],
            Standing::Running => vec![
                "it was running already; what was left of its suspension is removed".to_owned(),
            ],
        };
        Ok(Self {
            name: job.as_ref().map_or(text.to_owned(), |job| job.name.clone()),
            registry,
            _claim: claim,
            job,
            suspension,
            pids,
            remarks,
        })
    }

    fn resume(self, what: Prefetch) -> Result<ResumeReport, Failure> {
        let signals = WatchedSignals::block()?;
        let note = &mut |suspension: &Suspension| match &self.job {
            Some(job) => {
                let noted = self.registry.change(&job.name, |job| {
                    job.suspension = Some(suspension.clone());
                });
                match noted {
                    Ok(_) | Err(RegistryError::NoSuchJob(_)) => Ok(()),
                    Err(error) => Err(Error::Failed(error.to_string())),
                }
            }
            None => Ok(()),
        };
        let mut report = stoppable(&signals, Second::Waits, |stop| {
            suspend::resume(&self.suspension, &self.pids, what, note, stop)
        })??;
        if let Some(job) = &self.job
            && let Err(error) = self.registry.note_resumed(&job.name)
        {
            report.remarks.push(format!(
                "it runs, but the list of jobs still shows it as suspended: {error}"
            ));
        }
        if what == Prefetch::Hot {
            prefetch_behind(&self.suspension);
        }
        report.remarks.splice(0..0, self.remarks);
        Ok(report)
    }
}

/// What a TARGET means to a resume, at one look.
struct Seen {
    job: Option<Job>,
    root: ProcessIdentity,
    pids: Vec<i32>,
}

impl Seen {
    fn look(registry: &Registry, text: &str, scope: ScopeArguments) -> Result<Self, Failure> {
        let job = match text.parse::<i32>() {
            Ok(pid) => registry.job_of(pid)?,
            Err(_) => Some(registry.find(text)?),
        };
        match job {
            // What belongs to it is noted; its first process may have ended.
            Some(job) if job.suspension.is_some() => Ok(Self {
                root: job.root,
                pids: text.parse().into_iter().collect(),
                job: Some(job),
            }),
            _ => {
                let subject = Subject::find(text, scope)?;
                Ok(Self {
                    root: subject.root(),
                    pids: subject.target.live_pids(),
                    job: subject.job,
                })
            }
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn not_suspended(text: &str, pids: &[i32], registry: &Registry) -> Failure {
    let stopped = pids.iter().any(|&pid| {
        ProcessDirectory::open(pid)
            .and_then(|directory| directory.stat())
            .is_ok_and(|stat| stat.state == 'T')
    });
    if stopped {
        return Failure::usage(format!(
            "nothing is known here of a suspension of {text}, which a signal has stopped. If another user or a cryo with another \
             XDG_RUNTIME_DIR suspended it, resume it there (here the list is {}); otherwise `kill -CONT` lets it go on",
            registry.directory().display()
        ));
    }
    Failure::usage(format!(
        "{text} is not suspended; `cryo list` shows the jobs that are"
    ))
}

/// Brings memory back in a process of its own, which goes when it has done so. Without it, memory comes when it is used.
fn prefetch_behind(suspension: &Suspension) {
    let _ = spawn::fork_child(|| {
        let _ = spawn::new_session();
        let _ = spawn::set_thread_name(c"cryo-prefetch");
        // Who waits for the end of our output does not wait for this.
        let _ = spawn::close_range(0, u32::MAX);
        suspend::prefetch(
            &suspension.processes,
            Prefetch::Hot,
            &AtomicBool::new(false),
        );
        0
    });
}
