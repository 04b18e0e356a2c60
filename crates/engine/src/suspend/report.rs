//! What a suspension did: how much memory went, what stayed, and why.

use std::time::Duration;

use cryonaut_launch::registry::{Suspension, Way};
use serde::Serialize;

use super::need::{self, Held, Memory, SharedMemory, Swap};
use super::{GiveBack, Plan};

/// What is given back of a job's memory, for SUPPORT.md: what, whether, how or why not.
pub const GIVEN_BACK: &[[&str; 3]] = &[
    [
        "Private memory: heap, stacks, anonymous mappings, written pages of private file mappings",
        "yes",
        "to swap; what is written is free at once, but where swap is more than half full copies stay until somebody needs the room",
    ],
    [
        "Shared memory, memfd and tmpfs files that the job maps",
        "yes",
        "to swap; where several processes of the job map it, all but one let it go first, for which it must be possible to trace them",
    ],
    [
        "Pages of mapped files",
        "yes",
        "dropped, after changes are written back; those that other programs map stay",
    ],
    [
        "Private memory that processes share since a fork",
        "partly",
        "only through memory.reclaim (Linux 5.19) of a cgroup v2 that holds the job alone and has the memory controller, which is used where it is there, and not tested; the kernel pushes out no page by advice that several processes map",
    ],
    [
        "Memory of processes that cannot be traced, as an ordinary user",
        "no",
        "they have to push it out themselves; root does it from outside",
    ],
    [
        "Memory locked by mlock(2), hugetlb pages, device memory",
        "no",
        "the kernel does not swap them",
    ],
    [
        "tmpfs files that nobody maps, page tables, sockets' buffers",
        "no",
        "the first the kernel swaps by itself when memory is short; the others stay in the kernel",
    ],
];

/// By what a suspended job is held, for SUPPORT.md: by what, where, what else than `cryo resume` wakes or ends it.
pub const HELD_BY: &[[&str; 3]] = &[
    [
        "The freezer of cgroup v2",
        "in cgroups that the user may divide: root's always, those of `systemd-run --user --scope`",
        "nothing but SIGKILL; other signals come when it is resumed",
    ],
    [
        "SIGSTOP, jobs of `cryo run`",
        "everywhere else",
        "anybody's SIGCONT or SIGKILL; neither logging out nor the end of the user's terminal",
    ],
    [
        "SIGSTOP, jobs that something else started",
        "everywhere else",
        "as above, and logging out of the shell that started them, or the end of their terminal: `cryo suspend` says so",
    ],
];

/// Why memory stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It is locked (mlock(2)).
    Locked,
    /// hugetlb pages are never swapped.
    HugePages,
    /// Several processes map it, of the job or outside.
    Shared,
    /// Swap is full, or there is none.
    NoSwap,
    /// Files that others use as well, or that the kernel keeps.
    Files,
    /// The kernel kept it: it is being written, or was used that moment.
    InUse,
}

impl Why {
    /// In words, with what to do.
    pub fn words(self) -> &'static str {
        match self {
            Why::Locked => "locked by the program (mlock)",
            Why::HugePages => "huge pages of hugetlbfs, which are never swapped",
            Why::Shared => {
                "shared by several processes: goes only where the job has a cgroup with memory.reclaim"
            }
            Why::NoSwap => "swap is full: add some, and suspend it again",
            Why::Files => "of files that others use as well",
            Why::InUse => "kept by the kernel for now",
        }
    }
}

/// Memory that stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stayed {
    /// Bytes.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// What a suspension did.
#[derive(Clone, Debug, Serialize)]
pub struct SuspendReport {
    /// Processes that stand still.
    pub processes: usize,
    /// By what they are held.
    pub way: Way,
    /// Bytes in memory before.
    pub before: u64,
    /// Bytes in memory now.
    pub after: u64,
    /// What stayed, where it should have gone.
    pub stayed: Vec<Stayed>,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// Time until all processes stood still.
    pub until_still: Duration,
    /// How long it all took.
    pub total: Duration,
}

/// Less than this is no news.
const WORTH_TELLING: u64 = 1 << 20;

pub(super) fn of(
    suspension: &Suspension,
    plan: &Plan,
    now: &[Memory],
    give_back: GiveBack,
) -> SuspendReport {
    let (before, after) = (plan.shared.sum(&plan.before), plan.shared.sum(now));
    let mut remarks = Vec::new();
    let swap = Swap::now();
    if swap.compressed && give_back != GiveBack::Nothing {
        remarks.push("part of the swap space is memory itself (zram): what went there is compressed, not gone".into());
    }
    SuspendReport {
        processes: suspension
            .processes
            .iter()
            .filter(|process| process.identity.is_alive())
            .count(),
        way: suspension.way,
        before: before.total(),
        after: after.total(),
        stayed: match give_back {
            GiveBack::Nothing => Vec::new(),
            _ => stayed(&plan.shared, now, after, swap),
        },
        remarks,
        until_still: Duration::ZERO,
        total: Duration::ZERO,
    }
}

fn stayed(shared: &SharedMemory, now: &[Memory], after: Held, swap: Swap) -> Vec<Stayed> {
    let mut several = 0;
    for area in now.iter().flat_map(|memory| &memory.areas) {
        let held = shared.held(area);
        several += (held.swappable * area.shared)
            .checked_div(area.rss)
            .unwrap_or(0);
    }
    let alone = after.swappable.saturating_sub(several);
    let full = swap.free < WORTH_TELLING;
    [
        (after.locked, Why::Locked),
        (after.hugetlb, Why::HugePages),
        (several, if full { Why::NoSwap } else { Why::Shared }),
        (alone, if full { Why::NoSwap } else { Why::InUse }),
        (after.file, Why::Files),
    ]
    .into_iter()
    .filter(|(bytes, _)| *bytes >= WORTH_TELLING)
    .map(|(bytes, why)| Stayed { bytes, why })
    .collect()
}

/// How many bytes a suspended job still holds in memory.
pub fn held_in_memory(suspension: &Suspension) -> u64 {
    let alive = suspension
        .processes
        .iter()
        .filter(|process| process.identity.is_alive());
    let pids: Vec<i32> = alive.map(|process| process.identity.pid).collect();
    SharedMemory::find().sum(&need::read(&pids)).total()
}
