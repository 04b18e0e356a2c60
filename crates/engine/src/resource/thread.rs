//! Tasks: registers, extended processor state, thread-local storage, signal mask and stack, robust list, rseq, scheduling, name.
//!
//! Read by ptrace (registers, masks, rseq), get_robust_list, sched_getattr, sched_getaffinity, ioprio_get; signal stack,
//! clear_child_tid, parent-death signal and timer slack are asked of the task itself. Interrupted system calls are restored with
//! the kernel's own restart block where the remaining time is known (the remainder argument of nanosleep); other relative
//! time-outs start afresh. Not preserved: processor time used, the processor last run on.

mod default_slack;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::arch::{self, Interrupted, Registers};
use cryonaut_sys::ptrace;
use cryonaut_sys::task;
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::processor;
use crate::rebuild::Rebuild;
use crate::resource::attribute::{Groups, Questions, TaskAttributesRecord, Witnesses};
use crate::resource::memory::{self, MemoryPolicy, PolicyQuestion};
use crate::resource::sharing::{Shared, Sharing};
use crate::resource::{Level, Resource, Support, scheduling};
use crate::target::Target;
use crate::{Error, Refusal, Refusals, Result};

/// Room for the extended processor state: AMX needs about 11 KiB.
const EXTENDED_STATE: usize = 16 * 1024;
const PR_GET_PDEATHSIG: i32 = 2;
const PR_SET_PDEATHSIG: i32 = 1;
const PR_SET_NAME: i32 = 15;
const PR_SET_TIMERSLACK: i32 = 29;
const PR_GET_TIMERSLACK: i32 = 30;
const PR_GET_TID_ADDRESS: i32 = 40;

/// One task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskRecord {
    /// Its process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its id.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// General registers, in the order of `struct user_regs_struct`.
    #[prost(fixed64, repeated, tag = "3")]
    pub registers: Vec<u64>,
    /// The xsave area in standard format.
    #[prost(bytes = "vec", tag = "4")]
    pub extended: Vec<u8>,
    /// Blocked signals; bit 0 is signal 1.
    #[prost(fixed64, tag = "5")]
    pub mask: u64,
    /// Signal stack (`stack_t`): address, flags, size.
    #[prost(uint64, repeated, tag = "6")]
    pub signal_stack: Vec<u64>,
    /// Where the kernel clears the id at the task's end; 0 for nowhere.
    #[prost(fixed64, tag = "7")]
    pub clear_child_tid: u64,
    /// Head and length of the robust futex list.
    #[prost(fixed64, repeated, tag = "8")]
    pub robust_list: Vec<u64>,
    /// rseq registration: address, length, signature.
    #[prost(uint64, repeated, tag = "9")]
    pub rseq: Vec<u64>,
    /// The name (at most 15 bytes).
    #[prost(bytes = "vec", tag = "10")]
    pub name: Vec<u8>,
    /// Scheduling: policy, flags, nice, priority, minimal and maximal utilization; run time (of a fair task its slice, 0 for the
    /// usual one), deadline and period in ns.
    #[prost(sint64, repeated, tag = "11")]
    pub scheduling: Vec<i64>,
    /// Processors it may run on.
    #[prost(uint64, repeated, tag = "12")]
    pub affinity: Vec<u64>,
    /// I/O priority.
    #[prost(int32, tag = "13")]
    pub io_priority: i32,
    /// Timer slack in ns.
    #[prost(uint64, tag = "14")]
    pub timer_slack: u64,
    /// The signal that it gets when its parent ends.
    #[prost(int32, tag = "15")]
    pub parent_death_signal: i32,
    /// What remains of an interrupted sleep, in ns.
    #[prost(uint64, optional, tag = "16")]
    pub remaining: Option<u64>,
    /// Its memory policy, if it has one (set_mempolicy(2)).
    #[prost(message, optional, tag = "24")]
    pub policy: Option<MemoryPolicy>,
    /// Where the xsave area has its parts beyond the first 576 bytes, which differs between processors: number, offset and length
    /// in bytes, and so on.
    #[prost(uint32, repeated, tag = "25")]
    pub extended_layout: Vec<u32>,
    /// The timer slack in ns that it goes back to when it asks for none, if that is another than the usual 50 µs.
    #[prost(uint64, optional, tag = "26")]
    pub default_timer_slack: Option<u64>,
}

impl Record for TaskRecord {
    const KIND: Kind = Kind {
        name: "task",
        version: 1,
    };
}

/// The resource.
pub struct Threads;

impl Resource for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[TaskRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _: &Target, _: &mut Refusals) {}

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut largest = 0;
        let mut groups = Groups::default();
        let mut witnesses = Witnesses::none();
        for process in frozen.alive_mut() {
            for index in 0..process.tasks.len() {
                let knowing = (&mut groups, &mut witnesses);
                let (record, attributes) = collect_task(process, index, knowing)?;
                largest = largest.max(record.extended.len());
                collection.put(&record)?;
                attributes.put(collection)?;
            }
        }
        collection
            .needs
            .insert("cpu.xsave-bytes".into(), largest.to_string());
        let needed = processor::needed(frozen)?;
        collection.needs.insert("cpu.features".into(), needed);
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let mut tasks = records.all::<TaskRecord>()?;
        memory::leave_out_policies(tasks.iter_mut().map(|task| &mut task.policy), plan);
        translate_states(&mut tasks, plan);
        default_slack::plan(&tasks, plan);
        for task in tasks.iter().cloned() {
            if task.registers.len() != REGISTER_COUNT {
                return Err(Error::Failed(format!(
                    "task {}: its registers are damaged in the image",
                    task.task
                )));
            }
            scheduling::check(&task, host, plan);
            let process = task.process;
            plan.step(Stage::Task, process, RestoreTask { task: task.clone() });
            plan.step(Stage::Finish, process, FinishTask { task });
        }
        plan_farewells(records, &tasks, plan)?;
        for task in tasks {
            plan.step(Stage::Release, task.process, SetRegisters { task });
        }
        Ok(())
    }
}

/// The last that processes do for us: each table of descriptors is rid of the channel, each memory of the stub.
fn plan_farewells(records: &RecordSet, tasks: &[TaskRecord], plan: &mut Plan) -> Result<()> {
    let sharing = Sharing::of(records)?;
    let mut sleeps: BTreeMap<i32, Vec<Sleep>> = BTreeMap::new();
    for task in tasks {
        if let Some(remaining) = task.remaining {
            let sleep = Sleep {
                process: task.process,
                task: task.task,
                registers: Registers::from_words(&task.registers),
                remaining,
            };
            let memory = sharing.of_process(Shared::Memory, task.process);
            sleeps.entry(memory).or_default().push(sleep);
        }
    }
    let processes = records.all::<super::process::ProcessRecord>()?;
    for process in processes.iter().filter(|process| process.zombie.is_none()) {
        let mut tables = sharing.apart(Shared::Descriptors, process.pid, &process.tasks);
        if sharing.holds(Shared::Descriptors, process.pid) {
            tables.push(process.pid);
        }
        for table in tables {
            plan.step(Stage::Finish, process.pid, CloseChannel { process: table });
        }
        if sharing.holds(Shared::Memory, process.pid) {
            let sleeps = sleeps.remove(&process.pid).unwrap_or_default();
            let process = process.pid;
            plan.step(Stage::Release, process, RemoveStub { process, sleeps });
        }
    }
    Ok(())
}

const REGISTER_COUNT: usize = 27;

/// Makes the extended states those of this processor, and refuses what it has no place for.
fn translate_states(tasks: &mut [TaskRecord], plan: &mut Plan) {
    let Some(size) = arch::extended_state_size() else {
        return;
    };
    let own = arch::extended_state_layout();
    let mut missing = BTreeSet::new();
    for task in tasks {
        // Earlier images do not tell where the parts lie: then as here.
        let saved = match task.extended_layout.as_slice() {
            [] => own.clone(),
            words => processor::from_words(words),
        };
        if saved == own && task.extended.len() == size {
            continue;
        }
        match processor::translate(&task.extended, (&saved, &own), size) {
            Ok(state) => task.extended = state,
            Err(parts) => missing.extend(parts),
        }
    }
    if !missing.is_empty() {
        let parts: Vec<String> = missing.into_iter().collect();
        plan.refusals.add_for_job(
            "processor state",
            format!(
                "this processor lacks what the job was using: {}",
                parts.join(", ")
            ),
            "restart on a machine with a processor of the same or a newer kind",
        );
    }
}

fn collect_task(
    process: &mut FrozenProcess,
    index: usize,
    (groups, witnesses): (&mut Groups, &mut Witnesses),
) -> Result<(TaskRecord, TaskAttributesRecord)> {
    let (tid, inner) = (
        process.tasks[index].stopped.tid(),
        process.tasks[index].inner,
    );
    let registers = *process.tasks[index].stopped.registers();
    let registers = as_first_interrupted(process, &registers).unwrap_or(registers);
    let mask = process.tasks[index].stopped.mask();
    let what = |what: &'static str| move || format!("task {tid}: {what}");
    if !registers.is_user_64bit() {
        return Err(Error::Refused(vec![Refusal {
            pid: process.pid,
            process: process.name(),
            object: format!("task {tid}"),
            reason: "it runs 32-bit code".into(),
            remedy: "use a 64-bit build of the program".into(),
        }]));
    }
    let mut extended = vec![0; EXTENDED_STATE];
    let length =
        ptrace::extended_state(tid, &mut extended).attempt(what("reading its processor state"))?;
    extended.truncate(length);
    let mut list = CallList::new();
    let stack = list.space(24);
    let address = list.space(8);
    let death = list.space(8);
    let stack_call = list.call(libc::SYS_sigaltstack, &[0.into(), stack.into()]);
    let address_call = list.call(
        libc::SYS_prctl,
        &[PR_GET_TID_ADDRESS.into(), address.into()],
    );
    let death_call = list.call(libc::SYS_prctl, &[PR_GET_PDEATHSIG.into(), death.into()]);
    let slack_call = list.call(libc::SYS_prctl, &[PR_GET_TIMERSLACK.into()]);
    let default_slack = default_slack::Question::of_task(&mut list, slack_call);
    let policy = PolicyQuestion::of_task(&mut list);
    let questions = Questions::ask(&mut list);
    let outcomes = process.run(index, &list)?;
    outcomes
        .result(stack_call)
        .attempt(what("asking for its signal stack"))?;
    outcomes
        .result(address_call)
        .attempt(what("asking for clear_child_tid"))?;
    outcomes
        .result(death_call)
        .attempt(what("asking for its parent-death signal"))?;
    let timer_slack = outcomes
        .result(slack_call)
        .attempt(what("asking for its timer slack"))?;
    let word = |at: usize| {
        u64::from_le_bytes(
            outcomes.buffer(stack)[at..at + 8]
                .try_into()
                .expect("eight bytes"),
        )
    };
    let robust = task::robust_list(tid).attempt(what("reading its robust list"))?;
    let rseq = ptrace::rseq_configuration(tid).unwrap_or_default();
    // Of a thread, its name and flags.
    let stat = if index == 0 && !process.has_lost_leader() {
        process.stat.clone()
    } else {
        process.directory.task(tid)?.stat()?
    };
    questions.refuse_domain(&outcomes, (process, index), witnesses)?;
    let mut attributes = questions.answers(&outcomes, process, index, stat.flags)?;
    attributes.core_group = groups.of(tid);
    let record = TaskRecord {
        process: process.inner,
        task: inner,
        registers: registers.to_words().to_vec(),
        extended,
        mask,
        signal_stack: vec![word(0), word(8) & 0xffff_ffff, word(16)],
        clear_child_tid: outcomes.word(address),
        robust_list: vec![robust.head, robust.length],
        rseq: vec![
            rseq.address,
            u64::from(rseq.length),
            u64::from(rseq.signature),
        ],
        name: stat.comm,
        scheduling: scheduling::read(tid)?,
        affinity: task::affinity(tid).attempt(what("reading its affinity"))?,
        io_priority: task::io_priority(tid).attempt(what("reading its I/O priority"))?,
        timer_slack,
        default_timer_slack: default_slack
            .answer(&outcomes, timer_slack)
            .attempt(what("asking for its default timer slack"))?,
        parent_death_signal: outcomes.word(death) as i32,
        remaining: remaining_time(process, &registers),
        extended_layout: processor::to_words(&arch::extended_state_layout()),
        policy: policy
            .answer(&outcomes)
            .attempt(what("asking for its memory policy"))?,
    };
    Ok((record, attributes))
}

/// A call that was interrupted before, by an earlier checkpoint or a signal, goes on as restart_syscall(2), which means nothing in
/// another life. Nearly every program loads the number of a call right before it; for those that call syscall(3) the arguments tell.
fn as_first_interrupted(process: &FrozenProcess, registers: &Registers) -> Option<Registers> {
    let end = registers.continued_call()?.checked_add(2)?;
    let mut code = [0; arch::CODE_BEFORE_CALL];
    // The second is for code at the beginning of its area.
    let code = [arch::CODE_BEFORE_CALL, 7].into_iter().find_map(|length| {
        let place = end.checked_sub(length as u64)?;
        process.read(place, &mut code[..length]).ok()?;
        Some(code[..length].to_vec())
    })?;
    let number = registers
        .continued_number(&code)
        .or_else(|| by_arguments(process, registers).filter(|_| code.ends_with(&arch::SYSCALL)))?;
    registers.interrupted_first(number)
}

/// Which of the calls that wait with a time-out and are continued these arguments can be of.
fn by_arguments(process: &FrozenProcess, registers: &Registers) -> Option<i64> {
    /// FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
    const FLAGS: u64 = 0x180;
    const WAIT: u64 = 0;
    const WAIT_BITSET: u64 = 9;
    const LAST_CLOCK: u64 = 11;
    let [first, second, third, fourth, ..] = registers.arguments();
    let is_time = |place: u64| {
        let mut time = [0; 16];
        let nanoseconds =
            |time: &[u8; 16]| i64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|at| time[at]));
        process.read(place, &mut time).is_ok() && (0..1_000_000_000).contains(&nanoseconds(&time))
    };
    let mut word = [0; 4];
    let waits_at = |place: u64, word: &mut [u8; 4]| {
        place.is_multiple_of(4)
            && process.read(place, word).is_ok()
            && u32::from_le_bytes(*word) == third as u32
    };
    if matches!(second & !FLAGS, WAIT | WAIT_BITSET)
        && waits_at(first, &mut word)
        && is_time(fourth)
    {
        return Some(libc::SYS_futex);
    }
    (first <= LAST_CLOCK && second == 0 && is_time(third)).then_some(libc::SYS_clock_nanosleep)
}

/// What remains of an interrupted sleep: the kernel has written it to the call's remainder argument, if it has one.
fn remaining_time(process: &FrozenProcess, registers: &Registers) -> Option<u64> {
    if registers.interrupted() != Interrupted::FromRestartBlock {
        return None;
    }
    let arguments = registers.arguments();
    let remainder = match registers.system_call()? as i64 {
        libc::SYS_nanosleep => arguments[1],
        libc::SYS_clock_nanosleep => arguments[3],
        _ => 0,
    };
    let mut time = [0_u8; 16];
    if remainder == 0 || process.read(remainder, &mut time).is_err() {
        return None;
    }
    let seconds = i64::from_le_bytes(time[..8].try_into().ok()?);
    let nanoseconds = i64::from_le_bytes(time[8..].try_into().ok()?);
    u64::try_from(
        seconds
            .checked_mul(1_000_000_000)?
            .checked_add(nanoseconds)?,
    )
    .ok()
}

/// Everything of a task but its registers.
struct RestoreTask {
    task: TaskRecord,
}

impl fmt::Display for RestoreTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(&self.task.name);
        write!(
            f,
            "restore task {} ({name}): name, signal stack, robust list, scheduling",
            self.task.task
        )
    }
}

impl Action for RestoreTask {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.task;
        let tid = rebuild.task(record.process, record.task)?;
        let mut list = CallList::new();
        let mut name = record.name.clone();
        name.truncate(15);
        let name = list.path(&name);
        let mut calls = vec![
            (
                list.call(libc::SYS_prctl, &[PR_SET_NAME.into(), name.into()]),
                "setting its name",
            ),
            (
                list.call(
                    libc::SYS_prctl,
                    &[PR_SET_TIMERSLACK.into(), record.timer_slack.into()],
                ),
                "setting its timer slack",
            ),
            // Its result is the task's id.
            (
                list.call(libc::SYS_set_tid_address, &[record.clear_child_tid.into()]),
                "setting clear_child_tid",
            ),
        ];
        if let [address, flags, size] = record.signal_stack[..] {
            // A task on its signal stack now (SS_ONSTACK) gets it set all the same: its registers are elsewhere.
            const SS_ONSTACK: u64 = 1;
            let stack = list.space(24);
            list.set_word(stack, 0, address);
            list.set_word(stack, 8, flags & !SS_ONSTACK);
            list.set_word(stack, 16, size);
            calls.push((
                list.call(libc::SYS_sigaltstack, &[stack.into(), 0.into()]),
                "setting its signal stack",
            ));
        }
        if let [head, length] = record.robust_list[..]
            && head != 0
        {
            let arguments = [head.into(), length.into()];
            calls.push((
                list.call(libc::SYS_set_robust_list, &arguments),
                "setting its robust list",
            ));
        }
        if record.io_priority >> 13 != 0 {
            let arguments = [1.into(), 0.into(), record.io_priority.into()];
            calls.push((
                list.call(libc::SYS_ioprio_set, &arguments),
                "setting its I/O priority",
            ));
        }
        // The default is set too: that of whoever restarts must not shine through.
        let arguments = memory::policy_arguments(&mut list, record.policy.as_ref());
        let policy = list.call(libc::SYS_set_mempolicy, &arguments);
        if record.policy.is_some() {
            calls.push((policy, "setting its memory policy"));
        }
        let outcomes = rebuild.run_in_task(record.process, record.task, &list)?;
        for (call, what) in calls {
            outcomes
                .result(call)
                .attempt(|| format!("task {}: {what}", record.task))?;
        }
        scheduling::restore(tid, record, rebuild.processors())
    }
}

/// The last that a task does as a stub: rseq and an interrupted sleep.
struct FinishTask {
    task: TaskRecord,
}

impl fmt::Display for FinishTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "finish task {}: rseq", self.task.task)?;
        match self.task.remaining {
            Some(time) => write!(f, ", {} ms of sleep remaining", time / 1_000_000),
            None => Ok(()),
        }
    }
}

impl Action for FinishTask {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.task;
        let mut list = CallList::new();
        let mut calls = Vec::new();
        if record.parent_death_signal != 0 {
            // Not before the credentials: changing those clears it.
            let arguments = [PR_SET_PDEATHSIG.into(), record.parent_death_signal.into()];
            calls.push((
                list.call(libc::SYS_prctl, &arguments),
                "setting its parent-death signal",
            ));
        }
        if let [address, length, signature] = record.rseq[..]
            && address != 0
        {
            let arguments = [address.into(), length.into(), 0.into(), signature.into()];
            calls.push((list.call(libc::SYS_rseq, &arguments), "registering rseq"));
        }
        if list.is_empty() {
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

/// The last list that a process runs.
struct CloseChannel {
    process: i32,
}

impl fmt::Display for CloseChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "close the channel")
    }
}

impl Action for CloseChannel {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.close_channel(self.process)
    }
}

struct RemoveStub {
    process: i32,
    /// Tasks of all processes with this memory that are in a sleep.
    sleeps: Vec<Sleep>,
}

/// A task in a sleep.
struct Sleep {
    process: i32,
    task: i32,
    registers: Registers,
    /// What remains of it, in ns.
    remaining: u64,
}

impl fmt::Display for RemoveStub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resume sleeps and take the stub away")
    }
}

impl Action for RemoveStub {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        // Sleeps go on from here: nothing but the last instructions follows.
        for sleep in &self.sleeps {
            rebuild.resume_sleep(sleep.process, sleep.task, &sleep.registers, sleep.remaining)?;
        }
        rebuild.unmap_stub(self.process)
    }
}

struct SetRegisters {
    task: TaskRecord,
}

impl fmt::Display for SetRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "set registers and signal mask of task {}",
            self.task.task
        )
    }
}

impl Action for SetRegisters {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.task;
        let tid = rebuild.task(record.process, record.task)?;
        let what = |what: &'static str| move || format!("task {}: {what}", self.task.task);
        ptrace::set_extended_state(tid, &record.extended)
            .attempt(what("setting its processor state"))?;
        let registers = Registers::from_words(&record.registers);
        // With its restart block in place the kernel goes on with the sleep; without, it issues the call again.
        let registers = if record.remaining.is_some() {
            registers
        } else {
            registers.restarted_by_kernel()
        };
        ptrace::set_registers(tid, &registers).attempt(what("setting its registers"))?;
        ptrace::set_signal_mask(tid, record.mask).attempt(what("setting its signal mask"))
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Registers with the full xsave state, thread-local storage, signal masks and stacks, robust lists, rseq, names",
        level: Level::Restored,
        how: "as they were, wherever the processor's xsave area has them; one that lacks what is in use is refused",
    },
    Support {
        what: "Memory policies of threads (set_mempolicy)",
        level: Level::Restored,
        how: "with their mode flags; where none of the nodes exist, the default, and a remark says so",
    },
    Support {
        what: "Scheduling policy with slice and utilization clamps, nice, I/O priority, affinity, timer slack and its default, parent-death signal",
        level: Level::Restored,
        how: "as far as the user may set them; processors that do not exist here are left out of the affinity; the default timer \
              slack of a task with a real-time policy is 50 µs again",
    },
    Support {
        what: "Reserved processor time (SCHED_DEADLINE)",
        level: Level::Restored,
        how: "by root, if the kernel admits it; a new period begins",
    },
    Support {
        what: "nanosleep, clock_nanosleep with a remainder argument",
        level: Level::Restored,
        how: "go on with the time that remained",
    },
    Support {
        what: "poll, futex waits and sleeps without a remainder argument; epoll_wait, sigtimedwait, semtimedop, receive with SO_RCVTIMEO",
        level: Level::Partly,
        how: "issued again after a restart; a relative time-out starts afresh. Never a spurious EINTR",
    },
    Support {
        what: "A write or read in progress on a pipe",
        level: Level::Partly,
        how: "returns the bytes done so far, as after any signal",
    },
];
