//! Landlock domains, which the kernel shows nowhere: found by what they forbid.
//!
//! A task in a domain may not look at processes outside of it (`hook_ptrace_access_check` in security/landlock/task.c). So each task
//! is asked for the robust list of `cryo` itself, which it may ask for unless something forbids it. If it may not, and users,
//! capabilities, namespaces and labels do not explain that, it is in a domain. Where they do, or where it does not see `cryo`, it is
//! asked for that of a [witness](super::witness). Not found: domains of tasks whose security label differs from that of `cryo` and
//! explains a no, and those that `cryo` itself is in.

use cryonaut_procfs::{ProcessDirectory, Status};
use cryonaut_sys::{spawn, task};
use cryonaut_tracee::{CallId, CallList, Outcomes};

use super::witness::Witnesses;
use crate::Result;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;

/// The question in a list, and who is asked.
pub(super) struct Question {
    look: CallId,
    user: CallId,
    group: CallId,
}

impl Question {
    pub(super) fn ask(list: &mut CallList) -> Self {
        Self {
            look: look_at(list, spawn::own_pid()),
            user: list.call(libc::SYS_getuid, &[]),
            group: list.call(libc::SYS_getgid, &[]),
        }
    }

    /// Why the task cannot be saved, if it is in a domain.
    ///
    /// # Errors
    /// When it stumbles.
    pub(super) fn reason_against(
        &self,
        outcomes: &Outcomes,
        (process, index): (&mut FrozenProcess, usize),
        witnesses: &mut Witnesses,
    ) -> Result<Option<String>> {
        const CONFINED: &str = "it is confined by Landlock, and the kernel has no way to hand that over to another life";
        let tid = process.tasks[index].stopped.tid();
        if witnesses.see_us(process) {
            if !is_denied(outcomes, self.look) {
                return Ok(None);
            }
            if is_unexplained(&process.directory, tid).unwrap_or(false) {
                return Ok(Some(CONFINED.into()));
            }
        }
        let id = |call| outcomes.result(call).ok().map(|id| id as u32);
        let (Some(user), Some(group)) = (id(self.user), id(self.group)) else {
            return Ok(None);
        };
        let witness = match witnesses.of(process, (user, group)) {
            Ok(Some(witness)) => witness,
            Ok(None) => return Ok(None),
            Err(error) if may_be_confined(&process.directory, tid) => {
                return Ok(Some(format!(
                    "whether it is confined by Landlock cannot be told: {error}"
                )));
            }
            Err(_) => return Ok(None),
        };
        let mut list = CallList::new();
        let call = look_at(&mut list, witness);
        let outcomes = process.run(index, &list)?;
        if is_denied(&outcomes, call) {
            return Ok(Some(CONFINED.into()));
        }
        let looked = outcomes.result(call);
        looked.attempt(|| format!("task {tid}: looking at a witness"))?;
        Ok(None)
    }
}

/// Whether the task is as programs are that have confined themselves: they may gain no privileges (landlock_restrict_self(2)).
fn may_be_confined(directory: &ProcessDirectory, tid: i32) -> bool {
    let status = directory.task(tid).and_then(|task| task.status());
    status.is_ok_and(|status| status.no_new_privileges == Some(true))
}

/// Has a task ask for the robust list of a process.
fn look_at(list: &mut CallList, pid: i32) -> CallId {
    let (head, length) = (list.space(8), list.space(8));
    let arguments = [pid.into(), head.into(), length.into()];
    list.call(libc::SYS_get_robust_list, &arguments)
}

fn is_denied(outcomes: &Outcomes, call: CallId) -> bool {
    outcomes
        .result(call)
        .is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Whether nothing but a domain can have kept a task from looking at us (`__ptrace_may_access` in kernel/ptrace.c). Nothing
/// where that cannot be told.
fn is_unexplained(directory: &ProcessDirectory, tid: i32) -> Option<bool> {
    let ours = ProcessDirectory::open(spawn::own_pid()).ok()?;
    let theirs = directory.task(tid).ok()?;
    if ours.namespace("user").ok()? != theirs.namespace("user").ok()? || !task::is_dumpable() {
        return None;
    }
    let label = |directory: &ProcessDirectory| directory.read("attr/current").ok();
    Some(label(&ours) == label(&theirs) && may_look(&theirs.status().ok()?, &ours.status().ok()?))
}

/// Whether by users and capabilities one may look at the other.
fn may_look(one: &Status, other: &Status) -> bool {
    // Real, effective and saved ids.
    let users = other.uid[..3].iter().all(|&user| user == one.uid[0]);
    let groups = other.gid[..3].iter().all(|&group| group == one.gid[0]);
    users && groups && other.capabilities_permitted & !one.capabilities_permitted == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equals_may_look() {
        let one = Status {
            uid: [7; 4],
            gid: [7; 4],
            capabilities_permitted: 6,
            ..Status::default()
        };
        assert!(may_look(&one, &one));
        let other = Status {
            capabilities_permitted: 1,
            ..one.clone()
        };
        assert!(!may_look(&one, &other));
        let other = Status {
            uid: [7, 7, 8, 7],
            ..one.clone()
        };
        assert!(!may_look(&one, &other));
    }
}
