//! Whose processor time a timer measures that was made with `CLOCK_THREAD_CPUTIME_ID`.
//!
//! That clock names the thread that creates the timer, and /proc/PID/timers repeats the name. But all threads stand still: if one
//! of them reads twice what the timer has left, and the answers differ, the time that passed in between is that thread's own. A
//! timer that is not set is set for as long as that takes, in the same list: nobody else has a part in it, and as no signal of it
//! is pending, it is afterwards what it was.

use cryonaut_tracee::{BufferId, CallId, CallList};

use super::times::{NANOSECONDS, SPEC_SIZE, decode_spec, encode_spec};
use super::{AT_ONCE, PosixTimer};
use crate::freeze::FrozenProcess;
use crate::{Refusals, Result};

/// What [`PosixTimer::creator`] is until the thread is found.
pub const UNKNOWN: i32 = 0;
/// How often a timer is read: the time between the first and the last must show.
const READINGS: usize = 3;
/// For how long a timer is set that is not: longer than any list runs.
const LONG: u64 = 1_000_000 * NANOSECONDS;

/// Finds the threads that timers measure; refuses the timers of which it cannot be told. They have their times already.
///
/// # Errors
/// When a task stumbles.
pub fn find_measured(
    process: &mut FrozenProcess,
    timers: &mut [PosixTimer],
    refusals: &mut Refusals,
) -> Result<()> {
    let is_open = |timer: &PosixTimer| timer.creator == UNKNOWN;
    if !timers.iter().any(is_open) {
        return Ok(());
    }
    let inner: Vec<i32> = process.tasks.iter().map(|task| task.inner).collect();
    // Who has a thread's time measured mostly has that thread told.
    for likely in [true, false] {
        for (index, &task) in inner.iter().enumerate() {
            let mut open: Vec<&mut PosixTimer> = timers
                .iter_mut()
                .filter(|timer| is_open(timer) && can_be_asked(timer))
                .filter(|timer| !likely || timer.target == task)
                .collect();
            for chunk in open.chunks_mut(AT_ONCE / READINGS) {
                ask(process, (index, task), chunk)?;
            }
        }
    }
    for timer in timers.iter().filter(|timer| is_open(timer)) {
        let (reason, remedy) = if can_be_asked(timer) {
            (
                "it measures the processor time of a thread that has ended",
                "have the program delete it before the checkpoint",
            )
        } else {
            (
                "it measures the processor time of one of the threads, and of which cannot be told while its signal is pending",
                "try again when the program has taken the signal",
            )
        };
        let object = format!("its timer {}", timer.id);
        refusals.add((process.pid, &process.name()), object, reason, remedy);
    }
    Ok(())
}

/// Whether reading the timer tells anything: not after its one expiry, and to set it would drop the signal of that.
fn can_be_asked(timer: &PosixTimer) -> bool {
    timer.left != 0 || !timer.expired
}

/// Has a thread read timers, and notes which of them measure it.
fn ask(
    process: &mut FrozenProcess,
    (index, task): (usize, i32),
    timers: &mut [&mut PosixTimer],
) -> Result<()> {
    let mut list = CallList::new();
    let (long, never) = (
        list.bytes(&encode_spec(0, LONG, NANOSECONDS)),
        list.bytes(&encode_spec(0, 0, NANOSECONDS)),
    );
    let set = |list: &mut CallList, timer: &PosixTimer, spec: BufferId| {
        let arguments = [timer.id.into(), 0.into(), spec.into(), 0.into()];
        list.call(libc::SYS_timer_settime, &arguments)
    };
    let readings: Vec<[(BufferId, CallId); READINGS]> = timers
        .iter()
        .map(|timer| {
            let is_set = timer.is_set();
            if !is_set {
                set(&mut list, timer, long);
            }
            let readings = [(); READINGS].map(|()| {
                let spec = list.space(SPEC_SIZE);
                let arguments = [timer.id.into(), spec.into()];
                (spec, list.call(libc::SYS_timer_gettime, &arguments))
            });
            if !is_set {
                set(&mut list, timer, never);
            }
            readings
        })
        .collect();
    let outcomes = process.run(index, &list)?;
    for (timer, readings) in timers.iter_mut().zip(readings) {
        let left = |(spec, call): (BufferId, CallId)| {
            outcomes.result(call).ok()?;
            Some(decode_spec(outcomes.buffer(spec), NANOSECONDS).1)
        };
        let (first, last) = (left(readings[0]), left(readings[READINGS - 1]));
        if first.is_some() && last.is_some() && first != last {
            timer.creator = task;
        }
    }
    Ok(())
}
