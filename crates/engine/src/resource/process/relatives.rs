//! Children of the job's processes that are not in the scope that was asked for.
//!
//! Their parents would lose them without knowing, so they are refused unless somebody says how they look afterwards.

use std::collections::{BTreeMap, BTreeSet};

use cryonaut_procfs::Stat;
use cryonaut_procfs::system::all_stats;

use super::ProcessRecord;
use crate::Refusals;
use crate::freeze::Frozen;
use crate::target::{Cut, Scope, Target, TargetProcess, is_own};

/// Whether a job of this scope may have such children.
fn may_exist(scope: Scope) -> bool {
    matches!(scope, Scope::Process | Scope::Group | Scope::Session)
}

/// Children of processes among `pids` that are not among these, nor left out by their own wish.
fn outside(pids: &BTreeSet<i32>, left_out: &BTreeSet<i32>) -> Vec<Stat> {
    let mut found = all_stats().unwrap_or_default();
    found.retain(|stat| {
        pids.contains(&stat.ppid)
            && !pids.contains(&stat.pid)
            && !is_own(stat.pid)
            && !left_out.contains(&stat.pid)
    });
    found
}

/// Refuses them in a running job.
pub(super) fn inspect(target: &Target, refusals: &mut Refusals) {
    if may_exist(target.scope) && target.cut == Cut::Refused {
        refuse(&outside(&target.pids(), &target.left_out), refusals);
    }
}

fn refuse(children: &[Stat], refusals: &mut Refusals) {
    for child in children {
        let name = String::from_utf8_lossy(&child.comm);
        refusals.add(
            (child.ppid, ""),
            format!("its child {} ({name})", child.pid),
            "it is not in the scope that was asked for, and its parent would lose it",
            "take the whole tree (--tree), or say how the child looks to its parent afterwards (--cut)",
        );
    }
}

/// Those of a frozen job that are to look as if they had been killed, in their parents' groups and sessions; `known` are the
/// records of the job's processes, by their pids as we see them.
///
/// # Errors
/// When there are any and nobody has said how they look: they were born since the running job was inspected.
pub(super) fn collect(
    frozen: &Frozen,
    known: &BTreeMap<i32, ProcessRecord>,
) -> crate::Result<Vec<ProcessRecord>> {
    if !may_exist(frozen.scope) || frozen.cut == Cut::Gone {
        return Ok(Vec::new());
    }
    let children = outside(&known.keys().copied().collect(), &frozen.left_out);
    if frozen.cut == Cut::Refused {
        let mut refusals = Refusals::default();
        refuse(&children, &mut refusals);
        refusals.into_result()?;
    }
    let ended = children.iter().filter_map(|child| {
        let parent = known.get(&child.ppid)?;
        // One that has ended meanwhile, and whose parent takes no notice of such ends, is not there for that either.
        let process = TargetProcess::read(child.pid).ok()?;
        let status = match process.is_zombie() {
            true => process.stat.exit_code,
            false => libc::SIGKILL,
        };
        Some(ProcessRecord {
            pid: process.inner_pid(),
            parent: parent.pid,
            group: parent.group,
            session: parent.session,
            zombie: Some(status),
            name: child.comm.clone(),
            exit_signal: Some(process.stat.exit_signal).filter(|signal| *signal != libc::SIGCHLD),
            end_is_news: !process.is_zombie(),
            ..ProcessRecord::default()
        })
    });
    Ok(ended.collect())
}
