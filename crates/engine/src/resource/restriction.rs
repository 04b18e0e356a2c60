//! Restrictions that a process lives under and that are not rebuilt: each is a refusal, so that nobody comes back with more
//! freedom, or another view of the processor, than before.
//!
//! Shown by /proc/PID/status and stat (ptrace(2), speculation controls, shadow stacks, linear address masking,
//! flags set by prctl(2)), by /proc/sysvipc/sem, sched_getattr(2), the cgroup's freezer, and by ptrace(2) and a few getters in the frozen
//! process. Threads are compared with their leader in [`super::credentials`]; what takes a call inside of the process is asked
//! of the leader alone. Not seen, since the kernel does not tell: Landlock domains, keyrings, L1 data cache flushing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cryonaut_image::{Kind, RecordSet};
use cryonaut_procfs::{Mount, ProcessDirectory, Stat, Status};
use cryonaut_sys::{ptrace, spawn, task};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Resource, Support};
use crate::target::{Target, TargetProcess};
use crate::{Refusals, Result};

/// The resource.
pub struct Restrictions;

impl Resource for Restrictions {
    fn name(&self) -> &'static str {
        "restrictions"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[]
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let mounts = own_mounts();
        let names: Vec<(i32, String)> = target.processes.iter().map(TargetProcess::label).collect();
        semaphores_used(
            names.iter().map(|(pid, name)| (*pid, name.as_str())),
            refusals,
        );
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let (pid, name) = process.label();
            let process_name = (pid, name.as_str());
            traced_by_another(process, refusals);
            frozen_by_cgroup(process_name, &process.directory, &mounts, refusals);
            shown_outside(
                process_name,
                &process.directory,
                (&process.status, &process.stat),
                refusals,
            );
            if let Ok(threads) = process.directory.threads() {
                known_by_number(process_name, &threads, refusals);
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, _collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        let names: Vec<(i32, String)> = frozen
            .alive()
            .map(|process| (process.pid, process.name()))
            .collect();
        semaphores_used(
            names.iter().map(|(pid, name)| (*pid, name.as_str())),
            &mut refusals,
        );
        for process in frozen.alive() {
            let name = process.name();
            let process_name = (process.pid, name.as_str());
            shown_outside(
                process_name,
                &process.directory,
                (&process.status, &process.stat),
                &mut refusals,
            );
            let threads: Vec<i32> = process
                .tasks
                .iter()
                .map(|task| task.stopped.tid())
                .collect();
            known_by_number(process_name, &threads, &mut refusals);
            shown_by_tracing(process, &mut refusals);
        }
        // Nothing is called inside of a process that is refused anyway, least of all one whose calls are filtered.
        std::mem::take(&mut refusals).into_result()?;
        for process in frozen.alive_mut() {
            told_by_itself(process, &mut refusals)?;
        }
        refusals.into_result()
    }

    fn plan(&self, _records: &RecordSet, _host: &Host, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
}

fn traced_by_another(process: &TargetProcess, refusals: &mut Refusals) {
    let tracer = process.status.tracer_pid;
    if tracer != 0 && tracer != spawn::own_pid() {
        refusals.add(
            (process.pid, &process.name()),
            "ptrace",
            format!("process {tracer} traces it, and only one can"),
            "end the debugger or strace first",
        );
    }
}

/// What /proc tells of the leader.
fn shown_outside(
    process: (i32, &str),
    directory: &ProcessDirectory,
    (status, stat): (&Status, &Stat),
    refusals: &mut Refusals,
) {
    let controls = [
        ("store bypass", &status.speculation_store_bypass),
        ("indirect branches", &status.speculation_indirect_branch),
    ];
    for (what, words) in controls {
        if let Some(words) = words
            .as_deref()
            .filter(|words| is_changed_speculation(words))
        {
            refusals.add(
                process,
                format!("its speculation control for {what}"),
                format!("it is set by the program itself ({words}), which is not saved"),
                "start it without that mitigation (prctl PR_SET_SPECULATION_CTRL)",
            );
        }
    }
    // One that is locked while it is off (as the C library leaves it) changes nothing for the program.
    if let Some(feature) = status.x86_thread_features.iter().flatten().next() {
        refusals.add(
            process,
            format!("its shadow stack ({feature})"),
            "shadow stacks are not saved",
            "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        );
    }
    if masks_addresses(&directory.read("status").unwrap_or_default()) {
        refusals.add(
            process,
            "linear address masking",
            "it uses tagged addresses, which are not saved",
            "start it without address tagging (as hardware-assisted sanitizers use it)",
        );
    }
    flags_of_its_own(process, stat, refusals);
}

/// Flags of the leader that it has set by prctl(2).
fn flags_of_its_own(process: (i32, &str), stat: &Stat, refusals: &mut Refusals) {
    // Flags of include/linux/sched.h: PF_MCE_PROCESS; PF_MEMALLOC_NOIO with PF_LOCAL_THROTTLE.
    const MACHINE_CHECK: u32 = 0x0000_0080;
    const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
    if stat.flags & MACHINE_CHECK != 0 {
        refusals.add(
            process,
            "its policy for memory errors",
            "it is set by the program itself (prctl PR_MCE_KILL), which is not saved",
            "have the program leave the system's policy in force",
        );
    }
    if stat.flags & IO_FLUSHER == IO_FLUSHER {
        refusals.add(
            process,
            "its part in writing back memory",
            "it serves a storage device (prctl PR_SET_IO_FLUSHER) that the kernel would lose",
            "do not checkpoint servers of storage devices",
        );
    }
}

/// Whether the kernel's words for a speculation control tell of a setting by prctl(2), as `arch/x86/kernel/cpu/bugs.c` and
/// `proc_pid_status` word them. Global settings read `vulnerable`, `not vulnerable`, `globally mitigated`, `always enabled` …,
/// the untouched state of a task that may choose is `thread vulnerable` or `conditional enabled`.
fn is_changed_speculation(words: &str) -> bool {
    matches!(
        words,
        "thread mitigated"
            | "thread force mitigated"
            | "conditional disabled"
            | "conditional force disabled"
    )
}

/// Whether the line `untag_mask` of a status file (Linux 6.4) says that address bits are ignored.
fn masks_addresses(status: &[u8]) -> bool {
    status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"untag_mask:"))
        .is_some_and(|mask| mask.trim_ascii() != b"0xffffffffffffffff")
}

/// What system calls tell of tasks by their ids.
fn known_by_number(process: (i32, &str), threads: &[i32], refusals: &mut Refusals) {
    const SCHED_DEADLINE: u32 = 6;
    for &tid in threads {
        if task::scheduling(tid).is_ok_and(|attributes| attributes.policy == SCHED_DEADLINE) {
            refusals.add(
                process,
                format!("the scheduling of thread {tid}"),
                "it has reserved processor time (SCHED_DEADLINE), which is not rebuilt",
                "give it another policy first (chrt --other --pid 0)",
            );
        }
        if task::core_scheduling_cookie(tid).is_ok_and(|cookie| cookie != 0) {
            refusals.add(
                process,
                format!("the scheduling of thread {tid}"),
                "it shares a processor core only with chosen tasks (core scheduling), which is not saved",
                "start it without a core scheduling cookie (coresched)",
            );
        }
    }
}

/// System V semaphores that processes of the job were the last to change. Whether a change is to be undone at a process' end
/// (SEM_UNDO) the kernel does not tell: every process with threads has a list for it (`copy_semundo` in ipc/sem.c), which
/// kcmp(2) therefore cannot tell from one that is used.
fn semaphores_used<'a>(processes: impl Iterator<Item = (i32, &'a str)>, refusals: &mut Refusals) {
    let table = std::fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    let mut users: BTreeMap<i32, i32> = BTreeMap::new();
    for (set, count) in semaphore_sets(&table) {
        for number in 0..count {
            match task::last_semaphore_user(set, number) {
                Ok(pid) => drop(users.entry(pid).or_insert(set)),
                // What we may not read, a job of ours may not use.
                Err(_) => break,
            }
        }
    }
    if users.is_empty() {
        return;
    }
    for (pid, name) in processes {
        if let Some(set) = users.get(&pid) {
            refusals.add(
                (pid, name),
                format!("System V semaphores (set {set})"),
                "it uses them; they are not saved, and neither are changes to be undone at its end (SEM_UNDO)",
                "have the program release and remove its semaphores first, or use POSIX semaphores",
            );
        }
    }
}

/// Ids and sizes of the sets in /proc/sysvipc/sem: columns key, semid, perms, nsems (`sysvipc_sem_proc_show` in ipc/sem.c).
fn semaphore_sets(table: &str) -> Vec<(i32, i32)> {
    let set = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some((words.nth(1)?.parse().ok()?, words.nth(1)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(set).collect()
}

/// What a tracer sees of each task.
fn shown_by_tracing(process: &FrozenProcess, refusals: &mut Refusals) {
    /// The code segment of 64-bit programs, `__USER_CS`.
    const LONG_MODE: u64 = 0x33;
    let name = process.name();
    for task in &process.tasks {
        if task.stopped.registers().cs != LONG_MODE {
            refusals.add(
                (process.pid, &name),
                "its code",
                "it is a 32-bit program",
                "use a 64-bit build of it",
            );
        }
        // Kernels before 6.4 do not tell.
        if ptrace::user_dispatch(task.stopped.tid()).is_ok_and(|dispatch| dispatch.mode != 0) {
            refusals.add(
                (process.pid, &name),
                "system call user dispatch",
                "it catches its own system calls, which is not saved",
                "checkpoint it while no foreign program (Wine) runs in it",
            );
        }
    }
}

/// What only calls within the process tell.
fn told_by_itself(process: &mut FrozenProcess, refusals: &mut Refusals) -> Result<()> {
    const ARCH_GET_CPUID: i32 = 0x1011;
    let mut list = CallList::new();
    let counter = list.space(8);
    let time_stamps = list.call(libc::SYS_prctl, &[libc::PR_GET_TSC.into(), counter.into()]);
    let identification = list.call(libc::SYS_arch_prctl, &[ARCH_GET_CPUID.into()]);
    let outcomes = process.run(0, &list)?;
    let name = process.name();
    let mut refuse = |object: &str, call: &str| {
        refusals.add(
            (process.pid, &name),
            object,
            format!("it is switched off for the process ({call}), which is not saved"),
            "start it without the tool that switches it off (as recorders and virtual machines do)",
        );
    };
    // Strict mode has it off, and switches it off again (`seccomp_assign_mode` in kernel/seccomp.c).
    let strict = process.tasks[0].seccomp == 1;
    if outcomes.result(time_stamps).is_ok()
        && !strict
        && outcomes.word(counter) as u32 != libc::PR_TSC_ENABLE as u32
    {
        refuse("the time stamp counter", "prctl PR_SET_TSC");
    }
    if outcomes
        .result(identification)
        .is_ok_and(|enabled| enabled == 0)
    {
        refuse("the CPUID instruction", "arch_prctl ARCH_SET_CPUID");
    }
    Ok(())
}

fn own_mounts() -> Vec<Mount> {
    ProcessDirectory::open(spawn::own_pid())
        .and_then(|own| own.mountinfo())
        .unwrap_or_default()
}

fn frozen_by_cgroup(
    process: (i32, &str),
    directory: &ProcessDirectory,
    mounts: &[Mount],
    refusals: &mut Refusals,
) {
    let Ok(groups) = directory.cgroups() else {
        return;
    };
    for group in groups {
        let unified = group.is_unified();
        let freezer = group
            .controllers
            .iter()
            .any(|controller| controller == b"freezer");
        if !unified && !freezer {
            continue;
        }
        let Some(path) = cgroup_path(mounts, unified, &group.path) else {
            continue;
        };
        // Both files tell of a freezer further up too.
        let (file, frozen): (_, &[&str]) = if unified {
            ("cgroup.events", &["frozen 1"])
        } else {
            ("freezer.state", &["FROZEN", "FREEZING"])
        };
        let state = std::fs::read_to_string(path.join(file)).unwrap_or_default();
        if state.lines().any(|line| frozen.contains(&line)) {
            refusals.add(
                process,
                format!("its cgroup {}", path.display()),
                "it is frozen, so the process cannot be stopped in an orderly way",
                if unified {
                    "thaw it first: write 0 to its cgroup.freeze"
                } else {
                    "thaw it first: write THAWED to its freezer.state"
                },
            );
        }
    }
}

/// The directory of a cgroup: where its hierarchy is mounted, then its path without the part that the mount begins below.
fn cgroup_path(mounts: &[Mount], unified: bool, group: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let wanted: &[u8] = if unified { b"cgroup2" } else { b"cgroup" };
    mounts
        .iter()
        .filter(|mount| mount.file_system == wanted)
        .find_map(|mount| {
            if !unified
                && !mount
                    .super_options
                    .split(|&byte| byte == b',')
                    .any(|option| option == b"freezer")
            {
                return None;
            }
            let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
            let below = path(group)
                .strip_prefix(path(&mount.root))
                .ok()?
                .to_path_buf();
            Some(path(&mount.mount_point).join(below))
        })
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Processes under a debugger or strace",
        level: Level::Refused,
        how: "end the tracer first",
    },
    Support {
        what: "Speculation controls of a program's own",
        level: Level::Refused,
        how: "start it without them; the system's settings are no obstacle",
    },
    Support {
        what: "Shadow stacks, linear address masking",
        level: Level::Refused,
        how: "start the program without them (GLIBC_TUNABLES=glibc.cpu.x86_shstk=off)",
    },
    Support {
        what: "32-bit programs",
        level: Level::Refused,
        how: "use a 64-bit build",
    },
    Support {
        what: "SCHED_DEADLINE, core scheduling",
        level: Level::Refused,
        how: "give the threads another policy first",
    },
    Support {
        what: "System call user dispatch, a disabled time stamp counter or CPUID instruction",
        level: Level::Refused,
        how: "checkpoint while no foreign program runs in the process",
    },
    Support {
        what: "System V semaphores",
        level: Level::Refused,
        how: "they and changes to undo (SEM_UNDO) are not saved: have the program remove them first, or use POSIX ones",
    },
    Support {
        what: "Processes in a frozen cgroup",
        level: Level::Refused,
        how: "thaw the cgroup first",
    },
    Support {
        what: "Memory error policy (PR_MCE_KILL), servers of storage devices (PR_SET_IO_FLUSHER)",
        level: Level::Refused,
        how: "do not checkpoint such programs",
    },
    Support {
        what: "Landlock domains, keyrings",
        level: Level::Partly,
        how: "the kernel does not show them: the restarted job is under those of the restart",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::credentials::tests::Subject;
    use crate::target::{Inspection, Scope};

    fn objects(refusals: &Refusals) -> Vec<&str> {
        refusals
            .list()
            .iter()
            .map(|refusal| refusal.object.as_str())
            .collect()
    }

    #[test]
    fn this_process_is_under_no_restriction() {
        let own = TargetProcess::read(spawn::own_pid()).unwrap();
        if own.status.seccomp != Some(0) || own.status.tracer_pid != 0 {
            return;
        }
        let target = Target {
            processes: vec![own],
            scope: Scope::Process,
            named: spawn::own_pid(),
            inspection: Inspection::Complete,
            hashing: Default::default(),
        };
        let mut refusals = Refusals::default();
        Restrictions.inspect(&target, &mut refusals);
        assert_eq!(refusals.list(), []);
    }

    #[test]
    fn what_status_tells_is_refused() {
        let own = TargetProcess::read(spawn::own_pid()).unwrap();
        let status = Status {
            speculation_store_bypass: Some("thread force mitigated".into()),
            speculation_indirect_branch: Some("conditional enabled".into()),
            x86_thread_features: Some(vec!["shstk".into()]),
            x86_thread_features_locked: Some(vec!["shstk".into()]),
            ..own.status.clone()
        };
        let stat = Stat {
            flags: 0x0018_0080,
            ..own.stat.clone()
        };
        let mut refusals = Refusals::default();
        shown_outside((9, "x"), &own.directory, (&status, &stat), &mut refusals);
        assert_eq!(
            objects(&refusals),
            [
                "its speculation control for store bypass",
                "its shadow stack (shstk)",
                "its policy for memory errors",
                "its part in writing back memory",
            ]
        );
    }

    #[test]
    fn settings_of_the_system_are_no_speculation_control_of_a_program() {
        for words in [
            "vulnerable",
            "thread vulnerable",
            "globally mitigated",
            "always enabled",
            "conditional enabled",
        ] {
            assert!(!is_changed_speculation(words), "{words}");
        }
        for words in [
            "not vulnerable",
            "not affected",
            "unknown",
            "unsupported",
            "always disabled",
        ] {
            assert!(!is_changed_speculation(words), "{words}");
        }
        assert!(is_changed_speculation("conditional force disabled"));
    }

    #[test]
    fn address_masks_are_told_apart() {
        assert!(!masks_addresses(
            b"Name:\tcat\nuntag_mask:\t0xffffffffffffffff\n"
        ));
        assert!(!masks_addresses(b"Name:\tcat\n"));
        assert!(masks_addresses(b"untag_mask:\t0x81ffffffffffffff\n"));
    }

    #[test]
    fn semaphore_sets_are_read() {
        let table = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
                     \x20        0      32769   600          3     0     0     0     0          0 1700000000\n";
        assert_eq!(semaphore_sets(table), [(32769, 3)]);
        assert_eq!(semaphore_sets(""), []);
    }

    #[test]
    fn cgroups_are_found_where_they_are_mounted() {
        let mounts = cryonaut_procfs::mountinfo::parse(
            b"30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
              31 20 0:26 /jobs /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n",
        )
        .unwrap();
        let find = |unified, path: &[u8]| cgroup_path(&mounts, unified, path);
        assert_eq!(find(true, b"/a/b"), Some("/sys/fs/cgroup/a/b".into()));
        assert_eq!(
            find(false, b"/jobs/c"),
            Some("/sys/fs/cgroup/freezer/c".into())
        );
        assert_eq!(find(false, b"/elsewhere"), None);
    }

    #[test]
    fn what_a_frozen_process_hides_is_refused() {
        let mut subject = Subject::start(&["sleep", "60"], "sleep").expect("sleep runs");
        let mut collection = Collection::default();
        Restrictions
            .collect(&mut subject.frozen, &mut collection)
            .unwrap();
        let mut list = CallList::new();
        let semaphore = list.call(
            libc::SYS_semget,
            &[libc::IPC_PRIVATE.into(), 1.into(), 0o600.into()],
        );
        // struct sembuf: number 0, add 1, with undo.
        let operation = list.bytes(&[0, 0, 1, 0, 0, 0x10]);
        let raise = list.call(
            libc::SYS_semop,
            &[semaphore.into(), operation.into(), 1.into()],
        );
        let outcomes = subject.frozen.processes[0].run(0, &list).unwrap();
        let identifier = outcomes.result(semaphore).unwrap();
        outcomes.result(raise).unwrap();
        let refused = |subject: &mut Subject| match Restrictions
            .collect(&mut subject.frozen, &mut Collection::default())
        {
            Err(crate::Error::Refused(refusals)) => {
                refusals.into_iter().map(|refusal| refusal.object).collect()
            }
            other => vec![format!("{other:?}")],
        };
        assert_eq!(
            refused(&mut subject),
            [format!("System V semaphores (set {identifier})")]
        );
        let mut list = CallList::new();
        let remove = list.call(
            libc::SYS_semctl,
            &[identifier.into(), 0.into(), libc::IPC_RMID.into()],
        );
        subject.frozen.processes[0]
            .run(0, &list)
            .unwrap()
            .result(remove)
            .unwrap();
    }

    #[test]
    fn a_time_stamp_counter_that_is_off_is_refused() {
        let mut subject = Subject::start(&["sleep", "60"], "sleep").expect("sleep runs");
        let mut list = CallList::new();
        let call = list.call(
            libc::SYS_prctl,
            &[libc::PR_SET_TSC.into(), libc::PR_TSC_SIGSEGV.into()],
        );
        subject.frozen.processes[0]
            .run(0, &list)
            .unwrap()
            .result(call)
            .unwrap();
        match Restrictions.collect(&mut subject.frozen, &mut Collection::default()) {
            Err(crate::Error::Refused(refusals)) => {
                assert_eq!(refusals[0].object, "the time stamp counter")
            }
            other => panic!("{other:?}"),
        }
    }
}
