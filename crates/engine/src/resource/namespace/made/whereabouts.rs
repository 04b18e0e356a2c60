//! Where processes are while sockets are made: a socket belongs to the network namespace that its maker is in.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{enter, leave_network};
use super::{MembershipRecord, NamespaceRecord};
use crate::Result;
use crate::rebuild::Rebuild;

/// The network namespaces of the job's processes, by their numbers; 0 stands for the one where the job is started.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    /// Where those live that do not live there.
    own: BTreeMap<i32, u64>,
    /// Where those are now that are not there.
    now: BTreeMap<i32, u64>,
}

impl Whereabouts {
    /// All are where the job is started.
    ///
    /// # Errors
    /// When the records are damaged.
    pub(crate) fn of(rebuild: &Rebuild<'_>) -> Result<Self> {
        let namespaces = rebuild.records.all::<NamespaceRecord>()?;
        let networks: BTreeSet<u64> = namespaces
            .iter()
            .filter(|namespace| namespace.network.is_some())
            .map(|namespace| namespace.object)
            .collect();
        let mut own = BTreeMap::new();
        for member in rebuild.records.all::<MembershipRecord>()? {
            let mut all = member.namespaces.iter();
            let network = all.find(|object| networks.contains(object));
            own.extend(network.map(|network| (member.process, *network)));
        }
        Ok(Self {
            own,
            now: BTreeMap::new(),
        })
    }

    /// Whether a process is in a network namespace now.
    pub(crate) fn is_in(&self, process: i32, network: u64) -> bool {
        self.now.get(&process).copied().unwrap_or(0) == network
    }

    /// A process that is in a network namespace now, and lives there.
    pub(crate) fn member(&self, network: u64) -> Option<i32> {
        let mut all = self.now.iter();
        all.find(|(process, now)| **now == network && self.own.get(process) == Some(now))
            .map(|(process, _)| *process)
    }

    /// Leads a process into a network namespace.
    ///
    /// # Errors
    /// When that is not there, or, of the one where the job is started, when the process may not go back there: the capabilities
    /// of an ordinary user's jobs do not reach so far.
    pub(crate) fn lead(&mut self, rebuild: &Rebuild<'_>, process: i32, network: u64) -> Result<()> {
        if self.is_in(process, network) {
            return Ok(());
        }
        match network {
            0 => leave_network(rebuild, process)?,
            network => enter(rebuild, process, network)?,
        }
        self.now.insert(process, network);
        Ok(())
    }

    /// Leads all processes to where they live.
    ///
    /// # Errors
    /// As [`Whereabouts::lead`].
    pub(crate) fn settle(&mut self, rebuild: &Rebuild<'_>) -> Result<()> {
        let strayed: Vec<i32> = self.now.keys().chain(self.own.keys()).copied().collect();
        for process in strayed {
            let own = self.own.get(&process).copied().unwrap_or(0);
            self.lead(rebuild, process, own)?;
        }
        Ok(())
    }
}
