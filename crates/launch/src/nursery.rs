//! Where processes are started: as the caller's own children, or in namespaces of their own.

use std::io;
use std::os::fd::AsRawFd;

use cryonaut_sys::spawn::{self, WaitFor};

use crate::LaunchError;
use crate::birth::{self, Birth, Planned, Report};
use crate::child::{Child, ChildSpec, Session, SharesSession, StopBeforeExec};
use crate::namespace::{Lifetime, Namespaces};

/// Starts children of the calling process, in its own namespaces.
///
/// A fixed pid needs CAP_CHECKPOINT_RESTORE there. What the children do when the caller dies is not
/// arranged here: a tracer has PTRACE_O_EXITKILL for that.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Direct {
    /// Starts a process; see [`Nursery::spawn`].
    pub fn spawn(&self, spec: &ChildSpec) -> Result<Child, LaunchError> {
        let Planned {
            birth,
            numbers,
            listener,
            speaker,
            gate,
        } = Birth::plan(spec)?;
        let mut prepared = birth.prepare(&numbers);
        // The child has a copy of everything.
        prepared.not_the_childs = gate.as_ref().map(|gate| gate.opens.as_raw_fd());
        let started = prepared
            .start()
            .map_err(|error| clone_failed(spec, error))?;
        drop(speaker);
        let child = Child {
            pid: started.pid,
            inner_pid: started.pid,
            pidfd: started.pidfd,
            shares_session: match spec.session {
                Session::Inherit => SharesSession::Yes,
                Session::Own | Session::OwnWithTerminal(_) => SharesSession::No,
            },
            program: spec.name(),
            report: Some(listener.into()),
            gate: gate.map(|gate| gate.opens),
        };
        let pid = child.pid;
        await_start(child, spec).inspect_err(|_| {
            // It ends by itself after a failure; its status says nothing more.
            let _ = spawn::wait_for(WaitFor::Pid(pid), libc::WEXITED);
        })
    }
}

/// Where the processes of a job are started.
#[derive(Debug)]
pub enum Nursery {
    /// As children of the caller.
    Direct(Direct),
    /// As children of the init of fresh namespaces.
    Namespace(Namespaces),
}

impl Nursery {
    /// Starts a process and waits until it runs its program, or with [`StopBeforeExec::Yes`] until it
    /// has stopped before that.
    ///
    /// # Errors
    /// [`LaunchError::PidTaken`] and [`LaunchError::PidNotPermitted`] about the pid asked for,
    /// [`LaunchError::NotFound`] and [`LaunchError::NotExecutable`] about the program,
    /// [`LaunchError::InitGone`] when the namespaces have ended. Nothing is left behind then.
    pub fn spawn(&self, spec: &ChildSpec) -> Result<Child, LaunchError> {
        match self {
            Nursery::Direct(direct) => direct.spawn(spec),
            Nursery::Namespace(namespaces) => namespaces.spawn(spec),
        }
    }

    /// Says what becomes of the job when the caller dies.
    ///
    /// A rebuild starts with [`Lifetime::WithSupervisor`] and changes to [`Lifetime::Independent`] at
    /// its commit point. Direct children are independent always, and asking anything else of them is refused.
    pub fn set_lifetime(&self, lifetime: Lifetime) -> Result<(), LaunchError> {
        match (self, lifetime) {
            (Nursery::Namespace(namespaces), _) => namespaces.set_lifetime(lifetime),
            (Nursery::Direct(_), Lifetime::Independent) => Ok(()),
            (Nursery::Direct(_), Lifetime::WithSupervisor) => Err(LaunchError::Invalid(
                "children outside namespaces of their own cannot be tied to their supervisor"
                    .into(),
            )),
        }
    }

    /// Takes a process for the job's root that was not spawned here but is a child of the nursery all the same, because a
    /// child of it bore a sibling (clone(2), CLONE_PARENT). `pid` is as the caller sees it, `inner_pid` as the process does.
    ///
    /// # Errors
    /// [`LaunchError::InitGone`] when the namespaces have ended, [`LaunchError::System`] when the process has.
    pub fn adopt(&self, pid: i32, inner_pid: i32) -> Result<Child, LaunchError> {
        let pidfd = cryonaut_sys::pidfd::open(pid)
            .map_err(LaunchError::system("open the job's first process"))?;
        let own = spawn::session(0).map_err(LaunchError::system("read the session"))?;
        let shares_session = match spawn::session(pid) {
            Ok(session) if session == own && session != 0 => SharesSession::Yes,
            _ => SharesSession::No,
        };
        if let Nursery::Namespace(namespaces) = self {
            namespaces.adopt(inner_pid)?;
        }
        Ok(Child {
            pid,
            inner_pid,
            pidfd,
            shares_session,
            program: String::new(),
            report: None,
            gate: None,
        })
    }

    /// Has the next process or thread that is born in the job's pid namespace get this id, whoever bears it: for those who may not
    /// choose it themselves. Outside of fresh namespaces others are born there too, and may be faster.
    ///
    /// # Errors
    /// [`LaunchError::System`] without CAP_CHECKPOINT_RESTORE, [`LaunchError::InitGone`] when the namespaces have ended.
    pub fn choose_next_id(&self, id: i32) -> Result<(), LaunchError> {
        match self {
            Nursery::Direct(_) => {
                spawn::choose_next_id(id).map_err(LaunchError::system("choose the id of a thread"))
            }
            Nursery::Namespace(namespaces) => namespaces.choose_next_id(id),
        }
    }

    /// The namespaces, if there are any.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        match self {
            Nursery::Direct(_) => None,
            Nursery::Namespace(namespaces) => Some(namespaces),
        }
    }
}

/// Waits for what the child says over its report pipe.
pub(crate) fn await_start(mut child: Child, spec: &ChildSpec) -> Result<Child, LaunchError> {
    match spec.stop_before_exec {
        StopBeforeExec::No => child.exec_outcome()?,
        StopBeforeExec::Yes | StopBeforeExec::Gate => {
            let first = child.next_report()?;
            if let Report::Failed { .. } = first {
                return child.failure(first).map(|()| child);
            }
            if spec.stop_before_exec == StopBeforeExec::Yes {
                birth::wait_stopped(child.pid).map_err(LaunchError::system(
                    "stop the new process before it starts its program",
                ))?;
            }
        }
    }
    Ok(child)
}

pub(crate) fn clone_failed(spec: &ChildSpec, source: io::Error) -> LaunchError {
    match (source.raw_os_error(), spec.inner_pid) {
        (Some(libc::EEXIST), Some(pid)) => LaunchError::PidTaken { pid },
        (Some(libc::EPERM), Some(pid)) => LaunchError::PidNotPermitted { pid },
        (Some(libc::EINVAL), Some(pid)) => LaunchError::Invalid(format!(
            "pid {pid} cannot be given to a process here: pids go from 1 to kernel.pid_max - 1"
        )),
        _ => LaunchError::System {
            what: "start a process",
            source,
        },
    }
}
