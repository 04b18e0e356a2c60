//! What a suspension did: how much memory went, what stayed, and why.

use std::collections::BTreeMap;
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
        "only through memory.reclaim (Linux 5.19) of a cgroup v2 that holds the job alone and has the memory controller, which is used where it is there; the kernel pushes out no page by advice that several processes map",
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
    /// Several processes of the job map it.
    Shared,
    /// Processes outside of the job map it, too.
    SharedOutside,
    /// There is no swap space.
    NoSwap,
    /// Swap is full.
    SwapFull,
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
                "shared by processes of the job: goes only where the job has a cgroup with memory.reclaim"
            }
            Why::SharedOutside => {
                "shared with processes outside of the job, which keep it: suspend those with it (--tree of their parent, --session)"
            }
            Why::NoSwap => "there is no swap space: add some, and suspend it again",
            Why::SwapFull => "swap is full: add some, and suspend it again",
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
            _ => stayed(&plan.shared, now, (after, plan.keep), swap),
        },
        remarks,
        until_still: Duration::ZERO,
        total: Duration::ZERO,
    }
}

/// What stayed of what should have gone: `keep` bytes were to stay.
fn stayed(
    shared: &SharedMemory,
    now: &[Memory],
    (after, keep): (Held, u64),
    swap: Swap,
) -> Vec<Stayed> {
    let Several { inside, outside } = Several::of(shared, now);
    let alone = after.swappable.saturating_sub(inside + outside + keep);
    let no_room = match swap {
        Swap { total: 0, .. } => Some(Why::NoSwap),
        Swap { free, .. } => (free < WORTH_TELLING).then_some(Why::SwapFull),
    };
    let mut rows: Vec<Stayed> = Vec::new();
    for (bytes, why) in [
        (after.locked, Why::Locked),
        (after.hugetlb, Why::HugePages),
        (outside, Why::SharedOutside),
        (inside, no_room.unwrap_or(Why::Shared)),
        (alone, no_room.unwrap_or(Why::InUse)),
        (after.file, Why::Files),
    ] {
        match rows.iter_mut().find(|row| row.why == why) {
            Some(row) => row.bytes += bytes,
            None => rows.push(Stayed { bytes, why }),
        }
    }
    rows.retain(|row| row.bytes >= WORTH_TELLING);
    rows
}

/// Bytes for swap that several processes map, by whether all of these are of the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Several {
    inside: u64,
    outside: u64,
}

/// Memory that may be the same in several processes.
#[derive(Default)]
struct Common {
    /// Bytes that each process maps together with others.
    mapped: BTreeMap<i32, u64>,
    /// The job's share of it.
    share: u64,
    areas: u64,
}

impl Several {
    /// The kernel tells of a page how many processes map it, and not which. But the shares of all that map it make up the whole:
    /// where those of the job do not, somebody else has the rest.
    fn of(shared: &SharedMemory, job: &[Memory]) -> Self {
        let mut objects: BTreeMap<(u32, u32, u64), Common> = BTreeMap::new();
        let mut places: Vec<(u64, u64, i32, (u64, u64))> = Vec::new();
        for Memory { pid, areas } in job {
            for area in areas {
                let alone = area.rss.saturating_sub(area.shared);
                let proportional = area.proportional.saturating_sub(alone) * 1024;
                let share = (shared.held(area).swappable * proportional)
                    .checked_div(area.proportional * 1024)
                    .unwrap_or(0);
                if share == 0 {
                    continue;
                }
                let bytes = (share * area.shared * 1024)
                    .checked_div(proportional)
                    .unwrap_or(0);
                let device = area.area.device;
                if shared.contains(device) && area.area.inode != 0 {
                    let object = (device.major, device.minor, area.area.inode);
                    objects.entry(object).or_default().add(*pid, (bytes, share));
                } else {
                    // What is shared since a fork lies at the same addresses.
                    places.push((area.area.start, area.area.end, *pid, (bytes, share)));
                }
            }
        }
        let mut sum = Self::default();
        for object in objects.into_values() {
            sum.add(&object);
        }
        places.sort_unstable();
        let (mut common, mut up_to) = (Common::default(), 0);
        for (start, end, pid, held) in places {
            if start >= up_to {
                sum.add(&std::mem::take(&mut common));
            }
            common.add(pid, held);
            up_to = end.max(up_to);
        }
        sum.add(&common);
        sum
    }

    fn add(&mut self, common: &Common) {
        let most = common.mapped.values().max().copied().unwrap_or(0);
        // Each share is rounded down to a KiB.
        match common.share + common.areas * 1024 < most {
            true => self.outside += common.share,
            false => self.inside += common.share,
        }
    }
}

impl Common {
    fn add(&mut self, pid: i32, (bytes, share): (u64, u64)) {
        *self.mapped.entry(pid).or_default() += bytes;
        self.share += share;
        self.areas += 1;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_procfs::smaps;

    const ROOM: Swap = Swap {
        total: 64 << 20,
        free: 32 << 20,
        compressed: false,
    };

    /// A process with one area of 4 MiB that lies in memory whole, and is shared with so many others.
    fn process(pid: i32, others: u64) -> Memory {
        let shared = if others == 0 { 0 } else { 4096 };
        let text = format!(
            "10000000-10400000 rw-p 00000000 00:00 0\nRss: 4096 kB\nPss: {} kB\nShared_Clean: 0 kB\nShared_Dirty: {shared} kB\n\
             Anonymous: 4096 kB\nVmFlags: rd wr\n",
            4096 / (others + 1)
        );
        let areas = smaps::parse(text.as_bytes()).unwrap();
        Memory { pid, areas }
    }

    fn told(job: &[Memory], swap: Swap) -> Vec<(u64, Why)> {
        let shared = SharedMemory::find();
        let rows = stayed(&shared, job, (shared.sum(job), 0), swap);
        let rows = rows.into_iter();
        rows.map(|row| (row.bytes >> 20, row.why)).collect()
    }

    #[test]
    fn who_shares_it_is_told() {
        assert_eq!(told(&[process(1, 0)], ROOM), [(4, Why::InUse)]);
        assert_eq!(
            told(&[process(1, 1), process(2, 1)], ROOM),
            [(4, Why::Shared)]
        );
        assert_eq!(told(&[process(1, 1)], ROOM), [(2, Why::SharedOutside)]);
        assert_eq!(
            told(&[process(1, 3), process(2, 3), process(3, 3)], ROOM),
            [(3, Why::SharedOutside)]
        );
    }

    #[test]
    fn what_was_to_stay_is_no_news() {
        let (shared, job) = (SharedMemory::find(), [process(1, 0)]);
        let held = shared.sum(&job);
        assert_eq!(stayed(&shared, &job, (held, 4 << 20), ROOM), []);
        assert_eq!(stayed(&shared, &job, (held, 1 << 20), ROOM).len(), 1);
    }

    #[test]
    fn one_reason_is_told_once() {
        let separate = [process(1, 1), process(2, 1), process(3, 0)];
        assert_eq!(told(&separate, Swap::default()), [(8, Why::NoSwap)]);
        let full = Swap { free: 4096, ..ROOM };
        assert_eq!(told(&separate, full), [(8, Why::SwapFull)]);
        // More swap would not help.
        assert_eq!(
            told(&[process(1, 1)], Swap::default()),
            [(2, Why::SharedOutside)]
        );
        assert!(Why::NoSwap.words() != Why::SwapFull.words());
    }
}
