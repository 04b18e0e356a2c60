//! One round: one case measured once with one tool.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
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
///
/// Images are emptied when they have been measured, and removed only when this is dropped: ext4
/// without a journal takes no inode that was removed in the last minutes, and looks for another past
/// all of those. A tool with a file per thread would pay for the rounds before.
#[derive(Debug)]
pub struct Workplace {
    directory: PathBuf,
    rounds: PathBuf,
    rounds_begun: Cell<u32>,
}

impl Workplace {
    /// Takes `directory` for the measurements, and makes it where it does not exist.
    pub fn prepare(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(|error| Failure::at(directory, &error))?;
        let directory = directory
            .canonicalize()
            .map_err(|error| Failure::at(directory, &error))?;
        let rounds = directory.join("rounds");
        // What an interrupted run left behind.
        remove(&rounds)?;
        create(&rounds)?;
        Ok(Self {
            directory,
            rounds,
            rounds_begun: Cell::new(0),
        })
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
        let number = self.rounds_begun.get() + 1;
        self.rounds_begun.set(number);
        let round = RoundDirectory::create(self.rounds.join(number.to_string()))?;
        let files = round.subdirectory("subject")?;
        let mut subject = Subject::start(program, case, &files)?;

        warm_page_cache(&files, case.resident_bytes())?;
        let quiet = watch_quietly();
        let running = Places {
            image: round.subdirectory("running")?,
            logs: round.subdirectory("running-logs")?,
        };
        let checkpoint = tool.checkpoint(subject.leader(), &running, Afterwards::LeaveRunning)?;
        let made_durable = make_durable(&running.image)?;
        let image_bytes = size_of(&running.image)?;
        let gaps = subject.ask(Question::Gaps)?;
        empty(&running.image)?;

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

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(failure) = remove(&self.rounds) {
            eprintln!("cryonaut-benches: {failure}");
        }
    }
}

/// The directory of one round. Its files are emptied at the end.
#[derive(Debug)]
struct RoundDirectory(PathBuf);

impl RoundDirectory {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        create(&path)?;
        Ok(Self(path))
    }

    fn subdirectory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        create(&path)?;
        Ok(path)
    }
}

impl Drop for RoundDirectory {
    fn drop(&mut self) {
        let emptied = directories_of(&self.0).and_then(|directories| {
            directories
                .iter()
                .try_for_each(|directory| empty(directory))
        });
        if let Err(failure) = emptied {
            eprintln!("cryonaut-benches: {failure}");
        }
    }
}

fn create(directory: &Path) -> Result<(), Failure> {
    fs::create_dir(directory).map_err(|error| Failure::at(directory, &error))
}

/// Gives the space of all files in a directory back, without removing them.
fn empty(directory: &Path) -> Result<(), Failure> {
    for path in files_of(directory)? {
        File::create(&path).map_err(|error| Failure::at(&path, &error))?;
    }
    Ok(())
}

/// Has the kernel get as much memory for the page cache as the image will take. In a virtual machine
/// the first touch of memory that the host must still provide can take longer than all that is
/// measured, and which round meets such memory is chance.
fn warm_page_cache(directory: &Path, bytes: u64) -> Result<(), Failure> {
    const PIECE: u64 = 1 << 20;
    let path = directory.join("warm");
    let piece = vec![0_u8; 1 << 20];
    File::create(&path)
        .and_then(|mut file| {
            for _ in 0..bytes.div_ceil(PIECE) {
                file.write_all(&piece)?;
            }
            file.set_len(0)
        })
        .map_err(|error| Failure::at(&path, &error))
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
    let mut paths = paths_in(directory)?;
    paths.retain(|path| path.is_file());
    Ok(paths)
}

fn directories_of(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = paths_in(directory)?;
    paths.retain(|path| path.is_dir());
    Ok(paths)
}

fn paths_in(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::at(directory, &error);
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}
