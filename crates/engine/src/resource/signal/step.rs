//! The steps that rebuild signal actions and pending signals.

use std::fmt;

use cryonaut_sys::{ptrace, task};
use cryonaut_tracee::{Argument, CallList};

use super::action::{ACTION_SIZE, MASK_SIZE, encode_action, settable};
use super::pending::{padded, signal_of};
use super::{SignalAction, SignalsRecord, TaskSignals};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;
use crate::resource::limits::{PENDING_SIGNALS, name_of};
use crate::{Error, Result};

/// Pending signals that are sent in one list.
const AT_ONCE: usize = 200;

/// Sets all actions, those of the default too: what the restart itself was started with must not shine through.
pub struct SetActions {
    pub(super) process: i32,
    pub(super) actions: Vec<SignalAction>,
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
pub struct QueueSignals {
    pub(super) record: SignalsRecord,
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
pub struct FinishTrap {
    process: i32,
    ignored: Option<SignalAction>,
    /// `siginfo_t` of the one that is pending for the process.
    pending: Option<Vec<u8>>,
    /// Tasks with one of their own.
    tasks: Vec<(i32, Vec<u8>)>,
}

impl FinishTrap {
    /// What is left to be done for a process, if anything is.
    pub(super) fn of(record: &SignalsRecord) -> Option<Self> {
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
pub fn block_trap(rebuild: &Rebuild<'_>, process: i32) -> Result<()> {
    for &(task, tid) in &rebuild.built(process)?.tasks {
        ptrace::set_signal_mask(tid, !0).attempt(|| format!("task {task}: blocking SIGTRAP"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::SignalsRecord;
    use super::*;

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
}
