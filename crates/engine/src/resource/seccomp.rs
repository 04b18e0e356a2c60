//! Seccomp: strict mode and filters, which judge every system call of a task (seccomp(2)).
//!
//! The mode is in /proc/PID/task/TID/status; programs of filters and whether they log are read by ptrace(2), which the kernel
//! permits with CAP_SYS_ADMIN in the initial user namespace alone. Each thread has a chain of filters of its own, oldest first,
//! which it shares with those that inherited it or were synchronized with it (SECCOMP_FILTER_FLAG_TSYNC). A program is stored
//! once. Only threads that share a filter can be synchronized later on: so the filters that all threads of a process have from
//! the beginning are shared again. Of others each thread has a copy, which judges alike.
//!
//! *Calls of ours.* While a task under seccomp makes calls for `cryo`, seccomp is suspended (PTRACE_O_SUSPEND_SECCOMP), never while it
//! runs code of its own. In a restart filters are installed before credentials go, since installing them may take those; seccomp
//! stays suspended until the commit, after which tasks make no more calls. Where it cannot be suspended (an ordinary user, a
//! container), installing them is the last call of a task, made when even the stub is gone, by an instruction of the program's
//! own; that takes no_new_privs, which a task of an ordinary user has.
//!
//! Not preserved: that a filter without SECCOMP_FILTER_FLAG_SPEC_ALLOW mitigates speculation is state of the task, and comes back
//! with its speculation controls. Refused: filters that hand calls to another process (SECCOMP_RET_USER_NOTIF), since the kernel
//! does not tell to whom.

use std::collections::BTreeMap;
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::{ProcessDirectory, Status};
use cryonaut_sys::ptrace::seccomp::{self, INSTRUCTION};
use cryonaut_sys::spawn;
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::credentials::{CredentialsRecord, ThreadCredentials};
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusals, Result};

const STRICT: u32 = 1;
const FILTERS: u32 = 2;
/// SECCOMP_SET_MODE_FILTER.
const SET_FILTER: u64 = 1;
/// SECCOMP_FILTER_FLAG_TSYNC: all threads of the process get the filter.
const SYNCHRONIZED: u64 = 1;
/// SECCOMP_FILTER_FLAG_LOG.
const LOG: u64 = 1 << 1;
/// SECCOMP_FILTER_FLAG_SPEC_ALLOW: installing a filter changes no speculation control.
const SPECULATION_ALLOWED: u64 = 1 << 2;

/// The program of a filter; any number of tasks may be under it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilterRecord {
    /// What tasks call it.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its instructions, 8 bytes each (`struct sock_filter`).
    #[prost(bytes = "vec", tag = "2")]
    pub program: Vec<u8>,
    /// Whether the kernel logs what it decides (SECCOMP_FILTER_FLAG_LOG).
    #[prost(bool, tag = "3")]
    pub logs: bool,
}

impl Record for FilterRecord {
    const KIND: Kind = Kind {
        name: "seccomp.filter",
        version: 1,
    };
}

/// What a task is under.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SeccompRecord {
    /// Its process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its id.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// 1 for strict mode, 2 for filters.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Its filters by number, in the order in which they were installed.
    #[prost(uint32, repeated, tag = "4")]
    pub filters: Vec<u32>,
}

impl Record for SeccompRecord {
    const KIND: Kind = Kind {
        name: "seccomp",
        version: 1,
    };
}

/// The resource.
pub struct Seccomp;

impl Resource for Seccomp {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[FilterRecord::KIND, SeccompRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        if may_suspend() {
            return;
        }
        let alive = target
            .processes
            .iter()
            .filter(|process| !process.is_zombie());
        for process in alive.filter(|process| is_confined(process)) {
            let (pid, name) = process.label();
            refusals.add(
                (pid, &name),
                "seccomp",
                "its filters can be read, and put aside for the calls that a checkpoint makes in it, by root only, outside of \
                 user namespaces and of any sandbox",
                "checkpoint it as root, or start it without its sandbox (a container with seccomp=unconfined, and cryo inside of it)",
            );
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut programs = Programs::default();
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            for task in process.tasks.iter().filter(|task| task.seccomp != 0) {
                let filters = match task.seccomp {
                    STRICT => Vec::new(),
                    FILTERS => programs.of_task(process, task.stopped.tid(), &mut refusals)?,
                    mode => {
                        refusals.add(
                            (process.pid, &process.name()),
                            format!("seccomp of task {}", task.stopped.tid()),
                            format!("mode {mode} is unknown (a task that its filter is killing)"),
                            "try again",
                        );
                        continue;
                    }
                };
                collection.put(&SeccompRecord {
                    process: process.inner,
                    task: task.inner,
                    mode: task.seccomp,
                    filters,
                })?;
            }
        }
        refusals.into_result()?;
        programs
            .records
            .iter()
            .try_for_each(|record| collection.put(record))
    }

    fn plan(&self, records: &RecordSet, _: &Host, plan: &mut Plan) -> Result<()> {
        let tasks = records.all::<SeccompRecord>()?;
        if tasks.is_empty() {
            return Ok(());
        }
        let filters: BTreeMap<u32, FilterRecord> = records
            .all::<FilterRecord>()?
            .into_iter()
            .map(|filter| (filter.number, filter))
            .collect();
        let unprivileged: BTreeMap<i32, bool> = records
            .all::<CredentialsRecord>()?
            .into_iter()
            .map(|record| (record.process, record.no_new_privileges))
            .collect();
        let apart: BTreeMap<i32, bool> = records
            .all::<ThreadCredentials>()?
            .into_iter()
            .map(|record| (record.task, record.own.no_new_privileges))
            .collect();
        let means = Means {
            suspend: may_suspend(),
            unprivileged,
            apart,
        };
        let mut confined: BTreeMap<i32, Vec<Confine>> = BTreeMap::new();
        for task in tasks {
            let chain: Option<Vec<FilterRecord>> = task
                .filters
                .iter()
                .map(|number| filters.get(number).cloned())
                .collect();
            let Some(chain) = chain.filter(|chain| is_sound(task.mode, chain)) else {
                return Err(Error::Failed(format!(
                    "the image is damaged: seccomp of task {}",
                    task.task
                )));
            };
            confined.entry(task.process).or_default().push(Confine {
                process: task.process,
                task: task.task,
                chain,
                others: Vec::new(),
            });
        }
        for process in records.all::<ProcessRecord>()? {
            let tasks = confined.remove(&process.pid).unwrap_or_default();
            for confine in shared_first(tasks, process.tasks.len()) {
                means.plan(confine, plan);
            }
        }
        Ok(())
    }
}

/// How filters can be installed here.
struct Means {
    /// Whether seccomp can be suspended meanwhile.
    suspend: bool,
    /// Of each process, whether it has no_new_privs.
    unprivileged: BTreeMap<i32, bool>,
    /// The same of tasks that are not like their process.
    apart: BTreeMap<i32, bool>,
}

impl Means {
    fn plan(&self, confine: Confine, plan: &mut Plan) {
        let process = confine.process;
        if self.suspend {
            plan.step(Stage::Restrict, process, ConfineSuspended { confine });
            return;
        }
        let unprivileged = |task: &i32| {
            let own = self.apart.get(task);
            own.or_else(|| self.unprivileged.get(&process)) == Some(&true)
        };
        let unprivileged = unprivileged(&confine.task) && confine.others.iter().all(unprivileged);
        if !confine.chain.is_empty() && !unprivileged {
            plan.refusals.add(
                (process, ""),
                "seccomp",
                "its filters were installed by a privileged process (without no_new_privs), and you may not do that here",
                "restart it as root, outside of any sandbox",
            );
        }
        plan.step(Stage::Confine, process, ConfineLast { confine });
    }
}

/// Splits what all `count` tasks of a process have from the beginning off the rest: it is installed once, for all of them.
fn shared_first(mut tasks: Vec<Confine>, count: usize) -> Vec<Confine> {
    if count < 2 || tasks.len() != count || tasks.iter().any(|task| task.chain.is_empty()) {
        return tasks;
    }
    let first = tasks[0].chain.clone();
    let same = |task: &Confine| {
        let pairs = task.chain.iter().zip(&first);
        pairs.take_while(|(one, other)| one == other).count()
    };
    let shared = tasks.iter().map(same).min().unwrap_or(0);
    if shared == 0 {
        return tasks;
    }
    let together = Confine {
        process: tasks[0].process,
        task: tasks[0].task,
        chain: first[..shared].to_vec(),
        others: tasks[1..].iter().map(|task| task.task).collect(),
    };
    for task in &mut tasks {
        task.chain.drain(..shared);
    }
    tasks.retain(|task| !task.chain.is_empty());
    tasks.insert(0, together);
    tasks
}

/// A task's seccomp mode: 0 none, 1 strict, 2 filters. `text` is a buffer.
///
/// # Errors
/// When its status cannot be read.
pub(crate) fn mode(directory: &ProcessDirectory, tid: i32, text: &mut Vec<u8>) -> Result<u32> {
    // One file by its path is cheaper than a directory for each of thousands of threads.
    directory.read_into(&format!("task/{tid}/status"), text)?;
    Ok(mode_in(text))
}

fn mode_in(status: &[u8]) -> u32 {
    // A name cannot forge the line: its line ends are escaped.
    status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Seccomp:"))
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

/// Whether any thread of a process is under seccomp. One that ends meanwhile is none any more.
fn is_confined(process: &TargetProcess) -> bool {
    if process.status.seccomp.unwrap_or(0) != 0 {
        return true;
    }
    if process.stat.num_threads <= 1 {
        return false;
    }
    let threads = process.directory.threads().unwrap_or_default();
    let mut text = Vec::new();
    threads
        .into_iter()
        .any(|tid| mode(&process.directory, tid, &mut text).is_ok_and(|mode| mode != 0))
}

/// Whether any process of the target has a thread under seccomp.
pub fn confines(target: &Target) -> bool {
    target
        .processes
        .iter()
        .any(|process| !process.is_zombie() && is_confined(process))
}

/// Whether the kernel lets us suspend seccomp and read filters (`check_ptrace_options` in kernel/ptrace.c): CAP_SYS_ADMIN in the
/// initial user namespace, and no seccomp of our own.
fn may_suspend() -> bool {
    const SYS_ADMIN: u32 = 21;
    let Ok(own) = ProcessDirectory::open(spawn::own_pid()) else {
        return false;
    };
    let initial = own.uid_map().is_ok_and(|map| {
        map.len() == 1 && (map[0].inside, map[0].outside, map[0].count) == (0, 0, u32::MAX)
    });
    let permits = |status: Status| {
        status.capabilities_effective >> SYS_ADMIN & 1 == 1 && status.seccomp.unwrap_or(0) == 0
    };
    initial && own.status().is_ok_and(permits)
}

/// The programs found so far, each once.
#[derive(Default)]
struct Programs {
    numbers: BTreeMap<(Vec<u8>, bool), u32>,
    records: Vec<FilterRecord>,
}

impl Programs {
    /// The filters of a task, oldest first.
    fn of_task(
        &mut self,
        process: &FrozenProcess,
        tid: i32,
        refusals: &mut Refusals,
    ) -> Result<Vec<u32>> {
        let mut chain = Vec::new();
        loop {
            let program = match seccomp::filter(tid, chain.len()) {
                Ok(program) => program,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(chain),
                Err(error) => {
                    return Err(error)
                        .attempt(|| format!("task {tid}: reading its seccomp filters"));
                }
            };
            // Before Linux 4.16 the kernel does not tell; then none logs but by the system's setting.
            let flags = seccomp::filter_flags(tid, chain.len()).unwrap_or(0);
            if notifies(&program) {
                refusals.add(
                    (process.pid, &process.name()),
                    format!("seccomp of task {tid}"),
                    "its filter has another process answer system calls (SECCOMP_RET_USER_NOTIF), and the kernel does not tell which",
                    "checkpoint it when that supervisor is not used, or start it without",
                );
            }
            chain.push(self.number(program, flags & LOG != 0));
        }
    }

    fn number(&mut self, program: Vec<u8>, logs: bool) -> u32 {
        let next = self.records.len() as u32;
        let number = *self.numbers.entry((program.clone(), logs)).or_insert(next);
        if number == next {
            self.records.push(FilterRecord {
                number,
                program,
                logs,
            });
        }
        number
    }
}

/// Whether a program can return SECCOMP_RET_USER_NOTIF. One that returns what it has calculated may: then any of its constants
/// counts.
fn notifies(program: &[u8]) -> bool {
    const RETURN: u16 = 0x06;
    const RETURN_ACCUMULATOR: u16 = 0x16;
    const ACTION: u32 = 0xffff_0000;
    const USER_NOTIFICATION: u32 = 0x7fc0_0000;
    let instructions = || {
        program.chunks_exact(INSTRUCTION).map(|bytes| {
            let code = u16::from_le_bytes([bytes[0], bytes[1]]);
            let constant = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            (code, constant)
        })
    };
    let calculated = instructions().any(|(code, _)| code == RETURN_ACCUMULATOR);
    instructions().any(|(code, constant)| {
        constant & ACTION == USER_NOTIFICATION && (code == RETURN || calculated)
    })
}

/// Whether mode and filters fit together; what the filters do is for the kernel to check.
fn is_sound(mode: u32, chain: &[FilterRecord]) -> bool {
    let whole = |filter: &FilterRecord| {
        !filter.program.is_empty() && filter.program.len().is_multiple_of(INSTRUCTION)
    };
    match mode {
        STRICT => chain.is_empty(),
        FILTERS => !chain.is_empty() && chain.iter().all(whole),
        _ => false,
    }
}

/// What puts one task under seccomp again.
struct Confine {
    process: i32,
    task: i32,
    /// Its filters; none for strict mode.
    chain: Vec<FilterRecord>,
    /// The other tasks of its process, if all of them share these filters.
    others: Vec<i32>,
}

impl fmt::Display for Confine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain.len() {
            0 => write!(f, "put task {} in strict mode", self.task)?,
            1 => write!(f, "put task {} under its seccomp filter", self.task)?,
            count => write!(
                f,
                "put task {} under its {count} seccomp filters",
                self.task
            )?,
        }
        match self.others.len() {
            0 => Ok(()),
            others => write!(f, ", with {others} others"),
        }
    }
}

impl Confine {
    fn flags(&self, filter: &FilterRecord) -> u64 {
        let synchronized = if self.others.is_empty() {
            0
        } else {
            SYNCHRONIZED
        };
        filter.flags() | synchronized
    }

    /// Whether the call did what it was for: where threads cannot be synchronized it returns the id of one.
    fn check(&self, returned: u64) -> Result<()> {
        match returned {
            0 => Ok(()),
            thread => Err(Error::Failed(format!(
                "task {}: its seccomp filters cannot be shared with thread {thread}",
                self.task
            ))),
        }
    }
}

impl FilterRecord {
    /// `struct sock_fprog` without its pointer.
    fn header(&self) -> [u8; 16] {
        let mut header = [0; 16];
        let length = (self.program.len() / INSTRUCTION) as u16;
        header[..2].copy_from_slice(&length.to_le_bytes());
        header
    }

    fn flags(&self) -> u64 {
        SPECULATION_ALLOWED | if self.logs { LOG } else { 0 }
    }
}

/// Confines a task whose seccomp stays suspended until the commit.
struct ConfineSuspended {
    confine: Confine,
}

impl fmt::Display for ConfineSuspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, suspended", self.confine)
    }
}

impl Action for ConfineSuspended {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let Confine {
            process,
            task,
            ref chain,
            ref others,
        } = self.confine;
        let what = || format!("task {task}: putting it under seccomp");
        for &task in others.iter().chain([&task]) {
            rebuild.suspend_seccomp(process, task)?;
        }
        if chain.is_empty() {
            let mut list = CallList::new();
            let arguments = [libc::PR_SET_SECCOMP.into(), u64::from(STRICT).into()];
            let call = list.call(libc::SYS_prctl, &arguments);
            let outcomes = rebuild.run_in_task(process, task, &list)?;
            return outcomes.result(call).attempt(what).map(drop);
        }
        for filter in chain {
            let mut list = CallList::new();
            let program = list.bytes(&filter.program);
            let header = list.bytes(&filter.header());
            list.point(header, 8, program);
            let flags = self.confine.flags(filter);
            let arguments = [SET_FILTER.into(), flags.into(), header.into()];
            let call = list.call(libc::SYS_seccomp, &arguments);
            let outcomes = rebuild.run_in_task(process, task, &list)?;
            self.confine.check(outcomes.result(call).attempt(what)?)?;
        }
        Ok(())
    }
}

/// Confines a task by its last call.
struct ConfineLast {
    confine: Confine,
}

impl fmt::Display for ConfineLast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by its last call", self.confine)
    }
}

impl Action for ConfineLast {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let Confine {
            process,
            task,
            ref chain,
            ..
        } = self.confine;
        let at = (process, task);
        let what = "putting it under seccomp";
        if chain.is_empty() {
            let arguments = [libc::PR_SET_SECCOMP as u64, u64::from(STRICT), 0, 0, 0, 0];
            rebuild.last_call(at, what, libc::SYS_prctl, &[], |_| arguments)?;
        }
        for filter in chain {
            let flags = self.confine.flags(filter);
            // The header points right behind itself.
            let mut data = filter.header().to_vec();
            data.extend_from_slice(&filter.program);
            let pointed = |address: u64| {
                let mut data = data.clone();
                data[8..16].copy_from_slice(&(address + 16).to_le_bytes());
                data
            };
            // A filter installed before judges this call: as it let the program install this one, by one call or the other.
            let by_call =
                rebuild.last_call_at(at, what, libc::SYS_seccomp, data.len(), |address| {
                    (pointed(address), [SET_FILTER, flags, address, 0, 0, 0])
                });
            if by_call.is_err() && flags == SPECULATION_ALLOWED {
                let arguments = |address| {
                    [
                        libc::PR_SET_SECCOMP as u64,
                        u64::from(FILTERS),
                        address,
                        0,
                        0,
                        0,
                    ]
                };
                rebuild.last_call_at(at, what, libc::SYS_prctl, data.len(), |address| {
                    (pointed(address), arguments(address))
                })?;
            } else {
                self.confine.check(by_call?)?;
            }
        }
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "seccomp: strict mode and filters, of each thread",
        level: Level::Restored,
        how: "checkpointed by root only; what all threads of a process have in common is shared again (so that more can be synchronized), of the rest each has a copy. An ordinary user may restart it if it had no_new_privs",
    },
    Support {
        what: "seccomp filters that ask another process (SECCOMP_RET_USER_NOTIF)",
        level: Level::Refused,
        how: "the kernel does not tell which; checkpoint when the supervisor is not used",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn instruction(code: u16, constant: u32) -> Vec<u8> {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(constant.to_le_bytes());
        bytes
    }

    #[test]
    fn records_make_a_round_trip() {
        let filter = FilterRecord {
            number: 3,
            program: instruction(6, 0x7fff_0000),
            logs: true,
        };
        assert_eq!(
            FilterRecord::decode(filter.encode_to_vec().as_slice()),
            Ok(filter)
        );
        let task = SeccompRecord {
            process: 10,
            task: 11,
            mode: FILTERS,
            filters: vec![0, 3],
        };
        assert_eq!(
            SeccompRecord::decode(task.encode_to_vec().as_slice()),
            Ok(task)
        );
    }

    #[test]
    fn filters_that_ask_another_process_are_found() {
        let allow = instruction(6, 0x7fff_0000);
        assert!(!notifies(&allow));
        assert!(notifies(
            &[allow.clone(), instruction(6, 0x7fc0_0000)].concat()
        ));
        let load = instruction(0, 0x7fc0_0001);
        assert!(!notifies(&[load.clone(), allow].concat()));
        assert!(notifies(&[load, instruction(0x16, 0)].concat()));
    }

    #[test]
    fn modes_are_read() {
        assert_eq!(mode_in(b"Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"), 2);
        assert_eq!(mode_in(b"Name:\tx\nSeccomp_filters:\t1\n"), 0);
    }

    #[test]
    fn equal_programs_are_stored_once() {
        let mut programs = Programs::default();
        let program = instruction(6, 0);
        assert_eq!(programs.number(program.clone(), false), 0);
        assert_eq!(programs.number(program.clone(), true), 1);
        assert_eq!(programs.number(program, false), 0);
        assert_eq!(programs.records.len(), 2);
    }

    #[test]
    fn what_all_threads_have_is_shared() {
        let filter = |number| FilterRecord {
            number,
            program: instruction(6, number),
            logs: false,
        };
        let confine = |task, chain: &[u32]| Confine {
            process: 1,
            task,
            chain: chain.iter().copied().map(filter).collect(),
            others: Vec::new(),
        };
        let told = |tasks: Vec<Confine>, count| -> Vec<(i32, usize, usize)> {
            let shared = shared_first(tasks, count);
            let tell = |one: &Confine| (one.task, one.chain.len(), one.others.len());
            shared.iter().map(tell).collect()
        };
        let threads = || {
            vec![
                confine(1, &[0, 1]),
                confine(2, &[0, 1, 2]),
                confine(3, &[0]),
            ]
        };
        assert_eq!(told(threads(), 3), [(1, 1, 2), (1, 1, 0), (2, 2, 0)]);
        // A fourth thread is under nothing.
        assert_eq!(told(threads(), 4), [(1, 2, 0), (2, 3, 0), (3, 1, 0)]);
        assert_eq!(told(vec![confine(1, &[0])], 1), [(1, 1, 0)]);
        assert_eq!(
            told(vec![confine(1, &[]), confine(2, &[0])], 2),
            [(1, 0, 0), (2, 1, 0)]
        );
    }

    #[test]
    fn damaged_records_are_found() {
        let filter = FilterRecord {
            number: 0,
            program: vec![0; 7],
            logs: false,
        };
        assert!(!is_sound(FILTERS, &[filter]));
        assert!(!is_sound(FILTERS, &[]));
        assert!(!is_sound(3, &[]));
        assert!(is_sound(STRICT, &[]));
    }
}
