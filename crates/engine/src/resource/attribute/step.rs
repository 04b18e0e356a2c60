//! The steps that give tasks and processes their attributes.

use std::fmt;

use cryonaut_sys::ptrace::{self, UserDispatch, segment};
use cryonaut_sys::task;
use cryonaut_tracee::{CallId, CallList};

use super::{ProcessAttributesRecord, SELECTABLE, TaskAttributesRecord};
use crate::Result;
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;

/// Sets what a task sets by itself.
pub(super) struct RestoreTask {
    pub(super) record: TaskAttributesRecord,
}

impl fmt::Display for RestoreTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restore attributes of task {}", self.record.task)
    }
}

impl RestoreTask {
    fn calls(&self, list: &mut CallList) -> Vec<(CallId, &'static str)> {
        const ARCH_SET_CPUID: i32 = 0x1012;
        const PR_MCE_KILL: i32 = 33;
        const PR_MCE_KILL_SET: i32 = 1;
        const PR_SET_IO_FLUSHER: i32 = 57;
        let record = &self.record;
        let mut calls = Vec::new();
        for control in record.speculation.chunks_exact(2) {
            // Where nobody may choose, the plan has seen that nothing is lost.
            if task::speculation_control(u64::from(control[0])).unwrap_or(0) & SELECTABLE == 0 {
                continue;
            }
            let arguments = [
                cryonaut_sys::uapi::PR_SET_SPECULATION_CTRL.into(),
                u64::from(control[0]).into(),
                u64::from(control[1] & !SELECTABLE).into(),
            ];
            calls.push((
                list.call(libc::SYS_prctl, &arguments),
                "setting a speculation control",
            ));
        }
        if record.counter_disabled {
            let arguments = [libc::PR_SET_TSC.into(), libc::PR_TSC_SIGSEGV.into()];
            calls.push((
                list.call(libc::SYS_prctl, &arguments),
                "disabling the time stamp counter",
            ));
        }
        if record.identification_disabled {
            calls.push((
                list.call(libc::SYS_arch_prctl, &[ARCH_SET_CPUID.into(), 0.into()]),
                "disabling the CPUID instruction",
            ));
        }
        if let Some(policy) = record.memory_error_policy {
            let arguments = [
                PR_MCE_KILL.into(),
                PR_MCE_KILL_SET.into(),
                u64::from(policy).into(),
            ];
            calls.push((
                list.call(libc::SYS_prctl, &arguments),
                "setting its policy for memory errors",
            ));
        }
        if record.flushes_storage {
            calls.push((
                list.call(libc::SYS_prctl, &[PR_SET_IO_FLUSHER.into(), 1.into()]),
                "having it serve storage devices (which takes CAP_SYS_RESOURCE)",
            ));
        }
        calls
    }
}

impl Action for RestoreTask {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.record;
        let mut list = CallList::new();
        let calls = self.calls(&mut list);
        if calls.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run_in_task(record.process, record.task, &list)?;
        for (call, what) in calls {
            outcomes
                .result(call)
                .attempt(|| format!("task {}: {what}", record.task))?;
        }
        Ok(())
    }
}

/// Sets from outside what would act upon the calls of a stub.
pub(super) struct ArmTask {
    pub(super) record: TaskAttributesRecord,
}

impl fmt::Display for ArmTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arm task {}:", self.record.task)?;
        if !self.record.dispatch.is_empty() {
            write!(f, " system call user dispatch")?;
        }
        if !self.record.breakpoints.is_empty() {
            write!(f, " hardware breakpoints")?;
        }
        Ok(())
    }
}

impl Action for ArmTask {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.record;
        let tid = rebuild.task(record.process, record.task)?;
        if let [mode, selector, offset, length] = record.dispatch[..] {
            let dispatch = UserDispatch {
                mode,
                selector,
                offset,
                length,
            };
            ptrace::set_user_dispatch(tid, &dispatch)
                .attempt(|| format!("task {}: setting system call user dispatch", record.task))?;
        }
        for (number, &value) in [0, 1, 2, 3, 7].iter().zip(&record.breakpoints) {
            segment::set_debug_register(tid, *number, value)
                .attempt(|| format!("task {}: setting hardware breakpoints", record.task))?;
        }
        Ok(())
    }
}

/// Gives a task the core scheduling cookie of its group.
pub(super) struct ShareCore {
    pub(super) process: i32,
    pub(super) task: i32,
    /// The first task of the group, which has the cookie; none when it is this one.
    pub(super) first: Option<(i32, i32)>,
}

impl fmt::Display for ShareCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            None => write!(f, "give task {} a core scheduling cookie", self.task),
            Some((_, first)) => write!(f, "task {} shares cores with task {first}", self.task),
        }
    }
}

impl Action for ShareCore {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        const PR_SCHED_CORE: i32 = 62;
        const PR_SCHED_CORE_SHARE_FROM: i32 = 3;
        let what = || format!("task {}: setting up core scheduling", self.task);
        let Some((_, first)) = self.first else {
            let tid = rebuild.task(self.process, self.task)?;
            return task::create_core_scheduling_cookie(tid).attempt(what);
        };
        let mut list = CallList::new();
        // The scope of a single thread is 0. The first task is known here by its id in the job.
        let arguments = [
            PR_SCHED_CORE.into(),
            PR_SCHED_CORE_SHARE_FROM.into(),
            first.into(),
            0.into(),
            0.into(),
        ];
        let call = list.call(libc::SYS_prctl, &arguments);
        let outcomes = rebuild.run_in_task(self.process, self.task, &list)?;
        outcomes.result(call).attempt(what).map(drop)
    }
}

/// Sets what belongs to a whole process. Before its threads are born, which some of it demands.
pub(super) struct RestoreProcess {
    pub(super) record: ProcessAttributesRecord,
    /// Whether it leads its session, so that the session's autogroup is its own.
    pub(super) leads: bool,
}

impl fmt::Display for RestoreProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        write!(f, "register memory barriers {:#x}", record.memory_barriers)?;
        if record.extended_permissions != 0 {
            write!(f, ", permit state {:#x}", record.extended_permissions)?;
        }
        if record.address_tag_bits != 0 {
            write!(f, ", ignore {} address bits", record.address_tag_bits)?;
        }
        if record.session_nice != 0 {
            write!(f, ", autogroup nice {}", record.session_nice)?;
        }
        Ok(())
    }
}

impl RestoreProcess {
    fn calls(&self, list: &mut CallList) -> Vec<(CallId, &'static str)> {
        const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
        const ARCH_ENABLE_TAGGED_ADDR: i32 = 0x4002;
        /// MEMBARRIER_CMD_REGISTER_{GLOBAL_EXPEDITED, PRIVATE_EXPEDITED, …_SYNC_CORE, …_RSEQ}.
        const REGISTER: [u32; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];
        let record = &self.record;
        let mut calls = Vec::new();
        for command in REGISTER {
            let arguments = [u64::from(command).into(), 0.into(), 0.into()];
            if record.memory_barriers & command != 0 {
                calls.push((
                    list.call(libc::SYS_membarrier, &arguments),
                    "registering for memory barriers",
                ));
            } else if record.memory_barriers_unknown {
                // What this kernel does not have it does not offer to the program either.
                list.call(libc::SYS_membarrier, &arguments);
            }
        }
        // Only the features from 17 on are ever asked for.
        for feature in (17..63_u64).filter(|bit| record.extended_permissions >> bit & 1 == 1) {
            let arguments = [ARCH_REQ_XCOMP_PERM.into(), feature.into()];
            let call = list.call(libc::SYS_arch_prctl, &arguments);
            // That of 17 comes with 18.
            if feature == 18 {
                calls.push((call, "asking for permission to use AMX"));
            }
        }
        if record.address_tag_bits != 0 {
            let arguments = [
                ARCH_ENABLE_TAGGED_ADDR.into(),
                u64::from(record.address_tag_bits).into(),
            ];
            calls.push((
                list.call(libc::SYS_arch_prctl, &arguments),
                "enabling linear address masking",
            ));
        }
        calls
    }

    fn set_session_nice(&self, pid: i32) -> Result<()> {
        let nice = self.record.session_nice;
        if nice == 0 || !self.leads {
            return Ok(());
        }
        let path = format!("/proc/{pid}/autogroup");
        // A machine without autogroups has nothing to set.
        if !std::path::Path::new(&path).exists() {
            return Ok(());
        }
        std::fs::write(path, nice.to_string()).attempt(|| {
            format!(
                "process {}: setting the nice value {nice} of its session's autogroup",
                self.record.process
            )
        })
    }
}

impl Action for RestoreProcess {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        let mut list = CallList::new();
        let calls = self.calls(&mut list);
        if !list.is_empty() {
            let outcomes = rebuild.run(process, &list)?;
            for (call, what) in calls {
                outcomes
                    .result(call)
                    .attempt(|| format!("process {process}: {what}"))?;
            }
        }
        self.set_session_nice(rebuild.built(process)?.pid)
    }
}
