//! What a task is asked about itself, as part of a list that it runs anyway.

use cryonaut_sys::ptrace::segment;
use cryonaut_tracee::{BufferId, CallId, CallList, Outcomes};

use super::witness::Witnesses;
use super::{CONTROLS, DISABLED, ENABLED, SELECTABLE, TaskAttributesRecord, landlock, refused};
use crate::Result;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;

const ARCH_GET_CPUID: i32 = 0x1011;
const KEYCTL_GET_KEYRING_ID: i32 = 0;
/// KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING.
const KEYRINGS: [(i32, &str); 2] = [(-1, "thread"), (-2, "process")];

/// The calls of the questions in a list.
pub(crate) struct Questions {
    speculation: [CallId; CONTROLS.len()],
    counter: BufferId,
    identification: CallId,
    keyrings: [CallId; KEYRINGS.len()],
    landlock: landlock::Question,
}

impl Questions {
    /// Adds the questions to a list: getters only.
    pub(crate) fn ask(list: &mut CallList) -> Self {
        let counter = list.space(8);
        list.call(libc::SYS_prctl, &[libc::PR_GET_TSC.into(), counter.into()]);
        let control = |list: &mut CallList, control: usize| {
            let arguments = [
                cryonaut_sys::uapi::PR_GET_SPECULATION_CTRL.into(),
                (control as u64).into(),
            ];
            list.call(libc::SYS_prctl, &arguments)
        };
        // Asked for without being created: an error where there is none.
        let keyring = |list: &mut CallList, which: i32| {
            let arguments = [KEYCTL_GET_KEYRING_ID.into(), which.into(), 0.into()];
            list.call(libc::SYS_keyctl, &arguments)
        };
        Self {
            speculation: [0, 1, 2].map(|number| control(list, number)),
            counter,
            identification: list.call(libc::SYS_arch_prctl, &[ARCH_GET_CPUID.into()]),
            keyrings: KEYRINGS.map(|(which, _)| keyring(list, which)),
            landlock: landlock::Question::ask(list),
        }
    }

    /// The answers, with what a tracer sees and what the task's flags (/proc/PID/task/TID/stat) tell.
    pub(crate) fn answers(
        &self,
        outcomes: &Outcomes,
        process: &FrozenProcess,
        index: usize,
        flags: u32,
    ) -> Result<TaskAttributesRecord> {
        // Flags of include/linux/sched.h: PF_MCE_PROCESS, PF_MCE_EARLY; PF_MEMALLOC_NOIO with PF_LOCAL_THROTTLE.
        const MACHINE_CHECK: u32 = 0x0000_0080;
        const MACHINE_CHECK_EARLY: u32 = 0x0800_0000;
        const FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
        let task = &process.tasks[index];
        let tid = task.stopped.tid();
        self.refuse_keys(outcomes, process, tid)?;
        if segment::uses_ports(tid) {
            return Err(refused(
                process,
                tid,
                "the I/O ports",
                "it drives devices by itself (ioperm), whose state is in the device",
                "do not checkpoint drivers of devices",
            ));
        }
        let dispatch = task.stopped.dispatch();
        Ok(TaskAttributesRecord {
            process: process.inner,
            task: task.inner,
            speculation: self.speculation(outcomes),
            counter_disabled: outcomes.word(self.counter) as u32 == libc::PR_TSC_SIGSEGV as u32,
            identification_disabled: matches!(outcomes.result(self.identification), Ok(0)),
            memory_error_policy: (flags & MACHINE_CHECK != 0)
                .then_some(u32::from(flags & MACHINE_CHECK_EARLY != 0)),
            flushes_storage: flags & FLUSHER == FLUSHER,
            dispatch: match dispatch.mode {
                0 => Vec::new(),
                mode => vec![mode, dispatch.selector, dispatch.offset, dispatch.length],
            },
            breakpoints: breakpoints(tid)?,
            core_group: 0,
        })
    }

    /// Refuses a task that is in a Landlock domain.
    ///
    /// # Errors
    /// The refusal; when the task stumbles.
    pub(crate) fn refuse_domain(
        &self,
        outcomes: &Outcomes,
        (process, index): (&mut FrozenProcess, usize),
        witnesses: &mut Witnesses,
    ) -> Result<()> {
        if !witnesses.are_needed() {
            return Ok(());
        }
        let asked = (&mut *process, index);
        match self.landlock.reason_against(outcomes, asked, witnesses)? {
            None => Ok(()),
            Some(reason) => Err(refused(
                process,
                process.tasks[index].stopped.tid(),
                "the Landlock domain",
                &reason,
                "start the program without its sandbox",
            )),
        }
    }

    /// Controls that stand otherwise than in a task that never asked.
    fn speculation(&self, outcomes: &Outcomes) -> Vec<u32> {
        const FLUSH: usize = 2;
        let mut set = Vec::new();
        for (number, call) in self.speculation.into_iter().enumerate() {
            let usual = if number == FLUSH { DISABLED } else { ENABLED };
            match outcomes.result(call) {
                Ok(state)
                    if state as u32 & SELECTABLE != 0 && state as u32 != SELECTABLE | usual =>
                {
                    set.extend([number as u32, state as u32]);
                }
                _ => {}
            }
        }
        set
    }

    fn refuse_keys(&self, outcomes: &Outcomes, process: &FrozenProcess, tid: i32) -> Result<()> {
        for (call, (_, whose)) in self.keyrings.into_iter().zip(KEYRINGS) {
            if outcomes.result(call).is_ok() {
                return Err(refused(
                    process,
                    tid,
                    &format!("the {whose} keyring"),
                    "its keys are in the kernel, and are not saved",
                    "have the program keep them in its user keyring, or revoke them first (keyctl)",
                ));
            }
        }
        Ok(())
    }
}

/// Debug registers 0 to 3 and 7, if any breakpoint is armed.
fn breakpoints(tid: i32) -> Result<Vec<u64>> {
    let read = |number: usize| {
        segment::debug_register(tid, number)
            .attempt(|| format!("task {tid}: reading its hardware breakpoints"))
    };
    match read(7)? {
        0 => Ok(Vec::new()),
        _ => [0, 1, 2, 3, 7].into_iter().map(read).collect(),
    }
}
