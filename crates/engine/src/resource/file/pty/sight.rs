//! Which terminal is behind a descriptor, and whether its other side is in the job.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use cryonaut_sys::terminal::pseudo::{device_of, open_slave_with, session_of};
use cryonaut_sys::terminal::slave_number;

use super::super::facts::{Description, FdFacts, Job, Motion};
use crate::Result;

/// Device number of the master of every pseudo-terminal (devices.txt).
const MASTER: (u32, u32) = (5, 2);

/// What a descriptor that is a terminal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// The master of a pseudo-terminal.
    Master(Name),
    /// The slave of a pseudo-terminal whose master is in the job.
    Inside(Name),
    /// A terminal that others hold, by its device number.
    Outside((u32, u32)),
    /// One whose master is gone, or that was taken away.
    HungUp,
}

/// What tells one pseudo-terminal from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its slave is /dev/pts/NUMBER.
    pub number: u32,
    /// The device number of the file system that is so mounted; none where it cannot be told.
    pub instance: Option<u64>,
}

impl FdFacts {
    /// Whether it is one side of a pseudo-terminal of the job's own, or a terminal that has been hung up.
    pub(in super::super) fn is_own_terminal(&self) -> bool {
        !matches!(self.terminal, None | Some(Terminal::Outside(_)))
    }

    fn may_be_terminal(&self) -> bool {
        // Documentation/admin-guide/devices.txt: consoles and serial lines (4), /dev/tty, /dev/console and /dev/ptmx (5),
        // pseudo-terminals.
        let device = matches!(self.node, (4, _) | (5, 0..=2) | (136..=143, _));
        self.file_type() == libc::S_IFCHR && device && !self.is_place()
    }
}

impl Job<'_> {
    /// Finds for every terminal where its other side is.
    ///
    /// # Errors
    /// When a descriptor of a frozen job cannot be copied.
    pub(in super::super) fn find_terminals(&mut self, motion: Motion) -> Result<()> {
        for index in 0..self.descriptions.len() {
            let description = &self.descriptions[index];
            if !description.facts.may_be_terminal() {
                continue;
            }
            let copy = match self.copy(description) {
                Err(_) if motion == Motion::Running => continue,
                copy => copy?,
            };
            let found = if description.facts.node == MASTER {
                name_of(copy.as_fd()).map(Terminal::Master)
            } else {
                match device_of(copy.as_fd()) {
                    Ok(device) => Some(Terminal::Outside(device)),
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => Some(Terminal::HungUp),
                    Err(_) => None,
                }
            };
            self.descriptions[index].facts.terminal = found;
        }
        let names: Vec<Name> = self.masters().map(|(_, name)| name).collect();
        for description in &mut self.descriptions {
            let facts = &mut description.facts;
            let Some(Terminal::Outside((136..=143, number))) = facts.terminal else {
                continue;
            };
            // What is open by way of /dev/tty does not tell the file system.
            let instance = (facts.node.0 != 5).then_some(facts.file.0);
            let is_it = |name: &Name| {
                name.number == number && (instance.is_none() || instance == name.instance)
            };
            if let Some(name) = names.iter().find(|name| is_it(name)) {
                facts.terminal = Some(Terminal::Inside(*name));
            }
        }
        Ok(())
    }

    /// The masters of pseudo-terminals.
    pub(super) fn masters(&self) -> impl Iterator<Item = (&Description, Name)> {
        let all = self.descriptions.iter();
        all.filter_map(|description| match description.facts.terminal {
            Some(Terminal::Master(name)) => Some((description, name)),
            _ => None,
        })
    }

    /// The slave's descriptions of the job's own pseudo-terminal of this name.
    pub(super) fn slaves(&self, name: Name) -> impl Iterator<Item = &Description> {
        let all = self.descriptions.iter();
        all.filter(move |description| description.facts.terminal == Some(Terminal::Inside(name)))
    }

    /// The sessions whose controlling terminals are the job's own, as we see them.
    pub(in super::super) fn sessions_inside(&self) -> BTreeSet<i32> {
        let session = |master: &Description| {
            let copy = self.copy(master).ok()?;
            session_of(copy.as_fd()).ok()?
        };
        self.masters()
            .filter_map(|(master, _)| session(master))
            .collect()
    }
}

fn name_of(master: BorrowedFd<'_>) -> Option<Name> {
    let number = slave_number(master).ok()?;
    let slave = open_slave_with(master, libc::O_PATH).ok();
    let found = slave.and_then(|slave| File::from(slave).metadata().ok());
    Some(Name {
        number,
        instance: found.map(|metadata| crate::resource::memory::device_number(metadata.dev())),
    })
}
