//! The timer slack that a task goes back to (PR_SET_TIMERSLACK with 0).
//!
//! A task gets it when it is born: what its creator had as timer slack at that moment. The kernel shows it only to a task that goes
//! back to it, so each does, and takes its own again in the same list. Not preserved: that of tasks with a real-time policy, which
//! the kernel lets have no timer slack.

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_tracee::CallList;

use super::{PR_GET_TIMERSLACK, PR_SET_TIMERSLACK, TaskRecord};
use crate::Result;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::{Rebuild, USUAL_SLACK};

/// Asks a task that has `current` now. Nothing where it has none, and with a real-time policy.
///
/// # Errors
/// When the task stumbles.
pub fn ask(process: &mut FrozenProcess, index: usize, current: u64) -> Result<Option<u64>> {
    if current == 0 {
        return Ok(None);
    }
    let mut list = CallList::new();
    list.call(libc::SYS_prctl, &[PR_SET_TIMERSLACK.into(), 0.into()]);
    let default = list.call(libc::SYS_prctl, &[PR_GET_TIMERSLACK.into()]);
    list.call(libc::SYS_prctl, &[PR_SET_TIMERSLACK.into(), current.into()]);
    let outcomes = process.run(index, &list)?;
    let tid = process.tasks[index].stopped.tid();
    let default = outcomes
        .result(default)
        .attempt(|| format!("task {tid}: asking for its default timer slack"))?;
    Ok(Some(default).filter(|&slack| slack != USUAL_SLACK))
}

/// Plans that tasks are born with the default that they had.
pub fn plan(tasks: &[TaskRecord], plan: &mut Plan) {
    let slacks: BTreeMap<i32, u64> = tasks
        .iter()
        .filter_map(|task| Some((task.task, task.default_timer_slack?)))
        .collect();
    if !slacks.is_empty() {
        plan.step(Stage::Objects, 0, BearWith { slacks });
    }
}

/// Has tasks be born with a timer slack of their own.
struct BearWith {
    slacks: BTreeMap<i32, u64>,
}

impl fmt::Display for BearWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bear {} tasks with a default timer slack of their own",
            self.slacks.len()
        )
    }
}

impl Action for BearWith {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.note_slacks(&self.slacks);
        Ok(())
    }
}
