//! The vDSO: functions that the kernel maps into every process, with data beside it.
//!
//! A program keeps addresses of them all over: in its tables of imported functions, in pointers of its C library. Under the same
//! kernel build its own vDSO is moved to where the process had one, and nothing else is to be done. Under another build the
//! process keeps the code of its old one, as memory of its own at the old place, so that symbols and unwind tables are found
//! where they were. This kernel's vDSO goes to a free place, and each function of the old one begins with a jump to the one of
//! that name in the new one, or with a system call where this kernel has none. A later checkpoint finds the old code to be memory
//! like any other. Where the old data was are zeros: the clock has no mode there that code could read by itself, so that a call
//! which a signal handler interrupted ends by a system call (`__arch_get_hw_counter`, lib/vdso/gettimeofday.c). Those of time(2)
//! and of coarse clocks ask for no mode and give 0. They cannot be told from afar: only a word somewhere on a stack leads back
//! to them; and where in the old data the times are is known to the old kernel's build alone.
//!
//! A freeze lets tasks run out of the vDSO, so that none is in the middle of a function. The state of vgetrandom(2) lies in
//! droppable memory, which starts as zeros in every new life; a function of another kernel takes a state of another size for
//! reason to ask the kernel (`__cvdso_getrandom_data`, lib/vdso/getrandom.c).

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_image::RecordSet;
use cryonaut_sys::{PAGE_SIZE, arch};

use super::record::{AddressSpace, AreaRecord, Backing, Vdso};
use crate::Result;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::{Rebuild, write_memory};
use crate::resource::sharing::{Shared, Sharing};
use crate::resource::thread::TaskRecord;

/// A function of a vDSO.
#[derive(Debug, Default, PartialEq, Eq)]
struct Function {
    /// Its names, without `__vdso_`.
    names: Vec<String>,
    /// Its length in bytes.
    size: u64,
}

/// Lets a job go on under another kernel build: changes the areas of its processes, and adds steps that put the old code back. Does
/// nothing where the vDSO is the same.
///
/// # Errors
/// When the image is damaged.
pub(super) fn adapt(
    spaces: &mut [AddressSpace],
    records: &RecordSet,
    host: &Host,
    plan: &mut Plan,
) -> Result<()> {
    let Some(old) = records.optional::<Vdso>()? else {
        return Ok(());
    };
    if old.content == host.vdso {
        return Ok(());
    }
    let code = match forwarding(&old.content, &host.vdso) {
        Ok(code) => code,
        Err(reason) => {
            plan.refusals.add_for_job(
                "the vDSO",
                format!("this machine runs another kernel build than the one that the job ran on, and {reason}"),
                "restart the image under the kernel that it was made on",
            );
            return Ok(());
        }
    };
    refuse_tasks_inside(spaces, records, plan)?;
    let given = match host.kernel_areas.as_slice() {
        [first, .., last] => last.end - first.start,
        areas => areas.iter().map(AreaRecord::length).sum(),
    };
    let Some(place) = free_place(spaces, given) else {
        plan.refusals.add_for_job(
            "the vDSO",
            "the job's processes leave no room for the one of this kernel",
            "restart the image under the kernel that it was made on",
        );
        return Ok(());
    };
    let here = place_areas(&host.kernel_areas, place);
    let vdso = here.iter().find(|area| area.backing() == Backing::Vdso);
    let bytes = code.leading_to(vdso.map_or(0, |area| area.start));
    for space in spaces.iter_mut() {
        let process = space.process;
        if let Some(start) = replace(space, &here) {
            let bytes = bytes.clone();
            let code = OldCode {
                process,
                start,
                bytes,
            };
            plan.step(Stage::Process, process, code);
        }
    }
    plan.remarks.push(
        "this machine runs another kernel build: the job's calls of the vDSO are forwarded to the one of this kernel".into(),
    );
    Ok(())
}

/// What this kernel provides, the first of it at `place`.
fn place_areas(given: &[AreaRecord], place: u64) -> Vec<AreaRecord> {
    let base = given.first().map_or(0, |area| area.start);
    let placed = |area: &AreaRecord| AreaRecord {
        start: place + (area.start - base),
        end: place + (area.end - base),
        ..area.clone()
    };
    given.iter().map(placed).collect()
}

/// Makes what the kernel provided memory of the process' own, and adds what this kernel provides. Gives the address of the old
/// code, if the process has it.
fn replace(space: &mut AddressSpace, here: &[AreaRecord]) -> Option<u64> {
    let mut start = None;
    for area in &mut space.areas {
        if !area.is_kernel_provided() {
            continue;
        }
        if area.backing() == Backing::Vdso {
            start = Some(area.start);
        }
        *area = AreaRecord {
            start: area.start,
            end: area.end,
            protection: area.protection,
            backing: Backing::Anonymous as i32,
            ..AreaRecord::default()
        };
    }
    start?;
    space.areas.extend_from_slice(here);
    space.areas.sort_by_key(|area| area.start);
    start
}

/// Room that no process uses: above everything else, where no mapping is made unasked and nothing grows, or far below where
/// `rebuild::Places` looks for room.
fn free_place(spaces: &[AddressSpace], length: u64) -> Option<u64> {
    const LOW: (u64, u64) = (0x0800_0000_0000, 0x1000_0000_0000);
    let mut used: Vec<(u64, u64)> = spaces
        .iter()
        .flat_map(|space| space.areas.iter().map(|area| (area.start, area.end)))
        .collect();
    used.sort_unstable();
    let top = used.iter().map(|&(_, end)| end).max().unwrap_or(0);
    let fits = |at: u64, end: u64| {
        at.checked_add(length)
            .is_some_and(|needed| needed.saturating_add(PAGE_SIZE) <= end)
    };
    let above = top
        .checked_next_multiple_of(PAGE_SIZE)?
        .checked_add(PAGE_SIZE)?;
    if above > LOW.1 && fits(above, arch::USER_END) {
        return Some(above);
    }
    let mut at = LOW.0;
    for (start, end) in used {
        if fits(at, start) {
            break;
        }
        at = at.max(
            end.checked_next_multiple_of(PAGE_SIZE)?
                .checked_add(PAGE_SIZE)?,
        );
    }
    fits(at, LOW.1).then_some(at)
}

/// A function in which a task was stopped cannot be given another beginning.
fn refuse_tasks_inside(
    spaces: &[AddressSpace],
    records: &RecordSet,
    plan: &mut Plan,
) -> Result<()> {
    let sharing = Sharing::of(records)?;
    for task in records.all::<TaskRecord>()? {
        let memory = sharing.of_process(Shared::Memory, task.process);
        let at = arch::Registers::from_words(&task.registers).rip;
        let inside = |area: &AreaRecord| {
            area.backing() == Backing::Vdso && (area.start..area.end).contains(&at)
        };
        let mut spaces = spaces.iter().filter(|space| space.process == memory);
        if spaces.any(|space| space.areas.iter().any(inside)) {
            plan.refusals.add(
                (task.process, ""),
                format!("task {}", task.task),
                "it was inside the vDSO when it was saved, and this machine runs another kernel build",
                "restart the image under the kernel that it was made on, or save it at another moment",
            );
        }
    }
    Ok(())
}

/// An old vDSO that is to lead to a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Code {
    /// The old image.
    image: Vec<u8>,
    /// Where its functions begin, and where they lead.
    leads: Vec<(u64, Lead)>,
}

/// Where a function of the old vDSO leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// To the function at this offset in this kernel's vDSO.
    Function(u64),
    /// To the kernel.
    Call(arch::VdsoCall),
}

/// Finds where each function of one vDSO leads in another.
fn forwarding(old: &[u8], new: &[u8]) -> std::result::Result<Code, String> {
    let known = functions(old).ok_or("the old vDSO in the image is damaged")?;
    // A kernel may give none at all.
    let here = functions(new).unwrap_or_default();
    let mut leads = Vec::new();
    for (&offset, function) in &known {
        let found = here.iter().find(|(_, candidate)| {
            let mut names = candidate.names.iter();
            names.any(|name| function.names.contains(name))
        });
        let lead = match found {
            Some((&offset, _)) => Lead::Function(offset),
            None => {
                let mut calls = function.names.iter();
                Lead::Call(
                    calls
                        .find_map(|name| arch::VdsoCall::by_name(name))
                        .unwrap_or(arch::VdsoCall::None),
                )
            }
        };
        if lead.code(0).len() as u64 > function.size {
            let name = function.names.join(" or ");
            return Err(format!(
                "the old vDSO's function {name} is too short to be forwarded"
            ));
        }
        leads.push((offset, lead));
    }
    Ok(Code {
        image: old.to_vec(),
        leads,
    })
}

impl Lead {
    /// Its instructions, with this kernel's vDSO at `vdso`.
    fn code(self, vdso: u64) -> Vec<u8> {
        match self {
            Self::Function(offset) => arch::jump_to(vdso.wrapping_add(offset)).to_vec(),
            Self::Call(call) => call.code(),
        }
    }
}

/// The functions of a vDSO, by their offset; `None` where it is no such thing.
fn functions(image: &[u8]) -> Option<BTreeMap<u64, Function>> {
    const DYNAMIC: u64 = 2;
    const FUNCTION: u64 = 2;
    const SYMBOL: usize = 24;
    const SEGMENT: usize = 56;
    const MOST: usize = 256;
    // A vDSO has one or two pages.
    const LARGEST: usize = 64 << 10;
    if image.len() > LARGEST {
        return None;
    }
    // Zeros at its end were left out.
    let mut padded = image.to_vec();
    padded.resize(image.len().next_multiple_of(PAGE_SIZE as usize), 0);
    let image = &padded[..];
    let number = |at: usize, length: usize| crate::reference::number(image, at, length);
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(32, 8)? as usize;
    let count = (number(56, 2)? as usize).min(MOST);
    let segment = (0..count)
        .map(|index| table.saturating_add(index * SEGMENT))
        .find(|&at| number(at, 4) == Some(DYNAMIC))?;
    let dynamic = number(segment.checked_add(8)?, 8)? as usize;
    let entry = |tag: u64| {
        let entries = (0..MOST).map(|index| dynamic.saturating_add(index * 16));
        let mut entries = entries.take_while(|&at| number(at, 8).is_some_and(|tag| tag != 0));
        let at = entries.find(|&at| number(at, 8) == Some(tag))?;
        number(at.checked_add(8)?, 8).map(|value| value as usize)
    };
    // DT_STRTAB, DT_SYMTAB and DT_HASH, whose second word is the number of symbols; without it the names follow the symbols.
    let (names, symbols) = (entry(5)?, entry(6)?);
    let count = match entry(4) {
        Some(hash) => number(hash.checked_add(4)?, 4)? as usize,
        None => names.checked_sub(symbols)? / SYMBOL,
    };
    let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
    for index in 0..count.min(MOST) {
        let at = symbols.checked_add(index * SYMBOL)?;
        let defined = number(at.checked_add(6)?, 2)? != 0;
        if number(at.checked_add(4)?, 1)? & 15 != FUNCTION || !defined {
            continue;
        }
        let name = image.get(names.checked_add(number(at, 4)? as usize)?..)?;
        let name = &name[..name.iter().position(|&byte| byte == 0)?];
        let name = String::from_utf8_lossy(name);
        let name = name.strip_prefix("__vdso_").unwrap_or(&name);
        let (offset, size) = (
            number(at.checked_add(8)?, 8)?,
            number(at.checked_add(16)?, 8)?,
        );
        if offset.checked_add(size)? > image.len() as u64 {
            return None;
        }
        let function = functions.entry(offset).or_default();
        function.names.push(name.to_owned());
        function.size = function.size.max(size);
    }
    (!functions.is_empty()).then_some(functions)
}

impl Code {
    /// The old image with its functions leading to this kernel's vDSO at this address.
    fn leading_to(&self, vdso: u64) -> Vec<u8> {
        let mut bytes = self.image.clone();
        for &(offset, lead) in &self.leads {
            let (start, code) = (offset as usize, lead.code(vdso));
            let end = start + code.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(&code);
        }
        bytes
    }
}

/// Puts the code of the old vDSO where it was, with functions that lead to the new one.
struct OldCode {
    process: i32,
    start: u64,
    bytes: Vec<u8>,
}

impl fmt::Display for OldCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put the old vDSO where it was, leading to this kernel's")
    }
}

impl Action for OldCode {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let (pid, _) = rebuild.whereabouts(self.process)?;
        write_memory(pid, self.start, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Host {
        Host::look(false, crate::host::Changed::Refuse).unwrap()
    }

    /// The image with one of its symbols called otherwise: a function that this kernel does not have.
    fn renamed(image: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        while let Some(at) = image.windows(from.len()).position(|part| part == from) {
            image[at..at + from.len()].copy_from_slice(to);
        }
        image
    }

    #[test]
    fn functions_lead_to_those_of_the_same_name() {
        let vdso = own().vdso;
        let known = functions(&vdso).unwrap();
        assert!(
            known
                .values()
                .any(|function| function.names.contains(&"clock_gettime".into()))
        );
        let code = forwarding(&vdso, &vdso).unwrap();
        let same = |(offset, lead): &(u64, Lead)| *lead == Lead::Function(*offset);
        assert!(code.leads.iter().all(same), "{code:?}");
        let bytes = code.leading_to(0x7000_0000_0000);
        let (offset, _) = code.leads[0];
        let at = offset as usize;
        assert_eq!(bytes[at..at + 13], arch::jump_to(0x7000_0000_0000 + offset));
        // Symbols are found in it as before.
        assert_eq!(functions(&bytes), Some(known));
    }

    #[test]
    fn functions_that_are_missing_lead_to_the_kernel() {
        let vdso = own().vdso;
        let lacking = renamed(&vdso, b"clock_getres\0", b"clock_nowork\0");
        let code = forwarding(&vdso, &lacking).unwrap();
        let calls: Vec<_> = code
            .leads
            .iter()
            .filter(|(_, lead)| matches!(lead, Lead::Call(_)))
            .collect();
        let call = arch::VdsoCall::by_name("clock_getres").unwrap();
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert_eq!(calls[0].1, Lead::Call(call));
        let code = forwarding(&lacking, &vdso).unwrap();
        let nothing = Lead::Call(arch::VdsoCall::None);
        assert!(code.leads.iter().any(|(_, lead)| *lead == nothing));
        // A kernel that gives no vDSO at all.
        let code = forwarding(&vdso, &[]).unwrap();
        assert!(
            code.leads
                .iter()
                .all(|(_, lead)| matches!(lead, Lead::Call(_)))
        );
    }

    #[test]
    fn damaged_ones_are_told() {
        let vdso = own().vdso;
        for length in (0..vdso.len()).step_by(7) {
            let _ = forwarding(&vdso[..length], &vdso);
        }
        for place in 0..vdso.len().min(0x600) {
            let mut bytes = vdso.clone();
            bytes[place] = 0xff;
            if let Ok(code) = forwarding(&bytes, &vdso) {
                code.leading_to(0);
            }
        }
        assert!(forwarding(b"", &vdso).is_err());
    }

    #[test]
    fn the_new_one_goes_where_nothing_is() {
        let space = |areas: &[(u64, u64)]| AddressSpace {
            areas: areas
                .iter()
                .map(|&(start, end)| AreaRecord {
                    start,
                    end,
                    ..AreaRecord::default()
                })
                .collect(),
            ..AddressSpace::default()
        };
        let usual = [space(&[
            (0x40_0000, 0x50_0000),
            (0x7ffe_0000_0000, 0x7ffe_0002_1000),
        ])];
        assert_eq!(free_place(&usual, 0x8000), Some(0x7ffe_0002_2000));
        let full = [space(&[(0x7ffe_0000_0000, arch::USER_END)])];
        assert_eq!(free_place(&full, 0x8000), Some(0x0800_0000_0000));
        let fuller = [space(&[
            (0, 0x0800_0000_1000),
            (0x0800_0000_4000, arch::USER_END),
        ])];
        assert_eq!(free_place(&fuller, 0x8000), None);
        assert_eq!(free_place(&fuller, 0x1000), Some(0x0800_0000_2000));
        assert_eq!(free_place(&[space(&[(0, u64::MAX)])], 0x1000), None);
    }
}
