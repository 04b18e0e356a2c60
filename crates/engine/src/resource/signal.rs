//! Signals: actions, and what is pending for the process and for each of its tasks.
//!
//! Actions are asked of the process itself (rt_sigaction(2)); pending signals are read by PTRACE_PEEKSIGINFO without taking
//! them, those that the kernel holds without a `siginfo_t` from SigPnd and ShdPnd of /proc/PID/status. Masks of blocked
//! signals and alternate stacks belong to a task and are saved there. The pending signal of an expired timer is the timer's:
//! the new timer sends it again (see `timer`). SIGTRAP comes last, as stubs need it. Not preserved: the `siginfo_t` of a pending
//! SIGSTOP, which nothing can keep pending (the process stops again); the place that a timer's signal had among pending ones of
//! its number; process and user numbers inside a `siginfo_t` stay what they were.

use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::ptrace::{self, Queue, RawSiginfo};
use cryonaut_sys::task;
use cryonaut_tracee::{Argument, CallList};

use super::limits::{PENDING_SIGNALS, name_of};
use super::process::ProcessRecord;
use super::timer;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// Signals are numbered 1 to this (_NSIG of the kernel).
const SIGNAL_COUNT: i32 = 64;
/// Size in bytes of the kernel's sigset_t, which calls must name.
const MASK_SIZE: i32 = 8;
/// Size in bytes of the kernel's `struct sigaction` on x86-64: handler, flags, restorer, mask.
const ACTION_SIZE: usize = 32;
/// Pending signals that are sent in one list.
const AT_ONCE: usize = 200;
/// Below this limit of queued signals, or when half of it is used, tasks may have signals without a `siginfo_t`.
const ROOMY_QUEUE: u64 = 4096;

/// What one process does upon a signal. Actions that are the default in every respect are not stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalAction {
    /// The signal's number, 1 to 64.
    #[prost(int32, tag = "1")]
    pub signal: i32,
    /// Address of the handler; 0 is SIG_DFL, 1 SIG_IGN.
    #[prost(uint64, tag = "2")]
    pub handler: u64,
    /// `SA_*`, among them SA_RESTORER.
    #[prost(uint64, tag = "3")]
    pub flags: u64,
    /// Address of the code that a handler returns to.
    #[prost(uint64, tag = "4")]
    pub restorer: u64,
    /// Signals blocked while the handler runs; bit 0 is signal 1.
    #[prost(fixed64, tag = "5")]
    pub mask: u64,
}

/// Signals that are pending for one task alone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskSignals {
    /// The task's id in its own namespace.
    #[prost(int32, tag = "1")]
    pub task: i32,
    /// Their `siginfo_t` in order of arrival, without the zero bytes at the end.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub pending: Vec<Vec<u8>>,
}

/// Signal state of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalsRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The actions that are not the default.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<SignalAction>,
    /// `siginfo_t` of the signals pending for the process as a whole, as in [`TaskSignals::pending`].
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub pending: Vec<Vec<u8>>,
    /// Signals pending for single tasks; only tasks that have some.
    #[prost(message, repeated, tag = "4")]
    pub tasks: Vec<TaskSignals>,
}

impl Record for SignalsRecord {
    const KIND: Kind = Kind {
        name: "signals",
        version: 1,
    };
}

/// The resource.
pub struct Signals;

impl Resource for Signals {
    fn name(&self) -> &'static str {
        "signals"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[SignalsRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {
        // Everything that the kernel shows comes back; who shares actions is seen in `sharing`.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive_mut() {
            // Pending signals first: nothing has been run in the process for them yet.
            let (pending, tasks) = pending_of(process)?;
            let actions = actions_of(process)?;
            collection.put(&SignalsRecord {
                process: process.inner,
                actions,
                pending,
                tasks,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let mut total = 0;
        let records_of_signals = records.all::<SignalsRecord>()?;
        for record in &records_of_signals {
            check(record)?;
            total += record.pending.len()
                + record
                    .tasks
                    .iter()
                    .map(|task| task.pending.len())
                    .sum::<usize>();
        }
        let limit = task::limit(0, PENDING_SIGNALS)
            .attempt(|| "reading the limit of pending signals".into())?;
        if total as u64 > limit.soft {
            plan.refusals.add_for_job(
                format!("its {total} pending signals"),
                format!("{} is {} here", name_of(PENDING_SIGNALS), limit.soft),
                "raise that limit (`ulimit -i`) and restart again",
            );
        }
        let processes = records.all::<ProcessRecord>()?;
        for process in processes
            .iter()
            .filter(|process| process.zombie.is_none())
            .map(|process| process.pid)
        {
            let record = records_of_signals
                .iter()
                .find(|record| record.process == process);
            let actions = record
                .map(|record| record.actions.clone())
                .unwrap_or_default();
            // After zombies have ended: a parent that ignores SIGCHLD would have them vanish.
            plan.step(Stage::Attach, process, SetActions { process, actions });
            if let Some(record) =
                record.filter(|record| !(record.pending.is_empty() && record.tasks.is_empty()))
            {
                // After zombies too: the signal of their end is drained, a saved one must stay.
                plan.step(
                    Stage::Restrict,
                    process,
                    QueueSignals {
                        record: record.clone(),
                    },
                );
            }
            if let Some(last) = record.and_then(FinishTrap::of) {
                plan.step(Stage::Release, process, last);
            }
        }
        Ok(())
    }
}

/// Asks a process for its actions, in one list.
fn actions_of(process: &mut FrozenProcess) -> Result<Vec<SignalAction>> {
    let mut list = CallList::new();
    let asked: Vec<_> = settable()
        .map(|signal| {
            let old = list.space(ACTION_SIZE);
            (
                signal,
                old,
                list.call(
                    libc::SYS_rt_sigaction,
                    &[signal.into(), 0.into(), old.into(), MASK_SIZE.into()],
                ),
            )
        })
        .collect();
    let outcomes = process.run(0, &list)?;
    let mut actions = Vec::new();
    for (signal, old, call) in asked {
        let what = || {
            format!(
                "process {}: reading what it does upon signal {signal}",
                process.pid
            )
        };
        outcomes.result(call).attempt(what)?;
        let bytes = outcomes.buffer(old);
        if bytes.iter().any(|&byte| byte != 0) {
            actions.push(decode_action(signal, bytes));
        }
    }
    Ok(actions)
}

/// The signals whose action can be changed.
fn settable() -> impl Iterator<Item = i32> {
    (1..=SIGNAL_COUNT).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP))
}

/// Reads the kernel's `struct sigaction`.
fn decode_action(signal: i32, bytes: &[u8]) -> SignalAction {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    SignalAction {
        signal,
        handler: word(0),
        flags: word(8),
        restorer: word(16),
        mask: word(24),
    }
}

/// Writes the kernel's `struct sigaction`.
fn encode_action(action: &SignalAction) -> [u8; ACTION_SIZE] {
    let mut bytes = [0; ACTION_SIZE];
    for (index, word) in [action.handler, action.flags, action.restorer, action.mask]
        .into_iter()
        .enumerate()
    {
        bytes[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// What is pending for a process as a whole, and for those of its tasks that have something pending.
fn pending_of(process: &FrozenProcess) -> Result<(Vec<Vec<u8>>, Vec<TaskSignals>)> {
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

fn bit(signal: i32) -> u64 {
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
fn signal_of(information: &[u8]) -> i32 {
    let mut number = [0; 4];
    let length = information.len().min(4);
    number[..length].copy_from_slice(&information[..length]);
    i32::from_le_bytes(number)
}

/// Refuses records that no process can have had.
fn check(record: &SignalsRecord) -> Result<()> {
    let damaged = |what: &str| {
        Err(Error::Failed(format!(
            "the image is damaged: process {} {what}",
            record.process
        )))
    };
    if record
        .actions
        .iter()
        .any(|action| settable().all(|signal| signal != action.signal))
    {
        return damaged("has an action for a signal that can have none");
    }
    let pending = record
        .tasks
        .iter()
        .flat_map(|task| &task.pending)
        .chain(&record.pending);
    for information in pending {
        let signal = signal_of(information);
        if information.len() > size_of::<RawSiginfo>()
            || bit(signal) == 0
            || signal == libc::SIGKILL
        {
            return damaged("has a pending signal that cannot be pending");
        }
    }
    Ok(())
}

/// Sets all actions, those of the default too: what the restart itself was started with must not shine through.
struct SetActions {
    process: i32,
    actions: Vec<SignalAction>,
}

impl fmt::Display for SetActions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "set signal actions, {} of them not the default",
            self.actions.len()
        )
    }
}

impl Action for SetActions {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut list = CallList::new();
        let mut calls = Vec::new();
        for signal in settable() {
            let action = self.actions.iter().find(|action| action.signal == signal);
            let bytes = action.map_or([0; ACTION_SIZE], encode_action);
            let action = list.bytes(&bytes);
            let arguments = [signal.into(), action.into(), 0.into(), MASK_SIZE.into()];
            calls.push((signal, list.call(libc::SYS_rt_sigaction, &arguments)));
        }
        let outcomes = rebuild.run(self.process, &list)?;
        for (signal, call) in calls {
            let what = || {
                format!(
                    "process {}: setting what it does upon signal {signal}",
                    self.process
                )
            };
            outcomes.result(call).attempt(what)?;
        }
        Ok(())
    }
}

/// Sends every pending signal again, by the very task that it is pending for: only from oneself may a `siginfo_t` say that it
/// comes from the kernel or another process (rt_sigqueueinfo(2)). All signals are blocked there, so they stay pending.
struct QueueSignals {
    record: SignalsRecord,
}

impl fmt::Display for QueueSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: usize = self
            .record
            .tasks
            .iter()
            .map(|task| task.pending.len())
            .sum();
        write!(
            f,
            "queue {} pending signals, {own} of them for single tasks",
            self.record.pending.len() + own
        )
    }
}

impl Action for QueueSignals {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        self.send(
            rebuild,
            process,
            &self.record.pending,
            libc::SYS_rt_sigqueueinfo,
            &[process.into()],
        )?;
        for task in &self.record.tasks {
            let whom = [process.into(), task.task.into()];
            self.send(
                rebuild,
                task.task,
                &task.pending,
                libc::SYS_rt_tgsigqueueinfo,
                &whom,
            )?;
        }
        let all = self
            .record
            .tasks
            .iter()
            .flat_map(|task| &task.pending)
            .chain(&self.record.pending);
        if all
            .map(|information| signal_of(information))
            .any(|signal| signal == libc::SIGSTOP)
        {
            let pid = rebuild.built(process)?.pid;
            rebuild.after_commit.push(Box::new(move || {
                task::kill(pid, libc::SIGSTOP)
                    .attempt(|| format!("process {process}: stopping it as it was about to"))
            }));
        }
        Ok(())
    }
}

impl QueueSignals {
    fn send(
        &self,
        rebuild: &Rebuild<'_>,
        task: i32,
        pending: &[Vec<u8>],
        number: i64,
        whom: &[Argument],
    ) -> Result<()> {
        // SIGSTOP cannot be blocked, so it cannot wait: it is sent when the job is released. SIGTRAP would end the list.
        let lasting: Vec<_> = pending
            .iter()
            .filter(|information| !matches!(signal_of(information), libc::SIGSTOP | libc::SIGTRAP))
            .collect();
        for chunk in lasting.chunks(AT_ONCE) {
            let mut list = CallList::new();
            let mut calls = Vec::new();
            for information in chunk {
                let signal = signal_of(information);
                let buffer = list.bytes(&padded(information));
                let arguments: Vec<Argument> = whom
                    .iter()
                    .copied()
                    .chain([signal.into(), buffer.into()])
                    .collect();
                calls.push((signal, list.call(number, &arguments)));
            }
            let outcomes = rebuild.run_in_task(self.record.process, task, &list)?;
            for (signal, call) in calls {
                let what = || {
                    format!(
                        "process {}: queueing pending signal {signal} for {task}",
                        self.record.process
                    )
                };
                outcomes.result(call).map(drop).map_err(|error| match error.raw_os_error() {
                    Some(libc::EAGAIN) => Error::Failed(format!(
                        "{}: this user has no more pending signals free; raise {} and restart again",
                        what(),
                        name_of(PENDING_SIGNALS)
                    )),
                    _ => Error::Failed(format!("{}: {error}", what())),
                })?;
            }
        }
        Ok(())
    }
}

/// What a stub cannot have of SIGTRAP as long as it runs lists, each of which ends with a breakpoint: the kernel ends the ignoring
/// of a breakpoint's signal (force_sig_info_to_task in kernel/signal.c), and a pending one would be taken for the breakpoint's.
struct FinishTrap {
    process: i32,
    ignored: Option<SignalAction>,
    /// `siginfo_t` of the one that is pending for the process.
    pending: Option<Vec<u8>>,
    /// Tasks with one of their own.
    tasks: Vec<(i32, Vec<u8>)>,
}

impl FinishTrap {
    /// What is left to be done for a process, if anything is.
    fn of(record: &SignalsRecord) -> Option<Self> {
        let is_trap = |information: &&Vec<u8>| signal_of(information) == libc::SIGTRAP;
        let ignored = |action: &&SignalAction| {
            action.signal == libc::SIGTRAP && action.handler == libc::SIG_IGN as u64
        };
        let of_task =
            |task: &TaskSignals| Some((task.task, task.pending.iter().find(is_trap)?.clone()));
        let last = Self {
            process: record.process,
            ignored: record.actions.iter().find(ignored).cloned(),
            pending: record.pending.iter().find(is_trap).cloned(),
            tasks: record.tasks.iter().filter_map(of_task).collect(),
        };
        (last.ignored.is_some() || last.pending.is_some() || !last.tasks.is_empty()).then_some(last)
    }
}

impl fmt::Display for FinishTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.tasks.len() + usize::from(self.pending.is_some());
        write!(
            f,
            "{} SIGTRAP, queue {pending}",
            if self.ignored.is_some() {
                "ignore"
            } else {
                "do not ignore"
            }
        )
    }
}

impl Action for FinishTrap {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.process;
        let signal = libc::SIGTRAP as u64;
        if let Some(action) = &self.ignored {
            rebuild.call_directly(
                (process, process),
                "ignoring SIGTRAP",
                libc::SYS_rt_sigaction,
                &encode_action(action),
                |data| [signal, data, 0, MASK_SIZE as u64, 0, 0],
            )?;
        }
        if self.pending.is_some() || !self.tasks.is_empty() {
            block_trap(rebuild, process)?;
        }
        let what = "queueing its pending SIGTRAP";
        if let Some(information) = &self.pending {
            let arguments = |data| [process as u64, signal, data, 0, 0, 0];
            let information = padded(information);
            rebuild.call_directly(
                (process, process),
                what,
                libc::SYS_rt_sigqueueinfo,
                &information,
                arguments,
            )?;
        }
        for (task, information) in &self.tasks {
            let arguments = |data| [process as u64, *task as u64, signal, data, 0, 0];
            let information = padded(information);
            rebuild.call_directly(
                (process, *task),
                what,
                libc::SYS_rt_tgsigqueueinfo,
                &information,
                arguments,
            )?;
        }
        Ok(())
    }
}

/// Blocks SIGTRAP too in all tasks of a process, which runs no list any more.
pub(super) fn block_trap(rebuild: &Rebuild<'_>, process: i32) -> Result<()> {
    for &(task, tid) in &rebuild.built(process)?.tasks {
        ptrace::set_signal_mask(tid, !0).attempt(|| format!("task {task}: blocking SIGTRAP"))?;
    }
    Ok(())
}

/// A whole `siginfo_t` again.
fn padded(information: &[u8]) -> RawSiginfo {
    let mut whole = [0; 128];
    let length = information.len().min(whole.len());
    whole[..length].copy_from_slice(&information[..length]);
    whole
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Signal actions: handlers, flags, masks, ignored signals, SA_NOCLDWAIT",
        level: Level::Restored,
        how: "all 62 that can be set, in the new life at the same addresses",
    },
    Support {
        what: "Pending signals of processes and threads, also real-time signals in a queue",
        level: Level::Restored,
        how: "in order and with their siginfo; process ids in it stay those of the time when they were sent; signals of \
              timers come after others of their number",
    },
    Support {
        what: "A pending SIGSTOP",
        level: Level::Partly,
        how: "the process stops when it is released, as it was about to",
    },
    Support {
        what: "Signal actions shared by processes (CLONE_SIGHAND without CLONE_THREAD)",
        level: Level::Refused,
        how: "use threads, or processes that share nothing",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trip() {
        let record = SignalsRecord {
            process: 7,
            actions: vec![SignalAction {
                signal: libc::SIGUSR1,
                handler: 0x7fff_1234_5678,
                flags: 0x0400_0004,
                restorer: 0x7fff_0000_1000,
                mask: !0,
            }],
            pending: vec![vec![10, 0, 0, 0, 0, 0, 0, 0, 0x80], vec![64]],
            tasks: vec![TaskSignals {
                task: 8,
                pending: vec![vec![34, 0, 0, 0, 0, 0, 0, 0, 0xff]],
            }],
        };
        let mut set = RecordSet::new();
        set.push(&record).unwrap();
        assert_eq!(
            set.all::<SignalsRecord>().unwrap(),
            std::slice::from_ref(&record)
        );
        check(&record).unwrap();
    }

    #[test]
    fn actions_keep_the_kernel_layout() {
        let action = SignalAction {
            signal: 17,
            handler: 1,
            flags: 2,
            restorer: 3,
            mask: 1 << 63,
        };
        let bytes = encode_action(&action);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[31]), (1, 2, 3, 0x80));
        assert_eq!(decode_action(17, &bytes), action);
    }

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

    #[test]
    fn traps_are_left_for_the_end() {
        let ignored = SignalAction {
            signal: libc::SIGTRAP,
            handler: 1,
            ..SignalAction::default()
        };
        let handled = SignalAction {
            handler: 0x4000,
            ..ignored.clone()
        };
        let record = SignalsRecord {
            process: 7,
            actions: vec![ignored],
            ..SignalsRecord::default()
        };
        assert_eq!(
            FinishTrap::of(&record).unwrap().to_string(),
            "ignore SIGTRAP, queue 0"
        );
        let record = SignalsRecord {
            actions: vec![handled],
            pending: vec![vec![10]],
            ..record
        };
        assert!(FinishTrap::of(&record).is_none());
        let tasks = vec![TaskSignals {
            task: 8,
            pending: vec![vec![10], vec![5, 0, 0, 0, 0, 0, 0, 0, 1]],
        }];
        let last = FinishTrap::of(&SignalsRecord {
            pending: vec![vec![5]],
            tasks,
            ..record
        })
        .unwrap();
        assert_eq!(last.to_string(), "do not ignore SIGTRAP, queue 2");
        assert_eq!(last.tasks, [(8, vec![5, 0, 0, 0, 0, 0, 0, 0, 1])]);
    }

    #[test]
    fn damaged_records_are_found() {
        let kill = SignalAction {
            signal: libc::SIGKILL,
            ..SignalAction::default()
        };
        let damaged = [
            SignalsRecord {
                actions: vec![kill],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![9]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                pending: vec![vec![10; 129]],
                ..SignalsRecord::default()
            },
            SignalsRecord {
                tasks: vec![TaskSignals {
                    task: 1,
                    pending: vec![vec![65]],
                }],
                ..SignalsRecord::default()
            },
        ];
        assert!(damaged.iter().all(|record| check(record).is_err()));
    }
}
