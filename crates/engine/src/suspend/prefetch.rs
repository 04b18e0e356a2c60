//! Bringing a job's memory back from swap before the job asks for it.
//!
//! Who has CAP_SYS_NICE advises the kernel to read ahead. Everybody reads a byte of each page that is in swap
//! (process_vm_readv(2)), which the kernel then maps again. Nothing is written and nothing allocated that was not there.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::memory::{self, RemoteAdvice, page};
use cryonaut_sys::{PAGE_SIZE, RemotePtr, pidfd};

use cryonaut_launch::registry::SuspendedProcess;

/// What a resume brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Nothing: pages come when they are used.
    None,
    /// What was used of late, most used first, while the job runs again.
    #[default]
    Hot,
    /// Everything, before the job runs again.
    All,
}

/// How much is asked for at once.
const CHUNK: u64 = 4 << 20;
/// Pages read by one call.
const PAGES: usize = 512;

/// Brings memory of these processes back; returns when it is there, or `stop` is set. What cannot be brought back comes when it
/// is used.
pub fn prefetch(processes: &[SuspendedProcess], what: Prefetch, stop: &AtomicBool) {
    let mut work: Vec<(i32, u64, u64)> = Vec::new();
    for process in processes
        .iter()
        .filter(|process| process.identity.is_alive())
    {
        let pid = process.identity.pid;
        let mut ranges = process.hot.clone();
        if what == Prefetch::All || ranges.is_empty() {
            ranges.extend(swapped_areas(pid));
        }
        work.extend(ranges.into_iter().flat_map(|(start, end)| {
            let pieces = (end.saturating_sub(start)).div_ceil(CHUNK);
            (0..pieces).map(move |index| {
                let from = start + index * CHUNK;
                (pid, from, end.min(from + CHUNK))
            })
        }));
    }
    let next = AtomicUsize::new(0);
    let bring = || {
        while let Some(&(pid, start, end)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            bring_back(pid, start, end);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..crate::workers(work.len()) {
            scope.spawn(bring);
        }
        bring();
    });
}

fn swapped_areas(pid: i32) -> Vec<(u64, u64)> {
    let areas = ProcessDirectory::open(pid).and_then(|directory| directory.smaps());
    let areas = areas.unwrap_or_default();
    let swapped = areas.iter().filter(|area| area.swap > 0);
    swapped
        .map(|area| (area.area.start, area.area.end))
        .collect()
}

fn bring_back(pid: i32, start: u64, end: u64) {
    // Only root may; it also reaches shared memory, which the page tables do not show as swapped.
    if let Ok(process) = pidfd::open(pid) {
        let _ = memory::advise(
            process.as_fd(),
            RemotePtr::new(start),
            end - start,
            RemoteAdvice::WillNeed,
        );
    }
    read_swapped(pid, start, end);
}

/// Reads a byte of each page of this range that is in swap, so that the kernel maps it again.
pub(super) fn read_swapped(pid: i32, start: u64, end: u64) {
    let mut pages = Vec::with_capacity(PAGES);
    let Ok(pagemap) =
        ProcessDirectory::open(pid).and_then(|directory| directory.open_file("pagemap"))
    else {
        return;
    };
    let mut regions = Vec::new();
    let scanned = memory::scan(
        pagemap.as_fd(),
        (start, end),
        page::SWAPPED,
        page::SWAPPED,
        |region| {
            regions.push((region.start, region.end));
        },
    );
    if scanned.is_err() {
        // Kernels before 6.7.
        regions = swapped_one_by_one(pid, start, end);
    }
    for (from, to) in regions {
        for address in (from..to).step_by(PAGE_SIZE as usize) {
            pages.push((RemotePtr::new(address), 1));
            if pages.len() == PAGES {
                touch(pid, &mut pages);
            }
        }
    }
    touch(pid, &mut pages);
}

fn touch(pid: i32, pages: &mut Vec<(RemotePtr, usize)>) {
    let mut bytes = vec![0; pages.len()];
    // A page that may not be read, or is not there any more, ends the call: it comes when it is used.
    let _ = memory::read_ranges(pid, pages, &mut bytes);
    pages.clear();
}

fn swapped_one_by_one(pid: i32, start: u64, end: u64) -> Vec<(u64, u64)> {
    let entries = ProcessDirectory::open(pid).and_then(|directory| directory.pagemap(start, end));
    (start..end)
        .step_by(PAGE_SIZE as usize)
        .zip(entries.unwrap_or_default())
        .filter(|(_, entry)| entry.swapped())
        .map(|(address, _)| (address, address + PAGE_SIZE))
        .collect()
}
