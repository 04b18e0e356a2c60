//! The namespaces that the job lives in (namespaces(7)).
//!
//! Shown by the links in /proc/PID/ns, by uid_map, timens_offsets and mountinfo. A job may share all namespaces with `cryo`, or
//! have what `cryo run` and `cryo restart` make: a pid namespace whose init is no part of the job, a user namespace that maps
//! ids to themselves, a mount namespace with a /proc of its own, a time namespace, an IPC namespace (see [`super::system_v`]).
//! These are made afresh at a restart when they are needed. Those that the job has made itself are objects of their own (see `made`),
//! but for pid and time namespaces, which are refused. Not preserved: which of the namespaces that a restart makes a job had, since
//! a restart chooses for itself what it needs, and the machine's name. How deep a user namespace is nested is not looked at where
//! it maps ids to themselves.

mod clocks;
mod made;
mod mounts;
mod survey;
mod unmounted;

use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_launch::WITHOUT_USER_NAMESPACE;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::namespace::ClockOffset;
use cryonaut_sys::{spawn, task};

use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

use made::{MembershipRecord, NamespaceRecord};
pub(crate) use made::{Whereabouts, in_mount_namespaces, in_user_namespaces, look_into_networks};
use survey::{Subject, Survey};

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
        const {
            &[
                NamespacesRecord::KIND,
                NamespaceRecord::KIND,
                MembershipRecord::KIND,
            ]
        }
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
            let subject = Subject {
                pid,
                name: &name,
                directory: &process.directory,
                depth: process.status.namespace_pid.len(),
                inner: process.inner_pid(),
            };
            survey.look(&subject, refusals);
            if process.stat.num_threads > 1 {
                survey::refuse_threads(&subject, refusals);
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut survey = Survey::new()?;
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            let subject = Subject {
                pid: process.pid,
                name: &process.name(),
                directory: &process.directory,
                depth: process.status.namespace_pid.len(),
                inner: process.inner,
            };
            survey.look(&subject, &mut refusals);
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
        collection.put(&record)?;
        survey.made.collect(frozen, collection)
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
        made::plan(records, host, plan)
    }
}

/// Whether a restart on this host puts the job into a fresh user namespace: as the nursery decides when it makes namespaces
/// with clocks of their own, which take CAP_SYS_ADMIN and CAP_SYS_TIME.
pub(crate) fn user_namespace_is_fresh(host: &Host) -> bool {
    !host.shares_pids && !may_make_without_user_namespace()
}

/// Whether this user may make namespaces for a job without a user namespace around them.
fn may_make_without_user_namespace() -> bool {
    let held = spawn::effective_capabilities().unwrap_or(0);
    held & WITHOUT_USER_NAMESPACE == WITHOUT_USER_NAMESPACE
}

/// The machine's name as `cryo` sees it.
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
        what: "User namespaces that the job has made itself (unshare -Ur), also nested, different ones in different processes",
        level: Level::Restored,
        how: "with their maps of users and groups, their owner, and whether setgroups is denied; an ordinary user's restart can map \
              only that user. Not for processes that share their working directory (CLONE_FS), and of limits (/proc/sys/user) and \
              ids of projects nothing is kept",
    },
    Support {
        what: "UTS namespaces that the job has made itself (unshare -u)",
        level: Level::Restored,
        how: "with the names of host and domain, different ones in different processes",
    },
    Support {
        what: "Network namespaces that the job has made itself (unshare -n) without devices but lo",
        level: Level::Restored,
        how: "whether lo is up, and settings (/proc/sys/net) that were changed. Other devices, addresses, routes, rules of netfilter \
              are refused, and so are sockets in such a namespace but for unix sockets",
    },
    Support {
        what: "Cgroup namespaces that the job has made itself (unshare -C)",
        level: Level::Partly,
        how: "they begin with the cgroup of the restart; refused where a process has gone into another one than it began with",
    },
    Support {
        what: "IPC namespaces that the job has made itself beside the first (unshare -i)",
        level: Level::Partly,
        how: "those with nothing in them; anything there is a refusal that says what",
    },
    Support {
        what: "Threads in other namespaces than their process",
        level: Level::Refused,
        how: "no thread can be led into them before it is there; have the program use processes",
    },
    Support {
        what: "Mount namespaces that the job has made itself (unshare -m, bubblewrap), different ones in different processes",
        level: Level::Restored,
        how: "what is mounted there, where, with its attributes and propagation, also with another root: files and directories that \
              are found outside too by their path; file systems in memory (tmpfs) with all that is in them; a /dev/pts without \
              terminals; /proc. Numbers of mounts and devices are new ones. Outside of a user namespace of its own only as root, \
              and not for processes that share their working directory (CLONE_FS)",
    },
    Support {
        what: "What was unmounted here since `cryo run` or `cryo restart` made the job's mount namespace",
        level: Level::Partly,
        how: "in the way only where the job uses it: a descriptor, a mapping, a directory",
    },
    Support {
        what: "Mount namespaces: open or mapped files, and open directories, that are found in it alone or at another path than outside; \
               other file systems that are mounted in it alone; sockets in memory, and files there that another mount hides; mounts that are hidden, or share with mounts outside",
        level: Level::Refused,
        how: "each is named; close the file, or mount it outside of the job before it is started",
    },
    Support {
        what: "A job in several pid or time namespaces, or with the init of a pid namespace in it",
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
    use crate::target::Scope;

    fn record() -> NamespacesRecord {
        NamespacesRecord {
            own: vec!["pid".into(), "user".into()],
            host_name: b"node17".to_vec(),
            monotonic: 12_345_678_901,
            boottime: -5,
            boot: "8f1c".into(),
        }
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
        let own = vec![own_process()];
        let target = Target::of(own, Scope::Process, (spawn::own_pid(), 0));
        let mut refusals = Refusals::default();
        Namespaces.inspect(&target, &mut refusals);
        assert_eq!(refusals.list(), []);
    }

    fn own_process() -> crate::target::TargetProcess {
        crate::target::TargetProcess::read(spawn::own_pid()).unwrap()
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

    /// What is refused of a command, and what is found of namespaces that it has made itself; nothing where it may not make them.
    fn look_at(command: &[&str]) -> Option<Vec<String>> {
        let child = Subject::spawn(command, "sleep")?;
        let target = Target::find(child.id(), Scope::Process).unwrap();
        let mut refusals = Refusals::default();
        Namespaces.inspect(&target, &mut refusals);
        let told = refusals.list().iter();
        Some(
            told.map(|refusal| format!("{}: {}", refusal.object, refusal.reason))
                .collect(),
        )
    }

    #[test]
    fn namespaces_of_its_own_are_looked_into() {
        let command = "unshare --user --map-root-user --net --uts --ipc sleep 60";
        let words: Vec<&str> = command.split(' ').collect();
        if let Some(found) = look_at(&words) {
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_mounted_twice_is_refused() {
        let words = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /mnt && mount --bind /mnt /opt && exec sleep 60",
        ];
        let Some(found) = look_at(&words) else {
            return;
        };
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("its mount namespace: "), "{found:?}");
    }
}
