//! Timers: those of setitimer(2) and those of timer_create(2).
//!
//! The first are asked of the process itself (getitimer(2)). Which of the second exist is in /proc/PID/timers, the time that
//! each has left is asked of the process (timer_gettime(2)). A timer comes back with its id and the time that it had left at
//! the checkpoint; clocks of processor time start at 0 again, the time left on them is kept. Not preserved: the absolute
//! time that a timer was set for (after a jump of the wall clock, as between checkpoint and restart, it expires later than
//! that), and the overrun count (timer_getoverrun(2) starts at 0).
//!
//! A timer that has expired with its signal still pending comes back so that it expires at once: the new pending signal is its
//! own again, the kernel sets it anew when the signal is taken, and counts overruns from the restart on (so periods, too, are
//! counted from there).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::{NotifyKind, NotifyTarget, Timer};
use cryonaut_sys::ptrace::{self, Queue, RawSiginfo};
use cryonaut_tracee::{BufferId, CallId, CallList};

use super::process::ProcessRecord;
use super::signal;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Resource, Support};
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusals, Result};

const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// `SIGEV_THREAD_ID`.
const NOTIFY_THREAD: i32 = 4;
/// `SIGEV_NONE`.
const NOTIFY_NOBODY: i32 = 1;
/// Size in bytes of the kernel's `struct sigevent`.
const EVENT_SIZE: usize = 64;
/// Size in bytes of `struct itimerspec` and `struct itimerval`: interval and value, two 64-bit words each.
const SPEC_SIZE: usize = 32;
/// Timers that are handled in one list.
const AT_ONCE: usize = 400;
/// Where ids cannot be chosen they are counted up to; this many take about a second.
const LARGEST_COUNTED_ID: i32 = 1_000_000;
/// CAP_WAKE_ALARM (include/uapi/linux/capability.h).
const WAKE_ALARM: u64 = 1 << 35;
const REALTIME_ALARM: i32 = 8;
const BOOTTIME_ALARM: i32 = 9;
const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

/// A timer of setitimer(2) that is set.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IntervalTimer {
    /// `ITIMER_REAL` 0, `ITIMER_VIRTUAL` 1, `ITIMER_PROF` 2.
    #[prost(int32, tag = "1")]
    pub which: i32,
    /// Time between expiries in microseconds, 0 for a single one.
    #[prost(uint64, tag = "2")]
    pub interval: u64,
    /// Time left to the next expiry in microseconds; 0 when it has expired and its signal was pending: the kernel sets it anew
    /// only when that is taken (posixtimer_rearm_itimer in kernel/time/itimer.c).
    #[prost(uint64, tag = "3")]
    pub left: u64,
}

/// A timer of timer_create(2).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PosixTimer {
    /// Its id, unique in the process.
    #[prost(int32, tag = "1")]
    pub id: i32,
    /// Its clock: `CLOCK_*`, or negative for a clock of processor time (ids in it are those of the job's own namespace).
    #[prost(sint32, tag = "2")]
    pub clock: i32,
    /// The signal that it sends.
    #[prost(int32, tag = "3")]
    pub signal: i32,
    /// The value sent along, `sigev_value`.
    #[prost(fixed64, tag = "4")]
    pub value: u64,
    /// `SIGEV_*`, with SIGEV_THREAD_ID (4) as a bit.
    #[prost(int32, tag = "5")]
    pub notify: i32,
    /// With SIGEV_THREAD_ID the task notified, in its own namespace; otherwise 0.
    #[prost(int32, tag = "6")]
    pub target: i32,
    /// The task that must create it: the one whose processor time it measures, else the process' leader.
    #[prost(int32, tag = "7")]
    pub creator: i32,
    /// Time between expiries in nanoseconds, 0 for a single one.
    #[prost(uint64, tag = "8")]
    pub interval: u64,
    /// Time left to the next expiry in nanoseconds, 0 when it is not set.
    #[prost(uint64, tag = "9")]
    pub left: u64,
    /// Whether it has expired with its signal still pending, and so is to expire at once.
    #[prost(bool, tag = "10")]
    pub expired: bool,
}

/// The timers of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TimersRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Timers of setitimer(2) that are set.
    #[prost(message, repeated, tag = "2")]
    pub interval_timers: Vec<IntervalTimer>,
    /// Timers of timer_create(2).
    #[prost(message, repeated, tag = "3")]
    pub timers: Vec<PosixTimer>,
}

impl Record for TimersRecord {
    const KIND: Kind = Kind {
        name: "timers",
        version: 1,
    };
}

/// The resource.
pub struct Timers;

impl Resource for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[TimersRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let label = process.label();
            match process.directory.timers() {
                Ok(timers) if timers.is_empty() => {}
                Ok(timers) => {
                    let tasks = tasks_of(process);
                    describe_all(&timers, (&label, process.inner_pid()), &tasks, refusals);
                }
                Err(error) if error.is_missing() && process.directory.exists() => refusals
                    .add_for_job(
                        "timers",
                        "this kernel does not show them (/proc/PID/timers is missing)",
                        "use a kernel with CONFIG_CHECKPOINT_RESTORE",
                    ),
                Err(_) => {}
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        for process in frozen.alive_mut() {
            let listed = process.directory.timers()?;
            let tasks: Vec<_> = process
                .tasks
                .iter()
                .map(|task| (task.stopped.tid(), task.inner))
                .collect();
            let label = (process.pid, process.name());
            let mut timers = describe_all(&listed, (&label, process.inner), &tasks, &mut refusals);
            let mut interval_timers = read_times(process, &mut timers)?;
            note_expired(process, &mut timers, &mut interval_timers)?;
            if !interval_timers.is_empty() || !timers.is_empty() {
                collection.put(&TimersRecord {
                    process: process.inner,
                    interval_timers,
                    timers,
                })?;
            }
        }
        refusals.into_result()
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        let capabilities = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0);
        for record in records.all::<TimersRecord>()? {
            let process = processes
                .iter()
                .find(|process| process.pid == record.process);
            let tasks = process
                .map(|process| process.tasks.as_slice())
                .unwrap_or_default();
            let name = process
                .map(|process| String::from_utf8_lossy(&process.name))
                .unwrap_or_default();
            check(&record, tasks)?;
            for timer in &record.timers {
                let label = (record.process, name.as_ref());
                if matches!(timer.clock, REALTIME_ALARM | BOOTTIME_ALARM)
                    && capabilities & WAKE_ALARM == 0
                {
                    plan.refusals.add(
                        label,
                        format!("its timer {}", timer.id),
                        "it can wake the machine, which takes CAP_WAKE_ALARM; this user lacks it",
                        "restart as root",
                    );
                }
                if timer.id > LARGEST_COUNTED_ID && !cryonaut_sys::task::may_choose_timer_ids() {
                    plan.refusals.add(
                        label,
                        format!("its timer {}", timer.id),
                        "this kernel gives out ids in order, and it would take long to come to that one",
                        "restart under Linux 6.15 or later, where ids can be chosen",
                    );
                }
            }
            if !record.timers.is_empty() {
                plan.step(
                    Stage::Attach,
                    record.process,
                    CreateTimers {
                        record: record.clone(),
                    },
                );
            }
            // As late as can be, so that nothing expires while the job is built.
            let (trapping, timers): (Vec<_>, Vec<_>) = record
                .timers
                .into_iter()
                .filter(PosixTimer::is_set)
                .partition(|timer| timer.signal == libc::SIGTRAP);
            let process = record.process;
            if !timers.is_empty() || !record.interval_timers.is_empty() {
                let record = TimersRecord { timers, ..record };
                plan.step(Stage::Restrict, process, ArmTimers { record });
            }
            if !trapping.is_empty() {
                plan.step(
                    Stage::Release,
                    process,
                    ArmTrapping {
                        process,
                        timers: trapping,
                    },
                );
            }
        }
        Ok(())
    }
}

/// The tasks of a process that runs: id as we see it, id in its own namespace.
fn tasks_of(process: &TargetProcess) -> Vec<(i32, i32)> {
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
fn describe_all(
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

/// The record of a timer, without times; or why it cannot be rebuilt and what to do.
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
    let measured = match measured_task(timer.clock, process, tasks)? {
        Measured::Nothing => process,
        // The kernel does not say which thread's. Who has a thread's own time measured has that thread told (profilers do).
        Measured::Creator if tasks.len() == 1 => process,
        Measured::Creator if target != 0 => target,
        Measured::Creator => {
            return Err((
                "it measures the processor time of one of the threads, and the kernel does not tell of which",
                "have the program name the clock by pthread_getcpuclockid(), or have the timer notify the thread \
                 (SIGEV_THREAD_ID)",
            ));
        }
    };
    Ok(PosixTimer {
        id: timer.id,
        clock: timer.clock,
        signal: timer.signal,
        value: timer.value,
        notify,
        target,
        creator: measured,
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
    /// The task that creates the timer.
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
        0 if thread => Ok(Measured::Creator),
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

/// Asks a process for the times of its timers, in as few lists as they fit in; gives those of setitimer(2) that are set.
fn read_times(
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
fn note_expired(
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
pub(super) fn is_from_timer(information: &RawSiginfo) -> bool {
    information[8..12] == libc::SI_TIMER.to_le_bytes()
}

/// Whether a signal was sent by the timer with this id, signal and value.
pub(super) fn is_expiry(information: &RawSiginfo, id: i32, signal: i32, value: u64) -> bool {
    is_from_timer(information)
        && information[..4] == signal.to_le_bytes()
        && information[16..20] == id.to_le_bytes()
        && information[24..32] == value.to_le_bytes()
}

/// Interval and value of a `struct itimerspec` or `itimerval`, whose seconds have `parts` parts.
fn decode_spec(bytes: &[u8], parts: u64) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let time = |at: usize| word(at).saturating_mul(parts).saturating_add(word(at + 8));
    (time(0), time(16))
}

/// The structure that [`decode_spec`] reads.
fn encode_spec(interval: u64, left: u64, parts: u64) -> [u8; SPEC_SIZE] {
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
fn encode_event(timer: &PosixTimer) -> [u8; EVENT_SIZE] {
    let mut bytes = [0; EVENT_SIZE];
    bytes[..8].copy_from_slice(&timer.value.to_le_bytes());
    bytes[8..12].copy_from_slice(&timer.signal.to_le_bytes());
    bytes[12..16].copy_from_slice(&timer.notify.to_le_bytes());
    bytes[16..20].copy_from_slice(&timer.target.to_le_bytes());
    bytes
}

/// Refuses records that no process can have had.
fn check(record: &TimersRecord, tasks: &[i32]) -> Result<()> {
    let mut ids: Vec<i32> = record.timers.iter().map(|timer| timer.id).collect();
    ids.sort_unstable();
    let distinct =
        ids.windows(2).all(|pair| pair[0] != pair[1]) && ids.first().is_none_or(|id| *id >= 0);
    let known = |timer: &PosixTimer| {
        tasks.contains(&timer.creator) && (timer.target == 0 || tasks.contains(&timer.target))
    };
    let possible = record
        .interval_timers
        .iter()
        .all(|timer| (0..3).contains(&timer.which));
    if distinct && possible && record.timers.iter().all(known) {
        Ok(())
    } else {
        Err(Error::Failed(format!(
            "the image is damaged: process {} has impossible timers",
            record.process
        )))
    }
}

/// Creates timers with the ids that they had, not set.
struct CreateTimers {
    record: TimersRecord,
}

impl fmt::Display for CreateTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create {} timers", self.record.timers.len())
    }
}

impl Action for CreateTimers {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        let by_id: BTreeMap<i32, &PosixTimer> = self
            .record
            .timers
            .iter()
            .map(|timer| (timer.id, timer))
            .collect();
        let mut batch = Batch::new(rebuild, process);
        if choose_ids(rebuild, process, Choice::Ours)? {
            for timer in by_id.values() {
                batch.create(timer)?;
            }
            batch.flush()?;
            return choose_ids(rebuild, process, Choice::Kernels).map(drop);
        }
        // The kernel counts from 0: ids that are not wanted are used up by timers that go at once.
        let last = by_id.keys().next_back().copied().unwrap_or(-1);
        if last > LARGEST_COUNTED_ID {
            return Err(Error::Failed(format!(
                "process {process}: timer {last} cannot get its id under this kernel"
            )));
        }
        for id in 0..=last {
            match by_id.get(&id) {
                Some(timer) => batch.create(timer)?,
                None => batch.skip(id)?,
            }
        }
        batch.flush()
    }
}

/// Who chooses the id of a new timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Kernels,
    Ours,
}

/// prctl(2), PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15); whether the kernel knows it.
fn choose_ids(rebuild: &Rebuild<'_>, process: i32, choice: Choice) -> Result<bool> {
    let mut list = CallList::new();
    let on = u64::from(choice == Choice::Ours);
    let call = list.call(
        libc::SYS_prctl,
        &[PR_TIMER_CREATE_RESTORE_IDS.into(), on.into()],
    );
    Ok(rebuild.run(process, &list)?.result(call).is_ok())
}

/// Timers on their way into a process.
struct Batch<'a, 'b> {
    rebuild: &'a Rebuild<'b>,
    process: i32,
    task: i32,
    list: CallList,
    expected: Vec<(CallId, BufferId, i32)>,
}

impl<'a, 'b> Batch<'a, 'b> {
    fn new(rebuild: &'a Rebuild<'b>, process: i32) -> Self {
        Self {
            rebuild,
            process,
            task: process,
            list: CallList::new(),
            expected: Vec::new(),
        }
    }

    fn create(&mut self, timer: &PosixTimer) -> Result<()> {
        self.add(timer).map(drop)
    }

    /// Uses up an id.
    fn skip(&mut self, id: i32) -> Result<()> {
        let clock = libc::CLOCK_MONOTONIC;
        self.add(&PosixTimer {
            id,
            clock,
            notify: NOTIFY_NOBODY,
            creator: self.task,
            ..PosixTimer::default()
        })?;
        self.list.call(libc::SYS_timer_delete, &[id.into()]);
        Ok(())
    }

    fn add(&mut self, timer: &PosixTimer) -> Result<()> {
        if timer.creator != self.task || self.expected.len() >= AT_ONCE {
            self.flush()?;
            self.task = timer.creator;
        }
        let event = self.list.bytes(&encode_event(timer));
        let id = self.list.bytes(&timer.id.to_le_bytes());
        let arguments = [timer.clock.into(), event.into(), id.into()];
        self.expected.push((
            self.list.call(libc::SYS_timer_create, &arguments),
            id,
            timer.id,
        ));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let list = std::mem::take(&mut self.list);
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = self.rebuild.run_in_task(self.process, self.task, &list)?;
        for (call, buffer, id) in self.expected.drain(..) {
            let what = || format!("process {}: creating timer {id}", self.process);
            outcomes.result(call).attempt(what)?;
            if outcomes.buffer(buffer) != id.to_le_bytes() {
                return Err(Error::Failed(format!(
                    "{}: the kernel gave it another id",
                    what()
                )));
            }
        }
        Ok(())
    }
}

impl PosixTimer {
    fn is_set(&self) -> bool {
        self.left != 0 || self.expired
    }

    /// Arguments of timer_settime(2): flags and `struct itimerspec`.
    fn setting(&self) -> (i32, [u8; SPEC_SIZE]) {
        // A clock of processor time stands still while its process waits: only a time in its past comes at once.
        let flags = if self.expired && self.clock < 0 {
            libc::TIMER_ABSTIME
        } else {
            0
        };
        let left = if self.expired { 1 } else { self.left };
        (flags, encode_spec(self.interval, left, NANOSECONDS))
    }
}

/// Sets the timers to the time that they had left.
struct ArmTimers {
    record: TimersRecord,
}

impl fmt::Display for ArmTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "set {} timers",
            self.record.timers.len() + self.record.interval_timers.len()
        )
    }
}

impl Action for ArmTimers {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut list = CallList::new();
        let mut calls: Vec<(String, CallId)> = Vec::new();
        for timer in &self.record.interval_timers {
            let spec = list.bytes(&encode_spec(
                timer.interval,
                timer.left.max(1),
                MICROSECONDS,
            ));
            let call = list.call(
                libc::SYS_setitimer,
                &[timer.which.into(), spec.into(), 0.into()],
            );
            calls.push((format!("interval timer {}", timer.which), call));
        }
        for timer in &self.record.timers {
            let (flags, spec) = timer.setting();
            let spec = list.bytes(&spec);
            let call = list.call(
                libc::SYS_timer_settime,
                &[timer.id.into(), flags.into(), spec.into(), 0.into()],
            );
            calls.push((format!("timer {}", timer.id), call));
            if calls.len() >= AT_ONCE {
                self.run(rebuild, &std::mem::take(&mut list), &mut calls)?;
            }
        }
        self.run(rebuild, &list, &mut calls)
    }
}

impl ArmTimers {
    fn run(
        &self,
        rebuild: &Rebuild<'_>,
        list: &CallList,
        calls: &mut Vec<(String, CallId)>,
    ) -> Result<()> {
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(self.record.process, list)?;
        for (what, call) in calls.drain(..) {
            outcomes
                .result(call)
                .attempt(|| format!("process {}: setting {what}", self.record.process))?;
        }
        Ok(())
    }
}

/// Sets timers that send SIGTRAP, which a stub must not get while it runs lists.
struct ArmTrapping {
    process: i32,
    timers: Vec<PosixTimer>,
}

impl fmt::Display for ArmTrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} timers that send SIGTRAP", self.timers.len())
    }
}

impl Action for ArmTrapping {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        signal::block_trap(rebuild, self.process)?;
        for timer in &self.timers {
            let (flags, spec) = timer.setting();
            let arguments = |data| [timer.id as u64, flags as u64, data, 0, 0, 0];
            let whom = (self.process, self.process);
            rebuild.call_directly(
                whom,
                "setting a timer",
                libc::SYS_timer_settime,
                &spec,
                arguments,
            )?;
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Timers of setitimer and alarm",
        level: Level::Restored,
        how: "with the time that they had left",
    },
    Support {
        what: "Timers of timer_create, also on clocks of processor time and with a thread to notify",
        level: Level::Partly,
        how: "with their ids and the time that they had left; one whose signal is pending keeps that and counts its period and \
              overruns from the restart; timer_getoverrun starts at 0",
    },
    Support {
        what: "Timers set for a time of day (TIMER_ABSTIME on CLOCK_REALTIME)",
        level: Level::Partly,
        how: "with the time that was left at the checkpoint: they expire later than that time of day, by as long as the job \
              was not running",
    },
    Support {
        what: "Timers of a thread's processor time (CLOCK_THREAD_CPUTIME_ID) in a program with several threads",
        level: Level::Partly,
        how: "taken to measure the thread that they notify (SIGEV_THREAD_ID); refused when they notify none",
    },
    Support {
        what: "Timers on the processor time of another process or on the clock of a device",
        level: Level::Refused,
        how: "delete them before the checkpoint",
    },
];

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
    fn record_round_trip() {
        let timer = PosixTimer {
            id: 5,
            clock: -6,
            signal: 34,
            value: !0,
            notify: NOTIFY_THREAD,
            target: 9,
            creator: 9,
            interval: 1,
            left: u64::MAX,
            expired: true,
        };
        let record = TimersRecord {
            process: 9,
            interval_timers: vec![IntervalTimer {
                which: 2,
                interval: 0,
                left: 1,
            }],
            timers: vec![timer],
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(
            set.all::<TimersRecord>().unwrap(),
            std::slice::from_ref(&record)
        );
        assert!(check(&record, &[9]).is_ok());
        assert!(check(&record, &[8]).is_err());
        assert!(
            check(
                &TimersRecord {
                    timers: vec![timer, timer],
                    ..record
                },
                &[9]
            )
            .is_err()
        );
    }

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

    #[test]
    fn expired_timers_expire_at_once() {
        let timer = PosixTimer {
            clock: 1,
            interval: 5,
            left: 4,
            ..PosixTimer::default()
        };
        assert_eq!(timer.setting(), (0, encode_spec(5, 4, NANOSECONDS)));
        let expired = PosixTimer {
            expired: true,
            ..timer
        };
        assert_eq!(expired.setting(), (0, encode_spec(5, 1, NANOSECONDS)));
        let of_processor = PosixTimer {
            clock: -6,
            ..expired
        };
        assert_eq!(
            of_processor.setting(),
            (libc::TIMER_ABSTIME, encode_spec(5, 1, NANOSECONDS))
        );
        assert!(!PosixTimer { left: 0, ..timer }.is_set());
        assert!(PosixTimer { left: 0, ..expired }.is_set());
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
        let notified = describe(&listed(OWN_THREAD, NotifyTarget::Thread(101)), 7, &tasks).unwrap();
        assert_eq!(notified.creator, 8);
        assert!(describe(&listed(OWN_THREAD, NotifyTarget::Process(100)), 7, &tasks).is_err());
        assert!(
            describe(
                &listed(OWN_THREAD, NotifyTarget::Process(100)),
                7,
                &tasks[..1]
            )
            .is_ok()
        );
    }
}
