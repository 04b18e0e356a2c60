//! Building an address space: from what a stub has (its parent's areas after fork) to what the image says.

use std::fmt;

use cryonaut_tracee::{Argument, CallList};

use super::record::{AddressSpace, AreaRecord, Backing, attribute};
use super::{policy, whole};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::{Access, Executable, Queue, Rebuild};
use crate::{Error, Result};

/// One change of an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing may be mapped in this range.
    Unmap(u64, u64),
    /// The part of this area (index in the new layout) between these addresses is mapped afresh.
    Map(usize, u64, u64),
    /// The part of this area between these addresses is inherited.
    Keep(usize, u64, u64),
}

/// What turns `old` areas into `new` ones: inherited where a child finds the same memory, else unmapped and mapped.
pub fn changes(old: &[AreaRecord], new: &[AreaRecord]) -> Vec<Change> {
    let mut kept: Vec<(u64, u64)> = Vec::new();
    let mut mapped = Vec::new();
    for (index, area) in new.iter().enumerate().filter(|(_, area)| area.is_built()) {
        let mut at = area.start;
        let first = old.partition_point(|ancestor| ancestor.end <= area.start);
        for ancestor in old[first..]
            .iter()
            .take_while(|ancestor| ancestor.start < area.end)
        {
            if !area.is_private() || !area.continues(ancestor) {
                continue;
            }
            let (start, end) = (ancestor.start.max(area.start), ancestor.end.min(area.end));
            if at < start {
                mapped.push(Change::Map(index, at, start));
            }
            mapped.push(Change::Keep(index, start, end));
            kept.push((start, end));
            at = end;
        }
        if at < area.end {
            mapped.push(Change::Map(index, at, area.end));
        }
    }
    kept.sort_unstable();
    let mut all = Vec::new();
    // Also what the parent's children do not inherit: that becomes so when its memory is finished, after their birth.
    for area in old.iter().filter(|area| area.is_built()) {
        let mut at = area.start;
        let first = kept.partition_point(|&(_, end)| end <= area.start);
        for &(start, end) in kept[first..]
            .iter()
            .take_while(|&&(start, _)| start < area.end)
        {
            if at < start {
                all.push(Change::Unmap(at, start));
            }
            at = at.max(end);
        }
        if at < area.end {
            all.push(Change::Unmap(at, area.end));
        }
    }
    all.extend(mapped);
    all
}

/// The protection that an area has while it is filled.
fn filling_protection(area: &AreaRecord) -> u32 {
    let private_with_pages = area.is_private() && area.pages > 0;
    if private_with_pages {
        (libc::PROT_READ | libc::PROT_WRITE) as u32
    } else {
        area.protection
    }
}

/// Maps and fills the memory of a process.
pub(super) struct BuildMemory {
    pub(super) space: AddressSpace,
    pub(super) descent: Descent,
}

/// What a process finds in its memory at its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descent {
    /// Nothing that it has from its parent.
    Alone,
    /// Memory of its parent, which it goes on having in common with it.
    Inherits(i32),
    /// Memory of a sibling, of which nothing is kept.
    Unrelated,
}

impl fmt::Display for BuildMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let areas = self.space.areas.iter();
        // A hostile image may say more pages than there are numbers for.
        let pages = areas.fold(0_u64, |sum, area| sum.saturating_add(area.pages));
        write!(
            f,
            "map {} areas and fill {pages} pages",
            self.space.areas.len()
        )?;
        match self.descent {
            Descent::Inherits(parent) => write!(f, ", inheriting from {parent}"),
            Descent::Alone | Descent::Unrelated => Ok(()),
        }
    }
}

impl Action for BuildMemory {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.space.process;
        let inherited = rebuild.areas_of(process);
        move_kernel_areas(rebuild, &inherited, &self.space)?;
        let mut queue = Queue::new(process);
        let (late, early) = surplus(&inherited, &self.space);
        for area in &early {
            unmap(rebuild, &mut queue, area)?;
        }
        let mut kept = Vec::new();
        let wanted = &self.space.areas;
        let changes = match self.descent {
            Descent::Alone | Descent::Inherits(_) => changes(&inherited, wanted),
            Descent::Unrelated => {
                let mut all = changes(&inherited, &[]);
                all.extend(changes(&[], wanted));
                all
            }
        };
        for change in changes {
            match change {
                Change::Unmap(start, end) => queue.expect(
                    rebuild,
                    "unmapping inherited memory",
                    libc::SYS_munmap,
                    &[start.into(), (end - start).into()],
                    0,
                )?,
                Change::Map(index, start, end) => {
                    map(rebuild, &mut queue, &self.space.areas[index], start, end)?;
                }
                Change::Keep(index, start, end) => {
                    let area = &self.space.areas[index];
                    queue.expect(
                        rebuild,
                        "making inherited memory writable",
                        libc::SYS_mprotect,
                        &[
                            start.into(),
                            (end - start).into(),
                            u64::from(filling_protection(area)).into(),
                        ],
                        0,
                    )?;
                    kept.push((start, end));
                    if area.policy.is_some() || inherited.iter().any(|old| old.policy.is_some()) {
                        set_policy(rebuild, &mut queue, area, (start, end))?;
                    }
                }
            }
        }
        queue.flush(rebuild)?;
        rebuild.fill(process, &kept)?;
        let mut areas = self.space.areas.clone();
        areas.extend(late);
        rebuild.set_areas(process, areas);
        Ok(())
    }
}

/// What the kernel provides and a process has unmapped. Its children, born before it did that, may have it: so it goes late, or
/// early where it is in the way.
fn surplus(found: &[AreaRecord], space: &AddressSpace) -> (Vec<AreaRecord>, Vec<AreaRecord>) {
    let wanted = |area: &&AreaRecord| space.areas.iter().any(|own| own.backing == area.backing);
    let provided = found.iter().filter(|area| area.is_kernel_provided());
    let free = |area: &AreaRecord| {
        let mut areas = space.areas.iter();
        areas.all(|own| own.end <= area.start || area.end <= own.start)
    };
    provided
        .filter(|area| !wanted(area))
        .cloned()
        .partition(free)
}

fn unmap(rebuild: &mut Rebuild<'_>, queue: &mut Queue, area: &AreaRecord) -> Result<()> {
    queue.expect(
        rebuild,
        "unmapping what the kernel provides",
        libc::SYS_munmap,
        &[area.start.into(), area.length().into()],
        0,
    )
}

/// Moves the vDSO and its data to where the process had them.
fn move_kernel_areas(
    rebuild: &mut Rebuild<'_>,
    old: &[AreaRecord],
    space: &AddressSpace,
) -> Result<()> {
    let process = space.process;
    let mut moves = Vec::new();
    for area in space.areas.iter().filter(|area| area.is_kernel_provided()) {
        let Some(current) = old
            .iter()
            .find(|candidate| candidate.backing == area.backing)
        else {
            return Err(Error::Failed(format!(
                "process {process}: this kernel gives no {:?}",
                area.backing()
            )));
        };
        if current.length() != area.length() {
            return Err(Error::Failed(format!(
                "process {process}: this kernel's {:?} has another size",
                area.backing()
            )));
        }
        if current.start != area.start {
            moves.push((current.start, area.start, area.length()));
        }
    }
    // By way of a place that is free in every process, in case old and new places overlap.
    let (mut aside, mut list) = (rebuild.spare_place(), CallList::new());
    let mut calls = Vec::new();
    for leg in 0..2 {
        for (from, to, length) in &mut moves {
            let destination = if leg == 0 { aside } else { *to };
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            let length_argument = Argument::Value(*length);
            calls.push((
                list.call(
                    libc::SYS_mremap,
                    &[
                        (*from).into(),
                        length_argument,
                        length_argument,
                        flags.into(),
                        destination.into(),
                    ],
                ),
                destination,
            ));
            if leg == 0 {
                *from = aside;
                aside += *length;
            }
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    let outcomes = rebuild.run(process, &list)?;
    for (call, destination) in calls {
        let moved = outcomes
            .result(call)
            .attempt(|| format!("process {process}: moving the vDSO"))?;
        if moved != destination {
            return Err(Error::Failed(format!(
                "process {process}: the vDSO went to a wrong place"
            )));
        }
    }
    Ok(())
}

fn map(
    rebuild: &mut Rebuild<'_>,
    queue: &mut Queue,
    area: &AreaRecord,
    start: u64,
    end: u64,
) -> Result<()> {
    let length = end - start;
    let offset = area.offset + (start - area.start);
    let protection = u64::from(filling_protection(area));
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    if area.has(attribute::NO_RESERVE) {
        flags |= libc::MAP_NORESERVE;
    }
    if area.has(attribute::GROWS_DOWN) {
        flags |= libc::MAP_GROWSDOWN;
    }
    match area.backing() {
        Backing::Anonymous => {
            flags |= libc::MAP_ANONYMOUS;
            flags |= if area.has(attribute::DROPPABLE) {
                MAP_DROPPABLE
            } else {
                libc::MAP_PRIVATE
            };
            let arguments = [
                start.into(),
                length.into(),
                protection.into(),
                flags.into(),
                u64::MAX.into(),
                0_u64.into(),
            ];
            queue.expect(rebuild, "mapping memory", libc::SYS_mmap, &arguments, start)?;
            if area.has(attribute::HUGE_PAGE) {
                let advice = [start.into(), length.into(), libc::MADV_HUGEPAGE.into()];
                queue.expect(
                    rebuild,
                    "asking for huge pages",
                    libc::SYS_madvise,
                    &advice,
                    0,
                )?;
            }
        }
        Backing::AnonymousHuge => {
            let size = u64::from(area.huge_page.checked_ilog2().unwrap_or(0));
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
            let flags = (flags | kind) as u64 | size << libc::MAP_HUGE_SHIFT;
            let arguments = [
                start.into(),
                length.into(),
                protection.into(),
                flags.into(),
                u64::MAX.into(),
                0_u64.into(),
            ];
            let what = "mapping huge pages (see /proc/sys/vm/nr_hugepages)";
            queue.expect(rebuild, what, libc::SYS_mmap, &arguments, start)?;
        }
        Backing::FilePrivate | Backing::FileShared => {
            let file = area
                .file
                .as_ref()
                .ok_or_else(|| Error::Failed("an area lacks its file".into()))?;
            let shared = area.backing() == Backing::FileShared;
            flags |= if shared {
                libc::MAP_SHARED
            } else {
                libc::MAP_PRIVATE
            };
            let writable = shared
                && (area.protection & libc::PROT_WRITE as u32 != 0
                    || area.has(attribute::MAY_WRITE));
            if area.kept != 0 {
                let access = if writable {
                    Access::Writing
                } else {
                    Access::Reading
                };
                let number = rebuild.lent(area.kept, access)?;
                let map = [start, length, protection, flags as u64, offset];
                return queue.map_descriptor(rebuild, number, map);
            }
            let mode = if writable {
                libc::O_RDWR
            } else {
                libc::O_RDONLY
            };
            queue.map_file(
                rebuild,
                &file.path,
                mode,
                [start, length, protection, flags as u64, offset],
            )?;
        }
        Backing::SharedObject => {
            let source = rebuild.shared_object(area.object)? + offset;
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            // An old size of 0 makes a second mapping of shared memory rather than moving the first (mremap(2)).
            let arguments = [
                source.into(),
                0_u64.into(),
                length.into(),
                flags.into(),
                start.into(),
            ];
            queue.expect(
                rebuild,
                "mapping shared memory",
                libc::SYS_mremap,
                &arguments,
                start,
            )?;
            queue.expect(
                rebuild,
                "protecting shared memory",
                libc::SYS_mprotect,
                &[start.into(), length.into(), protection.into()],
                0,
            )?;
        }
        Backing::SystemV => attach(rebuild, queue, area, (start, end))?,
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::AioRing => {}
        Backing::Unknown => {
            return Err(Error::Failed(
                "an area is of no known kind: the image is damaged".into(),
            ));
        }
    }
    if area.policy.is_some() {
        // Before its pages are filled, so that they are where they belong.
        set_policy(rebuild, queue, area, (start, end))?;
    }
    Ok(())
}

/// Attaches a segment: all of it at a place that is free in every process, from where the part that is wanted is moved. So it does
/// not matter what lies where the rest of it was.
fn attach(
    rebuild: &mut Rebuild<'_>,
    queue: &mut Queue,
    area: &AreaRecord,
    (start, end): (u64, u64),
) -> Result<()> {
    let (identifier, all) = rebuild.segment(area.object)?;
    let workplace = rebuild.workplace();
    let offset = area.offset + (start - area.start);
    let mut flags = 0;
    if !area.has(attribute::MAY_WRITE) {
        flags |= libc::SHM_RDONLY;
    }
    if area.protection & libc::PROT_EXEC as u32 != 0 {
        flags |= libc::SHM_EXEC;
    }
    let arguments = [identifier.into(), workplace.into(), flags.into()];
    let what = "attaching a shared memory segment";
    queue.expect(rebuild, what, libc::SYS_shmat, &arguments, workplace)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let arguments = [
        workplace.saturating_add(offset).into(),
        (end - start).into(),
        (end - start).into(),
        flags.into(),
        start.into(),
    ];
    let what = "moving a shared memory segment to its place";
    queue.expect(rebuild, what, libc::SYS_mremap, &arguments, start)?;
    let arguments = [workplace.into(), all.into()];
    let what = "detaching the rest of a shared memory segment";
    queue.expect(rebuild, what, libc::SYS_munmap, &arguments, 0)?;
    let arguments = [
        start.into(),
        (end - start).into(),
        u64::from(area.protection).into(),
    ];
    let what = "protecting a shared memory segment";
    queue.expect(rebuild, what, libc::SYS_mprotect, &arguments, 0)
}

fn set_policy(
    rebuild: &Rebuild<'_>,
    queue: &mut Queue,
    area: &AreaRecord,
    (start, end): (u64, u64),
) -> Result<()> {
    let [mode, nodes, bits] = policy::arguments(queue.list(), area.policy.as_ref());
    let arguments = [
        start.into(),
        (end - start).into(),
        mode,
        nodes,
        bits,
        0.into(),
    ];
    let what = "setting a memory policy";
    queue.expect(rebuild, what, libc::SYS_mbind, &arguments, 0)
}

/// Gives a process' memory its final protections and attributes, and the kernel its layout.
pub(super) struct FinishMemory {
    pub(super) space: AddressSpace,
}

impl fmt::Display for FinishMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "protect memory, apply advice, set brk, arguments, environment and executable"
        )
    }
}

/// From include/uapi/asm-generic/mman-common.h.
const MADV_GUARD_INSTALL: i32 = 102;
/// From include/uapi/linux/mman.h (Linux 6.11).
const MAP_DROPPABLE: i32 = 8;
const PR_SET_VMA: i32 = 0x53_56_4d_41;
const PR_SET_VMA_ANON_NAME: i32 = 0;
const ADVICE: [(u64, i32); 8] = [
    (attribute::DONT_FORK, libc::MADV_DONTFORK),
    (attribute::WIPE_ON_FORK, libc::MADV_WIPEONFORK),
    (attribute::DONT_DUMP, libc::MADV_DONTDUMP),
    (attribute::HUGE_PAGE, libc::MADV_HUGEPAGE),
    (attribute::NO_HUGE_PAGE, libc::MADV_NOHUGEPAGE),
    (attribute::MERGEABLE, libc::MADV_MERGEABLE),
    (attribute::SEQUENTIAL, libc::MADV_SEQUENTIAL),
    (attribute::RANDOM, libc::MADV_RANDOM),
];

impl Action for FinishMemory {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.space.process;
        let mut queue = Queue::new(process);
        for area in surplus(&rebuild.areas_of(process), &self.space).0 {
            unmap(rebuild, &mut queue, &area)?;
        }
        for area in self.space.areas.iter().filter(|area| area.is_built()) {
            let range = [area.start.into(), area.length().into()];
            if filling_protection(area) != area.protection {
                let arguments = [range[0], range[1], u64::from(area.protection).into()];
                queue.expect(
                    rebuild,
                    "protecting memory",
                    libc::SYS_mprotect,
                    &arguments,
                    0,
                )?;
            }
            for (attribute, advice) in ADVICE {
                if area.has(attribute) {
                    let arguments = [range[0], range[1], advice.into()];
                    queue.expect(
                        rebuild,
                        "advising about memory",
                        libc::SYS_madvise,
                        &arguments,
                        0,
                    )?;
                }
            }
            for guard in area.guards.chunks_exact(2) {
                let arguments = [
                    guard[0].into(),
                    guard[1].saturating_sub(guard[0]).into(),
                    MADV_GUARD_INSTALL.into(),
                ];
                queue.expect(
                    rebuild,
                    "installing guard pages (Linux 6.13)",
                    libc::SYS_madvise,
                    &arguments,
                    0,
                )?;
            }
            if !area.name.is_empty() {
                name(rebuild, &mut queue, area)?;
            }
            let shared = matches!(area.backing(), Backing::SharedObject | Backing::SystemV);
            if area.has(attribute::LOCKED) && shared {
                rebuild.fault_in_shared(process, area)?;
            }
            if area.has(attribute::LOCKED) {
                let flags = u64::from(area.has(attribute::LOCKED_ON_FAULT));
                let arguments = [range[0], range[1], flags.into()];
                queue.expect(
                    rebuild,
                    "locking memory (see `ulimit -l`)",
                    libc::SYS_mlock2,
                    &arguments,
                    0,
                )?;
            }
        }
        queue.flush(rebuild)?;
        if self.space.layout.len() != 11 {
            return Err(Error::Failed(format!(
                "process {process}: its layout is damaged in the image"
            )));
        }
        let executable = match (self.space.kept_executable, &self.space.executable) {
            (0, None) => Executable::Unknown,
            (0, Some(file)) => Executable::Path(&file.path),
            (kept, _) => Executable::Number(rebuild.lent(kept, Access::Reading)?),
        };
        rebuild.set_memory_map(
            process,
            &self.space.layout,
            &self.space.auxiliary,
            executable,
        )?;
        // The stub maps nothing any more.
        if self.space.future_lock != 0 {
            whole::lock_future(rebuild, process, self.space.future_lock)?;
        }
        seal(rebuild, &self.space)
    }
}

/// Names anonymous memory (prctl(2), PR_SET_VMA).
fn name(rebuild: &Rebuild<'_>, queue: &mut Queue, area: &AreaRecord) -> Result<()> {
    let name = queue.list().path(&area.name);
    let arguments = [
        PR_SET_VMA.into(),
        PR_SET_VMA_ANON_NAME.into(),
        area.start.into(),
        area.length().into(),
        name.into(),
    ];
    let what = "naming memory";
    queue.expect(rebuild, what, libc::SYS_prctl, &arguments, 0)
}

/// Seals what was sealed, last: nothing may change there afterwards. All children have been born, so none inherits a seal.
fn seal(rebuild: &Rebuild<'_>, space: &AddressSpace) -> Result<()> {
    let mut queue = Queue::new(space.process);
    let sealed = |area: &&AreaRecord| area.has(attribute::SEALED) && area.is_built();
    for area in space.areas.iter().filter(sealed) {
        let arguments = [area.start.into(), area.length().into(), 0.into()];
        let what = "sealing memory";
        queue.expect(
            rebuild,
            what,
            cryonaut_sys::memory::SYS_MSEAL,
            &arguments,
            0,
        )?;
    }
    queue.flush(rebuild)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64) -> AreaRecord {
        AreaRecord {
            start,
            end,
            backing: Backing::Anonymous as i32,
            pages: 1,
            ..AreaRecord::default()
        }
    }

    #[test]
    fn a_child_keeps_what_both_have_and_maps_the_rest() {
        let old = [area(0x1000, 0x5000), area(0x8000, 0x9000)];
        let new = [area(0x2000, 0x7000)];
        assert_eq!(
            changes(&old, &new),
            [
                Change::Unmap(0x1000, 0x2000),
                Change::Unmap(0x8000, 0x9000),
                Change::Keep(0, 0x2000, 0x5000),
                Change::Map(0, 0x5000, 0x7000),
            ]
        );
    }

    #[test]
    fn an_area_over_a_hole_is_kept_on_both_sides() {
        let old = [area(0x1000, 0x2000), area(0x3000, 0x4000)];
        let new = [area(0x1000, 0x4000)];
        assert_eq!(
            changes(&old, &new),
            [
                Change::Keep(0, 0x1000, 0x2000),
                Change::Map(0, 0x2000, 0x3000),
                Change::Keep(0, 0x3000, 0x4000)
            ]
        );
    }

    #[test]
    fn memory_that_is_not_inherited_at_fork_is_mapped_afresh() {
        let mut old = [area(0x1000, 0x2000)];
        old[0].attributes = attribute::DONT_FORK;
        assert_eq!(
            changes(&old, &[area(0x1000, 0x2000)]),
            [
                Change::Unmap(0x1000, 0x2000),
                Change::Map(0, 0x1000, 0x2000)
            ]
        );
        assert_eq!(changes(&old, &[]), [Change::Unmap(0x1000, 0x2000)]);
    }
}
