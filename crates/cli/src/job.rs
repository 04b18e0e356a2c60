//! Standing in the foreground for a job: signals, terminal, exit status, and its place in the list of jobs.

use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{
    Held, InitIdentity, Job, NewJob, Notification, ProcessIdentity, Registry, RegistryError,
};
use cryonaut_launch::terminal::{DetachKey, Replay};
use cryonaut_launch::{
    Child, Event, LaunchError, Nursery, Outcome, Supervisor, WatchedSignals, held_status,
};
use cryonaut_sys::spawn::signal::ArrivedSignal;
use cryonaut_sys::spawn::{self, Subreaper, WaitFor};
use serde::Serialize;

use crate::blcr::Ending;
use crate::console::Console;
use crate::exit::{Code, Failure};
use crate::terminal::{self, User};

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
        terminal_keeper: None,
        command,
        checkpoint_directory: None,
        generation: 0,
        notification: Notification::default(),
    })
}

/// A job's place in the list of jobs, while it is let go.
#[derive(Debug)]
pub struct Entry {
    /// Nobody else looks at the list as long as this is here.
    held: Option<Held>,
    entered: Result<Job, String>,
}

/// Enters a job in the list that is there but has not run yet: from its first instruction on it is found by its name, and nobody
/// finds it earlier, since the list is held. A list that cannot be written does not stop the job: that is told when it runs.
pub fn enter(new: &NewJob) -> Entry {
    let held = Registry::open().and_then(|registry| registry.hold());
    let entered = held.and_then(|held| Ok((enter_held(&held, new)?, held)));
    match entered {
        Ok((job, held)) => Entry {
            held: Some(held),
            entered: Ok(job),
        },
        Err(error) => Entry {
            held: None,
            entered: Err(error.to_string()),
        },
    }
}

impl Entry {
    /// Lets others see the list: what comes now may take its time.
    pub fn open_list(&mut self) {
        self.held = None;
    }

    /// The job runs.
    pub fn stays(self, console: Console) -> Option<Job> {
        match self.entered {
            Ok(job) => Some(job),
            Err(why) => {
                console.warning(&format!(
                    "the job runs, but `cryo list` will not show it: {why}"
                ));
                None
            }
        }
    }

    /// The job did not start after all: it leaves nothing in the list.
    pub fn leaves(self) {
        if let Ok(job) = self.entered {
            // Otherwise the next look at the list does it.
            let _ = match self.held {
                Some(held) => held.remove(&job),
                None => Registry::open()
                    .and_then(|registry| registry.hold())
                    .and_then(|held| held.remove(&job)),
            };
        }
    }
}

/// Enters a job under its name, or with a number after it: several copies of one image run side by side.
fn enter_held(held: &Held, new: &NewJob) -> Result<Job, RegistryError> {
    const MOST: u32 = 10_000;
    let mut outcome = held.register(new.clone());
    for number in 2..MOST {
        let (Err(RegistryError::NameTaken(_) | RegistryError::Elsewhere(_)), Some(name)) =
            (&outcome, &new.name)
        else {
            break;
        };
        outcome = held.register(NewJob {
            name: Some(format!("{name}-{number}")),
            ..new.clone()
        });
    }
    outcome
}

/// Waits for the end of a job's init, with which a job that was killed leaves the list of jobs; not for longer than this, and not
/// while processes of the job live on.
pub fn await_init(init: Option<InitIdentity>, limit: Duration) {
    let start = Instant::now();
    let Some(InitIdentity { process, .. }) = init else {
        return;
    };
    let lives_on = || {
        let stats = cryonaut_procfs::system::all_stats().unwrap_or_default();
        let mut children = stats.iter().filter(|stat| stat.ppid == process.pid);
        children.any(|stat| !matches!(stat.state, 'Z' | 'X'))
    };
    while process.is_alive() && start.elapsed() < limit && !lives_on() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A job that was left to itself.
#[derive(Serialize, Debug)]
pub struct Detached {
    /// Its root's pid, as it is seen here.
    pub pid: i32,
    /// Its name in the list.
    pub name: Option<String>,
    /// Things the user should know.
    pub remarks: Vec<String>,
}

impl Detached {
    /// In words.
    pub fn text(&self) -> String {
        match &self.name {
            Some(name) => format!("running: {name}, pid {}", self.pid),
            None => format!("running: pid {}", self.pid),
        }
    }
}

/// What is said when a job waits for keys that nobody can type.
const UNHEARD: &str = "the input has ended, and the job goes on waiting for keys: its terminal is hung up (with --detach it would \
     live on, for cryo attach)";

/// A job in the foreground.
#[derive(Debug)]
pub struct Foreground<'a> {
    nursery: &'a Nursery,
    root: &'a Child,
    supervisor: Supervisor<'a>,
    sight: Option<Sight>,
    /// What keeps the terminal open, besides its holder.
    keeper: Option<ProcessIdentity>,
    ending: Ending,
}

/// Where a job's terminal is shown, and how that ends.
#[derive(Debug)]
pub struct Sight {
    /// Where the user is.
    pub user: User,
    /// The keys that detach.
    pub keys: DetachKey,
}

/// Starts the process that holds the job's terminal.
fn start_holder(
    nursery: &Nursery,
    root: &Child,
    master: OwnedFd,
    job: Option<&Job>,
) -> Result<std::os::unix::net::UnixStream, Failure> {
    let failed = "look at the job's processes";
    let status = match nursery.namespaces() {
        Some(namespaces) => held_status(namespaces.init_pid()).map_err(Failure::system(failed))?,
        None => None,
    };
    let root = match job {
        Some(job) => job.root,
        // One that has ended already is held for what it printed.
        None => ProcessIdentity::of(root.pid).unwrap_or(ProcessIdentity {
            pid: root.pid,
            start_time: 0,
        }),
    };
    terminal::start_holder(master, status, root, job.map(|job| job.name.as_str()))
}

/// Has the terminal held of a job that runs with nobody attached. It runs on where that fails, which is told.
pub fn hold_detached(
    (nursery, root): (&Nursery, &Child),
    master: Option<OwnedFd>,
    job: Option<&Job>,
    console: Console,
) {
    if let Some(master) = master
        && let Err(failure) = start_holder(nursery, root, master, job)
    {
        console.warning(&format!(
            "the job runs, but nobody reads what it prints until `cryo attach`: {}",
            failure.message
        ));
    }
}

impl<'a> Foreground<'a> {
    /// Stands in for the job with this root.
    pub fn new(
        signals: WatchedSignals,
        nursery: &'a Nursery,
        root: &'a Child,
    ) -> Result<Foreground<'a>, Failure> {
        let supervisor = Supervisor::new(signals, nursery, root)?;
        Ok(Foreground {
            nursery,
            root,
            supervisor,
            sight: None,
            keeper: None,
            ending: Ending::default(),
        })
    }

    /// Says how it is told how the job ended.
    pub fn ends(&mut self, ending: Ending) {
        self.ending = ending;
    }

    /// Has its terminal held, and shows it to the user.
    pub fn attach(
        &mut self,
        master: OwnedFd,
        job: Option<&Job>,
        sight: Sight,
    ) -> Result<(), Failure> {
        let viewer = start_holder(self.nursery, self.root, master, job)
            .and_then(|holder| sight.user.view(holder, Replay::Kept, &sight.keys))
            .map_err(|failure| Failure {
                message: format!(
                    "the job runs, but its terminal is not shown (`cryo attach` may take it up): {}",
                    failure.message
                ),
                ..failure
            })?;
        self.supervisor.attach(viewer);
        self.sight = Some(sight);
        self.keeper = job.and_then(|job| job.terminal_keeper);
        Ok(())
    }

    /// Takes a signal in that came before anybody waited for signals.
    pub fn hear(&mut self, signal: ArrivedSignal) {
        self.supervisor.hear(signal);
    }

    /// Shows it again after its holder has gone.
    fn attach_again(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let lost = || {
            Failure::new(
                Code::Failed,
                "the process that held the job's terminal has gone; the job runs on",
            )
        };
        let (name, sight) = name.zip(self.sight.as_ref()).ok_or_else(lost)?;
        drop(self.supervisor.detach());
        let registry = Registry::open()?;
        let holder = terminal::take_up(&registry, &registry.find(name)?)?;
        let viewer = sight.user.view(holder, Replay::Nothing, &sight.keys)?;
        self.supervisor.attach(viewer);
        Ok(())
    }

    /// Hangs the job's terminal up, as the end of its window does: the job ends, or goes on without it.
    fn hang_up(&mut self) -> Result<(), Failure> {
        self.supervisor.hang_up();
        match (self.nursery.namespaces(), self.keeper) {
            (Some(namespaces), _) => namespaces.release_terminal()?,
            (None, Some(keeper)) => terminal::end_keeper(keeper)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Stands in until the job's root has ended or the user leaves, calling `each_second` meanwhile; gives the exit status. The
    /// name leaves the list of jobs unless processes of the job live on.
    pub fn run(
        mut self,
        name: Option<&str>,
        each_second: Option<&mut dyn FnMut()>,
        console: Console,
    ) -> Result<u8, Failure> {
        let mut nothing = || {};
        let look = match each_second {
            Some(look) => {
                self.supervisor.tick_every(Duration::from_secs(1))?;
                look
            }
            None => &mut nothing,
        };
        let ended = loop {
            match self.supervisor.run(look)? {
                Outcome::Ended(ended) => break ended,
                Outcome::HolderLost => self.attach_again(name)?,
                Outcome::Unheard => {
                    console.warning(UNHEARD);
                    self.hang_up()?;
                }
                Outcome::Detached => {
                    self.supervisor.leave();
                    drop(self.supervisor.detach());
                    match name {
                        Some(name) => console.remark(&terminal::runs_on(name)),
                        None => console.warning(
                            "detached: the job runs on, but it is not on the list of jobs",
                        ),
                    }
                    return Ok(0);
                }
            }
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
        Ok(self.ending.status(ended))
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
