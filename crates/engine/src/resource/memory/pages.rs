//! Which pages of an area hold something of the process' own.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use cryonaut_image::ZeroPages;
use cryonaut_procfs::pagemap::PagemapEntry;
use cryonaut_procfs::smaps::SmapsArea;
use cryonaut_procfs::system;
use cryonaut_sys::file;
use cryonaut_sys::memory::{self, page};
use cryonaut_sys::{PAGE_SIZE, arch};
use cryonaut_tracee::CallList;

use super::record::{AreaRecord, Backing, attribute};
use crate::collect::{Access, PageRange};
use crate::copy_in::gaps;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::{Error, Refusal, Result};

/// Finds the pages of all private areas of a process that must be saved, and counts them in their areas.
///
/// # Errors
/// When the page tables cannot be read.
pub fn private_pages(process: &FrozenProcess, areas: &mut [AreaRecord]) -> Result<Vec<PageRange>> {
    let mut ranges = Vec::new();
    // One walk over all neighbours is much cheaper than one walk for each area.
    let mut index = 0;
    while index < areas.len() {
        if !areas[index].is_private() {
            index += 1;
            continue;
        }
        let first = index;
        while index + 1 < areas.len() && areas[index + 1].is_private() && index - first < 4096 {
            index += 1;
        }
        index += 1;
        let mut current = first;
        let spans: Vec<(u64, u64)> = areas[first..index]
            .iter()
            .map(|area| (area.start, area.end))
            .collect();
        runs(process, &spans, |mut start, end, is_file| {
            while start < end {
                while current < index && areas[current].end <= start {
                    current += 1;
                }
                let Some(area) = areas[..index].get_mut(current) else {
                    return;
                };
                let from = start.max(area.start);
                let to = end.min(area.end);
                if from >= to {
                    return;
                }
                let private_file = area.backing() == Backing::FilePrivate;
                // What may be dropped at any time is not kept: random number states lie there, which two lives must not share.
                let droppable = area.has(attribute::DROPPABLE);
                if !(droppable || private_file && is_file) {
                    area.pages += (to - from) / PAGE_SIZE;
                    ranges.push(PageRange {
                        start: from,
                        end: to,
                        recorded: from,
                        zero: zero_pages(area),
                        // Pinning huge pages that are shared would take others from the pool.
                        access: if area.protection & libc::PROT_READ as u32 == 0
                            || private_file
                            || area.huge_page != 0
                        {
                            Access::File
                        } else {
                            Access::Pinned
                        },
                    });
                }
                start = to;
            }
        })?;
    }
    protect_sharing(process, ranges)
}

/// What becomes of an area's zero pages: untouched anonymous memory is zero anyway, but locked memory stays allocated, and of a
/// huge page all is described, since it is dropped as a whole.
fn zero_pages(area: &AreaRecord) -> ZeroPages {
    if area.has(attribute::LOCKED) {
        ZeroPages::Keep
    } else if area.backing() == Backing::FilePrivate || area.huge_page != 0 {
        ZeroPages::Record
    } else {
        ZeroPages::Omit
    }
}

/// Finds the guard pages (MADV_GUARD_INSTALL) of areas that may have some, and takes them out of `ranges`: their page table
/// entries look like swapped pages.
///
/// # Errors
/// When the page tables cannot be read.
pub fn guard_pages(
    process: &FrozenProcess,
    areas: &mut [AreaRecord],
    ranges: &mut Vec<PageRange>,
) -> Result<()> {
    let mut words = Window::new(process);
    for area in areas.iter_mut().filter(|area| area.has(attribute::GUARDED)) {
        for address in (area.start..area.end).step_by(PAGE_SIZE as usize) {
            if !words.get(address)?.guard() {
                continue;
            }
            match area.guards.last_mut() {
                Some(end) if *end == address => *end += PAGE_SIZE,
                _ => area.guards.extend([address, address + PAGE_SIZE]),
            }
        }
    }
    let guards: Vec<(u64, u64)> = areas
        .iter()
        .flat_map(|area| area.guards.chunks_exact(2))
        .map(|pair| (pair[0], pair[1]))
        .collect();
    drop(take_within(&guards, ranges));
    Ok(())
}

/// Takes out of `ranges` what the program leaves out of its private anonymous memory.
pub fn leave_out(areas: &[AreaRecord], omitted: &[(u64, u64)], ranges: &mut Vec<PageRange>) {
    let anonymous = areas
        .iter()
        .filter(|area| area.backing() == Backing::Anonymous);
    let parts: Vec<(u64, u64)> = anonymous
        .flat_map(|area| {
            omitted.iter().filter_map(|(start, end)| {
                let part = ((*start).max(area.start), (*end).min(area.end));
                (part.0 < part.1).then_some(part)
            })
        })
        .collect();
    drop(take_within(&parts, ranges));
}

/// Takes out of `ranges` what lies within any of `parts`.
pub fn take_within(parts: &[(u64, u64)], ranges: &mut Vec<PageRange>) -> Vec<PageRange> {
    if parts.is_empty() {
        return Vec::new();
    }
    let mut sorted = parts.to_vec();
    sorted.sort_unstable();
    let mut parts: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (start, end) in sorted {
        match parts.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => parts.push((start, end)),
        }
    }
    let (mut inside, mut outside) = (Vec::new(), Vec::with_capacity(ranges.len()));
    for range in ranges.drain(..) {
        let part = |(start, end)| PageRange {
            start,
            end,
            recorded: start,
            ..range
        };
        let left = gaps(&[(range.start, range.end)], &parts);
        inside.extend(
            gaps(&[(range.start, range.end)], &left)
                .into_iter()
                .map(part),
        );
        outside.extend(left.into_iter().map(part));
    }
    *ranges = outside;
    inside
}

/// Puts ranges back, in order.
pub fn put_back(more: Vec<PageRange>, ranges: &mut Vec<PageRange>) {
    if !more.is_empty() {
        ranges.extend(more);
        ranges.sort_unstable_by_key(|range| range.start);
    }
}

/// Words of a process' pagemap, read in pieces.
struct Window<'a> {
    process: &'a FrozenProcess,
    start: u64,
    words: Vec<PagemapEntry>,
}

impl<'a> Window<'a> {
    const WORDS: u64 = 512;

    fn new(process: &'a FrozenProcess) -> Self {
        Self {
            process,
            start: 0,
            words: Vec::new(),
        }
    }

    fn get(&mut self, address: u64) -> Result<PagemapEntry> {
        let length = Self::WORDS * PAGE_SIZE;
        if self.words.is_empty() || address.wrapping_sub(self.start) >= length {
            let mut bytes = [0_u8; Self::WORDS as usize * 8];
            self.start = address & !(length - 1);
            let what = || format!("process {}: reading its page table", self.process.pid);
            let count = self
                .process
                .pagemap
                .read_at(&mut bytes, self.start / PAGE_SIZE * 8)
                .attempt(what)?;
            self.words = cryonaut_procfs::pagemap::decode(&bytes[..count]).collect();
        }
        let index = ((address - self.start) / PAGE_SIZE) as usize;
        // The address space ends before the piece does.
        Ok(self.words.get(index).copied().unwrap_or_default())
    }
}

/// Has pages that other processes map too read in the way that leaves them shared.
fn protect_sharing(process: &FrozenProcess, ranges: Vec<PageRange>) -> Result<Vec<PageRange>> {
    let mut checked = Vec::with_capacity(ranges.len());
    let mut words = Window::new(process);
    for range in ranges {
        let index = process
            .areas
            .partition_point(|area| area.area.end <= range.start);
        let shared = process.areas.get(index).is_none_or(|area| area.shared > 0);
        if range.access == Access::File || !shared {
            checked.push(range);
            continue;
        }
        for start in (range.start..range.end).step_by(PAGE_SIZE as usize) {
            let entry = words.get(start)?;
            let access = if entry.present() && entry.exclusive() {
                Access::Pinned
            } else {
                Access::File
            };
            push_range(
                &mut checked,
                &PageRange { access, ..range },
                start,
                start + PAGE_SIZE,
            );
        }
    }
    Ok(checked)
}

/// Calls `found(start, end, is file page)` for runs of pages that are present or in swap, the zero page left out; in these spans,
/// which are in order, and possibly between them.
fn runs(
    process: &FrozenProcess,
    spans: &[(u64, u64)],
    mut found: impl FnMut(u64, u64, bool),
) -> Result<()> {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return Ok(());
    };
    let any = page::PRESENT | page::SWAPPED;
    let scanned = memory::scan(
        process.pagemap.as_fd(),
        (first.0, last.1),
        any,
        any | page::FILE | page::ZERO,
        |region| {
            if region.categories & page::ZERO == 0 {
                found(
                    region.start,
                    region.end,
                    region.categories & page::FILE != 0,
                );
            }
        },
    );
    match scanned {
        Ok(()) => Ok(()),
        // Kernels before 6.7 have no PAGEMAP_SCAN: read the words themselves, piece by piece.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            for &(start, end) in spans {
                words_of(process, (start, end), &mut found)?;
            }
            Ok(())
        }
        Err(error) => Err(Error::Failed(format!(
            "process {}: finding its pages: {error}",
            process.pid
        ))),
    }
}

/// What [`runs`] does, for one span, by the words of the page table.
fn words_of(
    process: &FrozenProcess,
    (mut start, last): (u64, u64),
    found: &mut impl FnMut(u64, u64, bool),
) -> Result<()> {
    const PIECE: u64 = 64 << 20;
    while start < last {
        let end = start.saturating_add(PIECE).min(last);
        let entries = process.directory.pagemap(start, end)?;
        for (index, entry) in entries.into_iter().enumerate() {
            if entry.present() || entry.swapped() {
                let address = start + index as u64 * PAGE_SIZE;
                found(address, address + PAGE_SIZE, entry.file_or_shared());
            }
        }
        start = end;
    }
    Ok(())
}

/// Finds the pages of a shared object that exist, present or in swap, through the area of a process that maps it; those of
/// `parts`, which are offsets in the object.
///
/// The page tables of those who map it do not tell: fork gives a child none of the parent's entries, and what an ended process
/// has written is in none.
///
/// # Errors
/// [`Error::Refused`] where only reading all of it would tell, and that would take more memory than there is; when the process
/// has ended.
pub fn shared_pages(
    process: &mut FrozenProcess,
    area: &AreaRecord,
    source: &SmapsArea,
    parts: &[(u64, u64)],
) -> Result<Vec<PageRange>> {
    let readable = area.protection & libc::PROT_READ as u32 != 0;
    // Shared memory is nobody's private copy: pinning it copies nothing.
    let access = if readable {
        Access::Pinned
    } else {
        Access::File
    };
    let runs = match data_of_object(process, source, parts)? {
        Some(runs) => runs,
        // mincore does not see what is in swap: read all of it, zero pages drop out.
        None if source.swap > 0 => {
            all_can_be_read(process, area, parts)?;
            parts.to_vec()
        }
        None => pages_in_core(process, area, parts)?,
    };
    let range = |(from, to): (u64, u64)| PageRange {
        start: from - area.offset + area.start,
        end: to - area.offset + area.start,
        recorded: from,
        zero: ZeroPages::Omit,
        access,
    };
    Ok(runs.into_iter().map(range).collect())
}

/// The pages of an object that hold something, as offsets, from the object itself (lseek(2), SEEK_DATA; `shmem_file_llseek`):
/// that takes as long as there are pages, however large the object is. Nothing where the object may not be opened.
fn data_of_object(
    process: &FrozenProcess,
    source: &SmapsArea,
    parts: &[(u64, u64)],
) -> Result<Option<Vec<(u64, u64)>>> {
    let Ok(object) = File::open(process.map_file(source)) else {
        return Ok(None);
    };
    let what = || format!("process {}: finding its shared pages", process.pid);
    let mut runs = Vec::new();
    for &(from, to) in parts {
        let mut place = from;
        while place < to {
            let data = file::next_data(object.as_fd(), place).attempt(what)?;
            let Some((start, end)) = data.filter(|(start, _)| *start < to) else {
                break;
            };
            runs.push((
                start & !(PAGE_SIZE - 1),
                end.next_multiple_of(PAGE_SIZE).min(to),
            ));
            place = end.next_multiple_of(PAGE_SIZE);
        }
    }
    Ok(Some(runs))
}

/// The pages of an object that are in memory, as offsets, as a process that maps it sees them (mincore(2)). The kernel looks for
/// each page of the range by itself, whether it is there or not.
fn pages_in_core(
    process: &mut FrozenProcess,
    area: &AreaRecord,
    parts: &[(u64, u64)],
) -> Result<Vec<(u64, u64)>> {
    const PIECE: u64 = 32 * 1024 * PAGE_SIZE;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &(from, to) in parts {
        let mut place = from;
        while place < to {
            let end = (place + PIECE).min(to);
            let mut list = CallList::new();
            let vector = list.space(((end - place) / PAGE_SIZE) as usize);
            let address = place - area.offset + area.start;
            let call = list.call(
                libc::SYS_mincore,
                &[address.into(), (end - place).into(), vector.into()],
            );
            let outcomes = process.run(0, &list)?;
            outcomes
                .result(call)
                .attempt(|| format!("process {}: finding its shared pages", process.pid))?;
            for (index, &byte) in outcomes.buffer(vector).iter().enumerate() {
                if byte & 1 == 0 {
                    continue;
                }
                let page = place + index as u64 * PAGE_SIZE;
                match runs.last_mut() {
                    Some(last) if last.1 == page => last.1 += PAGE_SIZE,
                    _ => runs.push((page, page + PAGE_SIZE)),
                }
            }
            place = end;
        }
    }
    Ok(runs)
}

/// Whether this machine has the memory to read all of these parts: of shared memory, reading a page makes it.
fn all_can_be_read(process: &FrozenProcess, area: &AreaRecord, parts: &[(u64, u64)]) -> Result<()> {
    let bytes: u64 = parts.iter().map(|(from, to)| to - from).sum();
    if bytes <= system::available_memory()? / 2 {
        return Ok(());
    }
    Err(Error::Refused(vec![Refusal {
        pid: process.pid,
        process: process.name(),
        object: format!("the shared memory at {:#x}", area.start),
        reason: format!(
            "some of it is in swap, and where cannot be told without reading all of its {} MiB",
            bytes >> 20
        ),
        remedy: "checkpoint it as root, or with a cryo that has the file capability CAP_CHECKPOINT_RESTORE".into(),
    }]))
}

/// Finds pages of `child` that are still the same as those of `parent` after fork, takes them out of `ranges`, and returns them
/// as (address, pages).
///
/// # Errors
/// When the page tables cannot be read.
pub fn same_pages(
    (child, child_areas): (&FrozenProcess, &[AreaRecord]),
    (parent, parent_areas): (&FrozenProcess, &[AreaRecord]),
    ranges: &mut Vec<PageRange>,
) -> Result<Vec<(u64, u64)>> {
    let mut same = Vec::new();
    let mut windows = (Window::new(child), Window::new(parent));
    let mut rest = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        let Some(area) = area_at(child_areas, range.start) else {
            continue;
        };
        let mut address = range.start;
        while address < range.end {
            let ancestor =
                area_at(parent_areas, address).filter(|ancestor| area.continues(ancestor));
            let Some(ancestor) = ancestor else {
                // Not shared up to where the parent's next area begins.
                let next = parent_areas
                    .iter()
                    .map(|a| a.start)
                    .find(|&start| start > address)
                    .unwrap_or(u64::MAX);
                let end = next.min(range.end);
                push_range(&mut rest, &range, address, end);
                address = end;
                continue;
            };
            let end = range.end.min(ancestor.end);
            compare(
                (child, parent),
                &mut windows,
                (address, end),
                |start, end, equal| {
                    if equal {
                        match same.last_mut() {
                            Some((first, pages)) if *first + *pages * PAGE_SIZE == start => {
                                *pages += (end - start) / PAGE_SIZE
                            }
                            _ => same.push((start, (end - start) / PAGE_SIZE)),
                        }
                    } else {
                        push_range(&mut rest, &range, start, end);
                    }
                },
            )?;
            address = end;
        }
    }
    *ranges = rest;
    Ok(same)
}

fn push_range(into: &mut Vec<PageRange>, like: &PageRange, start: u64, end: u64) {
    match into.last_mut() {
        Some(last) if last.end == start && last.zero == like.zero && last.access == like.access => {
            last.end = end
        }
        _ => into.push(PageRange {
            start,
            end,
            recorded: start,
            ..*like
        }),
    }
}

fn area_at(areas: &[AreaRecord], address: u64) -> Option<&AreaRecord> {
    let index = areas.partition_point(|area| area.end <= address);
    areas.get(index).filter(|area| area.start <= address)
}

fn compare(
    (child, parent): (&FrozenProcess, &FrozenProcess),
    windows: &mut (Window<'_>, Window<'_>),
    (start, end): (u64, u64),
    mut found: impl FnMut(u64, u64, bool),
) -> Result<()> {
    let (mut left, mut right) = ([0_u8; PAGE_SIZE as usize], [0_u8; PAGE_SIZE as usize]);
    for address in (start..end).step_by(PAGE_SIZE as usize) {
        let (a, b) = (windows.0.get(address)?, windows.1.get(address)?);
        let shared =
            |entry: PagemapEntry| entry.swapped() || (entry.present() && !entry.exclusive());
        let equal = if !shared(a) || !shared(b) {
            false
        } else if a.present() && b.present() && a.pfn() != 0 && b.pfn() != 0 {
            a.pfn() == b.pfn()
        } else {
            child.read(address, &mut left).is_ok()
                && parent.read(address, &mut right).is_ok()
                && left == right
        };
        found(address, address + PAGE_SIZE, equal);
    }
    Ok(())
}

/// The vDSO's image of a process.
///
/// # Errors
/// When it cannot be read.
pub fn vdso(process: &FrozenProcess, areas: &[AreaRecord]) -> Result<Option<Vec<u8>>> {
    let Some(area) = areas.iter().find(|area| area.backing() == Backing::Vdso) else {
        return Ok(None);
    };
    let mut content = vec![0; area.length() as usize];
    process.read(area.start, &mut content)?;
    // The code that asks the process about itself may sit in its unused tail.
    if let Some(at) = content
        .windows(arch::GUEST_MAGIC.len())
        .position(|window| window == arch::GUEST_MAGIC)
    {
        content.truncate(at);
    }
    let end = content
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    content.truncate(end);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange {
            start,
            end,
            recorded: start,
            zero: ZeroPages::Omit,
            access: Access::File,
        }
    }

    fn spans(ranges: &[PageRange]) -> Vec<(u64, u64)> {
        ranges
            .iter()
            .inspect(|range| assert_eq!(range.start, range.recorded))
            .map(|range| (range.start, range.end))
            .collect()
    }

    #[test]
    fn what_lies_within_is_taken_out_and_put_back() {
        let mut ranges = vec![range(0x1000, 0x5000), range(0x8000, 0x9000)];
        // In no order, one within another, one that touches nothing.
        let parts = [
            (0x4000, 0x8000),
            (0x2000, 0x3000),
            (0x2000, 0x2000),
            (0xa000, 0xb000),
        ];
        let taken = take_within(&parts, &mut ranges);
        assert_eq!(spans(&taken), [(0x2000, 0x3000), (0x4000, 0x5000)]);
        let left = [(0x1000, 0x2000), (0x3000, 0x4000), (0x8000, 0x9000)];
        assert_eq!(spans(&ranges), left);
        put_back(taken, &mut ranges);
        assert!(ranges.is_sorted_by_key(|range| range.start));
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert_eq!(bytes, 0x5000);
        assert!(take_within(&[], &mut ranges).is_empty());
    }
}
