//! Runs one command of a tool, timed and with a deadline.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::Failure;

/// A command that takes longer than this hangs; it is killed so that the other measurements go on.
const DEADLINE: Duration = Duration::from_secs(180);

/// How much of what a failed command printed goes into the reason.
const OUTPUT_SHOWN: usize = 600;

/// When a command began and had ended, in nanoseconds of CLOCK_REALTIME: the clock the subject reads.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Immediately before the command was started.
    pub begin: u64,
    /// Immediately after its end was seen.
    pub end: u64,
}

impl Span {
    /// How long the command took.
    pub fn length(self) -> Duration {
        Duration::from_nanos(self.end.saturating_sub(self.begin))
    }
}

/// CLOCK_REALTIME in nanoseconds.
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs `command` to its successful end. What it prints goes to the file `output`: a pipe would stay open in a job
/// that it restarts.
pub fn run(mut command: Command, output: &Path) -> Result<Span, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let file = File::create(output).map_err(|error| Failure::at(output, &error))?;
    let errors = file
        .try_clone()
        .map_err(|error| Failure::at(output, &error))?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);

    let begin = now();
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start {name}: {error}")))?;
    let cancel = kill_at_deadline(child.id());
    let status = child
        .wait()
        .map_err(|error| Failure::new(format!("cannot wait for {name}: {error}")))?;
    let end = now();
    drop(cancel);

    if status.success() {
        return Ok(Span { begin, end });
    }
    let printed = std::fs::read_to_string(output).unwrap_or_default();
    let printed = printed.trim();
    let tail = printed
        .char_indices()
        .rev()
        .nth(OUTPUT_SHOWN)
        .map_or(printed, |(at, _)| &printed[at..]);
    Err(Failure::new(format!("{name}: {status}: {tail}")))
}

/// Kills the process at the deadline unless the value returned has been dropped by then.
fn kill_at_deadline(pid: u32) -> mpsc::Sender<()> {
    let (cancel, cancelled) = mpsc::channel::<()>();
    let pidfd = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    std::thread::spawn(move || {
        if cancelled.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout)
            && let Some(pidfd) = pidfd
        {
            // It may have ended in this very moment, which is as good.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    });
    cancel
}
