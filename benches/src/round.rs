//! One round: one case measured once with one tool.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::command::{Span, now};
use crate::failure::Failure;
use crate::report::Sample;
use crate::subject::{Question, Subject, SubjectProgram};
use crate::tool::{Afterwards, Places, Tool};

/// How long the subject is watched undisturbed first, to know what the machine itself takes from it.
const QUIET: Duration = Duration::from_millis(200);

/// The directory in which everything happens.
#[derive(Debug)]
pub struct Workplace {
    directory: PathBuf,
}

impl Workplace {
    /// Takes `directory` for the measurements, and makes it where it does not exist.
    pub fn prepare(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(|error| Failure::at(directory, &error))?;
        let directory = directory
            .canonicalize()
            .map_err(|error| Failure::at(directory, &error))?;
        Ok(Self { directory })
    }

    /// Its absolute path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Measures `case` with `tool` on a fresh subject: a checkpoint that leaves it running, one that kills it, and a
    /// restart, after which the subject checks itself.
    pub fn round(
        &self,
        case: &Case,
        tool: &Tool,
        program: &SubjectProgram,
    ) -> Result<Sample, Failure> {
        let round = RoundDirectory::create(self.directory.join("round"))?;
        let files = round.subdirectory("subject")?;
        let mut subject = Subject::start(program, case, &files)?;

        let quiet = watch_quietly();
        let running = Places {
            image: round.subdirectory("running")?,
            logs: round.subdirectory("running-logs")?,
        };
        let checkpoint = tool.checkpoint(subject.leader(), &running, Afterwards::LeaveRunning)?;
        let made_durable = make_durable(&running.image)?;
        let image_bytes = size_of(&running.image)?;
        let gaps = subject.ask(Question::Gaps)?;
        remove(&running.image)?;

        let killed = Places {
            image: round.subdirectory("killed")?,
            logs: round.subdirectory("killed-logs")?,
        };
        let processes = subject.processes();
        let kill = tool.checkpoint(subject.leader(), &killed, Afterwards::Kill)?;
        Subject::wait_until_gone(&processes)?;
        make_durable(&killed.image)?;

        let (restart, leader) = tool.restart(&killed)?;
        subject.restarted_as(leader);
        let awake = subject.ask(Question::GapsAndState)?.awake_after(restart);
        let awake = awake.ok_or_else(|| {
            Failure::new("the subject did not notice that it was restarted".to_owned())
        })?;

        Ok(Sample {
            still: gaps.longest_within(checkpoint),
            noise: gaps.longest_within(quiet),
            total: checkpoint.length(),
            durable: checkpoint.length() + made_durable,
            kill: kill.length(),
            image_bytes,
            restart: awake,
            restart_command: restart.length(),
        })
    }
}

/// The directory of one round, removed with everything in it at the end.
#[derive(Debug)]
struct RoundDirectory(PathBuf);

impl RoundDirectory {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        // What an interrupted run left behind would be counted with this round's image.
        remove(&path)?;
        fs::create_dir(&path).map_err(|error| Failure::at(&path, &error))?;
        Ok(Self(path))
    }

    fn subdirectory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        fs::create_dir(&path).map_err(|error| Failure::at(&path, &error))?;
        Ok(path)
    }
}

impl Drop for RoundDirectory {
    fn drop(&mut self) {
        if let Err(failure) = remove(&self.0) {
            eprintln!("cryonaut-benches: {failure}");
        }
    }
}

fn remove(directory: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::at(directory, &error))
        }
        _ => Ok(()),
    }
}

fn watch_quietly() -> Span {
    let begin = now();
    std::thread::sleep(QUIET);
    Span { begin, end: now() }
}

/// Brings the image's files to the disk and says how long that took. A tool that has done so itself loses nothing
/// here; one that has not is made comparable.
fn make_durable(directory: &Path) -> Result<Duration, Failure> {
    let begin = Instant::now();
    for path in files_of(directory)? {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| Failure::at(&path, &error))?;
    }
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| Failure::at(directory, &error))?;
    Ok(begin.elapsed())
}

fn size_of(directory: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for path in files_of(directory)? {
        bytes += fs::metadata(&path)
            .map_err(|error| Failure::at(&path, &error))?
            .len();
    }
    Ok(bytes)
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(directory).map_err(|error| Failure::at(directory, &error))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(|error| Failure::at(directory, &error))
        })
        .filter(|path| path.as_ref().map_or(true, |path| path.is_file()))
        .collect()
}
