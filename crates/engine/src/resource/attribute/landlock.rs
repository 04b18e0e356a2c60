//! Landlock domains, which the kernel shows nowhere: found by what they forbid.
//!
//! A task in a domain may not look at processes outside of it (`hook_ptrace_access_check` in security/landlock/task.c). So each task
//! is asked for the robust list of `cryo` itself, which it may ask for unless something forbids it. If it may not, and users,
//! capabilities, namespaces and labels do not explain that, it is in a domain. Not found: domains of tasks in another pid or
//! user namespace than `cryo`, and of other users than that of `cryo`, since these may not look at it anyway.

use cryonaut_procfs::{ProcessDirectory, Status};
use cryonaut_sys::{spawn, task};
use cryonaut_tracee::{CallId, CallList, Outcomes};

use crate::freeze::FrozenProcess;

/// The question in a list.
pub(super) struct Question(CallId);

impl Question {
    pub(super) fn ask(list: &mut CallList) -> Self {
        let (head, length) = (list.space(8), list.space(8));
        let arguments = [spawn::own_pid().into(), head.into(), length.into()];
        Self(list.call(libc::SYS_get_robust_list, &arguments))
    }

    /// Whether the task is in a domain.
    pub(super) fn finds_domain(
        &self,
        outcomes: &Outcomes,
        process: &FrozenProcess,
        tid: i32,
    ) -> bool {
        let denied = outcomes
            .result(self.0)
            .is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
        denied && is_unexplained(process, tid).unwrap_or(false)
    }
}

/// Whether nothing but a domain can have kept a task from looking at us (`__ptrace_may_access` in kernel/ptrace.c). Nothing
/// where that cannot be told.
fn is_unexplained(process: &FrozenProcess, tid: i32) -> Option<bool> {
    let ours = ProcessDirectory::open(spawn::own_pid()).ok()?;
    let theirs = process.directory.task(tid).ok()?;
    let same_namespace =
        |kind: &str| Some(ours.namespace(kind).ok()? == theirs.namespace(kind).ok()?);
    if !same_namespace("pid")? || !same_namespace("user")? || !task::is_dumpable() {
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
