//! Terminals that were opened as /dev/tty (tty(4)), which is everybody's own: only a process whose terminal it is can open it so.
//!
//! They are the same terminals as under their own names but for what ttyname(3) and /proc/PID/fd tell. Each is opened by its own
//! name first, so that a session without a leader has it too, and one that is exclusive or locked, which nobody can open now.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use cryonaut_sys::pidfd;
use cryonaut_tracee::CallList;

use super::super::{raise_limit, set_flags};
use crate::Result;
use crate::error::Attempt;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;

/// Everybody's controlling terminal.
pub(in super::super) const NAME: &[u8] = b"/dev/tty";

/// Device number of /dev/tty (devices.txt).
pub(in super::super) const DEVICE: (u32, u32) = (5, 0);

/// An open file description of a terminal that was opened by that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Opening {
    /// Its number among the open file descriptions.
    pub object: u64,
    /// `O_*` flags.
    pub flags: u32,
}

/// Plans that the leader of a session, whose controlling terminal they lead to, opens these.
pub(super) fn plan(plan: &mut Plan, session: i32, openings: Vec<Opening>) {
    if openings.is_empty() {
        return;
    }
    let needs = vec![Token::TerminalOf(session)];
    let action = OpenByName { session, openings };
    plan.linked_step(Stage::Tree, session, needs, Vec::new(), action);
}

struct OpenByName {
    session: i32,
    openings: Vec<Opening>,
}

impl fmt::Display for OpenByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = super::super::Count(self.openings.len(), "time");
        write!(f, "open its controlling terminal as /dev/tty, {count}")
    }
}

impl Action for OpenByName {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        raise_limit(rebuild.built(self.session)?.pid)?;
        for opening in &self.openings {
            if let Some(opened) = self.open(rebuild, *opening)? {
                rebuild.objects.insert(opening.object, opened);
            }
        }
        Ok(())
    }
}

impl OpenByName {
    /// Has the leader open it, and takes it from there; none where that cannot be.
    fn open(&self, rebuild: &Rebuild<'_>, opening: Opening) -> Result<Option<OwnedFd>> {
        let what = || format!("process {}: opening /dev/tty", self.session);
        let mut list = CallList::new();
        let path = list.path(NAME);
        let access = opening.flags as i32 & cryonaut_sys::uapi::O_ACCMODE;
        let flags = access | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let open = list.call(
            libc::SYS_openat,
            &[libc::AT_FDCWD.into(), path.into(), flags.into(), 0.into()],
        );
        let Ok(number) = rebuild.run(self.session, &list)?.result(open) else {
            return Ok(None);
        };
        let leader = pidfd::open(rebuild.built(self.session)?.pid).attempt(what)?;
        let opened = pidfd::get_descriptor(leader.as_fd(), number as i32).attempt(what)?;
        let mut list = CallList::new();
        list.call(libc::SYS_close, &[number.into()]);
        rebuild.run(self.session, &list)?;
        set_flags(opened.as_fd(), opening.flags).attempt(what)?;
        Ok(Some(opened))
    }
}
