//! A job's own terminal: the processes that keep and hold it, and viewing it.

use std::fs::File;
use std::io::{self, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap::Args;
use cryonaut_launch::registry::{Job, ProcessIdentity, Registry};
use cryonaut_launch::terminal::{DetachKey, Replay, View, Viewer, ask_for_viewers, await_holder};
use cryonaut_launch::{Nursery, held_status, held_terminal};
use cryonaut_sys::pidfd;
use cryonaut_sys::spawn::{self, WaitFor};

use crate::exit::{Code, Failure};
use crate::ourselves;

/// How long a process of ours may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// The keys that detach.
#[derive(Args, Debug, Clone)]
pub struct DetachKeyArgument {
    /// The keys that leave the job to itself, one after the other: characters and ctrl-X with commas between them; or none
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "ctrl-\\,d",
        env = "CRYO_DETACH_KEY",
        hide_env_values = true
    )]
    pub detach_key: DetachKey,
}

/// Where the user is.
#[derive(Debug)]
pub enum User {
    /// At standard input and output.
    Standard,
    /// At this terminal.
    Terminal(File),
}

impl User {
    fn descriptors(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        match self {
            User::Standard => Ok((
                stdin().as_fd().try_clone_to_owned()?,
                stdout().as_fd().try_clone_to_owned()?,
            )),
            User::Terminal(terminal) => {
                Ok((terminal.try_clone()?.into(), terminal.try_clone()?.into()))
            }
        }
    }

    /// Views what this holder holds.
    pub fn view(
        &self,
        holder: UnixStream,
        replay: Replay,
        keys: &DetachKey,
    ) -> Result<Viewer, Failure> {
        let view = View {
            replay,
            keys: keys.clone(),
        };
        self.descriptors()
            .and_then(|(input, output)| Viewer::join(input, output, holder, view))
            .map_err(Failure::system("carry the job's terminal"))
    }
}

/// Sees to it that the terminal stays open whatever becomes of this process and of the holder: in namespaces init keeps it, else
/// a process whose only task that is.
pub fn keep(nursery: &Nursery, master: &OwnedFd) -> Result<ProcessIdentity, Failure> {
    let keeper = match nursery {
        Nursery::Namespace(namespaces) => {
            namespaces.hold_terminal(master.as_fd())?;
            namespaces.init_pid()
        }
        Nursery::Direct(_) => start_keeper(master)?,
    };
    ProcessIdentity::of(keeper).map_err(Failure::system(
        "look at the process that keeps the terminal",
    ))
}

fn start_keeper(master: &OwnedFd) -> Result<i32, Failure> {
    let failed = "start the process that keeps the job's terminal open";
    let (ready, told) = io::pipe().map_err(Failure::system(failed))?;
    let keeper = master
        .try_clone()
        .and_then(|copy| ourselves::start("__keep-terminal", &[], [copy, told.into(), nothing()?]))
        .map_err(Failure::system(failed))?;
    let mut byte = [0];
    match io::Read::read(&mut &ready, &mut byte) {
        Ok(1) => Ok(keeper.pid),
        _ => Err(Failure::new(Code::Failed, format!("cannot {failed}"))),
    }
}

fn nothing() -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map(OwnedFd::from)
}

/// Ends the process that keeps a terminal open and does nothing else.
pub fn end_keeper(keeper: ProcessIdentity) -> Result<(), Failure> {
    let failed = "end the process that keeps the job's terminal open";
    match keeper.open() {
        Some(process) => {
            pidfd::send_signal(process.as_fd(), libc::SIGKILL).map_err(Failure::system(failed))
        }
        None => Ok(()),
    }
}

/// Gets out of the way of whoever started this process: their session, and all descriptors but the standard ones.
pub fn step_aside(name: &std::ffi::CStr) -> Result<(), Failure> {
    // It fails for a leader only.
    let _ = spawn::new_session();
    spawn::close_range(3, u32::MAX).map_err(Failure::system("close descriptors"))?;
    // A name in `ps` is a courtesy.
    let _ = spawn::set_thread_name(name);
    let _ = spawn::set_command_line(&name.to_string_lossy());
    Ok(())
}

/// Starts the process that holds this terminal, for the job of this name if it is on the list; gives the connection to it.
pub fn start_holder(
    master: OwnedFd,
    status: Option<OwnedFd>,
    root: ProcessIdentity,
    name: Option<&str>,
) -> Result<UnixStream, Failure> {
    let failed = "start the process that holds the job's terminal";
    let (ours, theirs) = UnixStream::pair().map_err(Failure::system(failed))?;
    let mut words = vec![root.pid.to_string(), root.start_time.to_string()];
    words.extend(name.map(str::to_owned));
    // Our copies of its descriptors, which would hide its end, go with this.
    let holder = status
        .map_or_else(nothing, Ok)
        .and_then(|status| {
            ourselves::start("__hold-terminal", &words, [theirs.into(), master, status])
        })
        .map_err(Failure::system(failed))?;
    if await_holder(&ours, PATIENCE) {
        return Ok(ours);
    }
    // It may hang, or have ended for a reason that it cannot tell.
    let _ = pidfd::send_signal(holder.pidfd.as_fd(), libc::SIGKILL);
    let _ = spawn::wait_for(WaitFor::Pid(holder.pid), libc::WEXITED);
    Err(Failure::new(
        Code::Failed,
        format!("cannot {failed}: it ended before it was ready"),
    ))
}

/// Connects to the holder of a job's terminal; where that has gone, starts another one.
///
/// # Errors
/// When the job is on no terminal of its own, or that cannot be had.
pub fn take_up(registry: &Registry, job: &Job) -> Result<UnixStream, Failure> {
    let Some(keeper) = job.terminal_keeper else {
        return Err(Failure::usage(format!(
            "the job {} is on no terminal of its own: what it prints goes where it was sent when it was started",
            job.name
        )));
    };
    if let Ok(holder) = registry.connect(&job.name) {
        return Ok(holder);
    }
    registry.locked(|| {
        // Somebody else may have been faster.
        if let Ok(holder) = registry.connect(&job.name) {
            return Ok(holder);
        }
        if !keeper.is_alive() {
            return Err(Failure::new(
                Code::Failed,
                format!(
                    "the terminal of the job {} has gone: the process that kept it open was killed",
                    job.name
                ),
            ));
        }
        let failed = "take up the terminal of the job";
        let kept = held_terminal(keeper.pid).map_err(Failure::system(failed))?;
        let master = kept.ok_or_else(|| {
            Failure::new(Code::Failed, format!("cannot {failed}: nobody keeps it"))
        })?;
        let status = match job.init {
            Some(init) => held_status(init.process.pid).map_err(Failure::system(failed))?,
            None => None,
        };
        start_holder(master, status, job.root, Some(&job.name))
    })?
}

/// How many viewers look at a job's terminal; `None` if it has none of its own.
pub fn viewers(registry: &Registry, job: &Job) -> Option<u32> {
    job.terminal_keeper?;
    let asked = registry
        .connect(&job.name)
        .ok()
        .and_then(|holder| ask_for_viewers(holder, Duration::from_secs(2)));
    // Without a holder nobody looks.
    Some(asked.unwrap_or(0))
}

/// What is said to a user who has left a job.
pub fn runs_on(name: &str) -> String {
    format!("detached: {name} runs on; `cryo attach {name}` takes it up again")
}
