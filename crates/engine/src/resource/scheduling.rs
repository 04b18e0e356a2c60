//! Scheduling of tasks (sched(7)): policies, nice values, reservations of processor time, utilization clamps, processors.
//!
//! Read by sched_getattr(2) and sched_getaffinity(2), set by their counterparts from outside. It is part of the record of a task
//! ([`super::thread`]).

use std::fmt;

use cryonaut_sys::task::{self, SchedulingAttributes};

use super::thread::TaskRecord;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::{Error, Result};

const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
const CAP_SYS_NICE: u32 = 23;
/// SCHED_FLAG_UTIL_CLAMP_MIN, SCHED_FLAG_UTIL_CLAMP_MAX.
const CLAMPS: u64 = 0x20 | 0x40;

/// What the record of a task has of its scheduling.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(tid: i32) -> Result<Vec<i64>> {
    let what = || format!("task {tid}: reading its scheduling");
    let found = task::scheduling(tid).attempt(what)?;
    // A fair task shows its slice there, which differs between machines unless the program has set it.
    let usual = task::scheduling(0).attempt(what)?;
    let own_slice = found.policy != SCHED_DEADLINE && found.runtime == usual.runtime;
    Ok(vec![
        i64::from(found.policy),
        found.flags as i64,
        i64::from(found.nice),
        i64::from(found.priority),
        i64::from(found.utilization_min),
        i64::from(found.utilization_max),
        if own_slice { 0 } else { found.runtime as i64 },
        found.deadline as i64,
        found.period as i64,
    ])
}

/// The attributes that a record speaks of; images made before the last three were recorded have 0 there.
fn recorded(record: &TaskRecord) -> Option<SchedulingAttributes> {
    let &[
        policy,
        flags,
        nice,
        priority,
        minimum,
        maximum,
        ref reservation @ ..,
    ] = &record.scheduling[..]
    else {
        return None;
    };
    let at = |index: usize| reservation.get(index).copied().unwrap_or(0) as u64;
    Some(SchedulingAttributes {
        size: 56,
        policy: policy as u32,
        flags: flags as u64,
        nice: nice as i32,
        priority: priority as u32,
        runtime: at(0),
        deadline: at(1),
        period: at(2),
        utilization_min: minimum as u32,
        utilization_max: maximum as u32,
    })
}

/// Whether a task gets its policy last of all: one under it may stand still for long, and has calls to make until then.
fn is_late(attributes: &SchedulingAttributes) -> bool {
    matches!(attributes.policy, SCHED_DEADLINE | SCHED_IDLE)
}

/// Whether the utilization of a task is clamped; a kernel without clamps shows 0 for both.
fn is_clamped(attributes: &SchedulingAttributes) -> bool {
    !matches!(
        (attributes.utilization_min, attributes.utilization_max),
        (0, 0 | 1024)
    )
}

/// Refuses a priority that this user may not give (setpriority(2), sched(7)), and what this machine lacks.
pub(crate) fn check(task: &TaskRecord, host: &Host, plan: &mut Plan) {
    let Some(wanted) = recorded(task) else {
        return;
    };
    let here = task::scheduling(0).unwrap_or_default();
    if is_clamped(&wanted) && here.utilization_max == 0 {
        plan.refusals.add(
            (task.process, ""),
            format!("the utilization clamps of task {}", task.task),
            "this kernel does not have them",
            "restart on a machine with CONFIG_UCLAMP_TASK",
        );
    }
    let deadline = wanted.policy == SCHED_DEADLINE;
    let capable = cryonaut_sys::spawn::effective_capabilities()
        .is_ok_and(|capabilities| capabilities >> CAP_SYS_NICE & 1 == 1);
    if deadline && (host.user != 0 || !capable) {
        plan.refusals.add(
            (task.process, ""),
            format!(
                "the reserved processor time of task {} (SCHED_DEADLINE)",
                task.task
            ),
            "only root may reserve it",
            "restart as root",
        );
    }
    if is_late(&wanted) {
        plan.step(
            Stage::Confine,
            task.process,
            SetPolicy {
                process: task.process,
                task: task.task,
                wanted,
            },
        );
    }
    if host.user == 0 {
        return;
    }
    let limit = |resource| task::limit(0, resource).map_or(0, |limit| limit.soft);
    let real_time = [libc::SCHED_FIFO, libc::SCHED_RR].contains(&(wanted.policy as i32));
    let (what, value) =
        if real_time && limit(cryonaut_sys::uapi::RLIMIT_RTPRIO) < u64::from(wanted.priority) {
            ("real-time priority", i64::from(wanted.priority))
        } else if wanted.nice < here.nice
            && limit(cryonaut_sys::uapi::RLIMIT_NICE) < (20 - wanted.nice.clamp(-20, 19)) as u64
        {
            ("nice value", i64::from(wanted.nice))
        } else {
            return;
        };
    plan.refusals.add(
        (task.process, ""),
        format!("the {what} {value} of task {}", task.task),
        "you may not give it here",
        "restart without `nice`, or have the limit raised (`ulimit -e`, `ulimit -r`)",
    );
}

/// Sets processors and policy of a task; `all` are the processors that there are. Some policies come last of all ([`check`]).
///
/// # Errors
/// When the kernel does not permit it.
pub(crate) fn restore(tid: i32, record: &TaskRecord, all: &[u64]) -> Result<()> {
    let what = |what: &'static str| move || format!("task {}: {what}", record.task);
    let now = task::affinity(tid).attempt(what("reading its affinity"))?;
    if now != record.affinity {
        // Processors that do not exist here are left out; with none left all are allowed.
        if task::set_affinity(tid, &record.affinity).is_err() {
            let _ = task::set_affinity(tid, all);
        }
    }
    let Some(mut wanted) = recorded(record) else {
        return Ok(());
    };
    if is_late(&wanted) {
        return Ok(());
    }
    let now = task::scheduling(tid).attempt(what("reading its scheduling"))?;
    let usual = task::scheduling(0).attempt(what("reading our scheduling"))?;
    let key = |a: &SchedulingAttributes| (a.policy, a.nice, a.priority, a.flags);
    let clamps = |a: &SchedulingAttributes| (a.utilization_min, a.utilization_max);
    let clamp =
        now.utilization_max != 0 && wanted.utilization_max != 0 && clamps(&now) != clamps(&wanted);
    // Ours is taken for the usual slice, as it was when the record was made.
    let slice = if wanted.runtime == 0 {
        usual.runtime
    } else {
        wanted.runtime
    };
    if key(&now) == key(&wanted) && !clamp && slice == now.runtime {
        return Ok(());
    }
    if clamp {
        wanted.flags |= CLAMPS;
    }
    task::set_scheduling(tid, &wanted).attempt(|| {
        format!(
            "task {}: setting its scheduling policy {}, nice {} (see `ulimit -e`, `ulimit -r`)",
            record.task, wanted.policy, wanted.nice
        )
    })
}

/// Gives a task a policy under which it may stand still for long.
struct SetPolicy {
    process: i32,
    task: i32,
    wanted: SchedulingAttributes,
}

impl fmt::Display for SetPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wanted.policy == SCHED_IDLE {
            return write!(f, "task {} runs when nothing else does", self.task);
        }
        write!(
            f,
            "reserve {} µs every {} µs for task {}",
            self.wanted.runtime / 1000,
            self.wanted.period / 1000,
            self.task
        )
    }
}

impl Action for SetPolicy {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let tid = rebuild.task(self.process, self.task)?;
        task::set_scheduling(tid, &self.wanted).map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::EBUSY) => {
                    "other tasks have reserved the processor time: end them, or try again later"
                }
                _ => "see sched(7) on what the kernel admits (sched_rt_runtime_us, processors of the task)",
            };
            Error::Failed(format!(
                "task {}: setting its scheduling policy {}: {error}; {advice}",
                self.task, self.wanted.policy
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_records_have_no_reservation() {
        let record = TaskRecord {
            scheduling: vec![0, 0, 5, 0, 0, 1024],
            ..TaskRecord::default()
        };
        let attributes = recorded(&record).unwrap();
        assert_eq!((attributes.nice, attributes.runtime), (5, 0));
        assert!(!is_clamped(&attributes));
        let record = TaskRecord {
            scheduling: vec![6, 0, 0, 0, 0, 0, 10, 20, 30],
            ..TaskRecord::default()
        };
        let attributes = recorded(&record).unwrap();
        assert_eq!(
            (attributes.runtime, attributes.deadline, attributes.period),
            (10, 20, 30)
        );
        assert_eq!(recorded(&TaskRecord::default()), None);
    }
}
