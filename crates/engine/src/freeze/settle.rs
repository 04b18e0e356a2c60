//! Bringing frozen tasks out of places in which they cannot be taken for what they are: code that a killed `cryo` left behind, the vDSO,
//! a restartable sequence.

use std::fs::File;
use std::os::unix::fs::FileExt;

use cryonaut_procfs::{Area, AreaName};
use cryonaut_sys::arch::Registers;
use cryonaut_sys::ptrace;
use cryonaut_tracee::{Stopped, left_behind};

use super::FrozenTask;
use crate::Result;

/// Instructions of the longest call list that a task may have to finish after its tracer was killed.
const STEPS_HOME: usize = 100_000;
/// Moments that a task in the vDSO is given to leave it: a program that reads clocks in a loop is found in it more often than not,
/// and random numbers may be asked for by the megabyte.
const MOMENTS_OUT: usize = 100;

/// Brings tasks out of code in which they cannot be taken for what they are.
pub(super) fn settle(
    tasks: &mut [FrozenTask],
    through: i32,
    areas: &[Area],
    memory: &File,
) -> Result<()> {
    let left_behind = left_behind(through, areas);
    let mut areas = areas.iter();
    let vdso = areas.find(|area| matches!(area.name, AreaName::Vdso));
    for task in tasks {
        for range in &left_behind {
            // A tracer was killed a moment ago: its code takes the task home in a few instructions.
            let home = |registers: &Registers| !range.contains(&registers.rip);
            if !task.stopped.go_on_until(MOMENTS_OUT, home)? {
                // One whose calls are judged.
                task.stopped.step_until(STEPS_HOME, home)?;
            }
        }
        if let Some(vdso) = vdso {
            // Another kernel's functions have other instructions. One that stays inside can go on under this kernel build only.
            let outside = |registers: &Registers| !(vdso.start..vdso.end).contains(&registers.rip);
            task.stopped.go_on_until(MOMENTS_OUT, outside)?;
        }
        abort_restartable_sequence(memory, &mut task.stopped)?;
    }
    Ok(())
}

/// A task inside a restartable sequence goes to its abort handler, as it would at any preemption (rseq(2)): its registers and
/// our calls in it are then no part of the sequence.
fn abort_restartable_sequence(memory: &File, task: &mut Stopped) -> Result<()> {
    let Ok(rseq) = ptrace::rseq_configuration(task.tid()) else {
        return Ok(());
    };
    if rseq.address == 0 {
        return Ok(());
    }
    let word = |address: u64| -> Option<u64> {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let Some(sequence) = word(rseq.address + 8).filter(|&address| address != 0) else {
        return Ok(());
    };
    if let (Some(start), Some(length), Some(abort)) =
        (word(sequence + 8), word(sequence + 16), word(sequence + 24))
    {
        let rip = task.registers().rip;
        if rip.wrapping_sub(start) < length {
            task.move_to(abort)?;
        }
    }
    Ok(())
}
