//! Credentials: users, groups, capabilities (credentials(7), capabilities(7)), and the flags of a process that tell who may look
//! at it and what the kernel may do to it.
//!
//! Shown by /proc/PID/status, personality, oom_score_adj, coredump_filter, loginuid, and by getters of prctl(2) in the process.
//! Ids are recorded as `cryo` sees them. The kernel keeps most of them for each thread; where a thread's are not those of its
//! process, as the C library keeps them, it has a record of its own. In a fresh user namespace only the restarting user's own ids exist and
//! setgroups(2) is denied, so that ids must be what they were; capabilities there end as they were, which is mostly none. Not
//! preserved: a dumpable flag of 2, which only the kernel sets and which
//! comes back as 0, and an out-of-memory score below that of the restart, where the user may not lower it.

mod capability;
mod step;
mod thread;

use std::collections::BTreeMap;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::{ProcessDirectory, Status};
use cryonaut_sys::{spawn, task};
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::namespace::{NamespacesRecord, in_user_namespaces, user_namespace_is_fresh};
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

pub use capability::{CapabilitySets, names, split};
pub(crate) use step::become_before_user_namespace;
use step::{AdjustScore, SetCredentials, SetFlags};
pub use thread::ThreadCredentials;
use thread::{refuse_thread, unlike_first, unlike_leader};

/// Who a process is, and what flags it carries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CredentialsRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Real, effective, saved and file system user.
    #[prost(uint32, repeated, tag = "2")]
    pub users: Vec<u32>,
    /// Real, effective, saved and file system group.
    #[prost(uint32, repeated, tag = "3")]
    pub groups: Vec<u32>,
    /// Supplementary groups, ascending.
    #[prost(uint32, repeated, tag = "4")]
    pub supplementary: Vec<u32>,
    /// Capability sets.
    #[prost(message, required, tag = "5")]
    pub capabilities: CapabilitySets,
    /// `SECBIT_*`, with `SECBIT_KEEP_CAPS`.
    #[prost(uint32, tag = "6")]
    pub secure_bits: u32,
    /// Whether exec never gives new privileges (prctl PR_SET_NO_NEW_PRIVS).
    #[prost(bool, tag = "7")]
    pub no_new_privileges: bool,
    /// PR_GET_DUMPABLE: 0 no, 1 yes, 2 for root only.
    #[prost(uint32, tag = "8")]
    pub dumpable: u32,
    /// -1000 to 1000: /proc/PID/oom_score_adj.
    #[prost(sint32, tag = "9")]
    pub out_of_memory_score: i32,
    /// Whether it adopts orphaned descendants (prctl PR_SET_CHILD_SUBREAPER).
    #[prost(bool, tag = "10")]
    pub child_subreaper: bool,
    /// Execution domain: personality(2).
    #[prost(uint32, tag = "11")]
    pub personality: u32,
    /// Which memory a core dump holds: core(5), /proc/PID/coredump_filter.
    #[prost(uint32, tag = "12")]
    pub core_dump_filter: u32,
    /// PR_GET_THP_DISABLE: 0 when transparent huge pages are allowed; bit 1 (Linux 6.18) where they are advised.
    #[prost(uint32, tag = "13")]
    pub huge_pages_disabled: u32,
    /// `PR_MDWE_*`: whether memory that was writable may become executable (Linux 6.3).
    #[prost(uint32, tag = "14")]
    pub deny_write_execute: u32,
    /// Whether equal pages are merged (prctl PR_SET_MEMORY_MERGE, Linux 6.4).
    #[prost(bool, tag = "15")]
    pub memory_merge: bool,
    /// The user who logged in, for the record only.
    #[prost(uint32, optional, tag = "16")]
    pub login: Option<u32>,
}

impl Record for CredentialsRecord {
    const KIND: Kind = Kind {
        name: "credentials",
        version: 1,
    };
}

/// The resource.
pub struct Credentials;

impl Resource for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[CredentialsRecord::KIND, ThreadCredentials::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie() && process.stat.num_threads > 1)
            .filter(|process| target.looks_at_threads(process))
        {
            let (pid, name) = process.label();
            let Ok(threads) = process.directory.threads() else {
                continue;
            };
            let threads = threads.into_iter().filter(|tid| *tid != pid);
            // A process that ends meanwhile is none any more.
            for unlike in unlike_leader(&process.directory, threads).unwrap_or_default() {
                refuse_thread((pid, &name), &unlike, refusals);
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        let mut apart = BTreeMap::new();
        for process in frozen.alive() {
            let unlike = unlike_first(process)?;
            for unlike in &unlike {
                refuse_thread((process.pid, &process.name()), unlike, &mut refusals);
            }
            apart.insert(process.pid, unlike);
        }
        refusals.into_result()?;
        for process in frozen.alive_mut() {
            let record = record(process)?;
            collection.put(&record)?;
            for unlike in apart.remove(&process.pid).into_iter().flatten() {
                collection.put(&unlike.record(process)?)?;
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
        let of_job = records
            .optional::<NamespacesRecord>()?
            .is_some_and(|namespaces| namespaces.has_own("user"));
        let within = in_user_namespaces(records)?;
        let reach = |process: i32| match (within.contains(&process), of_job) {
            (true, _) => Reach::Made,
            (false, true) => Reach::Job,
            (false, false) => Reach::Machine,
        };
        let means = Means::look(host)?;
        let mut apart: BTreeMap<i32, Vec<ThreadCredentials>> = BTreeMap::new();
        for thread in records.all::<ThreadCredentials>()? {
            apart.entry(thread.process).or_default().push(thread);
        }
        for mut record in records.all::<CredentialsRecord>()? {
            let damaged = || {
                Error::Failed(format!(
                    "the image is damaged: credentials of process {}",
                    record.process
                ))
            };
            let process = processes.get(&record.process).ok_or_else(damaged)?;
            if record.users.len() != 4 || record.groups.len() != 4 {
                return Err(damaged());
            }
            let threads = apart.remove(&record.process).unwrap_or_default();
            let is_apart = |task: &i32| threads.iter().any(|thread| thread.task == *task);
            let mut tasks = process.tasks.clone();
            tasks.retain(|task| !is_apart(task));
            if process.leader_ended.is_some() {
                // What is left of its first thread tells who may send it signals.
                tasks.push(process.pid);
            }
            let name = String::from_utf8_lossy(&process.name);
            let reach = reach(record.process);
            means.judge((record.process, &name), &record, reach, plan);
            record.supplementary = means.supplementary(&record);
            plan.step(
                Stage::Restrict,
                record.process,
                AdjustScore {
                    process: record.process,
                    score: record.out_of_memory_score,
                },
            );
            plan.step(
                Stage::Restrict,
                record.process,
                SetCredentials {
                    tasks,
                    record: record.clone(),
                },
            );
            for thread in threads {
                let mut credentials = thread.credentials()?;
                means.judge_task((record.process, &name), &credentials, reach, plan);
                credentials.supplementary = means.supplementary(&credentials);
                plan.step(
                    Stage::Restrict,
                    record.process,
                    SetCredentials {
                        tasks: vec![thread.task],
                        record: credentials,
                    },
                );
            }
            plan.step(Stage::Restrict, record.process, SetFlags { record });
        }
        Ok(())
    }
}

/// These records with what can be set here in place of what is as good: see `Means::supplementary`.
///
/// # Errors
/// When our own status cannot be read.
pub(crate) fn settable(
    mut records: Vec<CredentialsRecord>,
    host: &Host,
) -> Result<Vec<CredentialsRecord>> {
    let means = Means::look(host)?;
    for record in &mut records {
        record.supplementary = means.supplementary(record);
    }
    Ok(records)
}

/// Reads everything of one process.
fn record(process: &mut FrozenProcess) -> Result<CredentialsRecord> {
    const PR_GET_MDWE: i32 = 66;
    const PR_GET_MEMORY_MERGE: i32 = 68;
    let mut list = CallList::new();
    let mut get = |command: i32| list.call(libc::SYS_prctl, &[command.into()]);
    let secure_bits = get(libc::PR_GET_SECUREBITS);
    let dumpable = get(libc::PR_GET_DUMPABLE);
    let huge_pages = get(libc::PR_GET_THP_DISABLE);
    let deny = get(PR_GET_MDWE);
    let merge = get(PR_GET_MEMORY_MERGE);
    let adopts = list.space(8);
    let subreaper = list.call(
        libc::SYS_prctl,
        &[libc::PR_GET_CHILD_SUBREAPER.into(), adopts.into()],
    );
    let outcomes = process.run(0, &list)?;
    let pid = process.pid;
    let value = |call, what: &str| {
        outcomes
            .result(call)
            .map(|value| value as u32)
            .attempt(|| format!("process {pid}: reading its {what}"))
    };
    outcomes
        .result(subreaper)
        .attempt(|| format!("process {pid}: reading whether it adopts orphans"))?;
    // The status was read before the process stood still.
    let status = process.directory.status()?;
    let mut supplementary = status.groups.clone();
    supplementary.sort_unstable();
    Ok(CredentialsRecord {
        process: process.inner,
        users: status.uid.to_vec(),
        groups: status.gid.to_vec(),
        supplementary,
        capabilities: CapabilitySets::of(&status),
        secure_bits: value(secure_bits, "secure bits")?,
        no_new_privileges: status.no_new_privileges.unwrap_or(false),
        dumpable: value(dumpable, "dumpable flag")?,
        out_of_memory_score: process.directory.oom_score_adj()?,
        child_subreaper: outcomes.word(adopts) as u32 != 0,
        personality: process.directory.personality()?,
        core_dump_filter: process.directory.coredump_filter()?.unwrap_or(0),
        huge_pages_disabled: value(huge_pages, "use of huge pages")?,
        // Kernels that do not know these have them off.
        deny_write_execute: value(deny, "").unwrap_or(0),
        memory_merge: value(merge, "").unwrap_or(0) != 0,
        login: process.directory.loginuid()?,
    })
}

/// How far the capabilities of a process reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// As far as those of the `cryo` that made the image.
    Machine,
    /// No further than the user namespace that the whole job lived in.
    Job,
    /// No further than a user namespace that the job has made itself.
    Made,
}

/// What the restarting user may set.
#[derive(Clone, Debug)]
struct Means {
    /// Our own status: what a process started here begins with.
    own: Status,
    /// Our own secure bits.
    secure_bits: u32,
    /// Our own out-of-memory score.
    score: i32,
    /// Our effective capabilities.
    effective: u64,
    /// Whether the job gets a user namespace of its own.
    fresh: bool,
}

impl Means {
    fn look(host: &Host) -> Result<Self> {
        let directory = ProcessDirectory::open(spawn::own_pid())?;
        let own = directory.status()?;
        Ok(Self {
            effective: own.capabilities_effective,
            own,
            secure_bits: task::secure_bits().attempt(|| "reading the secure bits".into())?,
            score: directory.oom_score_adj()?,
            fresh: user_namespace_is_fresh(host),
        })
    }

    /// Whether we hold a capability where the job will live.
    fn may(&self, capability: u64) -> bool {
        self.effective >> capability & 1 == 1
    }

    /// Whether we may give a process other groups than ours.
    fn may_change_groups(&self) -> bool {
        !self.fresh && self.may(capability::SETGID)
    }

    /// Our own supplementary groups, ascending.
    fn own_groups(&self) -> Vec<u32> {
        let mut groups = self.own.groups.clone();
        groups.sort_unstable();
        groups
    }

    /// The supplementary groups that a task of these credentials can be given. One's own group among them gives no right that it
    /// does not give without: some logins put it there and others do not.
    fn supplementary(&self, record: &CredentialsRecord) -> Vec<u32> {
        let own = self.own_groups();
        let others = |groups: &[u32], group: u32| -> Vec<u32> {
            let found = groups.iter().copied();
            found.filter(|found| *found != group).collect()
        };
        let is_same_group = record.groups == self.own.gid;
        let is_alike = is_same_group
            && others(&record.supplementary, self.own.gid[0]) == others(&own, self.own.gid[0]);
        match is_alike && !self.may_change_groups() {
            true => own,
            false => record.supplementary.clone(),
        }
    }

    /// Refuses what cannot be set, and remarks on what comes out differently.
    fn judge(
        &self,
        process: (i32, &str),
        record: &CredentialsRecord,
        reach: Reach,
        plan: &mut Plan,
    ) {
        self.judge_task(process, record, reach, plan);
        if record.dumpable > 1 {
            plan.remarks.push(format!(
                "process {}: its dumpable flag of {} comes back as 0",
                process.0, record.dumpable
            ));
        }
        if record.out_of_memory_score < self.score
            && (self.fresh || !self.may(capability::SYS_RESOURCE))
        {
            plan.remarks.push(format!(
                "process {}: its oom_score_adj of {} may stay at {}, since only root may lower it",
                process.0, record.out_of_memory_score, self.score
            ));
        }
    }

    /// As [`Means::judge`], of what each task has for itself.
    fn judge_task(
        &self,
        process: (i32, &str),
        record: &CredentialsRecord,
        reach: Reach,
        plan: &mut Plan,
    ) {
        self.judge_ids(process, record, &mut plan.refusals);
        self.judge_capabilities(process, record, reach, plan);
        if self.own.no_new_privileges == Some(true) && !record.no_new_privileges {
            plan.refusals.add(
                process,
                "no_new_privs",
                "the restart runs with it and no process can be without it any more, which this one was",
                "restart from a shell without no_new_privs (outside of the sandbox or container)",
            );
        }
    }

    fn judge_ids(&self, process: (i32, &str), record: &CredentialsRecord, refusals: &mut Refusals) {
        let same_users = record.users == self.own.uid;
        let same_groups = record.groups == self.own.gid;
        if !same_users && (self.fresh || !self.may(capability::SETUID)) {
            refusals.add(
                process,
                format!("its user {}", four(&record.users)),
                format!(
                    "the restart runs as user {} and may not become another",
                    four(&self.own.uid)
                ),
                "restart it as that user, or as root with --pids keep",
            );
        }
        if !same_groups && (self.fresh || !self.may(capability::SETGID)) {
            refusals.add(
                process,
                format!("its group {}", four(&record.groups)),
                format!(
                    "the restart runs as group {} and may not become another",
                    four(&self.own.gid)
                ),
                "restart it with that group (newgrp), or as root with --pids keep",
            );
        }
        let own_groups = self.own_groups();
        if self.supplementary(record) != own_groups && !self.may_change_groups() {
            refusals.add(
                process,
                format!("its supplementary groups {:?}", record.supplementary),
                format!("the restart has {own_groups:?} and may not change them"),
                "restart it from a login with the same groups, or as root with --pids keep",
            );
        }
    }

    fn judge_capabilities(
        &self,
        process: (i32, &str),
        record: &CredentialsRecord,
        reach: Reach,
        plan: &mut Plan,
    ) {
        let wanted = &record.capabilities;
        // Who enters a user namespace has all capabilities there.
        if reach == Reach::Made {
            return;
        }
        let held = wanted.permitted | wanted.ambient;
        let has_any = held | wanted.inheritable != 0;
        if self.fresh {
            if has_any && reach == Reach::Machine {
                plan.remarks.push(format!(
                    "process {}: its capabilities reach no further than its new user namespace",
                    process.0
                ));
            }
            return;
        }
        if has_any && reach == Reach::Job {
            plan.refusals.add(
                process,
                format!("its capabilities {}", names(held | wanted.inheritable)),
                "they reached no further than its own user namespace, and would be real ones here",
                "restart it with --pids namespace as an ordinary user",
            );
            return;
        }
        let lacking = (held | wanted.inheritable) & !self.own.capabilities_permitted;
        if lacking != 0 {
            plan.refusals.add(
                process,
                format!("its capabilities {}", names(lacking)),
                "the restart does not have them",
                "restart it as root, in a container with these capabilities",
            );
        }
        let more = self.own.capabilities_bounding & !wanted.bounding;
        if more | u64::from(self.secure_bits ^ record.secure_bits) != 0
            && !self.may(capability::SETPCAP)
        {
            plan.refusals.add(
                process,
                "its capability bounding set or secure bits",
                "they are not those of the restart, which may not change them",
                "restart it as root",
            );
        }
        let fewer = wanted.bounding & !self.own.capabilities_bounding & capability::known();
        if fewer != 0 && reach == Reach::Machine {
            plan.remarks.push(format!(
                "process {}: programs that it starts can never have {}, which are out of reach here",
                process.0,
                names(fewer)
            ));
        }
    }
}

/// Real, effective, saved and file system id: one number where they are the same.
fn four(ids: &[u32]) -> String {
    match ids {
        [first, rest @ ..] if rest.iter().all(|id| id == first) => first.to_string(),
        _ => ids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("/"),
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Users, groups, supplementary groups",
        level: Level::Restored,
        how: "as root for any user; an ordinary user restarts jobs with the ids and groups of the login, whether or not these have the own group among them",
    },
    Support {
        what: "Capabilities, secure bits, no_new_privs",
        level: Level::Restored,
        how: "never more than there were; a restart that lacks some is refused",
    },
    Support {
        what: "Threads of one process with different users, groups, capabilities, secure bits, no_new_privs, personality",
        level: Level::Restored,
        how: "each with its own",
    },
    Support {
        what: "dumpable, child subreaper, personality, core dump filter, huge pages (PR_SET_THP_DISABLE), \
               write-or-execute (PR_SET_MDWE), page merging",
        level: Level::Restored,
        how: "a dumpable flag of 2 comes back as 0",
    },
    Support {
        what: "Processes that are not dumpable (PR_SET_DUMPABLE, file capabilities), as an ordinary user",
        level: Level::Refused,
        how: "the kernel lets only root look into them",
    },
    Support {
        what: "oom_score_adj",
        level: Level::Partly,
        how: "restored, but only root may lower it below that of the restart",
    },
];

#[cfg(test)]
pub(crate) mod tests;
