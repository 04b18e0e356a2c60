//! `cryo resume`: lets a suspended job go on.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::Error;
use cryonaut_engine::suspend::{self, Prefetch, ResumeReport, Standing, discover, standing};
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::{Job, Registry, RegistryError, Suspension};
use cryonaut_sys::spawn;
use serde::Serialize;

use super::suspend::Onto;
use crate::console::Console;
use crate::exit::{self, Failure};
use crate::interrupt::stoppable;
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
        let report = held.resume(what)?;
        tell(&name, &report, console, Onto::StandardOutput)?;
        Ok(0)
    }
}

/// Resumes the job of this name, telling so beside the output of something else.
pub fn by_name(name: &str, what: Prefetch, console: Console) -> Result<(), Failure> {
    let held = match Held::find(name, ScopeArguments::default()) {
        Ok(held) => held,
        // It was killed meanwhile, or somebody else has resumed it.
        Err(failure) => {
            console.remark(&failure.message);
            return Ok(());
        }
    };
    let report = held.resume(what)?;
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
        remarks: &report.remarks,
    };
    let text = || {
        format!(
            "resumed {name}, {}: running again after {}",
            units::count(report.processes, "process", "processes"),
            when::short(report.until_running)
        )
    };
    match onto {
        Onto::StandardOutput => console.result(&told, text),
        Onto::StandardError => console.result_beside(&told, text),
    }
}

/// A suspended job, claimed.
struct Held {
    registry: Registry,
    _claim: std::fs::File,
    name: String,
    job: Option<Job>,
    suspension: Suspension,
    pids: Vec<i32>,
    remarks: Vec<String>,
}

impl Held {
    fn find(text: &str, scope: ScopeArguments) -> Result<Self, Failure> {
        let registry = Registry::open()?;
        let (job, root, pids) = match text.parse::<i32>() {
            Ok(pid) => match registry.job_of(pid)? {
                Some(job) if job.suspension.is_some() => {
                    (Some(job.clone()), job.root.pid, vec![pid])
                }
                _ => {
                    let subject = Subject::find(text, scope)?;
                    let root = subject.job.as_ref().map_or(pid, |job| job.root.pid);
                    (subject.job, root, subject.target.live_pids())
                }
            },
            Err(_) => {
                let job = registry.find(text)?;
                let pids = match job.suspension {
                    Some(_) => Vec::new(),
                    None => Subject::find(text, scope)?.target.live_pids(),
                };
                (Some(job.clone()), job.root.pid, pids)
            }
        };
        let claim = registry.claim(root)?;
        // As it is now that nobody else changes it.
        let job = match job {
            Some(job) => match registry.find(&job.name) {
                Ok(job) => Some(job),
                Err(RegistryError::NoSuchJob(_)) => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let noted = job.as_ref().and_then(|job| job.suspension.clone());
        let Some(suspension) = noted.or_else(|| discover(&pids)) else {
            return Err(not_suspended(text, &pids));
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
        let mut report = stoppable(&signals, |stop| {
            suspend::resume(&self.suspension, &self.pids, what, note, stop)
        })??;
        if let Some(job) = &self.job {
            self.registry.note_resumed(&job.name)?;
        }
        if what == Prefetch::Hot {
            prefetch_behind(&self.suspension);
        }
        report.remarks.splice(0..0, self.remarks);
        Ok(report)
    }
}

fn not_suspended(text: &str, pids: &[i32]) -> Failure {
    let stopped = pids.iter().any(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    });
    let advice = match stopped {
        true => "; it was stopped by a signal, not by cryo: `kill -CONT` lets it go on",
        false => "; `cryo list` shows the jobs that are",
    };
    Failure::usage(format!("{text} is not suspended{advice}"))
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
