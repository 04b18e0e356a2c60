//! Who of the job lives in which namespaces: in those of the job's first process, or in some that the job has made itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use cryonaut_procfs::namespace::IdRange;
use cryonaut_procfs::{Mount, ProcError, ProcessDirectory};
use cryonaut_sys::{namespace, spawn};

use super::made::{Made, Surroundings};
use super::mounts;
use super::unmounted::Unmounted;
use crate::Refusals;

/// Kinds of namespaces, as /proc/PID/ns names them, with what to call them.
pub(super) const KINDS: [(&str, &str); 8] = [
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

const INSIDE: &str = "run cryo inside of its namespaces (in the container, with nsenter), or start it with `cryo run`";
const EACH: &str = "checkpoint the processes of each namespace by themselves";

/// The inode numbers of a process' namespaces, by kind. A kernel without namespaces of a kind has no entry.
pub(super) type Membership = BTreeMap<&'static str, u64>;

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

/// One process to be judged.
pub(super) struct Subject<'a> {
    /// Its pid as we see it.
    pub(super) pid: i32,
    /// Its name.
    pub(super) name: &'a str,
    /// Its /proc directory.
    pub(super) directory: &'a ProcessDirectory,
    /// How many pid namespaces it has a pid in.
    pub(super) depth: usize,
    /// Its pid in the innermost of them.
    pub(super) inner: i32,
}

impl Subject<'_> {
    fn label(&self) -> (i32, &str) {
        (self.pid, self.name)
    }
}

/// What has been seen of the job's namespaces.
pub(super) struct Survey {
    /// This process.
    pub(super) directory: ProcessDirectory,
    /// Where `cryo` lives.
    here: Membership,
    /// What a restart makes for the whole job where it is needed: where the job's first process lives, as far as it has not made
    /// that itself.
    home: Option<Membership>,
    /// What the job's mount namespace has that is no more mounted here.
    unmounted: Unmounted,
    /// What is mounted there.
    mounts: Vec<Mount>,
    /// What the job has made itself.
    pub(super) made: Made,
}

impl Survey {
    pub(super) fn new() -> std::result::Result<Self, ProcError> {
        let directory = ProcessDirectory::open(spawn::own_pid())?;
        let here = membership(&directory)?;
        Ok(Self {
            directory,
            here,
            home: None,
            unmounted: Unmounted::default(),
            mounts: Vec::new(),
            made: Made::default(),
        })
    }

    /// Judges one process.
    pub(super) fn look(&mut self, subject: &Subject<'_>, refusals: &mut Refusals) {
        // One that may not be looked at may not be attached to either, which is said there; one that has ended is none, and has
        // lost its namespaces while it was looked at or before.
        let Ok(there) = membership(subject.directory) else {
            return;
        };
        if subject.directory.namespace("mnt").is_err() {
            return;
        }
        let home = match self.home.take() {
            Some(home) => home,
            None => {
                let home = self.choose_home(subject, &there, refusals);
                let is_there = home.get("mnt") == there.get("mnt");
                let lives = if is_there {
                    subject.directory
                } else {
                    &self.directory
                };
                self.mounts = lives.mountinfo().unwrap_or_default();
                home
            }
        };
        self.note_made(subject, &home, &there, refusals);
        if let Some(used) = self.unmounted.used_by(subject.directory) {
            refusals.add(
                subject.label(),
                used.what,
                format!(
                    "it is on what is mounted on {} for the job, and not mounted here any more",
                    String::from_utf8_lossy(&used.mount_point)
                ),
                "mount it here again, or have the program leave it",
            );
        }
        for (kind, for_children) in FOR_CHILDREN {
            if there.contains_key(for_children) && there.get(kind) != there.get(for_children) {
                refusals.add(
                    subject.label(),
                    format!("the {kind} namespace of its future children"),
                    "it has asked for a new one (unshare or setns), which its children will be born in",
                    "checkpoint the processes in that namespace, or wait until it has started them",
                );
            }
        }
        self.home = Some(home);
        if there.get("pid") == self.here.get("pid") {
            return;
        }
        if subject.inner == 1 {
            refusals.add(
                subject.label(),
                "its pid namespace",
                "it is the init of the namespace, whose end ends all processes in it",
                "checkpoint the processes below it, or start the job with `cryo run`, which has an init of its own",
            );
        } else if subject.depth != 2 {
            refusals.add(
                subject.label(),
                "its pid namespace",
                format!(
                    "it lies {} levels below this one",
                    subject.depth.saturating_sub(1)
                ),
                "run cryo inside of the namespace around it",
            );
        }
    }

    /// What of the first process' namespaces a restart makes for the whole job.
    fn choose_home(
        &mut self,
        subject: &Subject<'_>,
        there: &Membership,
        refusals: &mut Refusals,
    ) -> Membership {
        let mut home = self.here.clone();
        let afresh = ["user", "pid", "mnt", "ipc", "time"];
        // The user namespace first: it tells whose the others are.
        for kind in afresh {
            if self.here.get(kind) == there.get(kind) {
                continue;
            }
            if kind == "user" {
                // Another one the job has made itself.
                home.extend(
                    self.user_namespace_of_job(subject)
                        .map(|inode| (kind, inode)),
                );
                continue;
            }
            if kind == "mnt" {
                match mounts::unmounted(&self.directory, subject.directory) {
                    Some(unmounted) => self.unmounted = unmounted,
                    // One with other mounts the job has made itself.
                    None => continue,
                }
            }
            let foreign = self.foreign_owner(subject, &home, kind);
            if foreign.is_some() && Made::KINDS.contains(&kind) {
                continue;
            }
            if let Some(reason) = foreign {
                refusals.add(
                    subject.label(),
                    format!("its {} namespace", name_of(kind)),
                    reason,
                    INSIDE,
                );
            }
            home.extend(there.get_key_value(kind));
        }
        home
    }

    /// The user namespace that a restart makes for the whole job, if it is as it makes them: ids are mapped to themselves. It is the one
    /// that the process' pids belong to (around it there is another one where files of an image are laid out), else the outermost
    /// that the process is in and we are not.
    fn user_namespace_of_job(&self, subject: &Subject<'_>) -> Option<u64> {
        let own = subject.directory.open_file("ns/user").ok()?;
        let pids = subject.directory.open_file("ns/pid").ok()?;
        let of_pids = namespace::owner(pids.as_fd()).ok().map(File::from);
        let of_pids = of_pids.and_then(|owner| inode(&owner));
        let mut chosen = own.try_clone().ok()?;
        while inode(&chosen) != of_pids {
            let around = File::from(namespace::parent(chosen.as_fd()).ok()?);
            if Some(&inode(&around)?) == self.here.get("user") {
                break;
            }
            chosen = around;
        }
        let found = inode(&chosen)?;
        // Root needs none for its jobs: the job has made it itself, unless its pids belong to it.
        if of_pids != Some(found) && super::may_make_without_user_namespace() {
            return None;
        }
        let is_as_ours = if Some(found) == inode(&own) {
            maps_to_itself(subject.directory)
        } else {
            Made::maps_to_itself(&chosen)
        };
        is_as_ours.then_some(found)
    }

    /// Why a namespace that a restart would make for the whole job cannot be made so; nothing when it belongs to the job's user
    /// namespace, or to one around it.
    fn foreign_owner(
        &self,
        subject: &Subject<'_>,
        home: &Membership,
        kind: &str,
    ) -> Option<String> {
        let file = subject.directory.open_file(&format!("ns/{kind}")).ok()?;
        // One whose owner we may not know belongs to a namespace around ours.
        let owner = inode(&File::from(namespace::owner(file.as_fd()).ok()?))?;
        let is_ours = [home, &self.here]
            .iter()
            .any(|known| known.get("user") == Some(&owner));
        (!is_ours).then(|| {
            format!(
                "it belongs to a user namespace that the job has made itself, and {} namespaces of such a one cannot be made again",
                name_of(kind)
            )
        })
    }

    /// Notes the namespaces that the job has made itself, and refuses those that cannot be made again.
    fn note_made(
        &mut self,
        subject: &Subject<'_>,
        home: &Membership,
        there: &Membership,
        refusals: &mut Refusals,
    ) {
        let surroundings = Surroundings {
            process: subject.directory,
            mounts: &self.mounts,
            here: self.here.get("user").copied(),
            home: home.get("user").copied(),
        };
        for (kind, name) in KINDS {
            if home.get(kind) == there.get(kind) {
                continue;
            }
            let object = format!("its {name} namespace");
            let mut refuse = |reason: String, remedy: &str| {
                refusals.add(subject.label(), object.as_str(), reason, remedy);
            };
            let is_ours = self.here.get(kind) == there.get(kind);
            if is_ours || !Made::KINDS.contains(&kind) {
                refuse(
                    "it is not the one of the job's other processes".into(),
                    EACH,
                );
            } else if let Ok(file) = subject.directory.open_file(&format!("ns/{kind}"))
                && let Err(reason) =
                    self.made
                        .note(kind, file, (subject.pid, subject.inner), surroundings)
            {
                refuse(reason, INSIDE);
            }
        }
    }

    /// The kinds of namespaces that a restart makes for the whole job, if it needs them.
    pub(super) fn own_of_job(&self) -> impl Iterator<Item = &'static str> {
        let home = self.home.as_ref();
        let own = move |kind: &str| home.is_some_and(|home| home.get(kind) != self.here.get(kind));
        KINDS
            .iter()
            .map(|(kind, _)| *kind)
            .filter(move |kind| own(kind))
    }
}

/// Refuses a thread that has left its process' namespaces, as unshare(2) lets each do for itself.
pub(super) fn refuse_threads(subject: &Subject<'_>, refusals: &mut Refusals) {
    const OF_EACH: [&str; 5] = ["uts", "net", "ipc", "mnt", "cgroup"];
    let links = OF_EACH.map(|kind| (kind, subject.directory.link(&format!("ns/{kind}")).ok()));
    for tid in subject.directory.threads().unwrap_or_default() {
        let of_thread = |kind| {
            subject
                .directory
                .link(&format!("task/{tid}/ns/{kind}"))
                .ok()
        };
        // One that has ended meanwhile is in none.
        let left = links.iter().find(|(kind, link)| {
            let own = of_thread(kind);
            link.is_some() && own.is_some() && own != *link
        });
        if let Some((kind, _)) = left {
            refusals.add(
                subject.label(),
                format!("its thread {tid}"),
                format!(
                    "it is in another {} namespace than its process",
                    name_of(kind)
                ),
                "have the program do that in a process of its own",
            );
        }
    }
}

/// What a kind is called.
pub(super) fn name_of(kind: &str) -> &str {
    let found = KINDS.iter().find(|(known, _)| *known == kind);
    found.map_or(kind, |(_, name)| name)
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|found| found.ino())
}

/// Whether a process' user namespace is as a restart makes them: ids are mapped to themselves.
fn maps_to_itself(directory: &ProcessDirectory) -> bool {
    let is_identity = |map: std::result::Result<Vec<IdRange>, ProcError>| {
        map.is_ok_and(|map| {
            !map.is_empty() && map.iter().all(|range| range.inside == range.outside)
        })
    };
    is_identity(directory.uid_map()) && is_identity(directory.gid_map())
}
