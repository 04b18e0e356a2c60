//! Restrictions that a process lives under and that are not rebuilt: each is a refusal, so that nobody comes back with more
//! freedom, or another view of the processor, than before.
//!
//! Shown by /proc/PID/status (ptrace(2), shadow stacks), by the cgroup's freezer, and by ptrace(2). Threads are
//! compared with their leader in [`super::credentials`].

use std::path::PathBuf;

use cryonaut_image::{Kind, RecordSet};
use cryonaut_launch::registry::Suspension;
use cryonaut_procfs::{Mount, ProcessDirectory, Status};
use cryonaut_sys::spawn;

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
        what: "Processes in a frozen cgroup",
        level: Level::Refused,
        how: "thaw the cgroup first",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Scope;

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
        let own = vec![own];
        let target = Target::of(own, Scope::Process, (spawn::own_pid(), 0));
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
}
