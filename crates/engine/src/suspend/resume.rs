//! Letting a suspended job go on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{Phase, ProcessIdentity, SuspendedProcess, Suspension, Way};
use serde::Serialize;

use super::freezer::{self, Cgroup};
use super::prefetch::{Prefetch, prefetch};
use super::{Note, signals};
use crate::error::Attempt;
use crate::notify;
use crate::{Error, Result};

/// What a resume did.
#[derive(Clone, Debug, Serialize)]
pub struct ResumeReport {
    /// Processes that run again.
    pub processes: usize,
    /// The cgroup, frozen by somebody else, in which it still stands still.
    pub frozen_above: Option<PathBuf>,
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
    // A job must not stay suspended because there is no room for a note.
    let _ = note(&Suspension {
        phase: Phase::Resuming,
        ..suspension.clone()
    });
    let LetGo {
        running,
        frozen_above,
        remarks,
    } = let_go(suspension, pids)?;
    let alive = suspension
        .processes
        .iter()
        .filter(|process| process.identity.is_alive());
    Ok(ResumeReport {
        processes: alive.count(),
        frozen_above,
        remarks,
        until_running: running.saturating_duration_since(start),
        total: start.elapsed(),
    })
}

/// A job that was let go.
pub(super) struct LetGo {
    /// Since when it runs.
    running: Instant,
    /// The cgroup, frozen by somebody else, in which it does not.
    frozen_above: Option<PathBuf>,
    /// What the user should know.
    remarks: Vec<String>,
}

/// Thaws, continues, and puts every process back to where it came from. One that cannot be let go keeps no other one.
///
/// # Errors
/// The first one, when the kernel does not let a part of it go.
pub(super) fn let_go(suspension: &Suspension, pids: &[i32]) -> Result<LetGo> {
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
    let told = suspension.processes.iter().filter(|process| process.told);
    let told: Vec<ProcessIdentity> = told.map(|process| process.identity).collect();
    // Those who were told get this while they stand still, so that its handler is the first that runs.
    notify::go_on_later(&told, suspension.continued);
    let mut outcome = Ok(());
    for cgroup in &cgroups {
        let thawed = cgroup.thaw();
        outcome = outcome.and(thawed.attempt(|| format!("thawing {}", cgroup.path().display())));
    }
    if suspension.way == Way::Signals {
        outcome = outcome.and(signals::go_on(&suspension.processes));
    }
    let running = Instant::now();
    let mut remarks = Vec::new();
    let mut frozen_above = None;
    for cgroup in &cgroups {
        if let Some(above) = cgroup.frozen_from_above() {
            frozen_above = Some(above.path().to_owned());
        }
        if let Err(error) = freezer::move_back(cgroup) {
            remarks.push(format!("it stays in {}: {error}", cgroup.path().display()));
        }
    }
    outcome.map(|()| LetGo {
        running,
        frozen_above,
        remarks,
    })
}

/// Lets those go that a failed suspension has stopped beside what `held` has held before.
pub(super) fn let_newcomers_go(suspension: &Suspension, held: &Suspension) {
    let known = |process: &&SuspendedProcess| {
        let mut before = held.processes.iter();
        before.all(|before| before.identity != process.identity)
    };
    let newcomers: Vec<SuspendedProcess> =
        suspension.processes.iter().filter(known).cloned().collect();
    // A cgroup of the earlier suspension may have taken newcomers in: they leave it, and it stays frozen.
    for process in &newcomers {
        if let Some(cgroup) = Cgroup::of(process.identity.pid)
            && cgroup.is_of_suspend()
            && held.cgroups.iter().any(|path| path == cgroup.path())
        {
            let _ = cgroup.parent().take(process.identity.pid);
        }
    }
    let rest = Suspension {
        cgroups: suspension
            .cgroups
            .iter()
            .filter(|path| !held.cgroups.contains(path))
            .cloned()
            .collect(),
        processes: newcomers,
        ..suspension.clone()
    };
    // What fails here is still noted, and stands still: `cryo resume` finds it.
    let _ = let_go(&rest, &[]);
}
