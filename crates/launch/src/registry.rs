//! Which jobs run: one small file for each in a directory of the user's own.
//!
//! Directory: `/run/cryonaut` for root and `/tmp/cryonaut-UID` for others, or `$XDG_RUNTIME_DIR/cryonaut` where that belongs to the
//! user and is not the `/run/user/UID` of pam_systemd(8): that is emptied at the last logout, which jobs survive, and cron and su do
//! not name it. Mode 0700, refused if it belongs to anybody else; the sticky bit keeps what lies there from those who tidy up /tmp
//! (XDG Base Directory Specification). The files are JSON, replaced by rename under a lock. A file whose job has gone is removed when seen, by
//! whoever shares the namespaces that its pids and start times are of: others cannot tell.

mod reservation;
mod suspension;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cryonaut_sys::pidfd;
use cryonaut_sys::spawn::{self, FileLock};
use serde::{Deserialize, Serialize};

pub use reservation::Reservation;
pub use suspension::{Phase, SuspendedProcess, Suspension, Way};

/// The sticky bit: who removes what has not been used for days leaves this alone.
const KEPT: u32 = 0o1000;
/// How long somebody may hold the list before that is an error for others.
const HELD: Duration = Duration::from_secs(60);
/// Time between two attempts to have it.
const LOOK: Duration = Duration::from_millis(2);

/// The list of jobs could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file or directory of it failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The directory cannot be trusted.
    #[error(
        "{} {problem}; remove it, or set XDG_RUNTIME_DIR to a directory of your own",
        path.display()
    )]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that no job may have.
    #[error(
        "{0:?} is no name for a job: 1 to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-' and not digits alone"
    )]
    BadName(String),
    /// A name that a running job has.
    #[error("a job named {0} is running already; choose another name, or see `cryo list`")]
    NameTaken(String),
    /// No job of that name runs.
    #[error("no job named {0} is running; see `cryo list`")]
    NoSuchJob(String),
    /// A name that a job has which was started in other namespaces.
    #[error(
        "the job named {0} was started in another pid namespace, such as that of a container: only a cryo in there can tell whether it runs"
    )]
    Elsewhere(String),
}

/// A process that cannot be mistaken for a later one with its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now; `NotFound` if none has.
    pub fn of(pid: i32) -> io::Result<ProcessIdentity> {
        let (_, start_time) = state_and_start(pid)?;
        Ok(ProcessIdentity { pid, start_time })
    }

    /// A descriptor of it; none when it has ended, whoever has its number now.
    pub fn open(&self) -> Option<OwnedFd> {
        // In this order, so that the descriptor is that of the process that was meant.
        pidfd::open(self.pid).ok().filter(|_| self.is_alive())
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        state_and_start(self.pid).is_ok_and(|(state, start_time)| {
            start_time == self.start_time && !matches!(state, 'Z' | 'X')
        })
    }
}

fn state_and_start(pid: i32) -> io::Result<(char, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    // The name before it may contain anything; what follows the last ')' begins with field 3.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let state = fields.next().and_then(|field| field.chars().next());
    let threads: u32 = fields
        .nth(16)
        .and_then(|field| field.parse().ok())
        .unwrap_or(1);
    let start_time = fields.nth(1).and_then(|field| field.parse().ok());
    // A process lives on in its other threads when its first one has ended.
    let state = if threads > 1 { Some('R') } else { state };
    state
        .zip(start_time)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The init of a job's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitIdentity {
    /// The process.
    #[serde(flatten)]
    pub process: ProcessIdentity,
    /// The inode number of its pid namespace.
    pub pid_namespace: u64,
}

/// The signals by which programs are told; what has none is not told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    /// A checkpoint is about to be made.
    pub checkpoint: Option<i32>,
    /// This is a restarted life.
    pub restart: Option<i32>,
    /// The checkpoint is over, and this life goes on.
    pub continued: Option<i32>,
}

impl Notices {
    /// Whether nobody is to be told of anything.
    pub fn is_empty(&self) -> bool {
        *self == Notices::default()
    }
}

/// How the programs of a job are told of its checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The signals.
    pub notices: Notices,
    /// The time that processes have after the signal for *checkpoint*. One that stops itself is ready earlier.
    pub grace: Duration,
}

/// One image of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointEntry {
    /// Where it was written.
    pub path: PathBuf,
    /// When, in seconds since 1970.
    pub taken_at: u64,
    /// Its size.
    pub bytes: u64,
}

/// A job to be registered.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The name it is to have; `None` makes one from the command, such as `sleep-1`.
    pub name: Option<String>,
    /// The process in the foreground for it, if there is one.
    pub supervisor: Option<ProcessIdentity>,
    /// The init of its namespaces, if it has its own.
    pub init: Option<InitIdentity>,
    /// Its root.
    pub root: ProcessIdentity,
    /// The process that keeps its own terminal open whatever becomes of others, if it has one: its init, or outside of
    /// namespaces a keeper.
    pub terminal_keeper: Option<ProcessIdentity>,
    /// What it runs.
    pub command: Vec<String>,
    /// Where its periodic checkpoints go.
    pub checkpoint_directory: Option<PathBuf>,
    /// How many times it was restarted before.
    pub generation: u64,
    /// How its programs are told of checkpoints.
    pub notification: Notification,
}

/// The namespaces that decide what a pid and a start time mean: their inode numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The pid namespace.
    pub pid_namespace: u64,
    /// The time namespace; 0 where the kernel has none.
    pub time_namespace: u64,
}

impl View {
    /// That of this process; none where /proc does not tell.
    fn own() -> Option<View> {
        let number = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).map(|ns| ns.ino());
        Some(View {
            pid_namespace: number("pid").ok()?,
            time_namespace: number("time").unwrap_or(0),
        })
    }
}

/// A job that was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The process in the foreground for it, if there was one.
    pub supervisor: Option<ProcessIdentity>,
    /// The init of its namespaces, if it has its own.
    pub init: Option<InitIdentity>,
    /// Its root.
    pub root: ProcessIdentity,
    /// The process that keeps its own terminal open, if it has one.
    #[serde(default)]
    pub terminal_keeper: Option<ProcessIdentity>,
    /// What it runs.
    pub command: Vec<String>,
    /// When it was started, in seconds since 1970.
    pub started_at: u64,
    /// The boot it runs in; pids of another one mean nothing.
    pub boot: String,
    /// What its pids are of; none in entries of earlier versions.
    #[serde(default)]
    pub view: Option<View>,
    /// Where its periodic checkpoints go.
    pub checkpoint_directory: Option<PathBuf>,
    /// Why no periodic checkpoint could be made when it was last tried; gone when one is.
    #[serde(default)]
    pub not_saved: Option<String>,
    /// Its images, oldest first.
    pub checkpoints: Vec<CheckpointEntry>,
    /// How many times it was restarted before.
    #[serde(default)]
    pub generation: u64,
    /// How its programs are told of checkpoints.
    #[serde(default)]
    pub notification: Notification,
    /// That it is suspended, if it is.
    #[serde(default)]
    pub suspension: Option<Suspension>,
    /// It is in the list only because it is suspended: it was not started here.
    #[serde(default)]
    pub adopted: bool,
}

impl Job {
    /// Whether it still runs: its init, which lives as long as any process of the job, or without
    /// namespaces its root; of a suspended job any process.
    pub fn is_alive(&self) -> bool {
        let process = self.init.map_or(self.root, |init| init.process);
        let held = || self.suspension.as_ref().is_some_and(Suspension::is_alive);
        self.boot == current_boot() && (process.is_alive() || held())
    }

    /// Whether it may run where this process cannot see it.
    fn is_elsewhere(&self) -> bool {
        self.boot == current_boot() && self.view.is_some() && self.view != View::own()
    }
}

/// The jobs of one user on this machine.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

/// The list of jobs, held: whoever else wants to see or change it waits. So a job can be entered before it runs, and nobody finds
/// it before it does.
#[derive(Debug)]
pub struct Held {
    registry: Registry,
    _lock: File,
}

impl Held {
    /// Enters a job, as [`Registry::register`] does.
    pub fn register(&self, new: NewJob) -> Result<Job, RegistryError> {
        self.registry.enter_locked(new, |_| {})
    }

    /// Takes a job off the list again that did not start after all, if its entry is still there.
    pub fn remove(&self, job: &Job) -> Result<(), RegistryError> {
        match self.registry.load_live(&job.name)? {
            Some(found) if found.root == job.root => self.registry.erase(&job.name),
            _ => Ok(()),
        }
    }
}

impl Registry {
    /// The registry of the calling user; made if it is not there.
    pub fn open() -> Result<Registry, RegistryError> {
        Registry::open_at(&usual_directory())
    }

    /// A registry in this directory, which is made if its parent is there.
    pub fn open_at(directory: &Path) -> Result<Registry, RegistryError> {
        let failed = |what| {
            move |source| RegistryError::File {
                what,
                path: directory.to_owned(),
                source,
            }
        };
        match DirBuilder::new().mode(KEPT | 0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make")(error));
            }
            _ => {}
        }
        // Not following a link that somebody may have put there.
        let facts = fs::symlink_metadata(directory).map_err(failed("look at"))?;
        let untrusted = |problem| {
            Err(RegistryError::Untrusted {
                path: directory.to_owned(),
                problem,
            })
        };
        if !facts.is_dir() {
            return untrusted("is not a directory");
        }
        if facts.uid() != spawn::effective_user() {
            return untrusted("belongs to another user");
        }
        if facts.mode() & 0o077 != 0 {
            return untrusted("is open to other users (its mode must be 0700)");
        }
        Ok(Registry {
            directory: directory.to_owned(),
        })
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Enters a job, under its name or a generated one.
    pub fn register(&self, new: NewJob) -> Result<Job, RegistryError> {
        self.enter(new, |_| {})
    }

    fn enter(&self, new: NewJob, edit: impl FnOnce(&mut Job)) -> Result<Job, RegistryError> {
        let _lock = self.lock()?;
        self.enter_locked(new, edit)
    }

    /// The list, which nobody else reads or changes until this is dropped.
    pub fn hold(&self) -> Result<Held, RegistryError> {
        Ok(Held {
            _lock: self.lock()?,
            registry: self.clone(),
        })
    }

    fn enter_locked(&self, new: NewJob, edit: impl FnOnce(&mut Job)) -> Result<Job, RegistryError> {
        if let Some(name) = &new.name {
            check_name(name)?;
        }
        let name = match new.name {
            Some(name) => self.free(&name).map(|()| name)?,
            None => self.generate_name(&new.command)?,
        };
        let mut job = Job {
            name,
            supervisor: new.supervisor,
            init: new.init,
            root: new.root,
            terminal_keeper: new.terminal_keeper,
            command: new.command,
            started_at: now(),
            boot: current_boot(),
            view: View::own(),
            checkpoint_directory: new.checkpoint_directory,
            not_saved: None,
            checkpoints: Vec::new(),
            generation: new.generation,
            notification: new.notification,
            suspension: None,
            adopted: false,
        };
        edit(&mut job);
        self.store(&job)?;
        Ok(job)
    }

    /// Whether a job may be given this name now: [`RegistryError::NameTaken`] or
    /// [`RegistryError::Elsewhere`] if not.
    pub fn check_free(&self, name: &str) -> Result<(), RegistryError> {
        check_name(name)?;
        let _lock = self.lock()?;
        self.free(name)
    }

    fn free(&self, name: &str) -> Result<(), RegistryError> {
        match self.load_live(name)?.is_some() || self.is_reserved(name) {
            true => Err(RegistryError::NameTaken(name.to_owned())),
            false => Ok(()),
        }
    }

    /// The jobs that run, by name. Files of jobs that have gone are removed.
    pub fn list(&self) -> Result<Vec<Job>, RegistryError> {
        let _lock = self.lock()?;
        let failed = |source| RegistryError::File {
            what: "read",
            path: self.directory.clone(),
            source,
        };
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension() == Some(OsStr::new("json"))
                && let Some(name) = path.file_stem().and_then(OsStr::to_str)
            {
                match self.load_live(name) {
                    Err(RegistryError::Elsewhere(_)) => {}
                    known => jobs.extend(known?),
                }
            }
        }
        jobs.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(jobs)
    }

    /// The running job with this name.
    pub fn find(&self, name: &str) -> Result<Job, RegistryError> {
        check_name(name)?;
        let _lock = self.lock()?;
        self.load_live(name)?
            .ok_or_else(|| RegistryError::NoSuchJob(name.to_owned()))
    }

    /// Notes an image of a running job. An image of the same path is replaced, images whose file has
    /// gone are forgotten.
    pub fn add_checkpoint(&self, name: &str, entry: CheckpointEntry) -> Result<Job, RegistryError> {
        self.change(name, |job| {
            job.checkpoints
                .retain(|known| known.path != entry.path && known.path.exists());
            job.checkpoints.push(entry);
            job.not_saved = None;
        })
    }

    /// Changes what is noted of a running job, except its name.
    pub fn change(&self, name: &str, edit: impl FnOnce(&mut Job)) -> Result<Job, RegistryError> {
        check_name(name)?;
        let _lock = self.lock()?;
        let known = self.load_live(name)?;
        let mut job = known.ok_or_else(|| RegistryError::NoSuchJob(name.to_owned()))?;
        edit(&mut job);
        name.clone_into(&mut job.name);
        self.store(&job)?;
        Ok(job)
    }

    /// Takes a job off the list; fine if it is not there.
    pub fn remove(&self, name: &str) -> Result<(), RegistryError> {
        check_name(name)?;
        let _lock = self.lock()?;
        self.erase(name)
    }

    /// Listens for viewers of this job's terminal: at a socket beside its file, for its owner only.
    ///
    /// # Errors
    /// Of bind(2); a socket that nobody listens at any more is replaced.
    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let file = format!("{name}.terminal");
        let path = self.directory.join(&file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The address of a socket has room for 107 bytes only.
        let directory = File::open(&self.directory)?;
        let address = format!("/proc/self/fd/{}/{file}", directory.as_raw_fd());
        let listener = UnixListener::bind(address)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(KEPT | 0o600))?;
        Ok(listener)
    }

    /// Connects to whoever holds this job's terminal.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` when nobody does.
    pub fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let directory = File::open(&self.directory)?;
        UnixStream::connect(format!(
            "/proc/self/fd/{}/{name}.terminal",
            directory.as_raw_fd()
        ))
    }

    /// Does something while nobody else changes the list.
    pub fn locked<T>(&self, work: impl FnOnce() -> T) -> Result<T, RegistryError> {
        let _lock = self.lock()?;
        Ok(work())
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    fn lock(&self) -> Result<File, RegistryError> {
        self.lock_within(HELD)
    }

    /// The lock of the list. Whoever has it does nothing that takes time; should that hang all the same, others are told.
    fn lock_within(&self, limit: Duration) -> Result<File, RegistryError> {
        let (path, file) = self.open_lock(".lock")?;
        let failed = |source| RegistryError::File {
            what: "lock",
            path,
            source,
        };
        let start = Instant::now();
        loop {
            match spawn::try_lock_file(file.as_fd(), FileLock::Exclusive) {
                Ok(true) => return Ok(file),
                Ok(false) if start.elapsed() < limit => std::thread::sleep(LOOK),
                Ok(false) => {
                    let why = format!("another cryo has held it for {} s", limit.as_secs());
                    return Err(failed(io::Error::new(io::ErrorKind::TimedOut, why)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn lock_file(&self, name: &str) -> Result<File, RegistryError> {
        let (path, file) = self.open_lock(name)?;
        spawn::lock_file(file.as_fd()).map_err(|source| RegistryError::File {
            what: "lock",
            path,
            source,
        })?;
        Ok(file)
    }

    fn open_lock(&self, name: &str) -> Result<(PathBuf, File), RegistryError> {
        let path = self.directory.join(name);
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(KEPT | 0o600);
        match options.open(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(RegistryError::File {
                what: "lock",
                path,
                source,
            }),
        }
    }

    fn erase(&self, name: &str) -> Result<(), RegistryError> {
        // Where its viewers came; most jobs have none.
        let _ = fs::remove_file(self.directory.join(format!("{name}.terminal")));
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RegistryError::File {
                what: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn load_live(&self, name: &str) -> Result<Option<Job>, RegistryError> {
        let path = self.path_of(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(RegistryError::File {
                    what: "read",
                    path,
                    source,
                });
            }
        };
        match serde_json::from_slice::<Job>(&text) {
            Ok(job) if job.name == name && job.is_elsewhere() => {
                Err(RegistryError::Elsewhere(name.to_owned()))
            }
            Ok(job) if job.is_alive() && job.name == name => Ok(Some(job)),
            // Of a dead job, or not written by us: nothing that could be used again.
            Ok(job) => {
                let _ = fs::remove_file(self.directory.join(suspension::claim_name(job.root.pid)));
                self.erase(name).map(|()| None)
            }
            Err(_) => self.erase(name).map(|()| None),
        }
    }

    fn store(&self, job: &Job) -> Result<(), RegistryError> {
        let path = self.path_of(&job.name);
        let failed = |source| RegistryError::File {
            what: "write",
            path: path.clone(),
            source,
        };
        let mut text = serde_json::to_vec_pretty(job).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // The lock is held, so nobody else writes this file.
        let unfinished = self.directory.join(format!(".{}.tmp", job.name));
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(KEPT | 0o600);
        let written = options
            .open(&unfinished)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|source| {
            // The error that is told matters more than a stray file.
            let _ = fs::remove_file(&unfinished);
            failed(source)
        })
    }

    fn generate_name(&self, command: &[String]) -> Result<String, RegistryError> {
        let program = command.first().map_or("job", String::as_str);
        let last = Path::new(program)
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or("job");
        let stem: String = last
            .chars()
            .filter(|letter| allowed(*letter))
            .skip_while(|letter| matches!(letter, '.' | '-'))
            .take(48)
            .collect();
        let stem = if stem.is_empty() {
            "job".to_owned()
        } else {
            stem
        };
        let mut number = 1u64;
        loop {
            let name = format!("{stem}-{number}");
            match self.free(&name) {
                Ok(()) => return Ok(name),
                Err(RegistryError::NameTaken(_) | RegistryError::Elsewhere(_)) => {}
                Err(error) => return Err(error),
            }
            number += 1;
        }
    }
}

fn allowed(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-')
}

/// Whether a job may have this name: 1 to 64 characters of `A-Z a-z 0-9 . _ -`, not beginning with
/// `.` or `-`, and not digits alone, which would be a pid.
pub fn check_name(name: &str) -> Result<(), RegistryError> {
    let good = (1..=64).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['.', '-'])
        && !name.chars().all(|letter| letter.is_ascii_digit());
    if good {
        Ok(())
    } else {
        Err(RegistryError::BadName(name.to_owned()))
    }
}

fn usual_directory() -> PathBuf {
    let user = spawn::effective_user();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match (named.filter(|named| outlives_logout(named, user)), user) {
        (Some(named), _) => named.join("cryonaut"),
        (None, 0) => PathBuf::from("/run/cryonaut"),
        (None, user) => PathBuf::from(format!("/tmp/cryonaut-{user}")),
    }
}

/// Whether a directory that the environment names is the user's own (after `su` it may be somebody else's), and stays.
fn outlives_logout(named: &Path, user: u32) -> bool {
    let owned = fs::metadata(named).is_ok_and(|facts| facts.uid() == user);
    named.is_absolute() && owned && named != Path::new(&format!("/run/user/{user}"))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn current_boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_somebody_holds_is_no_wait_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open_at(&directory.path().join("jobs")).unwrap();
        let held = registry.hold().unwrap();
        let error = registry.lock_within(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, RegistryError::File { what: "lock", .. }));
        drop(held);
        registry.lock_within(Duration::ZERO).unwrap();
    }
}
