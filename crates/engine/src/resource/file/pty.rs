//! Pseudo-terminals of the job's own: both sides, and what waits in between (pty(7), tty_ioctl(4)).
//!
//! The master tells nearly everything: number, settings, window, packet mode, lock, session and foreground group, whether the
//! slave is open. What waits can only be taken out and put back (see `keeper`). The number is part of the state, since programs
//! know their terminal by its name: where /dev/pts has it in use a restart goes to fresh namespaces with a /dev/pts of their own,
//! in which all numbers are free; see `place` for other file systems of terminals. A slave that has been hung up comes back as
//! such. Not preserved: the column of the cursor, speeds that have no name.

mod content;
mod keeper;
mod make;
mod place;
mod sight;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;
use cryonaut_sys::terminal::pseudo::{Switch, line_discipline, open_slave_with, session_of};
use cryonaut_sys::terminal::{self, Settings};

use super::DescriptorKind;
use super::facts::{Description, FdFacts, Job};
use super::terminal::by_name::{self, Opening};
use super::terminal::plan_ties;
use crate::checkpoint::Tracer;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusal, Refusals, Result};

pub use content::Content;
pub use place::TerminalPlace;
pub use sight::{Name, Terminal};

use keeper::Subject;
pub(super) use make::{any_master, master_at};

/// A pseudo-terminal whose master is in the job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PseudoTerminal {
    /// The master's number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// The master's `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its slave is /dev/pts/NUMBER.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// Its settings: input, output, control and local modes as 32-bit words, little-endian, then the control characters.
    #[prost(bytes = "vec", tag = "4")]
    pub settings: Vec<u8>,
    /// Size of its window: lines, characters in a line, width and height in pixels.
    #[prost(uint32, repeated, tag = "5")]
    pub window: Vec<u32>,
    /// Whether packet mode is on.
    #[prost(bool, tag = "6")]
    pub packets: bool,
    /// Whether the slave cannot be opened.
    #[prost(bool, tag = "7")]
    pub locked: bool,
    /// Whether the slave is exclusive.
    #[prost(bool, tag = "8")]
    pub exclusive: bool,
    /// Whether the master is.
    #[prost(bool, tag = "9")]
    pub master_exclusive: bool,
    /// What the slave has been through: see [`Use`].
    #[prost(enumeration = "Use", tag = "10")]
    pub slave: i32,
    /// The slave's open file descriptions.
    #[prost(message, repeated, tag = "11")]
    pub slaves: Vec<Slave>,
    /// What waits in it.
    #[prost(message, optional, tag = "12")]
    pub content: Option<Content>,
    /// The session whose controlling terminal it is, 0 for none.
    #[prost(int32, tag = "13")]
    pub session: i32,
    /// The foreground process group, 0 where it has no process left.
    #[prost(int32, tag = "14")]
    pub foreground: i32,
    /// Permissions of /dev/pts/NUMBER; absent where it could not be looked at.
    #[prost(message, optional, tag = "15")]
    pub node: Option<Node>,
}

/// An open file description of a slave.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Slave {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Whether it was opened as /dev/tty.
    #[prost(bool, tag = "3")]
    pub by_name: bool,
}

/// Owner and permissions of a slave's name.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Node {
    /// Permission bits.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// User.
    #[prost(uint32, tag = "2")]
    pub user: u32,
    /// Group.
    #[prost(uint32, tag = "3")]
    pub group: u32,
}

/// What a slave has been through, as its master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Use {
    /// Nobody has opened it, or somebody outside the job has it open: the master waits for output.
    Waiting = 0,
    /// The job has it open.
    Open = 1,
    /// All who had it open have closed it: the master reads an error (EIO) when nothing is left.
    Closed = 2,
}

/// A terminal whose other side is gone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HungUp {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// What it was called.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
}

impl Record for PseudoTerminal {
    const KIND: Kind = Kind {
        name: "file.pseudo-terminal",
        version: 1,
    };
}
impl Record for HungUp {
    const KIND: Kind = Kind {
        name: "file.hung-up-terminal",
        version: 1,
    };
}

/// Whether a restart of these records makes pseudo-terminals of given numbers.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn has_own(records: &RecordSet) -> Result<bool> {
    Ok(!records.all::<PseudoTerminal>()?.is_empty())
}

/// The kind.
pub(super) struct PseudoTerminals;

impl DescriptorKind for PseudoTerminals {
    fn kinds(&self) -> &'static [Kind] {
        const { &[PseudoTerminal::KIND, HungUp::KIND, TerminalPlace::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_own_terminal()
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let Some(Terminal::Master(name)) = description.facts.terminal else {
            return;
        };
        // One that closes meanwhile is no matter any more.
        let Ok(master) = job.copy(description) else {
            return;
        };
        if let Some((reason, remedy)) = hindrance(master.as_fd(), (description, name), job) {
            refusals.add(
                job.owner(description.first()).label(),
                format!(
                    "{}, the master of /dev/pts/{}",
                    job.name(description),
                    name.number
                ),
                reason,
                remedy,
            );
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            if description.facts.terminal == Some(Terminal::HungUp) {
                collection.put(&HungUp {
                    object: description.object,
                    flags: description.facts.flags(),
                    path: description.facts.link.clone(),
                })?;
            }
        }
        let mut found = Vec::new();
        for (master, name) in job.masters() {
            let what = || format!("reading the state of /dev/pts/{}", name.number);
            let copy = job.copy(master)?;
            let record = state_of(copy.as_fd(), master, name, job).attempt(what)?;
            settle(copy.as_fd(), &record, master, job)?;
            if let Some(place) = place::record_of(master, name, job) {
                collection.put(&place)?;
            }
            found.push((record, name, copy));
        }
        for record in look_into(found, job)? {
            collection.put(&record)?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let mut names = BTreeSet::new();
        for terminal in records.all::<PseudoTerminal>()? {
            let place = place::planned(records, &terminal)?;
            if !names.insert((place.clone(), terminal.number)) {
                return Err(Error::Failed(format!(
                    "the image is damaged: it has the terminal {}/{} twice",
                    printable(&place),
                    terminal.number
                )));
            }
            place::check(&place, terminal.number, host, plan);
            let by_name = terminal.slaves.iter().filter(|slave| slave.by_name);
            plan_ties(
                records,
                plan,
                make::slave_key(terminal.object),
                (terminal.session, terminal.foreground),
                by_name
                    .map(|&Slave { object, flags, .. }| Opening { object, flags })
                    .collect(),
            )?;
            plan.step(Stage::Objects, 0, make::Make { terminal, place });
        }
        for terminal in records.all::<HungUp>()? {
            plan.step(Stage::Objects, 0, make::MakeHungUp { terminal });
        }
        Ok(())
    }
}

/// Why a pseudo-terminal cannot be saved, and what to do.
fn hindrance(
    master: BorrowedFd<'_>,
    (description, name): (&Description, Name),
    job: &Job<'_>,
) -> Option<(String, &'static str)> {
    if name.instance.is_none() {
        return Some((
            "its slave cannot be reached: no /dev/pts is mounted beside the /dev/ptmx that it was opened by".into(),
            "mount one, or close it before the checkpoint",
        ));
    }
    if place::find(description, name, job).is_none() {
        return Some((
            "the file system that its slave is in is mounted nowhere that the job or cryo sees"
                .into(),
            "close it before the checkpoint",
        ));
    }
    let has_twin = |(_, other): (_, Name)| other.number == name.number && other != name;
    let by_tty = |slave: &Description| slave.facts.node == by_name::DEVICE;
    if job.masters().any(has_twin) && job.slaves(name).any(by_tty) {
        return Some((
            "the job has terminals of this number in two file systems of terminals, and one of them is open as /dev/tty: \
             which of them that is does not show"
                .into(),
            "close that before the checkpoint",
        ));
    }
    if Settings::of(master).is_ok_and(|settings| settings.is_external()) {
        return Some((
            "its lines are edited at the other end (EXTPROC), and what waits in it cannot be read whole".into(),
            "leave that mode before the checkpoint",
        ));
    }
    if line_discipline(master).is_ok_and(|discipline| discipline != 0) {
        return Some((
            "it has a line discipline of its own, whose state nobody can read".into(),
            "close it before the checkpoint",
        ));
    }
    let session = session_of(master).ok()??;
    let is_inside = job.processes().any(|owner| owner.session.outer == session);
    (!is_inside).then(|| {
        (
            format!("it is the controlling terminal of session {session}, which is not in the job"),
            "checkpoint both together: a process that is the ancestor of both, or what runs in that terminal alone",
        )
    })
}

/// Everything but what waits in it.
fn state_of(
    master: BorrowedFd<'_>,
    description: &Description,
    name: Name,
    job: &Job<'_>,
) -> std::io::Result<PseudoTerminal> {
    let size = terminal::window_size(master)?;
    let slaves: Vec<&Description> = job.slaves(name).collect();
    let hung = descriptor::poll_now(master, 0)? & libc::POLLHUP != 0;
    let slave = match (slaves.is_empty(), hung) {
        (false, _) => Use::Open,
        (true, true) => Use::Closed,
        (true, false) => Use::Waiting,
    };
    let exclusive = match slaves.first().and_then(|slave| job.copy(slave).ok()) {
        Some(slave) => Switch::Exclusive.is_on(slave.as_fd())?,
        None => false,
    };
    let session = session_of(master)?.unwrap_or(0);
    let group = match session {
        0 => 0,
        _ => terminal::foreground_group(master)?,
    };
    let node = open_slave_with(master, libc::O_PATH).ok();
    let node = node.and_then(|node| File::from(node).metadata().ok());
    let inner = |found: Option<i32>| found.unwrap_or(0);
    Ok(PseudoTerminal {
        object: description.object,
        flags: description.facts.flags(),
        number: name.number,
        settings: Settings::of(master)?.to_bytes(),
        window: [size.rows, size.columns, size.width, size.height]
            .map(u32::from)
            .to_vec(),
        packets: Switch::PacketMode.is_on(master)?,
        locked: Switch::Lock.is_on(master)?,
        exclusive,
        master_exclusive: Switch::Exclusive.is_on(master)?,
        slave: slave as i32,
        slaves: slaves
            .iter()
            .map(|slave| Slave {
                object: slave.object,
                flags: slave.facts.flags(),
                by_name: slave.facts.node == by_name::DEVICE,
            })
            .collect(),
        content: None,
        session: inner(
            job.processes()
                .find(|owner| session != 0 && owner.session.outer == session)
                .map(|owner| owner.session.inner),
        ),
        foreground: inner(
            job.processes()
                .find(|owner| group != 0 && owner.group.outer == group)
                .map(|owner| owner.group.inner),
        ),
        node: node.map(|node| Node {
            mode: node.mode() & 0o7777,
            user: node.uid(),
            group: node.gid(),
        }),
    })
}

/// What only a moment stands in the way of: a message of packet mode that waits; a slave that is just about to be opened.
fn settle(
    master: BorrowedFd<'_>,
    record: &PseudoTerminal,
    description: &Description,
    job: &Job<'_>,
) -> Result<()> {
    let events = descriptor::poll_now(master, libc::POLLPRI | libc::POLLIN)
        .attempt(|| "looking at a terminal".into())?;
    let reason = if record.packets && events & libc::POLLPRI != 0 {
        "a message of packet mode waits in it, which cannot be put back"
    } else if record.slave() == Use::Waiting && events & libc::POLLIN != 0 {
        "something was echoed by it, but nobody has opened its slave yet"
    } else {
        return Ok(());
    };
    let (pid, process) = job.owner(description.first()).label();
    Err(Error::Unsettled(vec![Refusal {
        pid,
        process: process.into(),
        object: format!(
            "{}, the master of /dev/pts/{}",
            job.name(description),
            record.number
        ),
        reason: reason.into(),
        remedy: "try again when the program has gone on".into(),
    }]))
}

/// Whether any process of the target has the master of a pseudo-terminal open: its terminals are looked into by a process apart.
pub fn has_masters(target: &Target) -> bool {
    let is_master = |process: &TargetProcess| {
        let numbers = process.directory.descriptors().unwrap_or_default();
        numbers.into_iter().any(|number| {
            let link = process.directory.descriptor_link(number);
            link.is_ok_and(|link| link.ends_with(b"/ptmx"))
        })
    };
    let alive = target.processes.iter();
    alive.filter(|process| !process.is_zombie()).any(is_master)
}

/// Completes the records with what waits in the terminals.
fn look_into(
    found: Vec<(PseudoTerminal, Name, OwnedFd)>,
    job: &Job<'_>,
) -> Result<Vec<PseudoTerminal>> {
    let mut records = Vec::new();
    let mut subjects = Vec::new();
    for (record, name, master) in found {
        // Opening and closing it would tell its master that somebody was there.
        if record.slave() != Use::Waiting {
            let slave = job.slaves(name).next();
            let slave = slave.map(|slave| job.copy(slave)).transpose()?;
            subjects.push(Subject { master, slave });
        }
        records.push(record);
    }
    if subjects.is_empty() {
        return Ok(records);
    }
    // What is taken out of a terminal for a moment must not be missed by a job that was let go because its tracer was killed.
    if job.tracer == Tracer::Named {
        return Err(Error::NeedsProcessApart);
    }
    let mut contents = keeper::look(&subjects)?.into_iter();
    for record in records
        .iter_mut()
        .filter(|record| record.slave() != Use::Waiting)
    {
        let content = contents.next().unwrap_or_else(|| Ok(Content::default()));
        record.content = Some(content.map_err(|error| {
            Error::Failed(format!(
                "/dev/pts/{}: what waits in it cannot be read: {error}",
                record.number
            ))
        })?);
    }
    Ok(records)
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Pseudo-terminals whose master is in the job (tmux, screen, script, expect): both sides, what waits in both directions, settings, window, packet mode, lock, exclusive mode, controlling terminal, foreground process group",
        level: Level::Restored,
        how: "under the same number; where that is in use, in fresh namespaces with a /dev/pts of their own; those of other file systems of terminals (devpts) where that, or another, is mounted then. Refused where the session in it is outside the job, and with EXTPROC. What was opened as /dev/tty is called so again, unless the terminal is exclusive or locked, or has no session leader in the job",
    },
    Support {
        what: "Terminals that have been hung up",
        level: Level::Restored,
        how: "reading gives the end of file, writing EIO, as before",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(number: u32) -> PseudoTerminal {
        PseudoTerminal {
            object: u64::from(number) + 10,
            number,
            slave: Use::Open as i32,
            slaves: vec![Slave {
                object: 3,
                flags: 2,
                by_name: true,
            }],
            ..PseudoTerminal::default()
        }
    }

    #[test]
    fn terminals_come_back_from_their_records() {
        let mut records = RecordSet::new();
        assert!(!has_own(&records).unwrap());
        let hung_up = HungUp {
            object: 5,
            flags: 2,
            path: b"/dev/pts/9 (deleted)".to_vec(),
        };
        records.push(&terminal(7)).unwrap();
        records.push(&hung_up).unwrap();
        assert_eq!(records.all::<PseudoTerminal>().unwrap(), [terminal(7)]);
        assert_eq!(records.all::<HungUp>().unwrap(), [hung_up]);
        assert!(has_own(&records).unwrap());
    }

    #[test]
    fn a_number_is_given_once() {
        let mut records = RecordSet::new();
        records.push(&terminal(7)).unwrap();
        records.push(&terminal(7)).unwrap();
        let host = super::super::tests::host();
        let planned = PseudoTerminals.plan(&records, &host, &mut Plan::default());
        assert!(planned.is_err());
    }
}
