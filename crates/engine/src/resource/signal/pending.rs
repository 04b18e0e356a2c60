//! Pending signals: what is read of them, and how they are stored.

use cryonaut_sys::ptrace::{self, Queue, RawSiginfo};

use super::{SIGNAL_COUNT, TaskSignals};
use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::resource::timer;
use crate::{Error, Result};

/// Below this limit of queued signals, or when half of it is used, tasks may have signals without a `siginfo_t`.
const ROOMY_QUEUE: u64 = 4096;

/// What is pending for a process as a whole, and for those of its tasks that have something pending.
pub fn pending_of(process: &FrozenProcess) -> Result<(Vec<Vec<u8>>, Vec<TaskSignals>)> {
    let (queued, limit) = process.status.signals_queued;
    let tight = limit < ROOMY_QUEUE || queued.saturating_mul(2) >= limit;
    let leader = process.tasks[0].stopped.tid();
    let shared = queue(
        process,
        leader,
        Queue::Process,
        process.status.signals_pending_shared,
    )?;
    let mut tasks = Vec::new();
    for (index, task) in process.tasks.iter().enumerate() {
        let tid = task.stopped.tid();
        let mask = match index {
            0 => process.status.signals_pending,
            // Reading this of thousands of threads takes long; it can tell more than the queue only where that was full.
            _ if tight => process.directory.task(tid)?.status()?.signals_pending,
            _ => 0,
        };
        let pending = queue(process, tid, Queue::Task, mask)?;
        if !pending.is_empty() {
            tasks.push(TaskSignals {
                task: task.inner,
                pending,
            });
        }
    }
    Ok((shared, tasks))
}

/// The pending signals of one queue; `mask` names all of them, also those without a `siginfo_t`.
fn queue(process: &FrozenProcess, tid: i32, which: Queue, mask: u64) -> Result<Vec<Vec<u8>>> {
    let entries = ptrace::pending_signals(tid, which)
        .attempt(|| format!("task {tid}: reading its pending signals"))?;
    let known = entries.iter().fold(0_u64, |known, information| {
        known | bit(signal_of(information))
    });
    let pending = complete(&without_expiries(process, entries)?, mask & !known);
    if pending
        .iter()
        .any(|information| signal_of(information) == libc::SIGKILL)
    {
        return Err(Error::Failed(format!(
            "process {} ({}) is just being killed",
            process.pid,
            process.name()
        )));
    }
    Ok(pending)
}

/// Without the signals of timers that still exist: those belong to the timers.
fn without_expiries(
    process: &FrozenProcess,
    mut entries: Vec<RawSiginfo>,
) -> Result<Vec<RawSiginfo>> {
    if entries.iter().any(timer::is_from_timer) {
        let timers = process.directory.timers()?;
        let sent = |information: &RawSiginfo| {
            timers
                .iter()
                .any(|timer| timer::is_expiry(information, timer.id, timer.signal, timer.value))
        };
        entries.retain(|information| !sent(information));
    }
    Ok(entries)
}

/// The entries as they are stored, and for each signal of `bare`, which have none, what the kernel would deliver.
fn complete(entries: &[RawSiginfo], bare: u64) -> Vec<Vec<u8>> {
    let mut pending: Vec<Vec<u8>> = entries
        .iter()
        .map(|information| trimmed(information))
        .collect();
    for signal in (1..=SIGNAL_COUNT).filter(|signal| bare & bit(*signal) != 0) {
        // The kernel sends such a one as from nobody: SI_USER (0), process 0, user 0 (collect_signal in kernel/signal.c).
        pending.push(trimmed(&signal.to_le_bytes()));
    }
    pending
}

pub fn bit(signal: i32) -> u64 {
    if (1..=SIGNAL_COUNT).contains(&signal) {
        1 << (signal - 1)
    } else {
        0
    }
}

/// Without the zero bytes at the end, of which a `siginfo_t` mostly consists.
fn trimmed(information: &[u8]) -> Vec<u8> {
    let length = information
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    information[..length].to_vec()
}

/// The signal's number in a `siginfo_t` that may be trimmed.
pub fn signal_of(information: &[u8]) -> i32 {
    let mut number = [0; 4];
    let length = information.len().min(4);
    number[..length].copy_from_slice(&information[..length]);
    i32::from_le_bytes(number)
}

/// A whole `siginfo_t` again.
pub fn padded(information: &[u8]) -> RawSiginfo {
    let mut whole = [0; 128];
    let length = information.len().min(whole.len());
    whole[..length].copy_from_slice(&information[..length]);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_trimmed_and_padded() {
        let mut whole: RawSiginfo = [0; 128];
        whole[..4].copy_from_slice(&17_i32.to_le_bytes());
        whole[8..12].copy_from_slice(&1_i32.to_le_bytes());
        whole[16..20].copy_from_slice(&4711_i32.to_le_bytes());
        let stored = trimmed(&whole);
        assert_eq!((stored.len(), signal_of(&stored)), (18, 17));
        assert_eq!(padded(&stored), whole);
        assert_eq!(signal_of(&[]), 0);
    }

    #[test]
    fn signals_without_information_are_not_lost() {
        let mut queued: RawSiginfo = [0; 128];
        queued[0] = 34;
        queued[24] = 9;
        let pending = complete(&[queued, queued], bit(10) | bit(64));
        let signals: Vec<i32> = pending
            .iter()
            .map(|information| signal_of(information))
            .collect();
        assert_eq!(signals, [34, 34, 10, 64]);
        assert_eq!(pending[2], [10]);
    }
}
