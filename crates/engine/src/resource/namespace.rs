//! The namespaces that the job lives in (namespaces(7)).
//!
//! Shown by the links in /proc/PID/ns, by uid_map, timens_offsets and mountinfo. A job may share all namespaces with `cryo`, or
//! have what `cryo run` and `cryo restart` make: a pid namespace whose init is no part of the job, a user namespace that maps
//! ids to themselves, a mount namespace with a /proc of its own, a time namespace, an IPC namespace (see [`super::system_v`]).
//! These are made afresh at a restart when they are needed; everything else is refused. Not preserved: which of them a job had, since a restart chooses for itself
//! what it needs, and host and domain name, which are the machine's. How deep a user namespace is nested is not looked at.

mod clocks;

use std::collections::BTreeMap;
use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_launch::WITHOUT_USER_NAMESPACE;
use cryonaut_procfs::namespace::ClockOffset;
use cryonaut_procfs::{Mount, ProcError, ProcessDirectory};
use cryonaut_sys::{spawn, task};

use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::embedded;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// In which namespaces of its own the job lived, and what they showed it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamespacesRecord {
    /// Those that were not the ones of the `cryo` that made the image, by their names in /proc/PID/ns.
    #[prost(string, repeated, tag = "1")]
    pub own: Vec<String>,
    /// Name of the machine: /proc/sys/kernel/hostname.
    #[prost(bytes = "vec", tag = "2")]
    pub host_name: Vec<u8>,
    /// CLOCK_MONOTONIC as the job saw it, in nanoseconds.
    #[prost(int64, tag = "3")]
    pub monotonic: i64,
    /// CLOCK_BOOTTIME as the job saw it, in nanoseconds.
    #[prost(int64, tag = "4")]
    pub boottime: i64,
    /// Which start of which machine the clocks count from: /proc/sys/kernel/random/boot_id.
    #[prost(string, tag = "16")]
    pub boot: String,
}

impl Record for NamespacesRecord {
    const KIND: Kind = Kind {
        name: "namespaces",
        version: 1,
    };
}

impl NamespacesRecord {
    /// Whether the job had its own namespace of this kind (`user`, `pid`, `mnt`, `time`).
    pub fn has_own(&self, kind: &str) -> bool {
        self.own.iter().any(|own| own == kind)
    }
}

/// The resource.
pub struct Namespaces;

impl Resource for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[NamespacesRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        let Ok(mut survey) = Survey::new() else {
            return;
        };
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let (pid, name) = process.label();
            let depth = process.status.namespace_pid.len();
            survey.look(
                (pid, &name),
                &process.directory,
                (depth, process.inner_pid()),
                refusals,
            );
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut survey = Survey::new()?;
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            let depth = process.status.namespace_pid.len();
            survey.look(
                (process.pid, &process.name()),
                &process.directory,
                (depth, process.inner),
                &mut refusals,
            );
        }
        refusals.into_result()?;
        let mut record = NamespacesRecord {
            own: survey.own_of_job().map(String::from).collect(),
            host_name: host_name(),
            boot: clocks::boot(),
            ..NamespacesRecord::default()
        };
        if let Some(process) = frozen.alive().next() {
            let here = offsets(&survey.directory)?;
            let there = offsets(&process.directory)?;
            record.monotonic = seen_by_job(libc::CLOCK_MONOTONIC, "monotonic", &here, &there)?;
            record.boottime = seen_by_job(libc::CLOCK_BOOTTIME, "boottime", &here, &there)?;
            collection
                .needs
                .insert("clock.monotonic".into(), record.monotonic.to_string());
            collection
                .needs
                .insert("clock.boottime".into(), record.boottime.to_string());
        }
        collection.put(&record)
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let Some(record) = records.optional::<NamespacesRecord>()? else {
            return Ok(());
        };
        let now = host_name();
        if now != record.host_name && !record.host_name.is_empty() {
            plan.remarks.push(format!(
                "the job ran on {} and finds itself on {}",
                String::from_utf8_lossy(&record.host_name),
                String::from_utf8_lossy(&now)
            ));
        }
        clocks::plan(&record, host, plan);
        Ok(())
    }
}

/// Whether a restart on this host puts the job into a fresh user namespace: as the nursery decides when it makes namespaces
/// with clocks of their own, which take CAP_SYS_ADMIN and CAP_SYS_TIME.
pub(crate) fn user_namespace_is_fresh(host: &Host) -> bool {
    let held = spawn::effective_capabilities().unwrap_or(0);
    !host.shares_pids && held & WITHOUT_USER_NAMESPACE != WITHOUT_USER_NAMESPACE
}

/// Kinds of namespaces, as /proc/PID/ns names them, with what to call them.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("user", "user"),
    ("mnt", "mount"),
    ("net", "network"),
    ("uts", "host name (UTS)"),
    ("ipc", "System V IPC"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Namespaces that children get may differ from the process' own until it forks.
const FOR_CHILDREN: [(&str, &str); 2] =
    [("pid", "pid_for_children"), ("time", "time_for_children")];

/// The inode numbers of a process' namespaces, by kind. A kernel without namespaces of a kind has no entry.
type Membership = BTreeMap<&'static str, u64>;

fn membership(directory: &ProcessDirectory) -> std::result::Result<Membership, ProcError> {
    let mut found = Membership::new();
    for kind in KINDS
        .iter()
        .map(|(kind, _)| *kind)
        .chain(FOR_CHILDREN.iter().map(|(_, kind)| *kind))
    {
        match directory.namespace(kind) {
            Ok(inode) => drop(found.insert(kind, inode)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What has been seen of the job's namespaces.
struct Survey {
    /// This process.
    directory: ProcessDirectory,
    /// Where `cryo` lives.
    here: Membership,
    /// Where the job's first process lives.
    first: Option<Membership>,
}

impl Survey {
    fn new() -> std::result::Result<Self, ProcError> {
        let directory = ProcessDirectory::open(spawn::own_pid())?;
        let here = membership(&directory)?;
        Ok(Self {
            directory,
            here,
            first: None,
        })
    }

    /// Judges one process: its directory, and how many pid namespaces it has a pid in with its pid in the innermost.
    fn look(
        &mut self,
        process: (i32, &str),
        directory: &ProcessDirectory,
        (depth, inner): (usize, i32),
        refusals: &mut Refusals,
    ) {
        // One that may not be looked at may not be attached to either, which is said there; one that has ended is none, and has
        // lost its namespaces while it was looked at or before.
        let Ok(there) = membership(directory) else {
            return;
        };
        if directory.namespace("mnt").is_err() {
            return;
        }
        match &self.first {
            Some(first) => not_with_the_rest(process, first, &there, refusals),
            None => {
                self.own_namespaces(process, directory, &there, refusals);
                self.first = Some(there.clone());
            }
        }
        for (kind, for_children) in FOR_CHILDREN {
            if there.contains_key(for_children) && there.get(kind) != there.get(for_children) {
                refusals.add(
                    process,
                    format!("the {kind} namespace of its future children"),
                    "it has asked for a new one (unshare or setns), which its children will be born in",
                    "checkpoint the processes in that namespace, or wait until it has started them",
                );
            }
        }
        if there.get("pid") == self.here.get("pid") {
            return;
        }
        if inner == 1 {
            refusals.add(
                process,
                "its pid namespace",
                "it is the init of the namespace, whose end ends all processes in it",
                "checkpoint the processes below it, or start the job with `cryo run`, which has an init of its own",
            );
        } else if depth != 2 {
            refusals.add(
                process,
                "its pid namespace",
                format!("it lies {} levels below this one", depth.saturating_sub(1)),
                "run cryo inside of the namespace around it",
            );
        }
    }

    /// Refuses what a restart cannot make afresh.
    fn own_namespaces(
        &self,
        process: (i32, &str),
        directory: &ProcessDirectory,
        there: &Membership,
        refusals: &mut Refusals,
    ) {
        for (kind, name) in KINDS {
            if self.here.get(kind) == there.get(kind) {
                continue;
            }
            let reason = match kind {
                "pid" | "time" | "ipc" => None,
                "user" => unusual_user_namespace(directory),
                "mnt" => unusual_mounts(&self.directory, directory),
                _ => Some(format!("it has a {name} namespace of its own")),
            };
            if let Some(reason) = reason {
                refusals.add(
                    process,
                    format!("its {name} namespace"),
                    reason,
                    "run cryo inside of its namespaces (in the container, with nsenter), or start it with `cryo run`",
                );
            }
        }
    }

    /// The kinds of namespaces that the job has for itself.
    fn own_of_job(&self) -> impl Iterator<Item = &'static str> {
        let first = self.first.as_ref();
        let own =
            move |kind: &str| first.is_some_and(|first| first.get(kind) != self.here.get(kind));
        KINDS
            .iter()
            .map(|(kind, _)| *kind)
            .filter(move |kind| own(kind))
    }
}

fn not_with_the_rest(
    process: (i32, &str),
    first: &Membership,
    there: &Membership,
    refusals: &mut Refusals,
) {
    for (kind, name) in KINDS {
        if first.get(kind) != there.get(kind) {
            refusals.add(
                process,
                format!("its {name} namespace"),
                "it is not the one of the job's other processes",
                "checkpoint the processes of each namespace by themselves",
            );
        }
    }
}

/// Why a user namespace cannot be made again; nothing when ids are mapped to themselves.
fn unusual_user_namespace(directory: &ProcessDirectory) -> Option<String> {
    let is_identity =
        |map: std::result::Result<Vec<cryonaut_procfs::namespace::IdRange>, ProcError>| {
            map.is_ok_and(|map| {
                !map.is_empty() && map.iter().all(|range| range.inside == range.outside)
            })
        };
    let identity = is_identity(directory.uid_map()) && is_identity(directory.gid_map());
    (!identity)
        .then(|| "it has a user namespace of its own where ids are not mapped to themselves".into())
}

/// Why a mount namespace cannot be made again; nothing when all its mounts but /proc are found here too. Mounts made here
/// since then are no obstacle: files are checked one by one at the restart.
fn unusual_mounts(here: &ProcessDirectory, there: &ProcessDirectory) -> Option<String> {
    let (Ok(here), Ok(there)) = (here.mountinfo(), there.mountinfo()) else {
        return Some("it has a mount namespace of its own that cannot be read".into());
    };
    let foreign = foreign_mount(&here, &there)?;
    Some(format!(
        "it has a mount namespace of its own, where {} is mounted, which is not the case here",
        String::from_utf8_lossy(&foreign.mount_point)
    ))
}

/// Whether it is a /dev/pts, which a restart makes anew where the job has pseudo-terminals.
fn is_own_terminals(mount: &Mount) -> bool {
    mount.mount_point == b"/dev/pts" && mount.file_system == b"devpts"
}

/// A mount of `there`, besides those at and below /proc, that is not found `here`.
fn foreign_mount<'a>(here: &[Mount], there: &'a [Mount]) -> Option<&'a Mount> {
    let mut left: Vec<&Mount> = here.iter().collect();
    let has_view = there.iter().any(embedded::is_of_view);
    there
        .iter()
        .filter(|mount| !mount.mount_point.starts_with(b"/proc/") && mount.mount_point != b"/proc")
        .filter(|mount| !is_own_terminals(mount))
        .filter(|mount| !has_view || !(embedded::is_of_view(mount) || is_at_its_place(here, mount)))
        .find(|mount| {
            let same = |other: &&Mount| {
                (
                    &other.mount_point,
                    &other.root,
                    other.device,
                    &other.file_system,
                    &other.options,
                ) == (
                    &mount.mount_point,
                    &mount.root,
                    mount.device,
                    &mount.file_system,
                    &mount.options,
                )
            };
            // Mounts at one place may be stacked: each counts once.
            match left.iter().position(same) {
                Some(index) => {
                    left.swap_remove(index);
                    false
                }
                None => true,
            }
        })
}

/// Whether a mount shows what is at its place here without it: as a restart makes them in directories that it lays out anew.
fn is_at_its_place(here: &[Mount], mount: &Mount) -> bool {
    let below = |above: &Mount| {
        let rest = mount
            .mount_point
            .strip_prefix(above.mount_point.as_slice())?;
        let whole = above.mount_point == b"/" || rest.is_empty() || rest.starts_with(b"/");
        whole.then(|| rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    };
    let around = here.iter().filter(|above| below(above).is_some());
    // Of several at one place the last covers the others.
    let Some(above) = around.max_by_key(|above| above.mount_point.len()) else {
        return false;
    };
    let mut root = above.root.clone();
    let rest = below(above).unwrap_or_default();
    if !rest.is_empty() {
        if !root.ends_with(b"/") {
            root.push(b'/');
        }
        root.extend(rest);
    }
    (above.device, &above.options, &root) == (mount.device, &mount.options, &mount.root)
}

/// The machine's name as `cryo` sees it; a job in another UTS namespace is refused.
fn host_name() -> Vec<u8> {
    let name = std::fs::read(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    name.trim_ascii_end().to_vec()
}

/// Clock offsets; none on a kernel without time namespaces.
fn offsets(directory: &ProcessDirectory) -> Result<Vec<ClockOffset>> {
    match directory.time_offsets() {
        Ok(offsets) => Ok(offsets),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn offset(offsets: &[ClockOffset], name: &str) -> i128 {
    offsets
        .iter()
        .find(|offset| offset.clock == name)
        .map_or(0, |offset| {
            i128::from(offset.seconds) * 1_000_000_000 + i128::from(offset.nanoseconds)
        })
}

/// A clock as the job sees it now: ours, without our offset, with its.
fn seen_by_job(clock: i32, name: &str, here: &[ClockOffset], there: &[ClockOffset]) -> Result<i64> {
    let now = task::clock(clock)
        .map_err(|error| Error::Failed(format!("reading the {name} clock: {error}")))?;
    let seen = now - offset(here, name) + offset(there, name);
    i64::try_from(seen)
        .map_err(|_| Error::Failed(format!("the job's {name} clock is out of range")))
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Namespaces shared with cryo, also inside of a container",
        level: Level::Restored,
        how: "the job runs in the namespaces of the restart",
    },
    Support {
        what: "Pid, user, mount and time namespaces of `cryo run` and `cryo restart`; IPC namespaces",
        level: Level::Partly,
        how: "made afresh where they are needed",
    },
    Support {
        what: "CLOCK_MONOTONIC and CLOCK_BOOTTIME after a reboot, on another machine, and wherever pids are made afresh",
        level: Level::Restored,
        how: "they go on from where they were, in a time namespace; under the same boot and with its pids a job sees that time \
              has passed",
    },
    Support {
        what: "Network, UTS and cgroup namespaces of the job's own; user namespaces that change ids; other mounts",
        level: Level::Refused,
        how: "run cryo inside of them",
    },
    Support {
        what: "A job in several namespaces of one kind, or with the init of a pid namespace in it",
        level: Level::Refused,
        how: "checkpoint the processes of each namespace by themselves, without its init",
    },
    Support {
        what: "The machine's name",
        level: Level::Partly,
        how: "it is that of the machine where the job is restarted, and a remark says so",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::credentials::tests::Subject;
    use crate::target::{Inspection, Scope};

    fn record() -> NamespacesRecord {
        NamespacesRecord {
            own: vec!["pid".into(), "user".into()],
            host_name: b"node17".to_vec(),
            monotonic: 12_345_678_901,
            boottime: -5,
            boot: "8f1c".into(),
        }
    }

    fn mount(line: &str) -> Mount {
        cryonaut_procfs::mountinfo::parse(line.as_bytes())
            .unwrap()
            .remove(0)
    }

    #[test]
    fn the_record_survives_an_image() {
        let mut records = RecordSet::new();
        records.push(&record()).unwrap();
        let back: NamespacesRecord = records.one().unwrap();
        assert_eq!(back, record());
        assert!(back.has_own("user") && !back.has_own("net"));
    }

    #[test]
    fn this_process_lives_where_we_live() {
        let target = Target {
            processes: vec![own_process()],
            scope: Scope::Process,
            named: spawn::own_pid(),
            started: 0,
            inspection: Inspection::Complete,
            hashing: Default::default(),
            external: Default::default(),
            notification: Default::default(),
            embedding: Default::default(),
            suspension: None,
            left_out: std::collections::BTreeSet::new(),
        };
        let mut refusals = Refusals::default();
        Namespaces.inspect(&target, &mut refusals);
        assert_eq!(refusals.list(), []);
    }

    fn own_process() -> crate::target::TargetProcess {
        crate::target::TargetProcess::read(spawn::own_pid()).unwrap()
    }

    #[test]
    fn processes_of_different_namespaces_are_told_apart() {
        let here = Membership::from([("net", 1), ("ipc", 2)]);
        let there = Membership::from([("net", 1), ("ipc", 3)]);
        let mut refusals = Refusals::default();
        not_with_the_rest((7, "x"), &here, &there, &mut refusals);
        let objects: Vec<&str> = refusals
            .list()
            .iter()
            .map(|refusal| refusal.object.as_str())
            .collect();
        assert_eq!(objects, ["its System V IPC namespace"]);
    }

    #[test]
    fn only_proc_may_be_mounted_otherwise() {
        let root = mount("27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n");
        let private_root = mount("127 90 254:0 / / rw,relatime - ext4 /dev/vda rw\n");
        let proc = mount("128 127 0:99 / /proc rw,nosuid - proc proc rw\n");
        let other = mount("129 127 0:50 / /data rw - tmpfs tmpfs rw\n");
        let here = [root.clone(), other.clone()];
        assert_eq!(
            foreign_mount(&here, &[private_root.clone(), proc.clone()]),
            None
        );
        assert_eq!(
            foreign_mount(&here, &[private_root.clone(), proc, other.clone()]),
            None
        );
        assert_eq!(
            foreign_mount(&here, &[private_root, other.clone(), other.clone()]),
            Some(&other)
        );
        assert_eq!(
            foreign_mount(&[root], std::slice::from_ref(&other)),
            Some(&other)
        );
    }

    #[test]
    fn clocks_are_those_that_the_job_sees() {
        let offsets =
            cryonaut_procfs::namespace::parse_time_offsets(b"monotonic -3600 500\nboottime 0 0\n")
                .unwrap();
        let shifted = seen_by_job(libc::CLOCK_MONOTONIC, "monotonic", &[], &offsets).unwrap();
        let plain = seen_by_job(libc::CLOCK_MONOTONIC, "monotonic", &offsets, &offsets).unwrap();
        let difference = i128::from(plain) - i128::from(shifted);
        assert!(
            (3_599_000_000_000..3_601_000_000_000).contains(&difference),
            "{difference}"
        );
    }

    #[test]
    fn clocks_and_namespaces_are_recorded() {
        let mut subject = Subject::start(&["sleep", "60"], "sleep").expect("sleep runs");
        let mut collection = Collection::default();
        Namespaces
            .collect(&mut subject.frozen, &mut collection)
            .unwrap();
        let record: NamespacesRecord = collection.records.one().unwrap();
        assert_eq!(record.own, Vec::<String>::new());
        assert!(record.monotonic > 0 && record.boottime > 0);
        assert_eq!(
            collection.needs["clock.monotonic"],
            record.monotonic.to_string()
        );
    }

    #[test]
    fn a_network_of_its_own_is_refused() {
        let command = [
            "unshare",
            "--user",
            "--map-current-user",
            "--net",
            "sleep",
            "60",
        ];
        let Some(child) = Subject::spawn(&command, "sleep") else {
            return;
        };
        let target = Target::find(child.id(), Scope::Process).unwrap();
        let mut refusals = Refusals::default();
        Namespaces.inspect(&target, &mut refusals);
        let objects: Vec<&str> = refusals
            .list()
            .iter()
            .map(|refusal| refusal.object.as_str())
            .collect();
        assert_eq!(objects, ["its network namespace"]);
    }
}
