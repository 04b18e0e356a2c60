//! Suspend and resume of a numpy job: how much memory it gives back, and when it runs again, beside SIGSTOP with memory pressure and
//! beside a checkpoint that ends it with a restart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::command::{self, Span, now};
use crate::failure::Failure;
use crate::room::{Room, SwapFile};

const JOB: &str = include_str!("../numpy_job.py");
/// Holds as much memory as its argument says, and ends.
const OTHER: &str = "import sys, numpy\nnumpy.ones(int(sys.argv[1]) // 8)\n";
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to make room, and to go on afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// `cryo suspend`, and `cryo resume --prefetch` with this.
    Suspend(&'static str),
    /// SIGSTOP; what the other job needs pushes the memory out; SIGCONT.
    Stop,
    /// `cryo checkpoint --kill` and `cryo restart`.
    Image,
}

const WAYS: [Way; 5] = [
    Way::Suspend("none"),
    Way::Suspend("hot"),
    Way::Suspend("all"),
    Way::Stop,
    Way::Image,
];

impl Way {
    fn name(self) -> String {
        match self {
            Way::Suspend(prefetch) => format!("suspend, {prefetch}"),
            Way::Stop => "SIGSTOP".to_owned(),
            Way::Image => "image".to_owned(),
        }
    }
}

/// Rows of the table, and their names in JSON.
const MEASURES: [(&str, &str); 6] = [
    ("unmapped, % of anonymous memory", "unmapped_percent"),
    ("free, % of what its cgroup held", "free_percent"),
    ("made room after, ms", "room_ms"),
    ("first instruction after, ms", "first_ms"),
    ("at full speed after, ms", "full_speed_ms"),
    ("resume command, ms", "command_ms"),
];

type Samples = BTreeMap<Way, Vec<[f64; MEASURES.len()]>>;

/// The numpy job. Dropping it ends it.
struct Job {
    child: Child,
    pid: i32,
    report: PathBuf,
}

/// One time through all of its memory, in nanoseconds of CLOCK_REALTIME.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    begin: u64,
    end: u64,
    awake: u64,
}

impl Job {
    fn start(place: &Place, bytes: u64) -> Result<Self, Failure> {
        let report = place.directory.join("job.report");
        let _ = fs::remove_file(&report);
        let script = place.directory.join("numpy_job.py");
        fs::write(&script, JOB).map_err(|error| Failure::at(&script, &error))?;
        let child = python()
            .arg(&script)
            .arg(bytes.to_string())
            .arg(&report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start python3: {error}")))?;
        place.room.take(child.id())?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let job = Self { child, pid, report };
        job.wait("its first rounds", |sweeps| {
            (sweeps.len() >= 4).then_some(())
        })?;
        Ok(job)
    }

    fn sweeps(&self) -> Vec<Sweep> {
        let text = fs::read_to_string(&self.report).unwrap_or_default();
        let parse = |line: &str| {
            let mut numbers = line.split(' ').map(|word| word.parse().ok());
            let mut next = || numbers.next().flatten();
            let (begin, end, _, awake) = (next()?, next()?, next()?, next()?);
            Some(Sweep { begin, end, awake })
        };
        text.lines().filter_map(parse).collect()
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&[Sweep]) -> Option<T>) -> Result<T, Failure> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(found) = found(&self.sweeps()) {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Failure::new(format!(
            "waited in vain for {what} of the job"
        )))
    }

    /// How long it takes for once through its memory, undisturbed.
    fn usual(&self) -> u64 {
        let mut lengths: Vec<u64> = self
            .sweeps()
            .iter()
            .map(|one| one.end - one.begin)
            .collect();
        lengths.sort_unstable();
        lengths.get(lengths.len() / 2).copied().unwrap_or(0)
    }

    fn anonymous(&self) -> Result<f64, Failure> {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid));
        let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, &error))?;
        text.lines()
            .find_map(|line| {
                line.strip_prefix("RssAnon:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .ok_or_else(|| Failure::new(format!("{} has no RssAnon", path.display())))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        if let Some(pid) = Pid::from_raw(self.pid) {
            // A restarted one is a child of this process, too.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// Debian's, which has its numpy, before any other.
fn python() -> Command {
    let usual = Path::new("/usr/bin/python3");
    Command::new(if usual.exists() {
        usual
    } else {
        Path::new("python3")
    })
}

struct Place {
    directory: PathBuf,
    cryo: PathBuf,
    room: Room,
}

impl Place {
    fn cryo(&self, arguments: &[&str]) -> Result<Span, Failure> {
        let mut command = Command::new(&self.cryo);
        command.args(arguments);
        command::run(command, &self.directory.join("cryo.output"))
    }

    /// Runs another job that needs as much memory, to its end.
    fn other(&self, bytes: u64) -> Result<Span, Failure> {
        let begin = now();
        let mut child = python()
            .args(["-c", OTHER])
            .arg(bytes.to_string())
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start python3: {error}")))?;
        self.room.take(child.id())?;
        let status = child.wait();
        match status {
            Ok(status) if status.success() => Ok(Span { begin, end: now() }),
            _ => Err(Failure::new("the other job did not end well".to_owned())),
        }
    }

    fn round(&self, way: Way, bytes: u64) -> Result<[f64; MEASURES.len()], Failure> {
        let mut job = Job::start(self, bytes)?;
        let usual = job.usual();
        let (anonymous, held) = (job.anonymous()?, self.room.usage()?);
        let pid = job.pid.to_string();
        let image = self.directory.join("job.cryo");
        let path = image.to_string_lossy().into_owned();
        let room = match way {
            Way::Suspend(_) => self.cryo(&["suspend", &pid])?,
            Way::Stop => {
                job.signal(Signal::STOP);
                self.other(bytes)?
            }
            Way::Image => {
                let span = self.cryo(&["checkpoint", &pid, "--kill", "-o", &path])?;
                let _ = job.child.wait();
                span
            }
        };
        let left = match way {
            Way::Image => 0.0,
            _ => job.anonymous()?,
        };
        let free = 1.0 - self.room.usage()? / held;
        std::thread::sleep(Duration::from_millis(500));
        let begun = now();
        let command = match way {
            Way::Suspend(prefetch) => self.cryo(&["resume", &pid, "--prefetch", prefetch])?,
            Way::Stop => {
                job.signal(Signal::CONT);
                Span {
                    begin: begun,
                    end: now(),
                }
            }
            Way::Image => {
                let pidfile = self.directory.join("job.pid");
                let named = pidfile.to_string_lossy().into_owned();
                let span = self.cryo(&["restart", &path, "--detach", "--pidfile", &named])?;
                let text = fs::read_to_string(&pidfile).unwrap_or_default();
                job.pid = text.trim().parse().unwrap_or(job.pid);
                span
            }
        };
        let first = job.wait("the first instruction", |sweeps| {
            let again = sweeps.iter().find(|one| one.end > begun)?;
            Some(again.awake.max(begun) - begun)
        })?;
        let full = job.wait("the full speed", |sweeps| {
            let fast = |one: &&Sweep| one.begin > begun && one.end - one.begin <= usual * 6 / 5;
            Some(sweeps.iter().find(fast)?.begin - begun)
        })?;
        drop(job);
        let _ = fs::remove_file(&image);
        let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        Ok([
            100.0 * (1.0 - left / anonymous),
            100.0 * free,
            room.length().as_secs_f64() * 1e3,
            milliseconds(first),
            milliseconds(full),
            command.length().as_secs_f64() * 1e3,
        ])
    }
}

/// Measures all ways, and prints the medians.
pub fn measure(
    directory: &Path,
    cryo: PathBuf,
    (bytes, rounds): (u64, u32),
    as_json: bool,
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    /// What the programs take beside their arrays.
    const MORE: u64 = 96 << 20;
    // The kernel keeps a page's place in swap, when the page is read, as long as less than half of it is in use.
    let _swap = SwapFile::add(directory, bytes * 5 / 2 + MORE)?;
    let place = Place {
        directory: directory.to_owned(),
        cryo,
        // One job fits with something to spare, two do not.
        room: Room::make(bytes * 5 / 4 + MORE)?,
    };
    let mut samples = Samples::new();
    for round in 0..rounds {
        for way in WAYS {
            // What was made for the measurement goes in any case.
            if interrupted.load(Ordering::Relaxed) {
                return Err(Failure::new("interrupted".to_owned()));
            }
            eprintln!("{}: round {} of {rounds}", way.name(), round + 1);
            samples
                .entry(way)
                .or_default()
                .push(place.round(way, bytes)?);
        }
    }
    let shown = table(&samples, bytes);
    if as_json {
        eprint!("{shown}");
        println!("{}", to_json(&samples, bytes));
    } else {
        print!("{shown}");
    }
    Ok(())
}

fn column(samples: &[[f64; MEASURES.len()]], measure: usize) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample[measure]).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn table(samples: &Samples, bytes: u64) -> String {
    let mut text = format!("a numpy job of {} MiB; medians\n{:34}", bytes >> 20, "");
    for way in samples.keys() {
        let _ = write!(text, "{:>15}", way.name());
    }
    for (index, (row, _)) in MEASURES.iter().enumerate() {
        let _ = write!(text, "\n{row:34}");
        for rounds in samples.values() {
            let median = crate::report::median(&column(rounds, index));
            let _ = write!(text, "{:>15.1}", median.unwrap_or(f64::NAN));
        }
    }
    text.push('\n');
    text
}

fn to_json(samples: &Samples, bytes: u64) -> serde_json::Value {
    let ways: Vec<_> = samples
        .iter()
        .map(|(way, rounds)| {
            let measures: serde_json::Map<_, _> = MEASURES
                .iter()
                .enumerate()
                .map(|(index, (_, key))| {
                    let values = column(rounds, index);
                    let value =
                        json!({"median": crate::report::median(&values), "samples": values});
                    ((*key).to_owned(), value)
                })
                .collect();
            json!({"way": way.name(), "measures": measures})
        })
        .collect();
    json!({"bytes": bytes, "ways": ways})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_column_for_each_way_and_medians() {
        let rounds = vec![
            [99.0, 98.0, 1.0, 2.0, 3.0, 4.0],
            [97.0, 98.0, 3.0, 4.0, 5.0, 6.0],
        ];
        let samples = Samples::from([(Way::Suspend("none"), rounds.clone()), (Way::Stop, rounds)]);
        let shown = table(&samples, 64 << 20);
        assert!(
            shown.contains("suspend, none") && shown.contains("SIGSTOP"),
            "{shown}"
        );
        assert!(
            shown.contains("98.0") && shown.contains("64 MiB"),
            "{shown}"
        );
        let json = to_json(&samples, 1);
        assert_eq!(json["ways"][0]["measures"]["first_ms"]["median"], 3.0);
    }
}
