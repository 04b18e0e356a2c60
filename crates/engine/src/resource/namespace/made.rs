//! Namespaces that the job has made itself, by unshare(2) or clone(2) after its start: user, mount, UTS, network and cgroup
//! namespaces, and IPC namespaces without anything in them.
//!
//! Each is one object, known by its inode number; processes refer to it. What is in it is read by a process of ours that enters it
//! (`visit`), changes nothing, and ends. A restart makes each once, the user namespaces around it first: a child of the progenitor
//! makes it and ends when `cryo` has a descriptor of it. Processes enter theirs when their memory and descriptors are there, and
//! before they have threads, which is what setns(2) asks of who enters a user namespace.

mod cgroup;
mod ipc;
mod mount;
mod network;
mod step;
mod user;
mod uts;
mod visit;
mod whereabouts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::{Mount, ProcessDirectory};
use cryonaut_sys::spawn::namespace as flag;
use cryonaut_sys::{namespace, spawn};

use super::user_namespace_is_fresh;
use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::{Plan, Stage, Token};
use crate::resource::credentials::{CredentialsRecord, settable};
use crate::resource::memory::printable;
use crate::resource::process::ProcessRecord;
use crate::resource::sharing::Shared;
use crate::{Error, Refusals, Result};

pub use mount::MountTree;
pub use network::Network;
pub(crate) use network::look_into_networks;
pub use user::IdMaps;
pub use uts::HostNames;
pub(crate) use whereabouts::Whereabouts;

/// A namespace that the job has made itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamespaceRecord {
    /// Its number: that of its inode.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// What it is, as /proc/PID/ns names it: `user`, `mnt`, `uts`, `net`, `ipc` (without anything in it) or `cgroup` (whose
    /// processes are all in the cgroup that it begins with).
    #[prost(string, tag = "2")]
    pub kind: String,
    /// The user namespace that it belongs to, or lies in, by its number; 0 for the one that the job was started in.
    #[prost(uint64, tag = "3")]
    pub owner: u64,
    /// Of a user namespace: its ids.
    #[prost(message, optional, tag = "4")]
    pub maps: Option<IdMaps>,
    /// Of a UTS namespace: its names.
    #[prost(message, optional, tag = "5")]
    pub names: Option<HostNames>,
    /// Of a network namespace: its state and its settings.
    #[prost(message, optional, tag = "6")]
    pub network: Option<Network>,
    /// Of a mount namespace: what is mounted there.
    #[prost(message, optional, tag = "7")]
    pub mounts: Option<MountTree>,
}

impl Record for NamespaceRecord {
    const KIND: Kind = Kind {
        name: "namespace",
        version: 1,
    };
}

impl NamespaceRecord {
    /// Its flag for unshare(2), and whether it has what one of its kind has; none for a kind that this `cryo` does not know.
    fn flag(&self) -> Option<i32> {
        match self.kind.as_str() {
            "user" => Some(flag::USER).filter(|_| self.maps.is_some()),
            "mnt" => Some(flag::MOUNT).filter(|_| self.mounts.is_some()),
            "uts" => Some(flag::UTS).filter(|_| self.names.is_some()),
            "net" => Some(flag::NETWORK).filter(|_| self.network.is_some()),
            "ipc" => Some(flag::IPC),
            "cgroup" => Some(flag::CGROUP),
            _ => None,
        }
    }
}

/// The namespaces of one process that are not those that the job was started in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MembershipRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its namespaces, by their numbers, at most one of a kind.
    #[prost(uint64, repeated, tag = "2")]
    pub namespaces: Vec<u64>,
}

impl Record for MembershipRecord {
    const KIND: Kind = Kind {
        name: "namespace.members",
        version: 1,
    };
}

/// What nothing is kept of.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Nothing {}

/// What is around a process that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Its /proc directory.
    pub(super) process: &'a ProcessDirectory,
    /// What is mounted where the job was started.
    pub(super) mounts: &'a [Mount],
    // The user namespaces that are not of the job's making, by their inode numbers.
    /// That of `cryo`.
    pub(super) here: Option<u64>,
    /// The one that the job was started in.
    pub(super) home: Option<u64>,
}

/// What was found.
#[derive(Default)]
pub(super) struct Made {
    /// The namespaces, owners before what they own.
    namespaces: Vec<NamespaceRecord>,
    /// Their numbers, and those of the hopeless.
    known: BTreeSet<u64>,
    /// Those that cannot be made again, and why.
    hopeless: BTreeMap<u64, String>,
    /// Whose they are.
    members: BTreeMap<i32, Vec<u64>>,
    /// A process in each, by the pid that we see.
    witnesses: BTreeMap<u64, i32>,
}

impl Made {
    /// The kinds that can be made again.
    pub(super) const KINDS: [&'static str; 6] = ["user", "mnt", "uts", "net", "ipc", "cgroup"];

    /// Whether ids are mapped to themselves in a user namespace, as where a restart makes one.
    pub(super) fn maps_to_itself(user: &File) -> bool {
        visit::visit(&[user], user::look).is_ok_and(|maps: IdMaps| maps.are_identity())
    }

    /// Notes the namespace of a process, given as a file of /proc/PID/ns. `process` is its pid as we see it, and as it does.
    ///
    /// # Errors
    /// Why it cannot be made again.
    pub(super) fn note(
        &mut self,
        kind: &'static str,
        file: File,
        (pid, inner): (i32, i32),
        surroundings: Surroundings<'_>,
    ) -> std::result::Result<(), String> {
        let way = self.way(kind, file, surroundings)?;
        if kind == "cgroup" {
            visit::visit(&way.files(), || cgroup::look(pid)).map_err(unseen)?;
        }
        let object = self.find(kind, way, surroundings)?;
        let mut all = self.namespaces.iter();
        let found = all.find(|namespace| namespace.object == object);
        if let Some(mounts) = found.and_then(|namespace| namespace.mounts.as_ref()) {
            mount::check_files(surroundings.process, mounts)?;
        }
        self.witnesses.entry(object).or_insert(pid);
        self.members.entry(inner).or_default().push(object);
        Ok(())
    }

    /// How a process of ours gets into a namespace; the user namespace around it is noted if the job has made it.
    fn way(
        &mut self,
        kind: &'static str,
        file: File,
        surroundings: Surroundings<'_>,
    ) -> std::result::Result<Way, String> {
        let around = match kind {
            "user" => namespace::parent(file.as_fd()),
            _ => namespace::owner(file.as_fd()),
        };
        let outside = || "it belongs to a user namespace outside of the job's".to_owned();
        let around = File::from(around.map_err(|_| outside())?);
        let number = inode(&around)?;
        let owner = match Some(number) {
            number if number == surroundings.home => 0,
            number if number == surroundings.here => return Err(outside()),
            _ => {
                let copy = around.try_clone().map_err(|error| error.to_string())?;
                let way = self.way("user", copy, surroundings)?;
                self.find("user", way, surroundings)?
            }
        };
        // Into a user namespace leads its own descriptor; into others that of the user namespace around, if it is not ours.
        let is_direct = kind == "user" || Some(number) == surroundings.here;
        Ok(Way {
            owner,
            around: (!is_direct).then_some(around),
            file,
        })
    }

    /// The number of a namespace, which is looked at when it is seen first.
    fn find(
        &mut self,
        kind: &'static str,
        way: Way,
        surroundings: Surroundings<'_>,
    ) -> std::result::Result<u64, String> {
        let object = inode(&way.file)?;
        if let Some(reason) = self.hopeless.get(&object) {
            return Err(reason.clone());
        }
        if !self.known.insert(object) {
            return Ok(object);
        }
        let found = look(kind, &way, surroundings);
        match found.and_then(|record| self.expect_alone(record)) {
            Ok(record) => {
                self.namespaces.push(NamespaceRecord { object, ..record });
                Ok(object)
            }
            Err(reason) => {
                self.hopeless.insert(object, reason.clone());
                Err(reason)
            }
        }
    }

    /// Refuses a mount namespace that has a file system of its own with another one together.
    fn expect_alone(
        &self,
        record: NamespaceRecord,
    ) -> std::result::Result<NamespaceRecord, String> {
        let Some(mounts) = &record.mounts else {
            return Ok(record);
        };
        let mut others = self
            .namespaces
            .iter()
            .filter_map(|other| other.mounts.as_ref());
        match others.find_map(|other| mounts.shared_with(other)) {
            Some(place) => Err(format!(
                "what is mounted at {} is mounted in another mount namespace of the job too",
                printable(place)
            )),
            None => Ok(record),
        }
    }

    /// Puts all that was found.
    ///
    /// # Errors
    /// When a record cannot be stored; refusals of what only the frozen job shows.
    pub(super) fn collect(mut self, frozen: &Frozen, collection: &mut Collection) -> Result<()> {
        self.refuse_unable(frozen)?;
        let mut contents = 0;
        for namespace in &mut self.namespaces {
            let witness = self.witnesses.get(&namespace.object).copied();
            if let (Some(mounts), Some(witness)) = (&mut namespace.mounts, witness) {
                let process = ProcessDirectory::open(witness)?;
                mounts.collect(&process, &mut contents, collection)?;
            }
        }
        for namespace in &self.namespaces {
            collection.put(namespace)?;
        }
        for (process, namespaces) in self.members {
            collection.put(&MembershipRecord {
                process,
                namespaces,
            })?;
        }
        Ok(())
    }

    /// Refuses processes that could not enter their user namespace again.
    fn refuse_unable(&self, frozen: &Frozen) -> Result<()> {
        let users: BTreeSet<u64> = self.of_kind("user").collect();
        let mounts: BTreeSet<u64> = self.of_kind("mnt").collect();
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            let mine = self.members.get(&process.inner).into_iter().flatten();
            let mine = mine.into_iter();
            let (in_user, in_mount) = mine.fold((false, false), |(user, mount), object| {
                (
                    user || users.contains(object),
                    mount || mounts.contains(object),
                )
            });
            if !in_user && !in_mount {
                continue;
            }
            let holder = |pid| frozen.sharing.of_process(Shared::FsContext, pid);
            let shares = frozen
                .alive()
                .any(|other| other.pid != process.pid && holder(other.pid) == holder(process.pid));
            if shares {
                refusals.add(
                    (process.pid, &process.name()),
                    if in_user { "its user namespace" } else { "its mount namespace" },
                    "the process shares its working directory with another one (CLONE_FS), and the kernel lets none such enter a namespace of this kind",
                    "have the program start its processes without CLONE_FS",
                );
            }
            if !in_user {
                continue;
            }
            let others = process.tasks.iter().skip(1);
            let leader = process.directory.read("status")?;
            if let Some(other) = others.into_iter().find(|task| {
                !task.status.is_empty() && user::ids(&task.status) != user::ids(&leader)
            }) {
                refusals.add(
                    (process.pid, &process.name()),
                    format!("its thread {}", other.stopped.tid()),
                    "it runs as another user or group than its process, in a user namespace that the job has made itself",
                    "have all threads of the program run as the same user",
                );
            }
        }
        refusals.into_result()
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = u64> {
        let namespaces = self.namespaces.iter();
        namespaces
            .filter(move |namespace| namespace.kind == kind)
            .map(|namespace| namespace.object)
    }
}

/// How a process of ours gets into a namespace.
struct Way {
    /// The user namespace that it belongs to, or lies in, by its number; 0 for the job's first.
    owner: u64,
    /// That one, where it is to be entered before.
    around: Option<File>,
    file: File,
}

impl Way {
    fn files(&self) -> Vec<&File> {
        self.around.iter().chain([&self.file]).collect()
    }
}

fn inode(file: &File) -> std::result::Result<u64, String> {
    let about = file.metadata().map_err(|error| error.to_string())?;
    Ok(about.ino())
}

fn unseen(error: Error) -> String {
    match error {
        Error::Failed(reason) => reason,
        error => error.to_string(),
    }
}

/// Looks into a namespace.
fn look(
    kind: &'static str,
    way: &Way,
    surroundings: Surroundings<'_>,
) -> std::result::Result<NamespaceRecord, String> {
    let mut record = NamespaceRecord {
        kind: kind.into(),
        owner: way.owner,
        ..NamespaceRecord::default()
    };
    let files = way.files();
    match kind {
        "user" => {
            let maps: IdMaps = visit::visit(&files, user::look).map_err(unseen)?;
            let owner = namespace::owner_user(way.file.as_fd());
            let owner = owner.map_err(|error| error.to_string())?;
            record.maps = Some(IdMaps { owner, ..maps });
        }
        "mnt" => {
            let tree = mount::describe(surroundings.mounts, surroundings.process)?;
            record.mounts = Some(visit::visit(&files, || mount::look(tree)).map_err(unseen)?);
        }
        "uts" => record.names = Some(visit::visit(&files, uts::look).map_err(unseen)?),
        "net" => record.network = Some(visit::visit(&files, network::look).map_err(unseen)?),
        "ipc" => drop(visit::visit(&files, ipc::look).map_err(unseen)?),
        // Each process by itself.
        _ => {}
    }
    Ok(record)
}

/// The processes of an image that live in a user namespace that the job has made itself.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn in_user_namespaces(records: &RecordSet) -> Result<BTreeSet<i32>> {
    in_namespaces(records, "user")
}

/// The processes of an image that live in a mount namespace that the job has made itself.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn in_mount_namespaces(records: &RecordSet) -> Result<BTreeSet<i32>> {
    in_namespaces(records, "mnt")
}

fn in_namespaces(records: &RecordSet, kind: &str) -> Result<BTreeSet<i32>> {
    let namespaces = records.all::<NamespaceRecord>()?;
    let wanted: BTreeSet<u64> = namespaces
        .iter()
        .filter(|namespace| namespace.kind == kind)
        .map(|namespace| namespace.object)
        .collect();
    let members = records.all::<MembershipRecord>()?;
    let within = |member: &&MembershipRecord| {
        let mut all = member.namespaces.iter();
        all.any(|object| wanted.contains(object))
    };
    Ok(members
        .iter()
        .filter(within)
        .map(|member| member.process)
        .collect())
}

fn damaged(what: &str) -> Error {
    Error::Failed(format!("the image is damaged: {what} makes no sense"))
}

/// Plans that all namespaces are made, and entered.
///
/// # Errors
/// When the records are damaged.
pub(super) fn plan(records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
    let namespaces = records.all::<NamespaceRecord>()?;
    let mut known: BTreeMap<u64, &NamespaceRecord> = BTreeMap::new();
    for namespace in &namespaces {
        check(namespace, host, plan)?;
        let owner = known.get(&namespace.owner).map(|owner| owner.kind.as_str());
        let is_new = known.insert(namespace.object, namespace).is_none();
        if namespace.object == 0 || !is_new || namespace.owner != 0 && owner != Some("user") {
            return Err(damaged("a namespace"));
        }
        let make = step::Make {
            namespace: namespace.clone(),
            group: group_around(&known, namespace.owner),
            user: known
                .get(&namespace.owner)
                .and_then(|owner| owner.maps.as_ref())
                .and_then(IdMaps::first),
        };
        plan.linked_step(Stage::Objects, 0, vec![Token::Process(0)], vec![], make);
    }
    let processes = records.all::<ProcessRecord>()?;
    let credentials = settable(records.all::<CredentialsRecord>()?, host)?;
    let mut seen = BTreeSet::new();
    for member in records.all::<MembershipRecord>()? {
        let mut entered = Vec::new();
        for object in &member.namespaces {
            let namespace = known
                .get(object)
                .ok_or_else(|| damaged("who is in a namespace"))?;
            let is_user = namespace.kind == "user";
            entered.push((is_user, *object));
        }
        // From outside of a user namespace all others can be entered.
        entered.sort_unstable();
        let alive = processes
            .iter()
            .any(|process| process.pid == member.process && process.zombie.is_none());
        if !alive || !seen.insert(member.process) {
            return Err(damaged("who is in a namespace"));
        }
        let mut own = credentials.iter();
        let identity = match entered.last() {
            Some((true, _)) => {
                let own = own.find(|known| known.process == member.process);
                let sound = own.filter(|own| own.users.len() == 4 && own.groups.len() == 4);
                Some(sound.ok_or_else(|| damaged("who is in a namespace"))?)
            }
            _ => None,
        };
        let enter = step::Enter {
            process: member.process,
            namespaces: entered.into_iter().map(|(_, object)| object).collect(),
            identity: identity.cloned(),
        };
        plan.step(Stage::Namespaces, member.process, enter);
    }
    Ok(())
}

/// Refuses a namespace that cannot be made here.
fn check(namespace: &NamespaceRecord, host: &Host, plan: &mut Plan) -> Result<()> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    if namespace.flag().is_none() {
        return Err(damaged("a namespace"));
    }
    let object = format!("its {} namespace", super::survey::name_of(&namespace.kind));
    let fresh = user_namespace_is_fresh(host);
    let held = spawn::effective_capabilities().unwrap_or(0);
    if !fresh && held & CAP_SYS_ADMIN == 0 {
        plan.refusals.add_for_job(
            object.as_str(),
            "you may not make one here (CAP_SYS_ADMIN)",
            "use --pids namespace",
        );
    }
    if let Some(maps) = &namespace.maps {
        maps.check()?;
        let own = (spawn::effective_user(), spawn::effective_group());
        match maps.beyond(namespace.owner, own) {
            Some(reason) if fresh => {
                plan.refusals
                    .add_for_job(object.as_str(), reason, "restart it as root")
            }
            None if fresh => plan.remarks.extend(maps.remark().map(String::from)),
            _ => {}
        }
    }
    if let Some(names) = &namespace.names {
        names.check()?;
    }
    if let Some(mounts) = &namespace.mounts {
        mounts.check()?;
        if let Some(source) = mounts.missing() {
            plan.refusals.add_for_job(
                object.as_str(),
                format!(
                    "{} is mounted in it, which does not exist here",
                    printable(source)
                ),
                "put it in its place",
            );
        }
    }
    if let Some(network) = &namespace.network {
        network.check()?;
    }
    Ok(())
}

/// A group that exists in a user namespace, as those see it who are in none of the job's making: its maker has to be in such a one.
fn group_around(known: &BTreeMap<u64, &NamespaceRecord>, mut around: u64) -> Option<u32> {
    let maps = |object: u64| {
        known
            .get(&object)
            .and_then(|namespace| namespace.maps.as_ref())
    };
    let mut group = maps(around)?.groups.first()?.inside;
    // Owners come first, so that there is no circle.
    while let Some(maps) = maps(around) {
        group = maps.group_outside(group)?;
        around = known.get(&around)?.owner;
    }
    Some(group)
}
