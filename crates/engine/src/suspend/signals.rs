//! Holding a job by SIGSTOP, where no freezer can be used.
//!
//! Parents are stopped first and let go last, so that no process of the job sees the state of another change. Parents outside
//! the job see it, and anybody's SIGCONT ends it: the report says so. So does the end of a login: see [`Login`].

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{ProcessIdentity, SuspendedProcess};
use cryonaut_sys::pidfd;

use crate::error::Attempt;
use crate::target::{Target, TargetProcess};
use crate::{Error, Result};

/// How often a job is searched for processes that were born before their parent stopped.
const PASSES: usize = 50;
/// How long a process may take to stop.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a process is stopped by job control; one whose first thread has ended is when the others are.
pub(super) fn is_stopped(pid: i32) -> bool {
    TargetProcess::read(pid).is_ok_and(|process| process.stat.state == 'T')
}

/// Stops all processes of a job, parents first, and those that are born meanwhile. `announce` is told of all before any of them is
/// signalled, so that whatever happens then, it is known whom the suspension has stopped.
///
/// # Errors
/// When one may not be signalled, or does not stop in time; those of `announce`.
pub(super) fn stop(
    target: &Target,
    announce: &mut dyn FnMut(&[i32]) -> Result<Vec<ProcessIdentity>>,
) -> Result<()> {
    let mut stopped: Vec<ProcessIdentity> = Vec::new();
    let mut wanted = target.live_pids();
    for _ in 0..PASSES {
        let mut processes = announce(&wanted)?;
        processes.retain(|process| !stopped.contains(process));
        if processes.is_empty() {
            return Ok(());
        }
        for &process in &processes {
            send(process, libc::SIGSTOP)?;
        }
        await_stopped(&wanted)?;
        stopped.append(&mut processes);
        wanted = target.again()?.live_pids();
    }
    Err(Error::Failed(
        "the job creates processes faster than they can be stopped: try again".into(),
    ))
}

/// What wakes or ends a job at the end of a login, though signals hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The program that started it, in the same session. A shell that ends sends its stopped jobs SIGTERM or SIGHUP, and SIGCONT
    /// (bash(1), SIGNALS); where it does not, the kernel sends those whom nobody can continue any more SIGHUP and SIGCONT
    /// (setpgid(2), "orphaned").
    Shell,
    /// A terminal that the job itself leads, and somebody else holds: when that goes, the leader is sent SIGHUP and SIGCONT.
    Terminal,
}

impl Login {
    /// Finds out whether a job depends on one, and on what.
    pub fn of(target: &Target) -> Option<Self> {
        let processes = &target.processes;
        let is_member = |pid: i32| processes.iter().any(|process| process.pid == pid);
        let has_shell = processes.iter().any(|process| {
            let (parent, session) = (process.stat.ppid, process.stat.session);
            !is_member(parent)
                && TargetProcess::read(parent)
                    .is_ok_and(|parent| parent.stat.session == session && session != 0)
        });
        let leads = |process: &TargetProcess| {
            let stat = &process.stat;
            stat.session == process.pid && stat.tty_nr != 0 && !is_member(stat.ppid)
        };
        match has_shell {
            true => Some(Self::Shell),
            false => processes.iter().any(leads).then_some(Self::Terminal),
        }
    }
}

fn send(identity: ProcessIdentity, signal: i32) -> Result<()> {
    let pid = identity.pid;
    // One that has ended meanwhile needs no signal, and one that has its number now is none of ours.
    let Some(process) = identity.open() else {
        return Ok(());
    };
    match pidfd::send_signal(process.as_fd(), signal) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Error::NotPermitted(
            format!("process {pid} may not be stopped: permission denied"),
            "only its owner or root may suspend it".into(),
        )),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        outcome => outcome.attempt(|| format!("signalling process {pid}")),
    }
}

/// Waits until these processes are stopped, or have ended.
///
/// # Errors
/// [`Error::Failed`] naming the one that is not in time.
pub(super) fn await_stopped(pids: &[i32]) -> Result<()> {
    let start = Instant::now();
    for &pid in pids {
        loop {
            match TargetProcess::read(pid) {
                Ok(process) if !matches!(process.stat.state, 'T' | 't' | 'Z' | 'X') => {}
                // Stopped, or ended.
                _ => break,
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Failed(format!(
                    "process {pid} did not stop within {} s; the job is as it was before. Try again when the call that it is in has ended",
                    PATIENCE.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(())
}

/// Lets the processes go on that only the suspension stopped, children first.
///
/// # Errors
/// When one may not be signalled; the others are.
pub(super) fn go_on(processes: &[SuspendedProcess]) -> Result<()> {
    let mut outcome = Ok(());
    for process in processes.iter().rev() {
        if !process.stopped_before {
            outcome = outcome.and(send(process.identity, libc::SIGCONT));
        }
    }
    outcome
}
