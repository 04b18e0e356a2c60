//! Which timers of timer_create(2) there are, and which of them can be rebuilt.

use cryonaut_procfs::{NotifyKind, NotifyTarget, Timer};

use super::measured::UNKNOWN;
use super::{NOTIFY_NOBODY, NOTIFY_THREAD, PosixTimer};
use crate::Refusals;
use crate::target::TargetProcess;

/// The tasks of a process that runs: id as we see it, id in its own namespace.
pub fn tasks_of(process: &TargetProcess) -> Vec<(i32, i32)> {
    let inner = |tid: i32| {
        let status = process.directory.task(tid).and_then(|task| task.status());
        status
            .ok()
            .and_then(|status| status.namespace_pid.last().copied())
            .unwrap_or(tid)
    };
    process
        .directory
        .threads()
        .unwrap_or_default()
        .into_iter()
        .map(|tid| (tid, inner(tid)))
        .collect()
}

/// The records of timers, without times; refuses those that cannot be rebuilt. `tasks` are ids as we see them and as the
/// process does.
pub fn describe_all(
    timers: &[Timer],
    ((pid, name), process): (&(i32, String), i32),
    tasks: &[(i32, i32)],
    refusals: &mut Refusals,
) -> Vec<PosixTimer> {
    let mut described = Vec::with_capacity(timers.len());
    for timer in timers {
        match describe(timer, process, tasks) {
            Ok(timer) => described.push(timer),
            Err((reason, remedy)) => refusals.add(
                (*pid, name),
                format!("its timer {}", timer.id),
                reason,
                remedy,
            ),
        }
    }
    described
}

/// The record of a timer, without times, and without its creator where that is to be found; or why it cannot be rebuilt and what to do.
fn describe(
    timer: &Timer,
    process: i32,
    tasks: &[(i32, i32)],
) -> std::result::Result<PosixTimer, (&'static str, &'static str)> {
    let kind = match timer.notify {
        NotifyKind::Signal => libc::SIGEV_SIGNAL,
        NotifyKind::None => NOTIFY_NOBODY,
        NotifyKind::Thread => libc::SIGEV_THREAD,
    };
    let (notify, target) = match timer.target {
        NotifyTarget::Process(_) => (kind, 0),
        NotifyTarget::Thread(tid) => match tasks.iter().find(|(outer, _)| *outer == tid) {
            Some(&(_, inner)) => (kind | NOTIFY_THREAD, inner),
            // The thread that it would notify has ended: it expires unnoticed.
            None => (NOTIFY_NOBODY, 0),
        },
    };
    let creator = match (measured_task(timer.clock, process, tasks)?, tasks) {
        (Measured::Nothing, _) => process,
        (Measured::Creator, &[(_, only)]) => only,
        (Measured::Creator, _) => UNKNOWN,
    };
    Ok(PosixTimer {
        id: timer.id,
        clock: timer.clock,
        signal: timer.signal,
        value: timer.value,
        notify,
        target,
        creator,
        interval: 0,
        left: 0,
        expired: false,
    })
}

/// Whose processor time a clock measures, as far as that matters to who creates a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measured {
    /// It matters not.
    Nothing,
    /// The task that created the timer.
    Creator,
}

/// Takes a clock id apart (include/linux/posix-timers_types.h): below 0, a pid in one's complement, then a bit for a thread,
/// then two bits for what is measured, of which 3 means a device's clock.
fn measured_task(
    clock: i32,
    process: i32,
    tasks: &[(i32, i32)],
) -> std::result::Result<Measured, (&'static str, &'static str)> {
    const PER_THREAD: i32 = 4;
    const DEVICE: i32 = 3;
    /// `CPUCLOCK_SCHED`: exact times.
    const SCHEDULED: i32 = 2;
    if clock >= 0 {
        return Ok(Measured::Nothing);
    }
    if clock & 7 == DEVICE {
        return Err((
            "it runs on the clock of a device",
            "have the program delete it before the checkpoint",
        ));
    }
    let thread = clock & PER_THREAD != 0;
    match !(clock >> 3) {
        0 if thread && (clock & 3 == SCHEDULED || tasks.len() == 1) => Ok(Measured::Creator),
        0 if thread => Err((
            "it measures the processor time of one of the threads in ticks, and the kernel does not tell of which",
            "have the program use CLOCK_THREAD_CPUTIME_ID",
        )),
        0 => Ok(Measured::Nothing),
        id if thread && tasks.iter().any(|(_, inner)| *inner == id) => Ok(Measured::Nothing),
        id if !thread && id == process => Ok(Measured::Nothing),
        _ if thread => Err((
            "it measures the processor time of a thread that has ended",
            "have the program delete it before the checkpoint",
        )),
        _ => Err((
            "it measures the processor time of another process",
            "have the program delete it before the checkpoint",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(clock: i32, target: NotifyTarget) -> Timer {
        Timer {
            id: 3,
            signal: 14,
            value: 0xabc,
            notify: NotifyKind::Signal,
            target,
            clock,
        }
    }

    #[test]
    fn notified_threads_get_their_inner_ids() {
        let tasks = [(100, 1), (101, 2)];
        let timer = describe(&listed(1, NotifyTarget::Thread(101)), 1, &tasks).unwrap();
        assert_eq!(
            (timer.notify, timer.target, timer.creator),
            (NOTIFY_THREAD, 2, 1)
        );
        let ended = describe(&listed(1, NotifyTarget::Thread(102)), 1, &tasks).unwrap();
        assert_eq!((ended.notify, ended.target), (NOTIFY_NOBODY, 0));
        let process = describe(&listed(0, NotifyTarget::Process(100)), 1, &tasks).unwrap();
        assert_eq!((process.notify, process.target), (0, 0));
    }

    #[test]
    fn clocks_of_processor_time() {
        const OWN_PROCESS: i32 = -6;
        const OWN_THREAD: i32 = -2;
        let of = |id: i32, bits: i32| (!id << 3) | bits;
        let tasks = [(100, 7), (101, 8)];
        assert_eq!(measured_task(OWN_PROCESS, 7, &tasks), Ok(Measured::Nothing));
        assert_eq!(measured_task(OWN_THREAD, 7, &tasks), Ok(Measured::Creator));
        assert_eq!(measured_task(of(8, 6), 7, &tasks), Ok(Measured::Nothing));
        assert!(measured_task(of(9, 6), 7, &tasks).is_err());
        assert_eq!(measured_task(of(7, 2), 7, &tasks), Ok(Measured::Nothing));
        assert!(measured_task(of(6, 2), 7, &tasks).is_err());
        assert!(measured_task(of(3, 3), 7, &tasks).is_err());
        const OWN_THREAD_TICKS: i32 = -4;
        assert!(measured_task(OWN_THREAD_TICKS, 7, &tasks).is_err());
        assert_eq!(
            measured_task(OWN_THREAD_TICKS, 7, &tasks[..1]),
            Ok(Measured::Creator)
        );
        // Whoever is notified need not be who is measured.
        let notified = describe(&listed(OWN_THREAD, NotifyTarget::Thread(101)), 7, &tasks).unwrap();
        assert_eq!((notified.target, notified.creator), (8, UNKNOWN));
        let alone = describe(
            &listed(OWN_THREAD, NotifyTarget::Process(100)),
            7,
            &tasks[1..],
        );
        assert_eq!(alone.unwrap().creator, 8);
    }
}
