//! Copies of pages that were written to swap.
//!
//! A page that is pushed out to a disk is freed not by that but by a later look of the kernel: it stays in the swap cache, clean, as
//! long as nobody needs the room. A page table does not show it any more, so advice does not reach it either. Whoever looks at what
//! is free would not see what was given back. So once it is written, each such page is read once, which maps its copy again without
//! touching the disk, and pushed out once more: unchanged and on the disk, it goes at once.
//!
//! Compressed memory (zram) has no such copies. When swap is more than half full, the kernel gives a page's place there up as soon as
//! the page is read: then the copies stay, and the report says how much that is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryonaut_procfs::system::{self, SwapTraffic};

use super::need::{Swap, mebibytes};
use super::prefetch::read_swapped;
use super::reclaim::Piece;

/// The copies that there were before anything was pushed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copies {
    before: u64,
}

impl Copies {
    /// Looks before anything is pushed out.
    pub fn before() -> Self {
        Self {
            before: now().cached,
        }
    }

    /// Bytes of the copies that have come since.
    pub fn since(self) -> u64 {
        now().cached.saturating_sub(self.before) * 1024
    }

    /// What is to be told of copies that are left.
    pub fn remark(self) -> Option<String> {
        /// Others swap, too.
        const WORTH_TELLING: u64 = 16 << 20;
        let left = self.since();
        (left >= WORTH_TELLING).then(|| {
            format!(
                "{} of it is written, and copies stay in memory until somebody needs the room: the kernel drops them then without \
                 waiting for the disk",
                mebibytes(left)
            )
        })
    }

    /// Whether there are copies that can be dropped.
    pub fn can_be_dropped(self) -> bool {
        /// Others swap, too.
        const WORTH_IT: u64 = 4 << 20;
        let swap = Swap::now();
        self.since() >= WORTH_IT && swap.free > swap.total / 2
    }
}

fn now() -> SwapTraffic {
    system::swap_traffic().unwrap_or_default()
}

/// Waits until what was pushed out is written. Others write as well: that none of it is ours any more shows only when little is
/// written at all, so the wait has an end.
pub(super) fn await_written(stop: &AtomicBool) {
    const PATIENCE: Duration = Duration::from_secs(20);
    /// KiB.
    const LITTLE: u64 = 1024;
    let start = Instant::now();
    while now().being_written > LITTLE
        && start.elapsed() < PATIENCE
        && !stop.load(Ordering::Relaxed)
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the copies of a piece are those of pages that were pushed out just now: older ones may be on the disk alone.
pub(super) fn are_fresh(piece: &Piece) -> bool {
    piece.swapped <= piece.resident / 8
}

/// Maps the copies of a part of a piece again.
pub(super) fn map(pid: i32, start: u64, end: u64) {
    read_swapped(pid, start, end);
}
