//! Births into sessions that a process' parent was never in: its parent adopted it when the one that had borne it ended.
//!
//! A session is handed down by birth alone. So somebody who is in it bears the process: as a sibling where both have the same
//! parent, else as a grandchild that is orphaned at once. Where nobody of the session is left but such processes, a placeholder
//! with the session's number leads it for as long as they are born.

use std::collections::BTreeMap;

use super::ProcessRecord;
use super::family::Family;
use crate::host::Host;

/// How a process is born into a session of which its parent is no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As a sibling of the session's leader.
    Sibling(i32),
    /// As a sibling of a placeholder that leads the session, whose number this is.
    Placeholder(i32),
    /// By a child of the session's leader that ends at once.
    Orphan {
        /// The leader.
        leader: i32,
        /// Its ancestor that adopts the process; 0 for whoever adopts orphans outside the job.
        reaper: i32,
    },
}

impl Family<'_> {
    /// Finds other ways for the processes that cannot be born by their parents.
    pub(super) fn find_ways(&mut self, host: &Host) {
        loop {
            let stuck: Vec<&ProcessRecord> = self
                .processes
                .iter()
                .filter(|process| !self.is_reachable(process))
                .flat_map(|process| self.culprits(process))
                .collect();
            let mut found = BTreeMap::new();
            for process in stuck {
                if self.ways.contains_key(&process.pid) {
                    continue;
                }
                if let Some(way) = self.way(process, host, &found) {
                    found.insert(process.pid, way);
                }
            }
            if found.is_empty() {
                return;
            }
            self.ways.extend(found);
            self.note_births();
        }
    }

    /// Whether a process can be born by its parent, or a sibling, in the session that it must be born in.
    pub(super) fn is_reachable(&self, process: &ProcessRecord) -> bool {
        if self.ways.contains_key(&process.pid) {
            return true;
        }
        match (self.birth_session(process), self.bearer(process)) {
            (None, _) => true,
            (Some(session), Some(bearer)) => {
                session == bearer.session || Some(session) == self.birth_session(bearer)
            }
            (Some(session), None) => match self.leader(session) {
                Some(leader) => leader.parent == 0,
                None => self.foreign == Some(session),
            },
        }
    }

    /// The process of the job that leads a session.
    fn leader(&self, session: i32) -> Option<&ProcessRecord> {
        let leader = self.by_pid.get(&session).copied();
        leader.filter(|leader| leader.session == session)
    }

    /// Who is to blame that a process must be born in its session: itself, or for the leader of another one its children.
    fn culprits<'b>(&'b self, process: &'b ProcessRecord) -> Vec<&'b ProcessRecord> {
        if process.session != process.pid {
            return vec![process];
        }
        let wanted = self.birth_session(process);
        let children = self.children(process.pid);
        children
            .filter(|child| self.birth_session(child) == wanted)
            .flat_map(|child| self.culprits(child))
            .collect()
    }

    fn way(&self, process: &ProcessRecord, host: &Host, found: &BTreeMap<i32, Way>) -> Option<Way> {
        let session = process.session;
        if self.origins.contains_key(&process.pid) {
            return None;
        }
        if let Some(leader) = self.leader(session) {
            if leader.parent == process.parent && leader.exit_signal() == process.exit_signal() {
                return Some(Way::Sibling(leader.pid));
            }
            let reaper = process.parent;
            let leader = leader.pid;
            return (reaper == 0 || self.is_ancestor(reaper, leader))
                .then_some(Way::Orphan { leader, reaper });
        }
        let is_used = self
            .processes
            .iter()
            .any(|other| other.pid == session || other.tasks.contains(&session));
        if is_used || session <= 0 || host.shares_pids && session == host.session {
            return None;
        }
        // One placeholder bears the children of one parent.
        let of_session = |(_, way): &(&i32, &Way)| **way == Way::Placeholder(session);
        let other = self.ways.iter().chain(found).find(of_session);
        let parent = |pid: i32| self.by_pid.get(&pid).map(|process| process.parent);
        other
            .is_none_or(|(pid, _)| parent(*pid) == Some(process.parent))
            .then_some(Way::Placeholder(session))
    }

    fn is_ancestor(&self, ancestor: i32, process: i32) -> bool {
        let mut at = process;
        // Parents come before children, so that there is no circle.
        while let Some(process) = self.by_pid.get(&at) {
            at = process.parent;
            if at == ancestor {
                return true;
            }
        }
        false
    }

    /// The sessions that placeholders lead, with the parents of their members.
    pub(super) fn placeholders(&self) -> BTreeMap<i32, i32> {
        let led = self.ways.iter().filter_map(|(pid, way)| match way {
            Way::Placeholder(session) => Some((*session, self.by_pid.get(pid)?.parent)),
            Way::Sibling(_) | Way::Orphan { .. } => None,
        });
        led.collect()
    }
}
