//! Parents in vfork(2): they wait, in a way that no tracer ends, until their child has called exec or ended.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::task::{self, Compare};
use cryonaut_tracee::{Running, Stopping};

use crate::{Error, Refusal, Result};

/// The children that a task waits for in vfork; none when it does not.
pub(super) fn children(process: i32, tid: i32) -> Vec<i32> {
    let Ok(directory) = ProcessDirectory::open(process) else {
        return Vec::new();
    };
    let waits = directory
        .task(tid)
        .is_ok_and(|task| task.stat().is_ok_and(|stat| stat.state == 'D') && is_birth(&task));
    if !waits {
        return Vec::new();
    }
    let mut children = directory.children(tid).unwrap_or_default();
    if children.is_empty() {
        children = directory.all_children().unwrap_or_default();
    }
    let shares = |child: &i32| {
        task::compare(Compare::Memory, (tid, 0), (*child, 0)).is_ok_and(Ordering::is_eq)
    };
    // A child that does not share memory waits to be told apart in no other way: then it may be any.
    let sharing: Vec<i32> = children.iter().copied().filter(shares).collect();
    if sharing.is_empty() {
        children
    } else {
        sharing
    }
}

/// Whether a task is in a system call that makes processes.
fn is_birth(task: &ProcessDirectory) -> bool {
    let Ok(call) = task.read("syscall") else {
        // Nobody may see it: what waits that way and has children is taken for one.
        return true;
    };
    let number = call.split(|&byte| byte == b' ').next();
    let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<i64>().ok());
    matches!(
        number,
        Some(libc::SYS_vfork | libc::SYS_clone | libc::SYS_clone3)
    )
}

/// A task in vfork that has been asked to stop, and will as soon as it can.
pub(super) struct InVfork {
    /// Its process.
    pub(super) pid: i32,
    task: Running,
    children: Vec<i32>,
    since: Instant,
}

impl InVfork {
    pub(super) fn new(pid: i32, task: Running, children: Vec<i32>) -> Self {
        Self {
            pid,
            task,
            children,
            since: Instant::now(),
        }
    }

    /// Waits until its child has called exec or ended, and lets it go on.
    ///
    /// # Errors
    /// [`Error::Refused`] when that does not happen within `limit`.
    pub(super) fn end_of_vfork(self, limit: Duration) -> Result<()> {
        let name = |pid: i32| {
            let name = ProcessDirectory::open(pid).and_then(|directory| directory.comm());
            String::from_utf8_lossy(&name.unwrap_or_default()).into_owned()
        };
        match self.task.stops_within(limit) {
            Ok(Stopping::Stopped(_, births)) => {
                let attached = births.into_iter().map(Running::attached_by_kernel);
                attached.for_each(drop);
                Ok(())
            }
            Ok(Stopping::Not(..)) => {
                let child = self.children.first().copied().unwrap_or(0);
                Err(Error::Refused(vec![Refusal {
                    pid: self.pid,
                    process: name(self.pid),
                    object: format!("its child {child} ({})", name(child)),
                    reason: format!(
                        "it waits in vfork until that child calls exec or ends, and cannot be stopped before; this has taken more \
                         than {} s",
                        self.since.elapsed().as_secs()
                    ),
                    remedy: "checkpoint it again later, or have the program use fork".into(),
                }]))
            }
            Err(cryonaut_tracee::Error::Gone(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
