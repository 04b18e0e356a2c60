//! The steps that bring processes into the world, arrange them, and end those that had ended.

use std::fmt;

use cryonaut_launch::Session;
use cryonaut_tracee::CallList;

use super::wait_call;
use crate::Result;
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::{Descent, Rebuild, Sibling};
use crate::resource::sharing::{Shared, ThreadBirths};

/// What each kind of shared object is called in the plan.
const SHARED: [(Shared, &str); 4] = [
    (Shared::Descriptors, "descriptors"),
    (Shared::FsContext, "directories"),
    (Shared::Handlers, "signal actions"),
    (Shared::Memory, "memory"),
];

/// The session of the progenitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgenitorSession {
    /// The one that the restart runs in.
    Inherited,
    /// Its own.
    Own,
}

pub(super) struct StartProgenitor {
    pub(super) pid: Option<i32>,
    pub(super) session: ProgenitorSession,
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

pub(super) struct EndProgenitor;

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

pub(super) struct Birth {
    pub(super) process: i32,
    pub(super) descent: Descent,
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.descent.by, self.descent.sibling) {
            (0, _) => write!(f, "fork from the progenitor")?,
            (by, Sibling::Yes) => write!(f, "fork from {by}, as its sibling")?,
            (by, Sibling::No) => write!(f, "fork from {by}")?,
        }
        for (what, word) in SHARED {
            if self.descent.flags & what.flag() != 0 {
                write!(f, ", sharing its {word}")?;
            }
        }
        match self.descent.exit_signal {
            libc::SIGCHLD => Ok(()),
            signal => write!(f, ", its end told by signal {signal}"),
        }
    }
}

impl Action for Birth {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.birth(self.process, self.descent)
    }
}

pub(super) struct LeadSession {
    pub(super) process: i32,
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

pub(super) struct JoinGroup {
    pub(super) process: i32,
    pub(super) group: i32,
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
pub(super) struct JoinOrphanedGroup {
    pub(super) group: i32,
    pub(super) members: Vec<i32>,
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
        rebuild.birth(self.group, Descent::from(first))?;
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

pub(super) struct StartThreads {
    pub(super) process: i32,
    pub(super) births: Vec<ThreadBirths>,
}

impl fmt::Display for StartThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.births.iter().map(|births| births.threads.len());
        write!(f, "start {} threads", all.sum::<usize>())?;
        let apart = self.births.iter().filter(|births| births.apart != 0);
        match apart.count() {
            0 => Ok(()),
            apart => write!(f, ", {apart} with tables of their own"),
        }
    }
}

impl Action for StartThreads {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.start_threads(self.process, &self.births)
    }
}

pub(super) struct StopAgain {
    pub(super) process: i32,
    pub(super) signal: i32,
    /// The parent that has taken notice of the stop.
    pub(super) told: Option<i32>,
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
            rebuild.drain_signal(parent, libc::SIGCHLD)?;
        }
        Ok(())
    }
}

pub(super) struct EndZombie {
    pub(super) process: i32,
    pub(super) parent: i32,
    pub(super) status: i32,
    pub(super) exit_signal: i32,
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
        if self.parent == 0 || self.exit_signal == 0 {
            Ok(())
        } else {
            rebuild.drain_signal(self.parent, self.exit_signal)
        }
    }
}

/// Has the first thread of a process end, whose others live on: nothing that it alone can do follows.
pub(super) struct EndLeader {
    pub(super) process: i32,
    pub(super) name: Vec<u8>,
    pub(super) status: i32,
}

impl fmt::Display for EndLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "end its first thread, with wait status {:#x}",
            self.status
        )
    }
}

impl Action for EndLeader {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        const PR_SET_NAME: i32 = 15;
        let mut list = CallList::new();
        let mut name = self.name.clone();
        name.truncate(15);
        let name = list.path(&name);
        let call = list.call(libc::SYS_prctl, &[PR_SET_NAME.into(), name.into()]);
        rebuild
            .run(self.process, &list)?
            .result(call)
            .attempt(|| format!("process {}: setting its name", self.process))?;
        rebuild.end_leader(self.process, self.status >> 8 & 0xff)
    }
}

/// Bears a process by one that ends at once, so that another one adopts it.
pub(super) struct BirthOfOrphan {
    pub(super) process: i32,
    pub(super) leader: i32,
    pub(super) reaper: i32,
}

impl fmt::Display for BirthOfOrphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fork from a child of {}, and be adopted by ",
            self.leader
        )?;
        match self.reaper {
            0 => write!(f, "whoever does that outside the job"),
            reaper => write!(f, "{reaper}"),
        }
    }
}

impl Action for BirthOfOrphan {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.birth_of_orphan(self.process, self.leader, self.reaper)
    }
}

/// Ends the leader of a session that had none any more.
pub(super) struct EndPlaceholder {
    pub(super) session: i32,
    /// Its parent; 0 outside the job.
    pub(super) parent: i32,
}

impl fmt::Display for EndPlaceholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end the leader of session {}", self.session)
    }
}

impl Action for EndPlaceholder {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        if self.parent == 0 {
            rebuild.end_process(self.session, Some(libc::SIGKILL), 0)
        } else {
            rebuild.end_placeholder(self.parent, self.session)
        }
    }
}
