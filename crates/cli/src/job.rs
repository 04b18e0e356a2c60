//! Standing in the foreground for a job: signals, terminal, exit status, and its place in the list of jobs.

use std::fs::File;
use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cryonaut_launch::registry::{
    InitIdentity, Job, NewJob, ProcessIdentity, Registry, RegistryError,
};
use cryonaut_launch::terminal::Carrier;
use cryonaut_launch::{Child, Event, LaunchError, Nursery, Supervisor, WatchedSignals};
use cryonaut_sys::spawn::{self, Subreaper, WaitFor};

use crate::console::Console;
use crate::exit::Failure;

/// Carries a job's terminal between its master side and the user's: standard input and output, or /dev/tty where standard
/// input is taken.
pub fn carrier(master: OwnedFd, user: User) -> Result<Carrier, Failure> {
    let (input, output) = match user {
        User::Standard => {
            let input = stdin().as_fd().try_clone_to_owned();
            let output = stdout().as_fd().try_clone_to_owned();
            (input, output)
        }
        User::Terminal(terminal) => {
            let copy = terminal.try_clone().map(OwnedFd::from);
            (copy, Ok(terminal.into()))
        }
    };
    let failed = "carry the job's terminal";
    let input = input.map_err(Failure::system(failed))?;
    let output = output.map_err(Failure::system(failed))?;
    Carrier::new(input, output, master).map_err(Failure::system(failed))
}

/// Where the user is.
#[derive(Debug)]
pub enum User {
    /// At standard input and output.
    Standard,
    /// At this terminal.
    Terminal(File),
}

/// Whether standard input and output both are terminals.
pub fn on_terminal() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// The job as the list of jobs wants it.
pub fn describe(
    nursery: &Nursery,
    root: &Child,
    name: Option<String>,
    command: Vec<String>,
) -> Result<NewJob, Failure> {
    let identity =
        |pid: i32| ProcessIdentity::of(pid).map_err(Failure::system("look at the job's processes"));
    let init = match nursery.namespaces() {
        Some(namespaces) => Some(InitIdentity {
            process: identity(namespaces.init_pid())?,
            pid_namespace: namespaces
                .pid_namespace()
                .map_err(Failure::system("look at the job's namespaces"))?,
        }),
        None => None,
    };
    Ok(NewJob {
        name,
        supervisor: None,
        init,
        root: identity(root.pid)?,
        command,
        checkpoint_directory: None,
        generation: 0,
    })
}

/// Enters a job in the list. A list that cannot be written does not stop the job: that is only told.
pub fn register(new: NewJob, console: Console) -> Option<Job> {
    let entered = Registry::open().and_then(|registry| match registry.register(new.clone()) {
        Err(RegistryError::NameTaken(taken)) => {
            // Several copies of one image run side by side.
            let numbered = (2..10_000).map(|number| format!("{taken}-{number}"));
            let attempts = numbered.map(|name| {
                registry.register(NewJob {
                    name: Some(name),
                    ..new.clone()
                })
            });
            attempts
                .into_iter()
                .find(|attempt| !matches!(attempt, Err(RegistryError::NameTaken(_))))
                .unwrap_or(Err(RegistryError::NameTaken(taken)))
        }
        outcome => outcome,
    });
    match entered {
        Ok(job) => Some(job),
        Err(error) => {
            console.warning(&format!(
                "the job runs, but `cryo list` will not show it: {error}"
            ));
            None
        }
    }
}

/// A job in the foreground.
#[derive(Debug)]
pub struct Foreground<'a> {
    nursery: &'a Nursery,
    supervisor: Supervisor<'a>,
}

impl<'a> Foreground<'a> {
    /// Stands in for the job with this root.
    pub fn new(
        signals: WatchedSignals,
        nursery: &'a Nursery,
        root: &Child,
    ) -> Result<Foreground<'a>, Failure> {
        let supervisor = Supervisor::new(signals, nursery, root)?;
        Ok(Foreground {
            nursery,
            supervisor,
        })
    }

    /// Carries its terminal.
    pub fn attach(&mut self, carrier: Carrier) {
        self.supervisor.attach(carrier);
    }

    /// Stands in until the job's root has ended, calling `each_second` meanwhile; gives the exit status. The name leaves the
    /// list of jobs unless other processes of the job live on.
    pub fn run(
        mut self,
        name: Option<&str>,
        each_second: Option<&mut dyn FnMut()>,
    ) -> Result<u8, Failure> {
        let ended = match each_second {
            Some(look) => {
                self.supervisor.tick_every(Duration::from_secs(1))?;
                self.supervisor.run(look)?
            }
            None => self.supervisor.run(&mut || {})?,
        };
        // Init tells at once when nobody is left; daemons make this wait in vain.
        let alone = match self.nursery {
            Nursery::Namespace(_) => self.all_gone(),
            Nursery::Direct(_) => true,
        };
        // What it held of the user's terminal is put back.
        drop(self.supervisor.detach());
        if let (true, Some(name)) = (alone, name) {
            // A job that has ended leaves the list by itself at the next look.
            let _ = Registry::open().and_then(|registry| registry.remove(name));
        }
        Ok(ended.exit_code())
    }

    fn all_gone(&mut self) -> bool {
        const MOMENT: Duration = Duration::from_millis(50);
        loop {
            match self.supervisor.next_event(Some(MOMENT)) {
                Ok(Event::AllGone) | Err(LaunchError::InitGone) => return true,
                Ok(Event::TimedOut) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    }
}

/// Makes orphans of a job without an init of its own come to us rather than to the system's init.
pub fn adopt_orphans(nursery: &Nursery) -> Result<(), Failure> {
    match nursery {
        Nursery::Direct(_) => {
            spawn::set_child_subreaper(Subreaper::On).map_err(Failure::system("adopt orphans"))
        }
        Nursery::Namespace(_) => Ok(()),
    }
}

/// Takes notice of orphans that have ended; not of the processes in `awaited`.
pub fn reap_orphans(awaited: &[i32]) {
    let own = std::process::id() as i32;
    let stats = cryonaut_procfs::system::all_stats().unwrap_or_default();
    for orphan in stats
        .iter()
        .filter(|stat| stat.ppid == own && stat.state == 'Z' && !awaited.contains(&stat.pid))
    {
        let _ = spawn::wait_now(WaitFor::Pid(orphan.pid), libc::WEXITED);
    }
}
