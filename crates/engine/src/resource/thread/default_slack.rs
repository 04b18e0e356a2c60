//! The timer slack that a task goes back to (PR_SET_TIMERSLACK with 0).
//!
//! A task gets it when it is born: what its creator had as timer slack at that moment. The kernel shows it only to a task that goes
//! back to it, so each does, and takes its own again in the same list. Not preserved: that of tasks with a real-time policy, which
//! the kernel lets have no timer slack.

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_tracee::{CallId, CallList, Outcomes};

use super::{PR_GET_TIMERSLACK, PR_SET_TIMERSLACK, TaskRecord};
use crate::Result;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::{Rebuild, USUAL_SLACK};

/// The question to a task, in a list of calls.
pub struct Question {
    default: CallId,
}

impl Question {
    /// Asks a task of which `current` tells the timer slack that it has now.
    pub fn of_task(list: &mut CallList, current: CallId) -> Self {
        list.call(libc::SYS_prctl, &[PR_SET_TIMERSLACK.into(), 0.into()]);
        let default = list.call(libc::SYS_prctl, &[PR_GET_TIMERSLACK.into()]);
        list.call(libc::SYS_prctl, &[PR_SET_TIMERSLACK.into(), current.into()]);
        Self { default }
    }

    /// What the task, which has `current`, has answered: nothing for the usual default, and with a real-time policy, where there is
    /// none.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn answer(&self, outcomes: &Outcomes, current: u64) -> std::io::Result<Option<u64>> {
        let default = outcomes.result(self.default)?;
        Ok(Some(default).filter(|&slack| current != 0 && slack != USUAL_SLACK))
    }
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
