//! Attributes of tasks and processes that prctl(2), arch_prctl(2) and their kin set, one bit or number each.
//!
//! Of each task: speculation controls, time stamp counter and CPUID instruction switched off, policy for memory errors, service of
//! storage devices, system call user dispatch, core scheduling, hardware breakpoints. Of each process: registrations of membarrier(2),
//! permission for extended state (AMX), linear address masking, the nice value of its session's autogroup (sched(7)).
//!
//! Read from /proc/PID/task/TID/stat (flags) and status, by ptrace(2), and by getters in the task; those go into the list that
//! [`super::thread`] runs anyway. Not preserved: which tracers Yama lets in (PR_SET_PTRACER), since the kernel does
//! not tell; that a control of speculation stood as the system has it, where the restart itself runs with a stricter one.

mod landlock;
mod login;
mod question;
mod step;
mod witness;

use std::collections::BTreeMap;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::{arch, task};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::credentials::CredentialsRecord;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

pub(crate) use question::Questions;
use step::{ArmTask, RestoreProcess, RestoreTask, ShareCore};
pub(crate) use witness::Witnesses;

/// Speculation controls by their numbers (PR_SPEC_STORE_BYPASS …): names, and the state that a program must ask for.
const CONTROLS: [&str; 3] = [
    "store bypass",
    "indirect branches",
    "flushing the L1 data cache",
];
/// PR_SPEC_PRCTL: the task itself may choose.
const SELECTABLE: u32 = 1;
const ENABLED: u32 = 1 << 1;
const DISABLED: u32 = 1 << 2;
/// PR_SPEC_DISABLE, PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE_NOEXEC.
const ANY_DISABLED: u32 = DISABLED | 1 << 3 | 1 << 4;

/// Attributes of one task. Most tasks have none, and no record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskAttributesRecord {
    /// Its process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its id.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// Speculation controls that it has set: number (PR_SPEC_STORE_BYPASS …) and state (`PR_SPEC_*` bits) in turn.
    #[prost(uint32, repeated, tag = "3")]
    pub speculation: Vec<u32>,
    /// Whether reading the time stamp counter is a fault (PR_SET_TSC).
    #[prost(bool, tag = "4")]
    pub counter_disabled: bool,
    /// Whether the CPUID instruction is a fault (ARCH_SET_CPUID).
    #[prost(bool, tag = "5")]
    pub identification_disabled: bool,
    /// Its policy for memory errors (PR_MCE_KILL): 0 late, 1 early; absent for the system's.
    #[prost(uint32, optional, tag = "6")]
    pub memory_error_policy: Option<u32>,
    /// Whether it serves a storage device (PR_SET_IO_FLUSHER).
    #[prost(bool, tag = "7")]
    pub flushes_storage: bool,
    /// System call user dispatch: mode, address of the selector, offset and length of the region; empty for off.
    #[prost(fixed64, repeated, tag = "8")]
    pub dispatch: Vec<u64>,
    /// Hardware breakpoints: debug registers 0 to 3 and 7; empty for none.
    #[prost(fixed64, repeated, tag = "9")]
    pub breakpoints: Vec<u64>,
    /// Tasks with the same number share processor cores with each other only; 0 for no such group.
    #[prost(uint32, tag = "10")]
    pub core_group: u32,
}

impl Record for TaskAttributesRecord {
    const KIND: Kind = Kind {
        name: "task.attributes",
        version: 1,
    };
}

/// Attributes of one process. A process with the usual ones has no record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessAttributesRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Registrations of membarrier(2): `MEMBARRIER_CMD_REGISTER_*` bits.
    #[prost(uint32, tag = "2")]
    pub memory_barriers: u32,
    /// Whether the kernel did not tell the registrations (before Linux 6.3): then all are made.
    #[prost(bool, tag = "3")]
    pub memory_barriers_unknown: bool,
    /// Features of extended state that it was given permission for (ARCH_GET_XCOMP_PERM); 0 for the usual ones.
    #[prost(fixed64, tag = "4")]
    pub extended_permissions: u64,
    /// Address bits that are ignored (ARCH_ENABLE_TAGGED_ADDR).
    #[prost(uint32, tag = "5")]
    pub address_tag_bits: u32,
    /// Nice value of the autogroup of the session that it leads.
    #[prost(sint32, tag = "6")]
    pub session_nice: i32,
}

impl Record for ProcessAttributesRecord {
    const KIND: Kind = Kind {
        name: "process.attributes",
        version: 1,
    };
}

/// The resource.
pub struct Attributes;

impl Resource for Attributes {
    fn name(&self) -> &'static str {
        "attributes"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[TaskAttributesRecord::KIND, ProcessAttributesRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    // All of them can be saved.
    fn inspect(&self, _: &Target, _: &mut Refusals) {}

    /// Those of tasks are put by [`super::thread`].
    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        for process in frozen.alive_mut() {
            let record = of_process(process)?;
            let usual = ProcessAttributesRecord {
                process: record.process,
                ..Default::default()
            };
            if record != usual {
                collection.put(&record)?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let processes: BTreeMap<i32, ProcessRecord> = records
            .all::<ProcessRecord>()?
            .into_iter()
            .map(|process| (process.pid, process))
            .collect();
        for record in records.all::<ProcessAttributesRecord>()? {
            if record.address_tag_bits != 0 && !host.features.contains("lam") {
                plan.refusals.add(
                    (record.process, ""),
                    "linear address masking",
                    "this processor or kernel does not have it",
                    "restart on a machine with a processor of the same kind",
                );
            }
            // A session that lies outside of the job keeps its own.
            let leads = processes
                .get(&record.process)
                .is_some_and(|process| process.session == process.pid);
            plan.step(
                Stage::Process,
                record.process,
                RestoreProcess { record, leads },
            );
        }
        login::plan(&records.all::<CredentialsRecord>()?, host, plan)?;
        let mut groups: BTreeMap<u32, (i32, i32)> = BTreeMap::new();
        for record in records.all::<TaskAttributesRecord>()? {
            check(&record, plan)?;
            if record.core_group != 0 && cores_are_shared(&record, plan) {
                let first = groups.get(&record.core_group).copied();
                groups
                    .entry(record.core_group)
                    .or_insert((record.process, record.task));
                plan.step(
                    Stage::Task,
                    record.process,
                    ShareCore {
                        process: record.process,
                        task: record.task,
                        first,
                    },
                );
            }
            if !record.dispatch.is_empty() || !record.breakpoints.is_empty() {
                let record = record.clone();
                plan.step(Stage::Confine, record.process, ArmTask { record });
            }
            plan.step(Stage::Task, record.process, RestoreTask { record });
        }
        Ok(())
    }
}

/// Checks one record against itself and this machine.
fn check(record: &TaskAttributesRecord, plan: &mut Plan) -> Result<()> {
    let sound = record.speculation.len().is_multiple_of(2)
        && matches!(record.dispatch.len(), 0 | 4)
        && matches!(record.breakpoints.len(), 0 | 5);
    if !sound {
        return Err(Error::Failed(format!(
            "the image is damaged: attributes of task {}",
            record.task
        )));
    }
    for control in record.speculation.chunks_exact(2) {
        let (number, wanted) = (control[0], control[1]);
        let here = task::speculation_control(u64::from(number)).unwrap_or(ENABLED);
        if is_lost(number, wanted, here) {
            plan.refusals.add(
                (record.process, ""),
                format!(
                    "the speculation control for {} of task {}",
                    CONTROLS.get(number as usize).unwrap_or(&"something"),
                    record.task
                ),
                "no task can set it on this machine, and it protects the program",
                "restart on a machine whose kernel has the mitigation (see mitigations= in the kernel's documentation)",
            );
        }
    }
    if record.identification_disabled && !arch::may_disable_identification() {
        plan.refusals.add(
            (record.process, ""),
            "the disabled CPUID instruction",
            "this processor cannot disable it for a process",
            "restart on a machine with a processor of the same kind",
        );
    }
    Ok(())
}

/// Whether a protection that a task had would be missing here, where a control stands as `here` says.
fn is_lost(number: u32, wanted: u32, here: u32) -> bool {
    const FLUSH: u32 = 2;
    if here & SELECTABLE != 0 {
        return false;
    }
    if number == FLUSH {
        // Here "enabled" is what protects.
        return wanted & ENABLED != 0 && here & ENABLED == 0;
    }
    // A processor that is not affected shows 0.
    wanted & ANY_DISABLED != 0 && here & ENABLED != 0
}

/// Whether a task's core scheduling can and must be set up here. Where no core runs two tasks at a time there is nothing to share.
fn cores_are_shared(record: &TaskAttributesRecord, plan: &mut Plan) -> bool {
    let Err(error) = task::core_scheduling_cookie(0) else {
        return true;
    };
    let active = std::fs::read("/sys/devices/system/cpu/smt/active").unwrap_or_default();
    if active.trim_ascii() == b"1" {
        plan.refusals.add(
            (record.process, ""),
            format!("the core scheduling of task {}", record.task),
            format!(
                "this kernel does not have it ({error}), and others would share its processor cores"
            ),
            "restart on a machine with CONFIG_SCHED_CORE, or without simultaneous multithreading",
        );
    }
    false
}

/// Reads what belongs to a whole process.
fn of_process(process: &mut FrozenProcess) -> Result<ProcessAttributesRecord> {
    const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;
    const MEMBARRIER_CMD_QUERY: i32 = 0;
    const ARCH_GET_XCOMP_PERM: i32 = 0x1022;
    /// Features of extended state that a program must ask for: XFEATURE_XTILEDATA.
    const ON_DEMAND: u64 = 1 << 18;
    let mut list = CallList::new();
    let permitted = list.space(8);
    let ask = |list: &mut CallList, command: i32| {
        list.call(libc::SYS_membarrier, &[command.into(), 0.into(), 0.into()])
    };
    let commands = ask(&mut list, MEMBARRIER_CMD_QUERY);
    let registrations = ask(&mut list, MEMBARRIER_CMD_GET_REGISTRATIONS);
    let permissions = list.call(
        libc::SYS_arch_prctl,
        &[ARCH_GET_XCOMP_PERM.into(), permitted.into()],
    );
    let outcomes = process.run(0, &list)?;
    let known = outcomes.result(registrations);
    let extended = match outcomes.result(permissions) {
        Ok(_) if outcomes.word(permitted) & ON_DEMAND != 0 => outcomes.word(permitted),
        _ => 0,
    };
    let status = process.directory.read("status")?;
    Ok(ProcessAttributesRecord {
        process: process.inner,
        memory_barriers_unknown: known.is_err() && outcomes.result(commands).is_ok(),
        memory_barriers: known.unwrap_or(0) as u32,
        extended_permissions: extended,
        address_tag_bits: address_tag_bits(&status),
        session_nice: session_nice(&process.directory).unwrap_or(0),
    })
}

/// The number of address bits that the line `untag_mask` of a status file (Linux 6.4) says are ignored.
fn address_tag_bits(status: &[u8]) -> u32 {
    status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"untag_mask:"))
        .and_then(|mask| std::str::from_utf8(mask).ok()?.trim().strip_prefix("0x"))
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .map_or(0, u64::count_zeros)
}

/// The nice value of the autogroup of a process' session (/proc/PID/autogroup), where there are autogroups.
fn session_nice(directory: &ProcessDirectory) -> Option<i32> {
    let text = directory.read("autogroup").ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    text.rsplit_once("nice")?.1.trim().parse().ok()
}

/// Puts the attributes of the tasks of a job, in the order of [`super::thread`]; core scheduling is told apart by groups, since
/// the kernel's cookies mean nothing to another kernel.
#[derive(Default)]
pub(crate) struct Groups {
    numbers: BTreeMap<u64, u32>,
}

impl Groups {
    /// The number of the group with this cookie.
    pub(crate) fn of(&mut self, tid: i32) -> u32 {
        match task::core_scheduling_cookie(tid) {
            Err(_) | Ok(0) => 0,
            Ok(cookie) => {
                let next = self.numbers.len() as u32 + 1;
                *self.numbers.entry(cookie).or_insert(next)
            }
        }
    }
}

impl TaskAttributesRecord {
    /// Puts it, unless all is as usual.
    pub(crate) fn put(&self, collection: &mut Collection) -> Result<()> {
        let usual = Self {
            process: self.process,
            task: self.task,
            ..Default::default()
        };
        if *self == usual {
            return Ok(());
        }
        collection.put(self)
    }
}

/// The refusal of something that a task has.
fn refused(process: &FrozenProcess, tid: i32, what: &str, reason: &str, remedy: &str) -> Error {
    let mut refusals = Refusals::default();
    let name = process.name();
    let object = format!("{what} of task {tid}");
    refusals.add((process.pid, &name), object, reason, remedy);
    refusals.into_result().expect_err("there is a refusal")
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Speculation controls of a program's own (PR_SET_SPECULATION_CTRL)",
        level: Level::Restored,
        how: "of each thread; a machine that lacks a mitigation in use is refused at restart",
    },
    Support {
        what: "A disabled time stamp counter (PR_SET_TSC) or CPUID instruction (ARCH_SET_CPUID)",
        level: Level::Restored,
        how: "of each thread",
    },
    Support {
        what: "Memory error policy (PR_MCE_KILL), servers of storage devices (PR_SET_IO_FLUSHER)",
        level: Level::Restored,
        how: "of each thread; the latter takes CAP_SYS_RESOURCE at restart",
    },
    Support {
        what: "System call user dispatch (Wine)",
        level: Level::Restored,
        how: "of each thread, with the selector's address; before Linux 6.4 the kernel does not tell of it",
    },
    Support {
        what: "Core scheduling",
        level: Level::Restored,
        how: "the same tasks share cores again, under new cookies",
    },
    Support {
        what: "Hardware breakpoints that a debugger left behind",
        level: Level::Restored,
        how: "of each thread",
    },
    Support {
        what: "membarrier registrations, permission for AMX (ARCH_REQ_XCOMP_PERM), linear address masking, nice value of an autogroup",
        level: Level::Restored,
        how: "before Linux 6.3, where the kernel does not tell registrations, all of them are made",
    },
    Support {
        what: "Landlock domains",
        level: Level::Refused,
        how: "the kernel has no way to hand them over, so start the program without its sandbox; not seen where a security label \
              other than that of cryo keeps the job from looking at others, and where cryo is in the same domain",
    },
    Support {
        what: "Login user (audit)",
        level: Level::Restored,
        how: "by root; otherwise that of the restart, and a remark says so",
    },
    Support {
        what: "Keyrings of threads and processes",
        level: Level::Refused,
        how: "have the program keep its keys in its user keyring",
    },
    Support {
        what: "Session keyrings; the cgroup",
        level: Level::Partly,
        how: "those of the restart: what only the session keyring led to is not there; have the program link it to its user keyring",
    },
    Support {
        what: "I/O ports: those of ioperm; all of them by iopl",
        level: Level::Partly,
        how: "a program with those of ioperm is refused, being a driver of devices; the kernel does not show what iopl permits, to \
              root alone: not there after a restart",
    },
    Support {
        what: "Tracers that Yama lets in (PR_SET_PTRACER)",
        level: Level::Partly,
        how: "the kernel does not tell them: nobody is let in until the program asks again",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn records_make_a_round_trip() {
        let record = TaskAttributesRecord {
            process: 4,
            task: 5,
            speculation: vec![0, 9],
            counter_disabled: true,
            identification_disabled: true,
            memory_error_policy: Some(0),
            flushes_storage: true,
            dispatch: vec![1, 2, 3, 4],
            breakpoints: vec![1, 2, 3, 4, 5],
            core_group: 1,
        };
        assert_eq!(
            TaskAttributesRecord::decode(record.encode_to_vec().as_slice()),
            Ok(record)
        );
        let record = ProcessAttributesRecord {
            process: 4,
            memory_barriers: 16,
            memory_barriers_unknown: true,
            extended_permissions: 1 << 18,
            address_tag_bits: 6,
            session_nice: -3,
        };
        assert_eq!(
            ProcessAttributesRecord::decode(record.encode_to_vec().as_slice()),
            Ok(record)
        );
    }

    #[test]
    fn address_masks_are_counted() {
        assert_eq!(address_tag_bits(b"untag_mask:\t0xffffffffffffffff\n"), 0);
        assert_eq!(address_tag_bits(b"Name:\tcat\n"), 0);
        assert_eq!(address_tag_bits(b"untag_mask:\t0x81ffffffffffffff\n"), 6);
    }

    #[test]
    fn protections_that_a_machine_lacks_are_found() {
        let (bypass, flush) = (0, 2);
        // Vulnerable, and nobody may choose.
        assert!(is_lost(bypass, SELECTABLE | DISABLED, ENABLED));
        assert!(!is_lost(
            bypass,
            SELECTABLE | DISABLED,
            SELECTABLE | ENABLED
        ));
        // Not affected; always mitigated.
        assert!(!is_lost(bypass, SELECTABLE | DISABLED, 0));
        assert!(!is_lost(bypass, SELECTABLE | DISABLED, DISABLED));
        assert!(!is_lost(bypass, SELECTABLE | ENABLED, ENABLED));
        assert!(is_lost(flush, SELECTABLE | ENABLED, 1 << 3));
        assert!(!is_lost(flush, SELECTABLE | DISABLED, 1 << 3));
    }
}
