//! The tools that are compared, and their command lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::command::{self, Span};
use crate::failure::Failure;

/// What becomes of the job once its image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It goes on.
    LeaveRunning,
    /// It is killed, so that its pids are free for the restart.
    Kill,
}

/// A tool with the path of its binary.
#[derive(Debug, Clone)]
pub enum Tool {
    /// This project's command.
    Cryo(PathBuf),
    /// CRIU.
    Criu(PathBuf),
}

/// The places one measurement may use. All exist and are empty when it begins.
#[derive(Debug)]
pub struct Places {
    /// Image files, and nothing else: its size is the size of the image.
    pub image: PathBuf,
    /// Logs, statistics and the pidfile.
    pub logs: PathBuf,
}

impl Tool {
    /// The name shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cryo(_) => "cryo",
            Self::Criu(_) => "criu",
        }
    }

    /// Writes an image of the process and its descendants.
    pub fn checkpoint(
        &self,
        pid: Pid,
        places: &Places,
        afterwards: Afterwards,
    ) -> Result<Span, Failure> {
        let command = match self {
            Self::Cryo(binary) => {
                let mut command = Command::new(binary);
                command
                    .arg("checkpoint")
                    .arg(pid.to_string())
                    .arg("-o")
                    .arg(cryo_image(places));
                command.arg(match afterwards {
                    Afterwards::LeaveRunning => "--leave-running",
                    Afterwards::Kill => "--kill",
                });
                command
            }
            Self::Criu(binary) => {
                let mut command = criu(binary, "dump", places);
                command.arg("--tree").arg(pid.to_string());
                if afterwards == Afterwards::LeaveRunning {
                    command.arg("--leave-running");
                }
                command
            }
        };
        command::run(command, &places.logs.join("checkpoint.output"))
    }

    /// Brings the image back. Returns when the command said so, and the pid of the job's first process.
    pub fn restart(&self, places: &Places) -> Result<(Span, Pid), Failure> {
        let pidfile = places.logs.join("pid");
        let mut command = match self {
            Self::Cryo(binary) => {
                let mut command = Command::new(binary);
                command
                    .arg("restart")
                    .arg(cryo_image(places))
                    .arg("--detach");
                command
            }
            Self::Criu(binary) => {
                let mut command = criu(binary, "restore", places);
                command.arg("--restore-detached");
                command
            }
        };
        command.arg("--pidfile").arg(&pidfile);
        let span = command::run(command, &places.logs.join("restart.output"))?;
        Ok((span, read_pid(&pidfile)?))
    }
}

fn cryo_image(places: &Places) -> PathBuf {
    places.image.join("subject.cryo")
}

fn criu(binary: &Path, verb: &str, places: &Places) -> Command {
    let mut command = Command::new(binary);
    command
        .arg(verb)
        .arg("--images-dir")
        .arg(&places.image)
        .arg("--work-dir")
        .arg(&places.logs);
    // Only errors are logged: a longer log costs time, and it is CRIU at its best that counts here.
    command.arg("-v1");
    command
}

fn read_pid(pidfile: &Path) -> Result<Pid, Failure> {
    let text = std::fs::read_to_string(pidfile).map_err(|error| Failure::at(pidfile, &error))?;
    text.trim()
        .parse::<i32>()
        .ok()
        .filter(|&pid| pid > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(|| Failure::new(format!("{} holds no pid: {text:?}", pidfile.display())))
}
