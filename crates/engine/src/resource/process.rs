//! The process tree: parents, pids, process groups, sessions, zombies, job-control stops.
//!
//! Shown by /proc/PID/stat and status. Births are planned so that every process gets its ids the only way the kernel gives them:
//! a pid by clone3 with set_tid, a session by setsid or by birth in it, a group by setpgid. Ids whose owner has gone (a
//! session whose leader has ended or lies outside the job) are held by placeholders while they are handed out. Not preserved: the
//! start time, the processor time used so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_launch::Session;
use cryonaut_tracee::{BufferId, CallId, CallList};

use crate::collect::Collection;
use crate::freeze::{Frozen, job_stop};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::{Rebuild, Sibling};
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Refusals, Result};

/// One process of the job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessRecord {
    /// Its pid, in its own namespace.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its parent's pid; 0 when that lies outside the job.
    #[prost(int32, tag = "2")]
    pub parent: i32,
    /// Its process group.
    #[prost(int32, tag = "3")]
    pub group: i32,
    /// Its session.
    #[prost(int32, tag = "4")]
    pub session: i32,
    /// Ids of its tasks, the leader's first; none for a zombie.
    #[prost(int32, repeated, tag = "5")]
    pub tasks: Vec<i32>,
    /// For a zombie its wait status.
    #[prost(int32, optional, tag = "6")]
    pub zombie: Option<i32>,
    /// The signal of a job-control stop that it is in.
    #[prost(int32, optional, tag = "7")]
    pub stopped: Option<i32>,
    /// Its name, for messages.
    #[prost(bytes = "vec", tag = "8")]
    pub name: Vec<u8>,
    /// Whether it is the process that the checkpoint was asked of.
    #[prost(bool, tag = "9")]
    pub named: bool,
    /// Its arguments, for messages: /proc/PID/cmdline.
    #[prost(bytes = "vec", tag = "10")]
    pub command_line: Vec<u8>,
    /// Whether its parent has not taken notice yet of the job-control stop that it is in.
    #[prost(bool, tag = "11")]
    pub stop_untold: bool,
}

impl Record for ProcessRecord {
    const KIND: Kind = Kind {
        name: "process",
        version: 1,
    };
}

/// The resource.
pub struct Processes;

impl Resource for Processes {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[ProcessRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in &target.processes {
            let (pid, name) = process.label();
            if process.is_zombie() && process.stat.num_threads > 1 {
                refusals.add(
                    (pid, &name),
                    "its first thread",
                    "it has ended while other threads run on, which cannot be rebuilt",
                    "have the program keep its first thread until the end",
                );
            }
            if !matches!(process.stat.exit_signal, libc::SIGCHLD) && !process.is_zombie() {
                refusals.add(
                    (pid, &name),
                    "its exit signal",
                    format!(
                        "its end is reported by signal {} rather than SIGCHLD",
                        process.stat.exit_signal
                    ),
                    "start it by fork rather than by clone with another signal",
                );
            }
        }
        let pids = target.pids();
        if matches!(
            target.scope,
            crate::target::Scope::Process | crate::target::Scope::Group
        ) {
            outside_relatives(&pids, refusals);
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let untold = untold_stops(frozen)?;
        let inner: BTreeMap<i32, i32> = frozen
            .processes
            .iter()
            .map(|process| (process.pid, process.inner))
            .collect();
        for process in &frozen.processes {
            let last = |ids: &[i32], outer: i32| ids.last().copied().unwrap_or(outer);
            collection.put(&ProcessRecord {
                pid: process.inner,
                parent: inner.get(&process.stat.ppid).copied().unwrap_or(0),
                group: last(&process.status.namespace_pgid, process.stat.pgrp),
                session: last(&process.status.namespace_sid, process.stat.session),
                tasks: process.tasks.iter().map(|task| task.inner).collect(),
                zombie: process.is_zombie().then_some(process.stat.exit_code),
                stopped: job_stop(process),
                name: process.stat.comm.clone(),
                named: frozen.named == process.pid,
                command_line: process.directory.read("cmdline").unwrap_or_default(),
                stop_untold: untold.contains(&process.inner),
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        let family = Family::new(&processes);
        family.check(host, plan);
        let (holder, session) = family.progenitor(host);
        plan.linked_step(
            Stage::Objects,
            0,
            vec![],
            vec![Token::Process(0)],
            StartProgenitor {
                pid: holder,
                session,
            },
        );
        for process in &processes {
            family.plan_birth(process, plan);
            if process.session == process.pid {
                let children = family.born_before_session(process.pid);
                let mut needs = vec![Token::Process(process.pid)];
                needs.extend(children.into_iter().map(Token::Process));
                plan.linked_step(
                    Stage::Tree,
                    process.pid,
                    needs,
                    vec![Token::SessionOf(process.pid)],
                    LeadSession {
                        process: process.pid,
                    },
                );
            }
        }
        family.plan_groups(plan);
        for process in &processes {
            if let Some(status) = process.zombie {
                plan.step(
                    Stage::Attach,
                    process.pid,
                    EndZombie {
                        process: process.pid,
                        parent: process.parent,
                        status,
                    },
                );
            } else if let Some(signal) = process.stopped {
                let told = if process.stop_untold {
                    None
                } else {
                    Some(process.parent).filter(|&parent| parent != 0)
                };
                plan.step(
                    Stage::Process,
                    process.pid,
                    StopAgain {
                        process: process.pid,
                        signal,
                        told,
                    },
                );
            }
            if process.tasks.len() > 1 {
                let threads = process.tasks[1..].to_vec();
                plan.step(
                    Stage::Threads,
                    process.pid,
                    StartThreads {
                        process: process.pid,
                        threads,
                    },
                );
            }
        }
        plan.step(Stage::Descriptors, 0, EndProgenitor);
        Ok(())
    }
}

/// The stopped processes whose parents have not taken notice yet: asked of the parents, without taking notice for them.
fn untold_stops(frozen: &mut Frozen) -> Result<BTreeSet<i32>> {
    let mut untold = BTreeSet::new();
    let stopped: Vec<(i32, i32)> = frozen
        .alive()
        .filter(|p| job_stop(p).is_some())
        .map(|p| (p.inner, p.stat.ppid))
        .collect();
    for (child, parent) in stopped {
        let Some(parent) = frozen.alive_mut().find(|process| process.pid == parent) else {
            continue;
        };
        let mut list = CallList::new();
        let siginfo = list.space(128);
        let call = wait_call(&mut list, child, siginfo, libc::WNOWAIT);
        let outcomes = parent.run(0, &list)?;
        // si_pid, after three ints and a gap; it stays 0 when there is nothing to tell.
        let told = outcomes.buffer(siginfo)[16..20] == [0; 4];
        if outcomes.result(call).is_ok() && !told {
            untold.insert(child);
        }
    }
    Ok(untold)
}

/// waitid(2) for a stop of `child`, not waiting.
fn wait_call(list: &mut CallList, child: i32, siginfo: BufferId, flags: i32) -> CallId {
    let options = libc::WSTOPPED | libc::WNOHANG | flags;
    list.call(
        libc::SYS_waitid,
        &[
            (libc::P_PID as i32).into(),
            child.into(),
            siginfo.into(),
            options.into(),
            0.into(),
        ],
    )
}

fn outside_relatives(pids: &BTreeSet<i32>, refusals: &mut Refusals) {
    let Ok(all) = cryonaut_procfs::system::all_stats() else {
        return;
    };
    for stat in all {
        if pids.contains(&stat.ppid)
            && !pids.contains(&stat.pid)
            && !crate::target::is_own(stat.pid)
        {
            let name = String::from_utf8_lossy(&stat.comm).into_owned();
            refusals.add(
                (stat.ppid, ""),
                format!("its child {} ({name})", stat.pid),
                "it is not in the scope that was asked for, and its parent would lose it",
                "take the whole tree (--tree)",
            );
        }
    }
}

/// The processes and how they are related.
struct Family<'a> {
    processes: &'a [ProcessRecord],
    by_pid: BTreeMap<i32, &'a ProcessRecord>,
}

impl<'a> Family<'a> {
    fn new(processes: &'a [ProcessRecord]) -> Self {
        Self {
            processes,
            by_pid: processes
                .iter()
                .map(|process| (process.pid, process))
                .collect(),
        }
    }

    fn children(&self, pid: i32) -> impl Iterator<Item = &'a ProcessRecord> {
        self.processes
            .iter()
            .filter(move |process| process.parent == pid)
    }

    /// The session that a process must be born in, if that matters: its own, or for a leader the one that its children were
    /// born in before it led its own.
    fn birth_session(&self, process: &ProcessRecord) -> Option<i32> {
        if process.session != process.pid {
            return Some(process.session);
        }
        self.children(process.pid)
            .filter_map(|child| self.birth_session(child))
            .find(|session| *session != process.session)
    }

    fn born_before_session(&self, leader: i32) -> Vec<i32> {
        self.children(leader)
            .filter(|child| {
                self.birth_session(child)
                    .is_some_and(|session| session != leader)
            })
            .map(|child| child.pid)
            .collect()
    }

    /// Sessions that processes with no parent in the job are born in, and that have no leader in it.
    fn foreign_sessions(&self) -> BTreeSet<i32> {
        self.children(0)
            .filter_map(|root| self.birth_session(root))
            .filter(|session| {
                self.by_pid
                    .get(session)
                    .is_none_or(|leader| leader.session != *session)
            })
            .collect()
    }

    fn all_ids(&self) -> BTreeSet<i32> {
        let mut ids: BTreeSet<i32> = self
            .processes
            .iter()
            .flat_map(|process| process.tasks.iter().copied())
            .collect();
        ids.extend(
            self.processes
                .iter()
                .flat_map(|process| [process.pid, process.group, process.session]),
        );
        ids
    }

    /// The progenitor's pid and session: it leads the session that lies outside the job, if there is one.
    fn progenitor(&self, host: &Host) -> (Option<i32>, ProgenitorSession) {
        let foreign = self.foreign_sessions().into_iter().next();
        match foreign {
            Some(session) if host.shares_pids && host.session == session => {
                (None, ProgenitorSession::Inherited)
            }
            Some(session) if session > 0 => (Some(session), ProgenitorSession::Own),
            _ if host.shares_pids => (None, ProgenitorSession::Own),
            _ => {
                let used = self.all_ids();
                ((2..).find(|id| !used.contains(id)), ProgenitorSession::Own)
            }
        }
    }

    fn check(&self, host: &Host, plan: &mut Plan) {
        if self.foreign_sessions().len() > 1 {
            plan.refusals.add_for_job(
                "sessions",
                "its processes belong to more than one session whose leader is not in the image",
                "checkpoint each of them by itself, or the whole tree that they descend from",
            );
        }
        for process in self.processes {
            let foreign = |session: i32| !self.by_pid.contains_key(&session);
            let parent = self.by_pid.get(&process.parent);
            let unreachable = match (self.birth_session(process), parent) {
                (None, _) => false,
                (Some(session), Some(parent)) => {
                    session != parent.session && Some(session) != self.birth_session(parent)
                }
                (Some(session), None) => {
                    !foreign(session)
                        && self
                            .by_pid
                            .get(&session)
                            .is_some_and(|leader| leader.parent != 0)
                }
            };
            if unreachable {
                plan.refusals.add(
                    (process.pid, &String::from_utf8_lossy(&process.name)),
                    format!("its session {}", process.session),
                    "its parent was never in that session, so it cannot be born there again",
                    "checkpoint before the program that started it has ended",
                );
            }
        }
        if host.shares_pids {
            let used = used_ids(&host.leaving);
            for id in self.all_ids() {
                let owned = self
                    .processes
                    .iter()
                    .any(|process| process.pid == id || process.tasks.contains(&id));
                let held = id == host.session && !owned;
                if id > 0 && !held && (used.contains(&id) || is_task(id, &host.leaving)) {
                    plan.refusals.add_for_job(
                        format!("process id {id}"),
                        "it is in use here",
                        "wait until that process has ended, or restart with --pids namespace",
                    );
                }
            }
        }
    }

    fn plan_birth(&self, process: &ProcessRecord, plan: &mut Plan) {
        let gives = vec![Token::Process(process.pid)];
        let session = self.birth_session(process);
        if let Some(parent) = self.by_pid.get(&process.parent) {
            let mut needs = vec![Token::Process(parent.pid)];
            if parent.session == parent.pid
                && session.is_none_or(|session| session == parent.session)
            {
                needs.push(Token::SessionOf(parent.pid));
            }
            plan.linked_step(
                Stage::Tree,
                process.pid,
                needs,
                gives,
                Birth {
                    process: process.pid,
                    by: parent.pid,
                    sibling: Sibling::No,
                },
            );
            return;
        }
        // A process without a parent in the job becomes a sibling of whoever leads the session that it is born in.
        let leader = session
            .and_then(|session| self.by_pid.get(&session))
            .filter(|leader| leader.pid != process.pid);
        let (by, needs) = match leader {
            Some(leader) => (
                leader.pid,
                vec![Token::Process(leader.pid), Token::SessionOf(leader.pid)],
            ),
            None => (0, vec![Token::Process(0)]),
        };
        plan.linked_step(
            Stage::Tree,
            process.pid,
            needs,
            gives,
            Birth {
                process: process.pid,
                by,
                sibling: Sibling::Yes,
            },
        );
    }

    /// Groups are made by their leaders; one whose leader has gone is made by a placeholder, which then goes.
    fn plan_groups(&self, plan: &mut Plan) {
        for process in self.processes {
            if process.group == process.pid && process.session != process.pid {
                plan.linked_step(
                    Stage::Descriptors,
                    process.pid,
                    vec![],
                    vec![Token::Group(process.pid)],
                    JoinGroup {
                        process: process.pid,
                        group: process.pid,
                    },
                );
            }
        }
        let mut orphaned: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for process in self
            .processes
            .iter()
            .filter(|process| process.group != process.pid)
        {
            match self.by_pid.get(&process.group) {
                Some(leader) if leader.group == leader.pid => {
                    let needs = if leader.session == leader.pid {
                        vec![]
                    } else {
                        vec![Token::Group(process.group)]
                    };
                    let action = JoinGroup {
                        process: process.pid,
                        group: process.group,
                    };
                    plan.linked_step(Stage::Descriptors, process.pid, needs, vec![], action);
                }
                _ => orphaned.entry(process.group).or_default().push(process.pid),
            }
        }
        for (group, members) in orphaned {
            plan.step(
                Stage::Descriptors,
                members[0],
                JoinOrphanedGroup { group, members },
            );
        }
    }
}

/// Whether any process or thread of this machine has the id, but for processes that are leaving.
fn is_task(id: i32, leaving: &BTreeSet<i32>) -> bool {
    match cryonaut_procfs::ProcessDirectory::open(id).and_then(|task| task.status()) {
        Ok(status) => !leaving.contains(&status.tgid),
        Err(_) => std::path::Path::new(&format!("/proc/{id}")).exists(),
    }
}

/// The ids of all processes, groups and sessions of this machine, but for those that are leaving: a number stays in use as long
/// as any of them has it.
fn used_ids(leaving: &BTreeSet<i32>) -> BTreeSet<i32> {
    let all = cryonaut_procfs::system::all_stats().unwrap_or_default();
    all.iter()
        .filter(|stat| !leaving.contains(&stat.pid))
        .flat_map(|stat| [stat.pid, stat.pgrp, stat.session])
        .collect()
}

/// The session of the progenitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgenitorSession {
    /// The one that the restart runs in.
    Inherited,
    /// Its own.
    Own,
}

struct StartProgenitor {
    pid: Option<i32>,
    session: ProgenitorSession,
}

impl fmt::Display for StartProgenitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.session, self.pid) {
            (ProgenitorSession::Inherited, _) => {
                write!(f, "start the progenitor in the session of the restart")
            }
            (ProgenitorSession::Own, Some(pid)) => write!(
                f,
                "start the progenitor as process {pid} with a session of its own"
            ),
            (ProgenitorSession::Own, None) => {
                write!(f, "start the progenitor with a session of its own")
            }
        }
    }
}

impl Action for StartProgenitor {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let session = match self.session {
            ProgenitorSession::Inherited => Session::Inherit,
            ProgenitorSession::Own => Session::Own,
        };
        rebuild.start_progenitor(self.pid, session)
    }
}

struct EndProgenitor;

impl fmt::Display for EndProgenitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end the progenitor")
    }
}

impl Action for EndProgenitor {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.end_progenitor()
    }
}

struct Birth {
    process: i32,
    by: i32,
    sibling: Sibling,
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by, self.sibling) {
            (0, _) => write!(f, "fork from the progenitor"),
            (by, Sibling::Yes) => write!(f, "fork from {by}, as its sibling"),
            (by, Sibling::No) => write!(f, "fork from {by}"),
        }
    }
}

impl Action for Birth {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.birth(self.by, self.process, self.sibling)
    }
}

struct LeadSession {
    process: i32,
}

impl fmt::Display for LeadSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lead a session of its own")
    }
}

impl Action for LeadSession {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild
            .call(self.process, "leading a session", libc::SYS_setsid, &[])
            .map(drop)
    }
}

struct JoinGroup {
    process: i32,
    group: i32,
}

impl fmt::Display for JoinGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "join process group {}", self.group)
    }
}

impl Action for JoinGroup {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let arguments = [0.into(), self.group.into()];
        rebuild
            .call(
                self.process,
                "joining its process group",
                libc::SYS_setpgid,
                &arguments,
            )
            .map(drop)
    }
}

/// A group without its leader: joined if it exists in this session already, else made by a placeholder.
struct JoinOrphanedGroup {
    group: i32,
    members: Vec<i32>,
}

impl fmt::Display for JoinOrphanedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "make process group {} by a placeholder for {:?}",
            self.group, self.members
        )
    }
}

impl Action for JoinOrphanedGroup {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let first = self.members[0];
        let join = |rebuild: &Rebuild<'_>| -> Result<()> {
            for &member in &self.members {
                let arguments = [0.into(), self.group.into()];
                rebuild.call(
                    member,
                    "joining its process group",
                    libc::SYS_setpgid,
                    &arguments,
                )?;
            }
            Ok(())
        };
        if join(rebuild).is_ok() {
            return Ok(());
        }
        // It only holds the id, until all members have joined.
        rebuild.birth(first, self.group, Sibling::No)?;
        let arguments = [0.into(), self.group.into()];
        rebuild.call(
            self.group,
            "making a process group",
            libc::SYS_setpgid,
            &arguments,
        )?;
        join(rebuild)?;
        rebuild.end_placeholder(first, self.group)
    }
}

struct StartThreads {
    process: i32,
    threads: Vec<i32>,
}

impl fmt::Display for StartThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {} threads", self.threads.len())
    }
}

impl Action for StartThreads {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.start_threads(self.process, &self.threads)
    }
}

struct StopAgain {
    process: i32,
    signal: i32,
    /// The parent that has taken notice of the stop.
    told: Option<i32>,
}

impl fmt::Display for StopAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stop by signal {}", self.signal)
    }
}

impl Action for StopAgain {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.stop_by_job_control(self.process, self.signal)?;
        if let Some(parent) = self.told {
            let mut list = CallList::new();
            let siginfo = list.space(128);
            wait_call(&mut list, self.process, siginfo, 0);
            rebuild.run(parent, &list)?;
            rebuild.drain_child_signal(parent)?;
        }
        Ok(())
    }
}

struct EndZombie {
    process: i32,
    parent: i32,
    status: i32,
}

impl fmt::Display for EndZombie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end with wait status {:#x}", self.status)
    }
}

impl Action for EndZombie {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let signal = self.status & 0x7f;
        let signal = (signal != 0).then_some(signal);
        rebuild.end_process(self.process, signal, (self.status >> 8) & 0xff)?;
        if self.parent == 0 {
            Ok(())
        } else {
            rebuild.drain_child_signal(self.parent)
        }
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Process trees: parents, pids, process groups, sessions, also those whose leader has gone",
        level: Level::Restored,
        how: "with their numbers: as root where these are free, otherwise in a fresh pid namespace",
    },
    Support {
        what: "Zombies",
        level: Level::Restored,
        how: "with their exit status or signal; that memory was dumped is not told again",
    },
    Support {
        what: "Stopped processes (Ctrl-Z, SIGSTOP)",
        level: Level::Restored,
        how: "stopped again; the parent learns of it only if it had not before",
    },
    Support {
        what: "Threads",
        level: Level::Restored,
        how: "thousands, with their ids",
    },
    Support {
        what: "A process whose first thread has ended while others run on",
        level: Level::Refused,
        how: "cannot be rebuilt; have the program keep its first thread",
    },
    Support {
        what: "Start times and processor time used",
        level: Level::Partly,
        how: "start afresh: the kernel keeps them",
    },
];
