//! Checkpoints of a job at an interval, made by a process apart: `cryo __save`.
//!
//! It lives as long as the job's root, whatever becomes of the terminal and of the `cryo` that started the job. Each checkpoint is a
//! `cryo checkpoint` of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use cryonaut_engine::suspend::{Standing, standing};
use cryonaut_launch::registry::{Job, ProcessIdentity, Registry};
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::console::Console;
use crate::exit::Failure;
use crate::ourselves;
use crate::terminal::step_aside;
use crate::when;

/// The process that makes the checkpoints, as whoever started it sees it.
#[derive(Debug)]
pub struct Saver {
    process: Process,
    root: ProcessIdentity,
}

impl Saver {
    /// Has a job checkpointed every so often, into this directory, of which the newest `keep` stay. Failures are told to `errors`.
    pub fn start(
        job: &Job,
        every: Duration,
        keep: u32,
        directory: &Path,
        errors: Stdio,
    ) -> Result<Saver, Failure> {
        let mut program = ourselves::program("__save");
        program
            .args([&job.name, &job.root.pid.to_string()])
            .arg(job.root.start_time.to_string())
            .args([every.as_millis().to_string(), keep.to_string()])
            .arg(directory);
        let process = program
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(Failure::system(
                "start the process that makes the checkpoints",
            ))?;
        Ok(Saver {
            process,
            root: job.root,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Waits for a checkpoint under way of a job that has ended, which fails by itself or has all it needs already. While the job
    /// lives on, so does this.
    pub fn finish(mut self) {
        if !self.root.is_alive() {
            let _ = self.process.wait();
        }
    }
}

/// What is saved, and how often.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The job's name in the list
    name: String,
    /// Its root
    root: i32,
    /// When that was started
    start_time: u64,
    /// Milliseconds from the beginning of one checkpoint to that of the next
    every: u64,
    /// How many are kept
    keep: usize,
    /// Where they go
    directory: PathBuf,
}

impl Arguments {
    /// Makes checkpoints until the job's root has ended.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        /// How soon a job is looked at again that was suspended when its checkpoint was due.
        const SOON: Duration = Duration::from_secs(1);
        step_aside(c"cryo-saver")?;
        let registry = Registry::open()?;
        let every = Duration::from_millis(self.every);
        let identity = self.identity();
        let Some(root) = identity.open() else {
            return Ok(0);
        };
        let mut due = Instant::now() + every;
        while !has_ended(&root, due)? {
            if self.is_suspended(&registry) {
                due = Instant::now() + SOON;
                continue;
            }
            // An interval counts from one beginning to the next; what a slow disk missed is not made up for.
            due = Instant::now() + every;
            match self.save() {
                Ok(()) => self.prune(console),
                // Of a job that has ended there is nothing to save.
                Err(_) if !identity.is_alive() => return Ok(0),
                Err(why) => {
                    console.warning(&format!(
                        "no checkpoint of {} was made; the job runs on: {why}",
                        self.name
                    ));
                    let _ = registry.change(&self.name, |job| job.not_saved = Some(why));
                }
            }
        }
        Ok(0)
    }

    fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.root,
            start_time: self.start_time,
        }
    }

    /// A suspended job changes nothing that its last checkpoint does not have, and reading its memory would take from whom it was
    /// given.
    fn is_suspended(&self, registry: &Registry) -> bool {
        let job = registry.find(&self.name).ok();
        job.and_then(|job| job.suspension)
            .is_some_and(|suspension| standing(&suspension) == Standing::Still)
    }

    /// Makes a checkpoint; gives why that failed.
    fn save(&self) -> Result<(), String> {
        let file = format!("{}-{}.cryo", self.name, when::stamp());
        let mut command: Command = ourselves::program("checkpoint");
        command
            .arg(&self.name)
            .arg("--output")
            .arg(self.directory.join(file))
            .stdin(Stdio::null());
        let done = command.output().map_err(|error| error.to_string())?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim().trim_start_matches("cryo: ");
        Err(match said {
            "" => done.status.to_string(),
            _ => said.to_owned(),
        })
    }

    /// Removes all but the newest images of this job's name.
    fn prune(&self, console: Console) {
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
                console.warning(&format!(
                    "the old checkpoint {} stays: {error}",
                    image.display()
                ));
            }
        }
    }
}

/// Waits until this process has ended or the time has come; whether it has ended.
fn has_ended(process: &OwnedFd, due: Instant) -> Result<bool, Failure> {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let mut wishes = [Readiness::new(process.as_fd(), libc::POLLIN)];
        let ready = wait_ready(&mut wishes, Some(left))
            .map_err(Failure::system("wait for the end of the job"))?;
        if ready > 0 {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
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
}
