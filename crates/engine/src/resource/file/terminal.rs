//! The terminal from outside the job: its place is taken by a new pseudo-terminal.
//!
//! An ioctl tells the device; /proc/PID/stat the controlling terminal and its foreground process group. A terminal is never
//! taken away from anybody: the job gets a new one, whose other side `cryo restart` carries to the user's; where its number
//! is free it has the same name. A job on several terminals is refused. A member of a session that has given up its controlling
//! terminal for itself alone gives it up again. Not preserved: what was typed and not read, the size of the window (it is that of
//! the user's).

pub(super) mod by_name;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_launch::terminal::Pty;
use cryonaut_sys::terminal::pseudo::device_number;
use cryonaut_sys::terminal::{Settings, open_slave};
use cryonaut_tracee::CallList;

use super::facts::{Description, FdFacts, Job, Place};
use super::pty::{self, any_master, master_at};
use super::{DescriptorKind, object, reopen, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

use by_name::Opening;

/// Where the terminal itself is kept among the objects while the job is rebuilt.
const OWN_OBJECT: u64 = u64::MAX;

/// Up to this number a terminal is given the one that it had, where that is free: all below it have to be opened on the way.
const MOST_TRIED: u32 = 1024;

/// An open terminal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Terminal {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// What it was called.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// Its settings: input, output, control and local modes as 32-bit words, little-endian, then the control characters.
    #[prost(bytes = "vec", tag = "4")]
    pub settings: Vec<u8>,
}

/// The controlling terminal of a session.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ControllingTerminal {
    /// The session.
    #[prost(int32, tag = "1")]
    pub session: i32,
    /// The foreground process group, 0 where it lies outside the job.
    #[prost(int32, tag = "2")]
    pub foreground: i32,
}

/// A process that has no controlling terminal although its session has one: it, or whose child it is, gave it up (TIOCNOTTY).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GivenUp {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
}

impl Record for GivenUp {
    const KIND: Kind = Kind {
        name: "file.given-up-terminal",
        version: 1,
    };
}
impl Record for Terminal {
    const KIND: Kind = Kind {
        name: "file.terminal",
        version: 1,
    };
}
impl Record for ControllingTerminal {
    const KIND: Kind = Kind {
        name: "file.controlling-terminal",
        version: 1,
    };
}

/// The objects that are terminals: a standard stream of the restart takes their place where one is given.
///
/// # Errors
/// When the records are damaged.
pub(super) fn objects(records: &RecordSet) -> Result<BTreeSet<u64>> {
    Ok(records
        .all::<Terminal>()?
        .iter()
        .map(|terminal| terminal.object)
        .collect())
}

/// Whether the job was waiting for single keys of somebody at its terminal, which a restart gives it anew.
///
/// # Errors
/// When the records are damaged.
pub fn waits_for_keys(records: &RecordSet) -> Result<bool> {
    let processes = records.all::<ProcessRecord>()?;
    let controls = records
        .all::<ControllingTerminal>()?
        .iter()
        .any(|terminal| has_leader(&processes, terminal.session));
    let terminals = records.all::<Terminal>()?;
    let known = terminals
        .iter()
        .find(|terminal| !terminal.settings.is_empty());
    Ok(controls && known.is_some_and(|terminal| !takes_lines(&terminal.settings)))
}

/// Whether settings, as a record has them, are those of a terminal whose input comes in lines.
fn takes_lines(settings: &[u8]) -> bool {
    let local_modes = settings.get(12..16).and_then(|word| word.try_into().ok());
    local_modes.is_none_or(|word| u32::from_le_bytes(word) & libc::ICANON != 0)
}

/// Whether the leader of a session is in the image.
fn has_leader(processes: &[ProcessRecord], session: i32) -> bool {
    processes.iter().any(|process| {
        process.pid == session && process.session == session && process.zombie.is_none()
    })
}

/// The kind.
pub(super) struct Terminals;

impl DescriptorKind for Terminals {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Terminal::KIND, ControllingTerminal::KIND, GivenUp::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        // Documentation/admin-guide/devices.txt: consoles and serial lines (4), /dev/tty and /dev/console (5), pseudo-terminals.
        let device = matches!(facts.node, (4, _) | (5, 0 | 1) | (136..=143, _));
        if facts.is_own_terminal() {
            return false;
        }
        let reachable = matches!(
            facts.place,
            Place::Leads | Place::Elsewhere | Place::Deleted
        );
        facts.file_type() == libc::S_IFCHR && device && reachable && !facts.is_place()
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let terminals = outside(job);
        if terminals.len() < 2 {
            return;
        }
        let names: Vec<&str> = terminals.values().map(String::as_str).collect();
        let names = names.join(", ");
        refusals.add(
            job.owner(description.first()).label(),
            format!("{}, a terminal", job.name(description)),
            format!(
                "the job is on {} terminals ({names}), and a restart gives it one",
                terminals.len()
            ),
            "leave all but one of them, or checkpoint what is on one terminal only",
        );
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            collection.put(&Terminal {
                object: description.object,
                flags: description.facts.flags(),
                path: description.facts.link.clone(),
                settings: settings_of(description, job),
            })?;
        }
        let inside = job.sessions_inside();
        let mut seen = BTreeSet::new();
        let outside = job
            .owners
            .iter()
            .filter(|owner| owner.terminal != 0 && !inside.contains(&owner.session.outer));
        for owner in outside {
            if seen.insert(owner.session.inner) {
                let group = job
                    .owners
                    .iter()
                    .find(|other| other.group.outer == owner.foreground);
                collection.put(&ControllingTerminal {
                    session: owner.session.inner,
                    foreground: group.map_or(0, |other| other.group.inner),
                })?;
            }
        }
        let has_one = |session: i32| {
            job.processes()
                .any(|owner| owner.pid == session && owner.terminal != 0)
        };
        for owner in job.processes() {
            if owner.terminal == 0 && has_one(owner.session.outer) {
                collection.put(&GivenUp {
                    process: owner.inner,
                })?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let terminals = records.all::<Terminal>()?;
        let controlling = records.all::<ControllingTerminal>()?;
        let processes = records.all::<ProcessRecord>()?;
        let session = controlling
            .iter()
            .find(|terminal| has_leader(&processes, terminal.session))
            .copied();
        if terminals.is_empty() && session.is_none() {
            return Ok(());
        }
        let names: BTreeSet<&[u8]> = terminals
            .iter()
            .map(|terminal| terminal.path.as_slice())
            .collect();
        let devices = names.iter().filter(|name| **name != by_name::NAME).count();
        if devices > 1 {
            plan.remarks.push(format!(
                "the {devices} terminals of the job become one new terminal"
            ));
        }
        for lost in controlling
            .iter()
            .filter(|terminal| Some(terminal.session) != session.map(|found| found.session))
        {
            plan.remarks.push(format!(
                "session {} comes back without a controlling terminal: its leader is not in the image, or another has it",
                lost.session
            ));
        }
        let by_name = terminals
            .iter()
            .filter(|terminal| terminal.path == by_name::NAME);
        let by_name: Vec<Opening> = by_name
            .map(|&Terminal { object, flags, .. }| Opening { object, flags })
            .collect();
        plan.step(Stage::Objects, 0, MakeTerminal { terminals });
        if let Some(tie) = session {
            let ties = (tie.session, tie.foreground);
            plan_ties(records, plan, OWN_OBJECT, ties, by_name)?;
        }
        Ok(())
    }
}

/// The terminals outside the job that its descriptors lead to, and those that control sessions whose leaders are in the job, by
/// device number, with their names.
fn outside(job: &Job<'_>) -> BTreeMap<(u32, u32), String> {
    let mut found = BTreeMap::new();
    for description in &job.descriptions {
        if let Some(pty::Terminal::Outside(device)) = description.facts.terminal {
            let name = printable(&description.facts.link);
            // Everybody's /dev/tty is another.
            if name != "/dev/tty" || !found.contains_key(&device) {
                found.insert(device, name);
            }
        }
    }
    let inside = job.sessions_inside();
    for owner in job.processes() {
        let leads = owner.pid == owner.session.outer && !inside.contains(&owner.session.outer);
        if owner.terminal != 0 && leads {
            let device = device_number(owner.terminal);
            let name = || match device {
                (136, number) => format!("/dev/pts/{number}"),
                (major, minor) => format!("device {major}:{minor}"),
            };
            found.entry(device).or_insert_with(name);
        }
    }
    found
}

/// Plans that a terminal, kept among the objects under `terminal`, becomes the controlling one of a session (0 for none) with
/// this process group in the foreground.
///
/// # Errors
/// When the records are damaged.
pub(super) fn plan_ties(
    records: &RecordSet,
    plan: &mut Plan,
    terminal: u64,
    (session, group): (i32, i32),
    by_name: Vec<Opening>,
) -> Result<()> {
    if session == 0 {
        return Ok(());
    }
    let tie = Tie { terminal, session };
    let needs = vec![Token::SessionOf(session)];
    let gives = vec![Token::TerminalOf(session)];
    plan.linked_step(Stage::Tree, session, needs, gives, Control { tie });
    by_name::plan(plan, session, by_name);
    let processes = records.all::<ProcessRecord>()?;
    // Only a leader can be given one: all others have it by birth (copy_process in kernel/fork.c).
    for member in processes
        .iter()
        .filter(|process| process.session == session)
    {
        if member.pid != session {
            plan.requires(Token::Process(member.pid), Token::TerminalOf(session));
        }
    }
    if processes
        .iter()
        .any(|process| process.group == group && process.session == session)
    {
        plan.step(Stage::Attach, session, Foreground { tie, group });
    }
    for GivenUp { process } in records.all::<GivenUp>()? {
        let is_member = |found: &&ProcessRecord| found.pid == process && found.session == session;
        let member = processes.iter().find(is_member);
        if process != session && member.is_some_and(|found| found.zombie.is_none()) {
            plan.step(Stage::Attach, process, GiveUp { terminal, process });
        }
    }
    Ok(())
}

/// The settings of a terminal; nothing where it has been hung up, and has none any more.
fn settings_of(description: &Description, job: &Job<'_>) -> Vec<u8> {
    let copy = job.copy(description).ok();
    copy.and_then(|copy| Settings::of(copy.as_fd()).ok())
        .map(|settings| settings.to_bytes())
        .unwrap_or_default()
}

struct MakeTerminal {
    terminals: Vec<Terminal>,
}

impl fmt::Display for MakeTerminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make a terminal")
    }
}

impl Action for MakeTerminal {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || "making a terminal".to_owned();
        let input = std::io::stdin();
        let wanted = self.terminals.iter().find_map(|terminal| {
            let number = terminal.path.strip_prefix(b"/dev/pts/")?;
            std::str::from_utf8(number).ok()?.parse().ok()
        });
        // Programs may know it by its name. Where another has that name, this one gets another.
        let named = match wanted {
            Some(number) if number < MOST_TRIED => master_at(rebuild, number)?,
            _ => None,
        };
        let master = named.map_or_else(|| any_master(rebuild), Ok)?;
        let pty = Pty::on(master, Some(input.as_fd())).attempt(what)?;
        let saved = self
            .terminals
            .iter()
            .find(|terminal| !terminal.settings.is_empty());
        if let Some(saved) = saved
            && let Some(settings) = Settings::of(pty.slave.as_fd())
                .attempt(what)?
                .with_bytes(&saved.settings)
        {
            settings.apply(pty.slave.as_fd()).attempt(what)?;
        }
        for terminal in &self.terminals {
            // Reading only or writing only needs opening again, which a missing /dev/pts may forbid: both does no harm.
            let opened = reopen(pty.slave.as_fd(), terminal.flags)
                .or_else(|_| open_slave(pty.master.as_fd()))
                .attempt(what)?;
            set_flags(opened.as_fd(), terminal.flags).attempt(what)?;
            rebuild.objects.insert(terminal.object, opened);
        }
        rebuild.objects.insert(OWN_OBJECT, pty.slave);
        rebuild.terminal = Some(pty.master);
        Ok(())
    }
}

/// A terminal among the objects, and the session that it is to control.
#[derive(Clone, Copy, Debug)]
struct Tie {
    terminal: u64,
    session: i32,
}

impl Tie {
    /// Gives the terminal to the session's leader for the time of one call.
    fn call(self, rebuild: &Rebuild<'_>, request: libc::Ioctl, group: Option<i32>) -> Result<()> {
        call_of(rebuild, self.session, self.terminal, (request, group))
    }
}

/// Gives a terminal to a process for the time of one call.
fn call_of(
    rebuild: &Rebuild<'_>,
    process: i32,
    terminal: u64,
    (request, group): (libc::Ioctl, Option<i32>),
) -> Result<()> {
    let spare = rebuild.give_spare(process, object(rebuild, terminal)?)?;
    let mut list = CallList::new();
    let argument = match group {
        Some(group) => list.bytes(&group.to_le_bytes()).into(),
        None => 0_u64.into(),
    };
    let call = list.call(libc::SYS_ioctl, &[spare.into(), request.into(), argument]);
    list.call(libc::SYS_close, &[spare.into()]);
    let outcomes = rebuild.run(process, &list)?;
    match outcomes.result(call) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Failed(format!(
            "process {process}: setting its controlling terminal: {error}"
        ))),
    }
}

struct Control {
    tie: Tie,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.tie.session;
        write!(
            f,
            "make the terminal the controlling one of session {session}"
        )
    }
}

impl Action for Control {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        self.tie.call(rebuild, libc::TIOCSCTTY, None)
    }
}

struct Foreground {
    tie: Tie,
    group: i32,
}

impl fmt::Display for Foreground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put process group {} into the foreground", self.group)
    }
}

impl Action for Foreground {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        self.tie.call(rebuild, libc::TIOCSPGRP, Some(self.group))
    }
}

struct GiveUp {
    terminal: u64,
    process: i32,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "give up the controlling terminal")
    }
}

impl Action for GiveUp {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        call_of(
            rebuild,
            self.process,
            self.terminal,
            (libc::TIOCNOTTY, None),
        )
    }
}

const SUPPORT: &[Support] = &[Support {
    what: "The terminal that a job runs on: descriptors, settings, controlling terminal, foreground process group",
    level: Level::Partly,
    how: "a new pseudo-terminal takes its place, which cryo restart carries to yours; what was typed and not read is lost",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_come_back_from_their_records() {
        let mut records = RecordSet::new();
        let terminal = Terminal {
            object: 3,
            flags: 2,
            path: b"/dev/pts/4".to_vec(),
            settings: vec![1, 2],
        };
        let controlling = ControllingTerminal {
            session: 5,
            foreground: 6,
        };
        records.push(&terminal).unwrap();
        records.push(&controlling).unwrap();
        assert_eq!(records.all::<Terminal>().unwrap(), [terminal]);
        assert_eq!(records.all::<ControllingTerminal>().unwrap(), [controlling]);
    }
}
