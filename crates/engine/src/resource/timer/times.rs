//! What time timers have left, and which of them have expired unseen; the kernel's structures for both.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use cryonaut_sys::ptrace::{self, Queue, RawSiginfo};
use cryonaut_tracee::{BufferId, CallId, CallList};

use super::{AT_ONCE, IntervalTimer, PosixTimer};
use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::{Error, Result};

/// Size in bytes of the kernel's `struct sigevent`.
const EVENT_SIZE: usize = 64;
/// Size in bytes of `struct itimerspec` and `struct itimerval`: interval and value, two 64-bit words each.
pub const SPEC_SIZE: usize = 32;
/// Parts of a second in a `struct itimerspec`.
pub const NANOSECONDS: u64 = 1_000_000_000;
/// Parts of a second in a `struct itimerval`.
pub const MICROSECONDS: u64 = 1_000_000;

/// Asks a process for the times of its timers, in as few lists as they fit in; gives those of setitimer(2) that are set.
pub fn read_times(
    process: &mut FrozenProcess,
    timers: &mut [PosixTimer],
) -> Result<Vec<IntervalTimer>> {
    let pid = process.pid;
    let what = |error: std::io::Error| {
        Error::Failed(format!("process {pid}: reading its timers: {error}"))
    };
    let mut list = CallList::new();
    let asked: Vec<(i32, BufferId, CallId)> = (0..3)
        .map(|which| {
            let spec = list.space(SPEC_SIZE);
            (
                which,
                spec,
                list.call(libc::SYS_getitimer, &[which.into(), spec.into()]),
            )
        })
        .collect();
    let mut interval_timers = Vec::new();
    let mut chunks = timers.chunks_mut(AT_ONCE);
    let mut first = Some(asked);
    // The first list holds both kinds; there is one even without any timer of the second.
    loop {
        let chunk = chunks.next();
        if first.is_none() && chunk.is_none() {
            return Ok(interval_timers);
        }
        let chunk = chunk.unwrap_or_default();
        let calls: Vec<_> = chunk
            .iter()
            .map(|timer| {
                let spec = list.space(SPEC_SIZE);
                (
                    spec,
                    list.call(libc::SYS_timer_gettime, &[timer.id.into(), spec.into()]),
                )
            })
            .collect();
        let outcomes = process.run(0, &std::mem::take(&mut list))?;
        for (which, spec, call) in first.take().into_iter().flatten() {
            outcomes.result(call).map_err(what)?;
            let (interval, left) = decode_spec(outcomes.buffer(spec), MICROSECONDS);
            if left != 0 || (which == libc::ITIMER_REAL && interval != 0) {
                interval_timers.push(IntervalTimer {
                    which,
                    interval,
                    left,
                });
            }
        }
        for (timer, (spec, call)) in chunk.iter_mut().zip(calls) {
            outcomes.result(call).map_err(what)?;
            (timer.interval, timer.left) = decode_spec(outcomes.buffer(spec), NANOSECONDS);
        }
    }
}

/// Notes which timers have expired with their signal still pending, after the times: what expires in between shows here. (Other
/// pending signals are read earlier, so SIGALRM may be missing there: an alarm that has expired is set too.)
pub fn note_expired(
    process: &FrozenProcess,
    timers: &mut [PosixTimer],
    interval_timers: &mut Vec<IntervalTimer>,
) -> Result<()> {
    let leader = process.tasks[0].stopped.tid();
    let shared = pending(leader, Queue::Process)?;
    if shared
        .iter()
        .any(|information| information[..4] == libc::SIGALRM.to_le_bytes())
    {
        if interval_timers
            .iter()
            .all(|timer| timer.which != libc::ITIMER_REAL)
        {
            interval_timers.push(IntervalTimer {
                which: libc::ITIMER_REAL,
                interval: 0,
                left: 0,
            });
        }
    } else {
        // Expired while its signal was ignored: nothing sets it anew.
        interval_timers.retain(|timer| timer.left != 0);
    }
    let mut own: BTreeMap<i32, Vec<RawSiginfo>> = BTreeMap::new();
    for timer in timers {
        let queue = match process
            .tasks
            .iter()
            .find(|task| timer.target != 0 && task.inner == timer.target)
        {
            Some(task) => match own.entry(timer.target) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(pending(task.stopped.tid(), Queue::Task)?),
            },
            None => &shared,
        };
        let sent = queue
            .iter()
            .any(|information| is_expiry(information, timer.id, timer.signal, timer.value));
        // A single expiry that is still to come: the signal is of an earlier setting, and the kernel will drop it.
        timer.expired = sent && (timer.interval != 0 || timer.left == 0);
    }
    Ok(())
}

fn pending(tid: i32, queue: Queue) -> Result<Vec<RawSiginfo>> {
    ptrace::pending_signals(tid, queue)
        .attempt(|| format!("task {tid}: reading its pending signals"))
}

/// Whether a signal was sent by a timer of timer_create(2): its code is SI_TIMER.
pub fn is_from_timer(information: &RawSiginfo) -> bool {
    information[8..12] == libc::SI_TIMER.to_le_bytes()
}

/// Whether a signal was sent by the timer with this id, signal and value.
pub fn is_expiry(information: &RawSiginfo, id: i32, signal: i32, value: u64) -> bool {
    is_from_timer(information)
        && information[..4] == signal.to_le_bytes()
        && information[16..20] == id.to_le_bytes()
        && information[24..32] == value.to_le_bytes()
}

/// Interval and value of a `struct itimerspec` or `itimerval`, whose seconds have `parts` parts.
pub fn decode_spec(bytes: &[u8], parts: u64) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let time = |at: usize| word(at).saturating_mul(parts).saturating_add(word(at + 8));
    (time(0), time(16))
}

/// The structure that [`decode_spec`] reads.
pub fn encode_spec(interval: u64, left: u64, parts: u64) -> [u8; SPEC_SIZE] {
    let mut bytes = [0; SPEC_SIZE];
    let words = [
        interval / parts,
        interval % parts,
        left / parts,
        left % parts,
    ];
    for (index, word) in words.into_iter().enumerate() {
        bytes[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The kernel's `struct sigevent`: value, signal, kind, task.
pub fn encode_event(timer: &PosixTimer) -> [u8; EVENT_SIZE] {
    let mut bytes = [0; EVENT_SIZE];
    bytes[..8].copy_from_slice(&timer.value.to_le_bytes());
    bytes[8..12].copy_from_slice(&timer.signal.to_le_bytes());
    bytes[12..16].copy_from_slice(&timer.notify.to_le_bytes());
    bytes[16..20].copy_from_slice(&timer.target.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_keep_the_kernel_layout() {
        let spec = encode_spec(2_000_000_007, 1_500_000_000, NANOSECONDS);
        assert_eq!((spec[0], spec[8], spec[16]), (2, 7, 1));
        assert_eq!(
            decode_spec(&spec, NANOSECONDS),
            (2_000_000_007, 1_500_000_000)
        );
        let micro = encode_spec(0, 1_000_001, MICROSECONDS);
        assert_eq!((micro[16], micro[24]), (1, 1));
        let event = encode_event(&PosixTimer {
            value: 1,
            signal: 2,
            notify: 4,
            target: 3,
            ..PosixTimer::default()
        });
        assert_eq!(
            (event[0], event[8], event[12], event[16], event.len()),
            (1, 2, 4, 3, 64)
        );
        assert_eq!(size_of::<libc::sigevent>(), EVENT_SIZE);
        assert_eq!(size_of::<libc::itimerspec>(), SPEC_SIZE);
    }

    #[test]
    fn expiries_are_told_by_sender() {
        let mut information: RawSiginfo = [0; 128];
        information[0] = 34;
        information[8..12].copy_from_slice(&(-2_i32).to_le_bytes());
        information[16] = 3;
        information[24..32].copy_from_slice(&0xabc_u64.to_le_bytes());
        assert!(is_expiry(&information, 3, 34, 0xabc));
        assert!(!is_expiry(&information, 4, 34, 0xabc));
        assert!(!is_expiry(&information, 3, 35, 0xabc));
        assert!(!is_expiry(&information, 3, 34, 0));
        information[8..12].copy_from_slice(&libc::SI_QUEUE.to_le_bytes());
        assert!(!is_from_timer(&information));
    }
}
