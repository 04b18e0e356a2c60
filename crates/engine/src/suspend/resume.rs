//! Letting a suspended job go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{Phase, Suspension, Way};
use serde::Serialize;

use super::freezer::{self, Cgroup};
use super::prefetch::{Prefetch, prefetch};
use super::{Note, signals};
use crate::error::Attempt;
use crate::{Error, Result};

/// What a resume did.
#[derive(Clone, Debug, Serialize)]
pub struct ResumeReport {
    /// Processes that run again.
    pub processes: usize,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// Time until the job was let go.
    pub until_running: Duration,
    /// How long it all took.
    pub total: Duration,
}

/// Lets a suspended job go on. `pids` are processes of it beside those that the suspension names. With [`Prefetch::All`] its
/// memory is brought back before.
///
/// # Errors
/// [`Error::Interrupted`] before it was let go; it stays suspended. [`Error::Failed`] when the kernel does not let it go.
pub fn resume(
    suspension: &Suspension,
    pids: &[i32],
    what: Prefetch,
    note: Note<'_>,
    stop: &AtomicBool,
) -> Result<ResumeReport> {
    let start = Instant::now();
    if what == Prefetch::All {
        prefetch(&suspension.processes, what, stop);
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
    }
    note(&Suspension {
        phase: Phase::Resuming,
        ..suspension.clone()
    })?;
    let (remarks, until_running) = let_go(suspension, pids)?;
    let alive = suspension
        .processes
        .iter()
        .filter(|process| process.identity.is_alive());
    Ok(ResumeReport {
        processes: alive.count(),
        remarks,
        until_running: until_running.saturating_duration_since(start),
        total: start.elapsed(),
    })
}

/// Thaws, continues, and puts every process back to where it came from; tells what the user should know, and when it ran.
///
/// # Errors
/// When the kernel does not let it go.
pub(super) fn let_go(suspension: &Suspension, pids: &[i32]) -> Result<(Vec<String>, Instant)> {
    let mut remarks = Vec::new();
    let mut cgroups: Vec<Cgroup> = suspension.cgroups.iter().map(Cgroup::at).collect();
    let named = suspension
        .processes
        .iter()
        .filter(|process| process.identity.is_alive());
    let named = named.map(|process| process.identity.pid);
    for pid in named.chain(pids.iter().copied()) {
        // One that was moved when `cryo` was killed may be in none that was noted.
        if let Some(cgroup) = Cgroup::of(pid)
            && (cgroup.is_of_suspend() || cgroup.is_of_run())
            && !cgroups.contains(&cgroup)
        {
            cgroups.push(cgroup);
        }
    }
    for cgroup in &cgroups {
        cgroup
            .thaw()
            .attempt(|| format!("thawing {}", cgroup.path().display()))?;
    }
    if suspension.way == Way::Signals {
        signals::go_on(&suspension.processes)?;
    }
    let running = Instant::now();
    for cgroup in &cgroups {
        if let Some(above) = cgroup.frozen_from_above() {
            remarks.push(format!(
                "it still stands still: {} is frozen by somebody else (docker pause, systemctl freeze), who has to thaw it",
                above.path().display()
            ));
        }
        freezer::move_back(cgroup)?;
    }
    Ok((remarks, running))
}
