//! Restrictions that a process lives under and that are not rebuilt: each is a refusal, so that nobody comes back with more
//! freedom, or another view of the processor, than before.
//!
//! Shown by /proc/PID/status (ptrace(2), shadow stacks), by /proc/sysvipc/sem, the cgroup's freezer, and by ptrace(2). Threads are
//! compared with their leader in [`super::credentials`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use cryonaut_image::{Kind, RecordSet};
use cryonaut_launch::registry::Suspension;
use cryonaut_procfs::{Mount, ProcessDirectory, Status};
use cryonaut_sys::{spawn, task};

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Resource, Support};
use crate::suspend::Cgroup;
use crate::target::{Target, TargetProcess};
use crate::{Refusal, Refusals, Result};

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
            let ours = (&mounts[..], target.suspension.as_ref());
            frozen_by_cgroup(process_name, &process.directory, ours, refusals);
            shown_outside(process_name, &process.status, refusals);
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
            shown_outside(process_name, &process.status, &mut refusals);
            shown_by_tracing(process, &mut refusals);
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
        refusals.push(traced((process.pid, &process.name()), tracer));
    }
}

/// Why a process that `tracer`, in the job or not, traces is refused.
pub(crate) fn traced((pid, process): (i32, &str), tracer: i32) -> Refusal {
    let name = ProcessDirectory::open(tracer).and_then(|directory| directory.stat());
    let name = name.map(|stat| format!(" ({})", String::from_utf8_lossy(&stat.comm)));
    Refusal {
        pid,
        process: process.to_owned(),
        object: "ptrace".into(),
        reason: format!(
            "process {tracer}{} traces it, and only one can",
            name.unwrap_or_default()
        ),
        remedy: "end the debugger or strace first, or have it detach".into(),
    }
}

/// What /proc tells of the leader.
fn shown_outside(process: (i32, &str), status: &Status, refusals: &mut Refusals) {
    // One that is locked while it is off (as the C library leaves it) changes nothing for the program.
    if let Some(feature) = status.x86_thread_features.iter().flatten().next() {
        refusals.add(
            process,
            format!("its shadow stack ({feature})"),
            "shadow stacks are not saved",
            "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        );
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
    }
}

fn own_mounts() -> Vec<Mount> {
    ProcessDirectory::open(spawn::own_pid())
        .and_then(|own| own.mountinfo())
        .unwrap_or_default()
}

fn frozen_by_cgroup(
    process: (i32, &str),
    directory: &ProcessDirectory,
    (mounts, suspension): (&[Mount], Option<&Suspension>),
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
        let cgroup = Cgroup::at(&path);
        let ours = suspension.is_some_and(|known| known.cgroups.contains(&path));
        if unified && ours && cgroup.frozen_from_above().is_none() {
            continue;
        }
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
pub(crate) fn cgroup_path(mounts: &[Mount], unified: bool, group: &[u8]) -> Option<PathBuf> {
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
        how: "also where the debugger is in the job; end the tracer first, or have it detach",
    },
    Support {
        what: "Shadow stacks",
        level: Level::Refused,
        how: "start the program without them (GLIBC_TUNABLES=glibc.cpu.x86_shstk=off)",
    },
    Support {
        what: "32-bit programs",
        level: Level::Refused,
        how: "use a 64-bit build",
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
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::credentials::tests::Subject;
    use crate::target::{Inspection, Scope};
    use cryonaut_tracee::CallList;

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
            started: 0,
            inspection: Inspection::Complete,
            hashing: Default::default(),
            external: Default::default(),
            notification: Default::default(),
            embedding: Default::default(),
            suspension: None,
        };
        let mut refusals = Refusals::default();
        Restrictions.inspect(&target, &mut refusals);
        assert_eq!(refusals.list(), []);
    }

    #[test]
    fn what_status_tells_is_refused() {
        let own = TargetProcess::read(spawn::own_pid()).unwrap();
        let status = Status {
            x86_thread_features: Some(vec!["shstk".into()]),
            x86_thread_features_locked: Some(vec!["shstk".into()]),
            ..own.status.clone()
        };
        let mut refusals = Refusals::default();
        shown_outside((9, "x"), &status, &mut refusals);
        assert_eq!(objects(&refusals), ["its shadow stack (shstk)"]);
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
}
