//! Making pseudo-terminals again.

use std::fmt;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cryonaut_sys::terminal::pseudo::{Switch, open_slave_with};
use cryonaut_sys::terminal::{Settings, WindowSize, set_window_size, slave_number};

use super::super::{path_of, reopen, set_flags};
use super::content::Sides;
use super::place::USUAL;
use super::{HungUp, Node, PseudoTerminal, Use, has_own};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;
use crate::resource::memory::{printable, under};
use crate::{Error, Result};

/// Where the slave of a master with this number is kept among the objects while the job is rebuilt.
pub(super) fn slave_key(object: u64) -> u64 {
    u64::MAX - 1 - object
}

/// The file that opens a new pseudo-terminal in the file system that the job will see at this place.
fn ptmx(rebuild: &Rebuild<'_>, place: &[u8]) -> Result<PathBuf> {
    let is_usual = place == USUAL;
    Ok(match rebuild.nursery.namespaces() {
        Some(namespaces) if !is_usual || has_own(rebuild.records)? => {
            let root = format!("/proc/{}/root", namespaces.init_pid());
            under(Path::new(&root), place).join("ptmx")
        }
        _ if is_usual => "/dev/ptmx".into(),
        _ => path_of(place).join("ptmx"),
    })
}

fn open_any(rebuild: &Rebuild<'_>, place: &[u8]) -> Result<OwnedFd> {
    let path = ptmx(rebuild, place)?;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let opened = options.open(&path);
    let master: OwnedFd = opened
        .attempt(|| format!("opening {}", path.display()))?
        .into();
    Switch::Lock
        .turn_off(master.as_fd())
        .attempt(|| "unlocking a pseudo-terminal".into())?;
    Ok(master)
}

/// A new master, unlocked, of this number in /dev/pts; none where the number is in use.
///
/// # Errors
/// When no more pseudo-terminals can be opened.
pub(in super::super) fn master_at(rebuild: &Rebuild<'_>, number: u32) -> Result<Option<OwnedFd>> {
    master_in(rebuild, USUAL, number)
}

/// As [`master_at`], in the file system that is mounted at this place.
fn master_in(rebuild: &Rebuild<'_>, place: &[u8], number: u32) -> Result<Option<OwnedFd>> {
    // The kernel gives the lowest that is free: those below are held until it is the turn of this one.
    let mut below = Vec::new();
    loop {
        let master = open_any(rebuild, place)?;
        let given = slave_number(master.as_fd())
            .attempt(|| "reading the number of a pseudo-terminal".into())?;
        if given == number {
            return Ok(Some(master));
        }
        if given > number {
            return Ok(None);
        }
        below.push(master);
    }
}

/// A new master of whatever number.
///
/// # Errors
/// When no more pseudo-terminals can be opened.
pub(in super::super) fn any_master(rebuild: &Rebuild<'_>) -> Result<OwnedFd> {
    open_any(rebuild, USUAL)
}

pub(super) struct Make {
    pub(super) terminal: PseudoTerminal,
    /// Where its file system is mounted.
    pub(super) place: Vec<u8>,
}

impl Make {
    /// What its slave is called.
    fn name(&self) -> String {
        format!("{}/{}", printable(&self.place), self.terminal.number)
    }
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make the pseudo-terminal {}", self.name())?;
        let content = self.terminal.content.as_ref();
        match content.map_or(0, |content| content.length()) {
            0 => Ok(()),
            length => write!(f, ", {length} bytes in flight"),
        }
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let terminal = &self.terminal;
        let what = || format!("making the pseudo-terminal {}", self.name());
        let master = match master_in(rebuild, &self.place, terminal.number)? {
            Some(master) => master,
            None if self.place == USUAL => return Err(Error::TerminalTaken(terminal.number)),
            None => {
                return Err(Error::Failed(format!(
                    "the name of the job's terminal {} is in use now; wait until that is closed",
                    self.name()
                )));
            }
        };
        let settings = Settings::of(master.as_fd())
            .attempt(what)?
            .with_bytes(&terminal.settings)
            .ok_or_else(|| {
                Error::Failed(format!(
                    "the image is damaged: the settings of {}",
                    self.name()
                ))
            })?;
        let own = match terminal.slave() {
            Use::Waiting => {
                settings.apply(master.as_fd()).attempt(what)?;
                None
            }
            Use::Open | Use::Closed => {
                let flags = libc::O_RDWR | libc::O_NONBLOCK;
                let slave = open_slave_with(master.as_fd(), flags).attempt(what)?;
                let sides = Sides {
                    master: master.as_fd(),
                    slave: slave.as_fd(),
                };
                let content = terminal.content.clone().unwrap_or_default();
                content.put(sides, &settings).attempt(what)?;
                Some(slave)
            }
        };
        if let Some(node) = terminal.node {
            set_node(master.as_fd(), node).attempt(what)?;
        }
        if let Some(own) = &own {
            for slave in &terminal.slaves {
                let opened = reopen(own.as_fd(), slave.flags).attempt(what)?;
                set_flags(opened.as_fd(), slave.flags).attempt(what)?;
                rebuild.objects.insert(slave.object, opened);
            }
        }
        self.finish(master.as_fd(), own.as_ref()).attempt(what)?;
        // A session may have it as its controlling terminal without having it open.
        if let (Some(own), true) = (own, terminal.session != 0) {
            rebuild.objects.insert(slave_key(terminal.object), own);
        }
        rebuild.objects.insert(terminal.object, master);
        Ok(())
    }
}

impl Make {
    /// What comes when both sides have been opened as often as they are.
    fn finish(&self, master: BorrowedFd<'_>, slave: Option<&OwnedFd>) -> std::io::Result<()> {
        let terminal = &self.terminal;
        let measure = |index: usize| {
            let found = terminal.window.get(index).copied().unwrap_or(0);
            u16::try_from(found).unwrap_or(u16::MAX)
        };
        let size = WindowSize {
            rows: measure(0),
            columns: measure(1),
            width: measure(2),
            height: measure(3),
        };
        set_window_size(master, size)?;
        set_flags(master, terminal.flags)?;
        if let (true, Some(slave)) = (terminal.exclusive, slave) {
            Switch::Exclusive.turn_on(slave.as_fd())?;
        }
        if terminal.master_exclusive {
            Switch::Exclusive.turn_on(master)?;
        }
        if terminal.packets {
            Switch::PacketMode.turn_on(master)?;
        }
        if terminal.locked {
            Switch::Lock.turn_on(master)?;
        }
        Ok(())
    }
}

/// Gives the slave's name its permissions. An owner that this user cannot give it is left out: it is theirs then.
fn set_node(master: BorrowedFd<'_>, node: Node) -> std::io::Result<()> {
    let named = open_slave_with(master, libc::O_PATH)?;
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    let _ = std::os::unix::fs::chown(&path, Some(node.user), Some(node.group));
    std::fs::set_permissions(&path, Permissions::from_mode(node.mode))
}

pub(super) struct MakeHungUp {
    pub(super) terminal: HungUp,
}

impl fmt::Display for MakeHungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make a terminal that has been hung up")
    }
}

impl Action for MakeHungUp {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || "making a terminal that has been hung up".to_owned();
        let flags = self.terminal.flags;
        let master = open_any(rebuild, USUAL)?;
        let slave = open_slave_with(master.as_fd(), libc::O_RDWR).attempt(what)?;
        let opened = reopen(slave.as_fd(), flags).attempt(what)?;
        set_flags(opened.as_fd(), flags).attempt(what)?;
        drop(master);
        rebuild.objects.insert(self.terminal.object, opened);
        Ok(())
    }
}
