//! What has become of a job that was to move, as far as can be seen from beside it.
//!
//! The process that moves a job writes down how far it is; should it be killed, the one that waits for it reads that, and looks at
//! the job itself.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::pidfd;
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::exit::Failure;
use crate::subject::Subject;

/// How long processes that were killed may take to end, and guardians to kill them.
const MOMENT: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing has come of it: the original runs on.
    Begun,
    /// All of the image was sent. The original runs on, but there may be an image.
    Sent,
    /// The copy is rebuilt: the original may have been killed.
    Ready,
    /// The original has ended.
    Ended,
}

impl Stage {
    const ALL: [Stage; 4] = [Stage::Begun, Stage::Sent, Stage::Ready, Stage::Ended];
}

/// Where it is written down how far a move is.
#[derive(Debug)]
pub struct Notes(PipeWriter);

impl Notes {
    /// Notes, and what reads them.
    pub fn new() -> Result<(Notes, Reader), Failure> {
        let (reader, writer) = io::pipe().map_err(Failure::system("make a pipe"))?;
        Ok((Notes(writer), Reader(reader)))
    }

    /// That this was reached, before anything is done that rests on it.
    pub fn reached(&mut self, stage: Stage) -> io::Result<()> {
        self.0.write_all(&[stage as u8])
    }
}

/// What reads notes.
#[derive(Debug)]
pub struct Reader(PipeReader);

/// What notes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The last stage.
    pub stage: Stage,
    /// Whether everybody has gone who might still do something for the one who wrote them, such as a guardian.
    pub over: bool,
}

impl Reader {
    /// Reads them to the end, once the one who wrote them has ended.
    pub fn read(mut self) -> Noted {
        let start = Instant::now();
        let mut noted = Noted {
            stage: Stage::Begun,
            over: false,
        };
        let mut byte = [0];
        loop {
            let left = MOMENT.saturating_sub(start.elapsed());
            let mut wish = [Readiness::new(self.0.as_fd(), libc::POLLIN)];
            // Signals wake it early.
            let waited = wait_ready(&mut wish, Some(left));
            if waited.is_err() || (wish[0].found == 0 && left.is_zero()) {
                return noted;
            }
            if wish[0].found == 0 {
                continue;
            }
            match self.0.read(&mut byte) {
                Ok(0) => {
                    noted.over = true;
                    return noted;
                }
                Ok(_) => {
                    let told = Stage::ALL.into_iter().find(|one| *one as u8 == byte[0]);
                    noted.stage = told.unwrap_or(noted.stage);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return noted,
            }
        }
    }
}

/// What the original does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs, and nobody has killed it.
    Runs,
    /// It has ended.
    Ended,
    /// Nobody can say.
    Unknown,
}

/// The processes of the original, which are not mistaken for later ones with their pids.
#[derive(Debug)]
pub struct Original {
    processes: Vec<(i32, OwnedFd)>,
    init: Option<OwnedFd>,
}

impl Original {
    /// Those of this job that are alive.
    pub fn of(subject: &Subject) -> Original {
        let init = subject.job.as_ref().and_then(|job| job.init);
        let init = init.map(|init| init.process.pid);
        let pids = subject.target.live_pids().into_iter();
        Original {
            processes: pids
                .filter(|pid| Some(*pid) != init)
                .filter_map(|pid| Some((pid, pidfd::open(pid).ok()?)))
                .collect(),
            init: init.and_then(|pid| pidfd::open(pid).ok()),
        }
    }

    /// Looks at it, when whoever might have killed it has either done so or never will.
    pub fn look(&self) -> Standing {
        let start = Instant::now();
        loop {
            let alive = self.processes.iter().filter(|(_, one)| !has_ended(one));
            let alive: Vec<i32> = alive.map(|(pid, _)| *pid).collect();
            if alive.iter().any(|pid| is_unharmed(*pid)) {
                return Standing::Runs;
            }
            // Init ends by itself after the last of them.
            let init_ended = self.init.as_ref().is_none_or(has_ended);
            if alive.is_empty() && init_ended && !self.processes.is_empty() {
                return Standing::Ended;
            }
            if start.elapsed() > MOMENT {
                return Standing::Unknown;
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut gone = [Readiness::new(process.as_fd(), libc::POLLIN)];
    let _ = wait_ready(&mut gone, Some(Duration::ZERO));
    gone[0].found != 0
}

/// Whether a process is not about to end: no SIGKILL is on its way, and it is not where none would show.
fn is_unharmed(pid: i32) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(directory) = ProcessDirectory::open(pid) else {
        return false;
    };
    let alive = directory
        .stat()
        .is_ok_and(|stat| !matches!(stat.state, 'D' | 'Z' | 'X'));
    let spared = directory
        .status()
        .is_ok_and(|status| (status.signals_pending | status.signals_pending_shared) & KILL == 0);
    alive && spared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_tell_how_far_it_was() {
        let (mut notes, reader) = Notes::new().unwrap();
        notes.reached(Stage::Sent).unwrap();
        notes.reached(Stage::Ready).unwrap();
        drop(notes);
        let noted = reader.read();
        assert_eq!((noted.stage, noted.over), (Stage::Ready, true));
        let (notes, reader) = Notes::new().unwrap();
        drop(notes);
        assert_eq!(reader.read().stage, Stage::Begun);
    }

    #[test]
    fn a_process_is_seen_to_run_and_to_have_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let original = Original {
            processes: vec![(pid, pidfd::open(pid).unwrap())],
            init: None,
        };
        assert_eq!(original.look(), Standing::Runs);
        child.kill().unwrap();
        assert_eq!(original.look(), Standing::Ended);
        child.wait().unwrap();
        assert_eq!(original.look(), Standing::Ended);
    }
}
