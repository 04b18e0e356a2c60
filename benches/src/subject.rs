//! The subject process: built, started, asked, and ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};

use crate::case::Case;
use crate::command::Span;
use crate::failure::Failure;

const SOURCE: &str = include_str!("../subject.c");

/// How long a subject may take to set up, to answer or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often this program looks for an answer. It sleeps in between: the subject needs the processor.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The compiled subject.
#[derive(Debug)]
pub struct SubjectProgram {
    binary: PathBuf,
}

impl SubjectProgram {
    /// Compiles the subject into `directory` with the C compiler that `CC` names, or `cc`.
    pub fn compile(directory: &Path) -> Result<Self, Failure> {
        let source = directory.join("subject.c");
        let binary = directory.join("subject");
        fs::write(&source, SOURCE).map_err(|error| Failure::at(&source, &error))?;
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let status = Command::new(&compiler)
            .args(["-O2", "-Wall", "-pthread", "-o"])
            .args([&binary, &source])
            .status()
            .map_err(|error| {
                Failure::new(format!("cannot start the C compiler {compiler}: {error}"))
            })?;
        if !status.success() {
            return Err(Failure::new(format!(
                "{compiler} could not compile the subject: {status}"
            )));
        }
        Ok(Self { binary })
    }
}

/// A stretch in which the subject did not run, in nanoseconds of CLOCK_REALTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    begin: u64,
    end: u64,
}

/// All stretches the subject saw, in order of time.
#[derive(Debug, Default)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// The longest gap that lies in `span` at least in part.
    pub fn longest_within(&self, span: Span) -> Duration {
        let inside = self
            .0
            .iter()
            .filter(|gap| gap.end > span.begin && gap.begin < span.end);
        Duration::from_nanos(inside.map(|gap| gap.end - gap.begin).max().unwrap_or(0))
    }

    /// How long after the begin of `restart` the subject first ran again.
    pub fn awake_after(&self, restart: Span) -> Option<Duration> {
        let asleep = self
            .0
            .iter()
            .find(|gap| gap.begin < restart.begin && gap.end > restart.begin)?;
        Some(Duration::from_nanos(asleep.end - restart.begin))
    }
}

/// What the subject is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The gaps it saw.
    Gaps,
    /// The gaps, after it has checked that everything it held is still there.
    GapsAndState,
}

/// A running subject. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Subject {
    leader: Pid,
    report: PathBuf,
}

impl Subject {
    /// Starts a subject in `directory`, which it may fill with files, and waits until it holds what the case asks for.
    pub fn start(program: &SubjectProgram, case: &Case, directory: &Path) -> Result<Self, Failure> {
        let report = directory.join("report");
        let errors = directory.join("errors");
        let child = Command::new(&program.binary)
            .arg(&report)
            .args(case.subject_arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).map_err(|error| Failure::at(&errors, &error))?)
            .spawn()
            .map_err(|error| Failure::at(&program.binary, &error))?;
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or_else(|| Failure::new("the subject has no pid".to_owned()))?;
        let subject = Self { leader, report };
        subject.read_report().map_err(|failure| {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            Failure::new(format!(
                "the subject did not start: {failure} {}",
                said.trim()
            ))
        })?;
        Ok(subject)
    }

    /// The process in which the subject's first thread runs.
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// The same subject under the pid that a restart gave it.
    pub fn restarted_as(&mut self, leader: Pid) {
        self.leader = leader;
    }

    /// Asks the subject, and reads its answer.
    pub fn ask(&self, question: Question) -> Result<Gaps, Failure> {
        let signal = match question {
            Question::Gaps => Signal::USR1,
            Question::GapsAndState => Signal::USR2,
        };
        kill_process(self.leader, signal).map_err(|error| {
            Failure::new(format!(
                "the subject (pid {}) cannot be asked: {error}",
                self.leader
            ))
        })?;
        self.read_report()
    }

    fn read_report(&self) -> Result<Gaps, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.report.exists() {
            if has_ended(self.leader) {
                return Err(Failure::new(format!(
                    "the subject (pid {}) has ended",
                    self.leader
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "the subject (pid {}) does not answer",
                    self.leader
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let text =
            fs::read_to_string(&self.report).map_err(|error| Failure::at(&self.report, &error))?;
        fs::remove_file(&self.report).map_err(|error| Failure::at(&self.report, &error))?;
        parse_report(&text)
    }

    /// Waits until a subject that a tool has killed is gone with all `processes`, so that its pids are free.
    pub fn wait_until_gone(processes: &[Pid]) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while processes.iter().any(|&pid| !is_gone(pid)) {
            if Instant::now() > deadline {
                return Err(Failure::new(
                    "the subject's processes do not end".to_owned(),
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Every process of the subject: those of its session.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|&pid| session_of(pid) == Some(self.leader.as_raw_nonzero().get()))
            .filter_map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let processes = self.processes();
        for &pid in &processes {
            // One that has just ended by itself is as good as killed.
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Err(failure) = Self::wait_until_gone(&processes) {
            eprintln!("cryonaut-benches: {failure}: {processes:?}");
        }
    }
}

/// Session of a process, the sixth field of proc_pid_stat(5). The name before it may hold anything, even brackets.
fn session_of(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&stat[after_name..])
        .ok()?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()
}

/// Takes the end of a child of ours; says whether the pid is free now.
fn is_gone(pid: Pid) -> bool {
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    test_kill_process(pid) == Err(Errno::SRCH)
}

/// Whether a process that may be a child of ours runs no more. Its end is not taken: its pid must stay its own.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .iter()
        .rposition(|&byte| byte == b')')
        .and_then(|at| stat.get(at + 2));
    matches!(state, None | Some(b'Z' | b'X'))
}

fn parse_report(text: &str) -> Result<Gaps, Failure> {
    let mut gaps = Vec::new();
    for line in text.lines() {
        if let Some(verdict) = line.strip_prefix("verdict ") {
            if verdict != "good" {
                return Err(Failure::new(format!(
                    "the subject is not what it was: {verdict}"
                )));
            }
            continue;
        }
        let gap = line
            .strip_prefix("gap ")
            .and_then(|gap| gap.split_once(' '))
            .and_then(|(begin, end)| {
                let (begin, end) = (begin.parse().ok()?, end.parse().ok()?);
                (begin <= end).then_some(Gap { begin, end })
            });
        gaps.push(gap.ok_or_else(|| {
            Failure::new(format!("the subject's report has a bad line: {line:?}"))
        })?);
    }
    Ok(Gaps(gaps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_its_gaps_in_order() {
        let gaps = parse_report("verdict good\ngap 10 30\ngap 100 400\ngap 500 510\n")
            .expect("a good report");
        assert_eq!(
            gaps.longest_within(Span { begin: 0, end: 50 }),
            Duration::from_nanos(20)
        );
        assert_eq!(
            gaps.longest_within(Span {
                begin: 390,
                end: 600
            }),
            Duration::from_nanos(300)
        );
        assert_eq!(
            gaps.longest_within(Span {
                begin: 410,
                end: 450
            }),
            Duration::ZERO
        );
        assert_eq!(
            gaps.awake_after(Span {
                begin: 150,
                end: 450
            }),
            Some(Duration::from_nanos(250))
        );
        assert_eq!(
            gaps.awake_after(Span {
                begin: 600,
                end: 650
            }),
            None
        );
    }

    #[test]
    fn a_bad_verdict_or_line_is_a_failure() {
        assert!(parse_report("verdict memory differs\n").is_err());
        assert!(parse_report("verdict good\ngap 1\n").is_err());
        assert!(parse_report("verdict good\ngap 2 1\n").is_err());
    }
}
