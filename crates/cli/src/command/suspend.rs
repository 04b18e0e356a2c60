//! `cryo suspend`: stops a job in place and gives its memory back.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use cryonaut_engine::Error;
use cryonaut_engine::suspend::{
    self, GiveBack, Login, Note, Prefetch, Standing, SuspendReport, SuspendRequest, discover,
    standing,
};
use cryonaut_launch::registry::{Job, NewJob, ProcessIdentity, Registry, Suspension, Way};
use cryonaut_launch::{ChildSpec, Direct, Nursery, Session, WatchedSignals};
use serde::Serialize;

use super::{checkpoint, resume};
use crate::console::Console;
use crate::exit::{self, Failure};
use crate::interrupt::{Second, stoppable, to_the_end};
use crate::job::Foreground;
use crate::notify::NotifyArguments;
use crate::progress::{Count, Progress};
use crate::subject::{Subject, TargetArguments};
use crate::{units, when};

/// Stops a job in place and gives its memory back
///
/// The processes stay in the kernel, with every file, socket and device that they have; their memory goes to swap. Nothing is
/// written to an image. `cryo resume` lets the job go on, `cryo list` shows it meanwhile. cryo itself need not stay alive. Ctrl-C
/// before the end lets the job run on.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = exit::DOCUMENTED_FOR_SUSPEND)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Only stop it, and leave its memory where it is
    #[arg(long, conflicts_with_all = ["partial", "max_memory", "to_image"])]
    no_reclaim: bool,
    /// Where swap has no room for all of its memory, give back what fits
    #[arg(long, conflicts_with = "to_image")]
    partial: bool,
    /// Let it keep this much memory (512M, 2G), of what it used last; how recently is known for each mapping, not each page
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "to_image")]
    max_memory: Option<u64>,
    /// Checkpoint it into this file and kill it, instead: the way where there is not enough swap. `cryo restart` brings it back
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    to_image: Option<PathBuf>,
    /// Suspend it, run this shell command to its end, and resume it; ends with the command's status
    #[arg(long = "for", value_name = "CMD", value_hint = ValueHint::CommandString, conflicts_with = "to_image")]
    command: Option<String>,
    #[command(flatten)]
    notify: NotifyArguments,
}

/// A job that was suspended.
struct Done {
    job: String,
    suspension: Option<Suspension>,
    report: SuspendReport,
}

/// Reads `512M`, `2G`, `1.5g` or a number of bytes; units are powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let shift = match unit.trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("write it as 512M, 2G or a number of bytes".into()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "write it as 512M, 2G or a number of bytes".to_owned())?;
    let bytes = number * (1_u64 << shift) as f64;
    match bytes {
        bytes if bytes >= 1.0 && bytes < u64::MAX as f64 => Ok(bytes as u64),
        _ => Err("it must be at least one byte; --no-reclaim leaves all memory where it is".into()),
    }
}

/// What was done, for scripts.
#[derive(Serialize, Debug)]
struct Report<'a> {
    job: &'a str,
    processes: usize,
    way: Way,
    bytes_before: u64,
    bytes_after: u64,
    stayed: &'a [suspend::Stayed],
    still_after_seconds: f64,
    total_seconds: f64,
    remarks: &'a [String],
}

impl Arguments {
    /// Suspends.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        if let Some(file) = self.to_image {
            return checkpoint::Arguments::killing(self.target, file, self.notify).run(console);
        }
        to_the_end(|| match self.command.clone() {
            None => {
                let done = self.suspend(console)?;
                tell(&done.job, &done.report, console, Onto::StandardOutput)?;
                Ok(0)
            }
            Some(command) => self
                .meanwhile(&command, console)
                .map_err(Failure::instead_of_job),
        })
    }

    fn suspend(&self, console: Console) -> Result<Done, Failure> {
        let registry = Registry::open()?;
        let seen = Subject::find(&self.target.target, self.target.scope)?;
        let _claim = registry.claim(seen.root().pid)?;
        // Whoever had the claim before may have taken long, and have changed everything.
        let mut subject = Subject::find(&self.target.target, self.target.scope)?;
        if subject.root() != seen.root() {
            return Err(changed(&self.target.target));
        }
        let known = subject.job.as_ref().map(|job| job.notification);
        subject.target.notification = self.notify.over(known.unwrap_or_default());
        let job = match &subject.job {
            // As it is now that nobody else changes it.
            Some(job) => registry.find(&job.name).ok(),
            None => registry.job_of(subject.target.named)?,
        };
        let pids = subject.target.live_pids();
        let login = Login::of(&subject.target);
        let before = job
            .as_ref()
            .and_then(|job| job.suspension.clone())
            .or_else(|| discover(&pids));
        let again = before
            .as_ref()
            .is_some_and(|before| standing(before) == Standing::Still);
        let mut entry = Entry {
            registry: &registry,
            named: subject.target.named,
            job,
            target: &self.target.target,
        };
        let request = SuspendRequest {
            target: subject.target,
            give_back: match (self.no_reclaim, self.partial) {
                (true, _) => GiveBack::Nothing,
                (_, true) => GiveBack::WhatFits,
                _ => GiveBack::Everything,
            },
            keep: self.max_memory.unwrap_or(0),
            before,
        };
        let outcome = work(request, &mut |suspension| entry.note(suspension), console);
        if outcome.is_err() {
            entry.forget_failed();
        }
        let mut report = outcome?;
        if again {
            report.remarks.insert(0, "it was suspended already".into());
        }
        if report.way == Way::Signals {
            report
                .remarks
                .extend(end_of_login(login, entry.job.as_ref()));
        }
        Ok(Done {
            job: entry.name(),
            suspension: entry.job.and_then(|job| job.suspension),
            report,
        })
    }

    /// Suspends, runs the command, resumes.
    fn meanwhile(&self, command: &str, console: Console) -> Result<u8, Failure> {
        let Done {
            job,
            suspension,
            report,
        } = self.suspend(console)?;
        let told = tell(&job, &report, console, Onto::StandardError);
        let outcome = told.and_then(|()| run_command(command, console));
        let resumed = resume::after_command(&job, suspension.as_ref(), Prefetch::Hot, console);
        // Of two failures, that of a job that stands still matters more.
        resumed.and(outcome)
    }
}

/// What is to be told of a job that signals hold, and that something else than cryo may wake or end.
fn end_of_login(login: Option<Login>, job: Option<&Job>) -> Option<String> {
    let what = match login? {
        Login::Shell => "logging out of the shell that started it",
        // That of `cryo run` is kept.
        Login::Terminal if job.is_some_and(|job| job.terminal_keeper.is_some()) => return None,
        Login::Terminal => "the end of its terminal",
    };
    Some(format!(
        "{what} ends it, or wakes it: resume it before that, start such jobs by `cryo run`, or in a cgroup of your own, where the \
         freezer holds them (systemd-run --user --scope)"
    ))
}

/// Whoever was named has ended while this waited for its turn, and another process has its number.
pub fn changed(target: &str) -> Failure {
    Failure::new(
        exit::Code::Usage,
        format!("{target} has ended meanwhile; nothing was done"),
    )
}

fn run_command(command: &str, console: Console) -> Result<u8, Failure> {
    let signals = WatchedSignals::block()?;
    let mut spec = ChildSpec::command(["/bin/sh", "-c", command]);
    spec.session = Session::Inherit;
    let nursery = Nursery::Direct(Direct);
    let child = nursery.spawn(&spec)?;
    drop(spec);
    Foreground::new(signals, &nursery, &child)?.run(None, None, console)
}

fn work(
    request: SuspendRequest,
    note: Note<'_>,
    console: Console,
) -> Result<SuspendReport, Failure> {
    // Ctrl-Z is among them: it would stop cryo half-way.
    let signals = WatchedSignals::block()?;
    let progress = Progress::new(console, Count::Told, "stopping");
    let report = stoppable(&signals, Second::Waits, |stop| {
        suspend::suspend(request, note, stop, &mut |step| match step {
            suspend::Progress::Telling => progress.now("waiting for programs to get ready"),
            suspend::Progress::Frozen => progress.now("stopped"),
            suspend::Progress::Reclaiming(bytes) => {
                progress.now("giving memory back");
                progress.expect(bytes);
            }
            suspend::Progress::Reclaimed(bytes) => progress.reached(bytes),
        })
    })?;
    Ok(report?)
}

/// The job's place in the list of jobs.
struct Entry<'a> {
    registry: &'a Registry,
    named: i32,
    job: Option<Job>,
    target: &'a str,
}

impl Entry<'_> {
    fn name(&self) -> String {
        match &self.job {
            Some(job) => job.name.clone(),
            None => self.target.to_owned(),
        }
    }

    /// Notes how it stands with the suspension. Nothing is stopped that would not be in the list.
    fn note(&mut self, suspension: &Suspension) -> cryonaut_engine::Result<()> {
        let noted = match &self.job {
            Some(job) => self.registry.change(&job.name, |job| {
                job.suspension = Some(suspension.clone());
            }),
            None => self
                .new_job()
                .and_then(|new| self.registry.register_suspended(new, suspension.clone())),
        };
        let failed = |error: &dyn std::fmt::Display| {
            Error::Failed(format!(
                "the suspension cannot be noted in the list of jobs: {error}"
            ))
        };
        self.job = Some(noted.map_err(|error| failed(&error))?);
        Ok(())
    }

    fn new_job(&self) -> Result<NewJob, cryonaut_launch::registry::RegistryError> {
        let failed = |source| cryonaut_launch::registry::RegistryError::File {
            what: "read",
            path: format!("/proc/{}", self.named).into(),
            source,
        };
        let command = std::fs::read(format!("/proc/{}/cmdline", self.named)).map_err(failed)?;
        let words = command
            .split(|&byte| byte == 0)
            .filter(|word| !word.is_empty());
        Ok(NewJob {
            name: None,
            supervisor: None,
            init: None,
            notification: Default::default(),
            terminal_keeper: None,
            root: ProcessIdentity::of(self.named).map_err(failed)?,
            command: words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
            checkpoint_directory: None,
            generation: 0,
        })
    }

    /// After a failure that was undone the job runs, and is no suspended one.
    fn forget_failed(&self) {
        if let Some(job) = &self.job
            && let Some(suspension) = &job.suspension
            && standing(suspension) == Standing::Running
        {
            // What stays is found out by the next look at the job.
            let _ = self.registry.note_resumed(&job.name);
        }
    }
}

/// Where the report goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Standard output.
    StandardOutput,
    /// Standard output is the command's.
    StandardError,
}

fn tell(job: &str, report: &SuspendReport, console: Console, onto: Onto) -> Result<(), Failure> {
    for remark in &report.remarks {
        console.remark(remark);
    }
    let told = Report {
        job,
        processes: report.processes,
        way: report.way,
        bytes_before: report.before,
        bytes_after: report.after,
        stayed: &report.stayed,
        still_after_seconds: report.until_still.as_secs_f64(),
        total_seconds: report.total.as_secs_f64(),
        remarks: &report.remarks,
    };
    match onto {
        Onto::StandardOutput => console.result(&told, || text(job, report)),
        Onto::StandardError => console.result_beside(&told, || text(job, report)),
    }
}

fn text(job: &str, report: &SuspendReport) -> String {
    let mut text = format!(
        "suspended {job}, {}: {} in memory before, {} now\ntook {}",
        units::count(report.processes, "process", "processes"),
        units::size(report.before),
        units::size(report.after),
        when::short(report.total),
    );
    for stayed in &report.stayed {
        text.push_str(&format!(
            "\n  {} stayed: {}",
            units::size(stayed.bytes),
            stayed.why.words()
        ));
    }
    if report.way == Way::Signals {
        text.push_str(
            "\nheld by SIGSTOP: parents outside the job see it, and anybody's SIGCONT lets it run",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1.5KiB"), Ok(1536));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["", "G", "-1G", "2X", "0", "NaN", "infG"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
