//! How processes are related, and the births that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use super::ProcessRecord;
use super::session::Way;
use super::step::{
    Birth, BirthOfOrphan, EndPlaceholder, JoinGroup, JoinOrphanedGroup, LeadSession,
    ProgenitorSession,
};
use crate::host::Host;
use crate::plan::{Plan, Stage, Token};
use crate::rebuild::{Descent, Sibling};
use crate::resource::sharing::{Member, Origin, Shared, Sharing};
use crate::{Error, Result};

/// The processes and how they are related.
pub(super) struct Family<'a> {
    pub(super) processes: &'a [ProcessRecord],
    pub(super) by_pid: BTreeMap<i32, &'a ProcessRecord>,
    /// How those are born that share something with whoever bears them.
    pub(super) origins: BTreeMap<i32, Origin>,
    /// How those are born that are in a session that their parents were never in.
    pub(super) ways: BTreeMap<i32, Way>,
    /// The session that the progenitor is in, and that has no leader in the job.
    pub(super) foreign: Option<i32>,
    /// Who is borne by each process, 0 for those that nobody in the job bears.
    borne: BTreeMap<i32, Vec<&'a ProcessRecord>>,
}

impl<'a> Family<'a> {
    /// Finds out who bears whom.
    ///
    /// # Errors
    /// When the records are damaged: a process is its own ancestor, or shares with one that cannot bear it.
    pub(super) fn new(
        processes: &'a [ProcessRecord],
        sharing: &Sharing,
        members: &[Member],
        host: &Host,
    ) -> Result<Self> {
        let (origins, unreachable) = sharing.origins(members);
        if let Some(found) = unreachable.first() {
            return Err(Error::Failed(format!(
                "the image is damaged: process {} shares with {}, which cannot be",
                found.process, found.with
            )));
        }
        let mut family = Self {
            processes,
            by_pid: processes
                .iter()
                .map(|process| (process.pid, process))
                .collect(),
            origins,
            ways: BTreeMap::new(),
            foreign: None,
            borne: BTreeMap::new(),
        };
        // Each is borne once then, and the search below ends.
        if family.by_pid.len() < processes.len() || processes.iter().any(|process| process.pid <= 0)
        {
            return Err(Error::Failed(
                "the image is damaged: a process is there twice, or has no number".into(),
            ));
        }
        family.note_births();
        let mut reached = vec![0];
        let mut next = 0;
        while let Some(&process) = reached.get(next) {
            next += 1;
            let borne = family.borne.get(&process).into_iter().flatten();
            reached.extend(borne.map(|process| process.pid));
        }
        if reached.len() <= processes.len() {
            return Err(Error::Failed(
                "the image is damaged: a process descends from itself".into(),
            ));
        }
        let foreign = family.foreign_sessions();
        let inherited =
            Some(host.session).filter(|session| host.shares_pids && foreign.contains(session));
        family.foreign = inherited.or_else(|| foreign.first().copied());
        family.find_ways(host);
        Ok(family)
    }

    /// Notes who bears whom, but for those that are born in a way of their own.
    pub(super) fn note_births(&mut self) {
        self.borne.clear();
        for process in self.processes {
            if !self.ways.contains_key(&process.pid) {
                let bearer = self.bearer(process).map_or(0, |bearer| bearer.pid);
                self.borne.entry(bearer).or_default().push(process);
            }
        }
    }

    /// The processes that do not find their parent's memory at their birth.
    pub(super) fn unrelated(&self, sharing: &Sharing) -> BTreeSet<i32> {
        let memory = |process: i32| sharing.of_process(Shared::Memory, process);
        let by_others = self.origins.iter().filter(|(process, origin)| {
            let parent = self.by_pid.get(process).map(|process| process.parent);
            parent.is_some_and(|parent| memory(origin.by) != memory(parent))
        });
        let by_others = by_others.map(|(process, _)| *process);
        self.ways.keys().copied().chain(by_others).collect()
    }

    /// The process that bears one: its parent, or a sibling.
    pub(super) fn bearer(&self, process: &ProcessRecord) -> Option<&'a ProcessRecord> {
        let by = self
            .origins
            .get(&process.pid)
            .map_or(process.parent, |origin| origin.by);
        self.by_pid.get(&by).copied()
    }

    pub(super) fn children(&self, pid: i32) -> impl Iterator<Item = &'a ProcessRecord> {
        self.borne.get(&pid).into_iter().flatten().copied()
    }

    /// The session that a process must be born in, if that matters: its own, or for a leader the one that its children were
    /// born in before it led its own.
    pub(super) fn birth_session(&self, process: &ProcessRecord) -> Option<i32> {
        if process.session != process.pid {
            return Some(process.session);
        }
        self.children(process.pid)
            .filter_map(|child| self.birth_session(child))
            .find(|session| *session != process.session)
    }

    pub(super) fn born_before_session(&self, leader: i32) -> Vec<i32> {
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
    pub(super) fn progenitor(&self, host: &Host) -> (Option<i32>, ProgenitorSession) {
        match self.foreign {
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

    pub(super) fn check(&self, host: &Host, plan: &mut Plan) {
        for process in self.processes {
            if !self.is_reachable(process) {
                plan.refusals.add(
                    (process.pid, &String::from_utf8_lossy(&process.name)),
                    format!("its session {}", process.session),
                    "its parent was never in that session, so it cannot be born there again",
                    "checkpoint before the program that started it has ended",
                );
            }
        }
        if host.shares_pids {
            let used = used_ids(host);
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

    pub(super) fn plan_birth(&self, process: &ProcessRecord, plan: &mut Plan) {
        let gives = vec![Token::Process(process.pid)];
        if let Some(way) = self.ways.get(&process.pid) {
            self.plan_way(process, *way, gives, plan);
            return;
        }
        let session = self.birth_session(process);
        if let Some(bearer) = self.bearer(process) {
            let mut needs = vec![Token::Process(bearer.pid)];
            if bearer.session == bearer.pid
                && session.is_none_or(|session| session == bearer.session)
            {
                needs.push(Token::SessionOf(bearer.pid));
            }
            let origin = self.origins.get(&process.pid);
            let descent = Descent {
                by: bearer.pid,
                sibling: origin.map_or(Sibling::No, |origin| origin.sibling),
                flags: origin.map_or(0, |origin| origin.flags),
                exit_signal: process.exit_signal(),
            };
            plan.linked_step(
                Stage::Tree,
                process.pid,
                needs,
                gives,
                Birth {
                    process: process.pid,
                    descent,
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
                descent: Descent {
                    sibling: Sibling::Yes,
                    ..Descent::from(by)
                },
            },
        );
    }

    fn plan_way(&self, process: &ProcessRecord, way: Way, gives: Vec<Token>, plan: &mut Plan) {
        let (Way::Sibling(by) | Way::Placeholder(by) | Way::Orphan { leader: by, .. }) = way;
        let needs = vec![Token::Process(by), Token::SessionOf(by)];
        let pid = process.pid;
        if let Way::Orphan { leader, reaper } = way {
            let birth = BirthOfOrphan {
                process: pid,
                leader,
                reaper,
            };
            plan.linked_step(Stage::Tree, pid, needs, gives, birth);
            return;
        }
        let descent = Descent {
            sibling: Sibling::Yes,
            ..Descent::from(by)
        };
        let birth = Birth {
            process: pid,
            descent,
        };
        plan.linked_step(Stage::Tree, pid, needs, gives, birth);
    }

    /// Placeholders lead sessions whose leaders have gone, until all are born and in their groups.
    pub(super) fn plan_placeholders(&self, plan: &mut Plan) {
        for (session, parent) in self.placeholders() {
            let sibling = if parent == 0 {
                Sibling::Yes
            } else {
                Sibling::No
            };
            let birth = Birth {
                process: session,
                descent: Descent {
                    sibling,
                    ..Descent::from(parent)
                },
            };
            let (process, led) = (Token::Process(session), Token::SessionOf(session));
            let needs = vec![Token::Process(parent)];
            plan.linked_step(Stage::Tree, session, needs, vec![process.clone()], birth);
            let lead = LeadSession { process: session };
            plan.linked_step(Stage::Tree, session, vec![process], vec![led], lead);
            let end = EndPlaceholder { session, parent };
            plan.step(Stage::Descriptors, session, end);
        }
    }

    /// Groups are made by their leaders; one whose leader has gone is made by a placeholder, which then goes.
    pub(super) fn plan_groups(&self, plan: &mut Plan) {
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
fn used_ids(host: &Host) -> BTreeSet<i32> {
    let others = host.processes().iter();
    others
        .filter(|stat| !host.leaving.contains(&stat.pid))
        .flat_map(|stat| [stat.pid, stat.pgrp, stat.session])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Changed;

    fn process(pid: i32, parent: i32, session: i32) -> ProcessRecord {
        ProcessRecord {
            pid,
            parent,
            session,
            group: pid,
            tasks: vec![pid],
            ..ProcessRecord::default()
        }
    }

    fn ways(processes: &[ProcessRecord]) -> Result<BTreeMap<i32, Way>> {
        let host = Host::look(false, Changed::Refuse).unwrap();
        let members = crate::resource::sharing::members_recorded(processes);
        Family::new(processes, &Sharing::default(), &members, &host).map(|family| family.ways)
    }

    #[test]
    fn damaged_families_are_found() {
        assert!(ways(&[process(0, 0, 0)]).is_err());
        assert!(ways(&[process(7, 0, 7), process(7, 0, 7)]).is_err());
        assert!(ways(&[process(7, 8, 7), process(8, 7, 7)]).is_err());
        assert!(ways(&[process(7, 7, 7)]).is_err());
        assert_eq!(ways(&[process(7, 0, 7)]).unwrap(), BTreeMap::new());
    }

    #[test]
    fn adopted_processes_are_born_by_others() {
        let found = ways(&[
            // It has been in session 20, which has lost its leader, as its first child was born.
            process(7, 0, 7),
            process(8, 7, 20),
            // Of another one without a leader, of one led by a sibling, of one led by a nephew.
            process(9, 7, 23),
            process(10, 7, 10),
            process(11, 7, 10),
            process(12, 7, 7),
            process(13, 12, 13),
            process(14, 7, 13),
            // Two that nobody in the job has adopted, in sessions of which only one could be the progenitor's.
            process(15, 0, 21),
            process(16, 0, 20),
        ])
        .unwrap();
        let orphan = Way::Orphan {
            leader: 13,
            reaper: 7,
        };
        let expected = [
            (9, Way::Placeholder(23)),
            (11, Way::Sibling(10)),
            (14, orphan),
            (15, Way::Placeholder(21)),
        ];
        assert_eq!(found, BTreeMap::from(expected));
    }
}
