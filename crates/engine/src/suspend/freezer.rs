//! The freezer of cgroup v2 (cgroups(7); Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze`).
//!
//! A frozen task is in the kernel, on its way back to the program, until it is thawed: signals other than SIGKILL wait, and
//! ptrace may stop and inspect it. That needs no process of ours to live on.
//!
//! A job is frozen in a cgroup of its own. `cryo run` has made one where it could. Otherwise each of its processes goes into a
//! child of the cgroup that it is in, so that whoever limits or accounts for that one goes on doing so (resources of a child
//! count for its parents), and back when the job is resumed. Where a process belongs is told by the place where it is, so it
//! is known even when nothing else is left of the suspension.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryonaut_launch::registry::ProcessIdentity;
use cryonaut_procfs::{CgroupMembership, Mount, ProcessDirectory};

use crate::error::Attempt;
use crate::resource::restriction::cgroup_path;
use crate::target::TargetProcess;
use crate::{Error, Refusals, Result};

/// Cgroups that `cryo suspend` makes: this, the pid of the process that was named, and its start time.
pub(super) const SUSPENDED: &str = "cryonaut-suspended-";
/// Cgroups that `cryo run` makes: this, its own pid, and its start time.
pub(super) const JOB: &str = "cryonaut-job-";
/// How long a task may take to come to a stop: one in an uninterruptible call comes only when that has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cgroup of the v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The one at this directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The one that a process is in; none where no hierarchy is mounted, or that part of it is not seen from here.
    pub fn of(pid: i32) -> Option<Self> {
        // A first thread that has ended stays where it was when the others are moved.
        let process = TargetProcess::read(pid).ok()?;
        let memberships = process.directory.cgroups().ok()?;
        let own = ProcessDirectory::open(std::process::id() as i32).ok()?;
        directory(&memberships, &own.mountinfo().ok()?).map(Self::at)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("")
    }

    /// Whether it was made by `cryo suspend`.
    pub fn is_of_suspend(&self) -> bool {
        self.name().starts_with(SUSPENDED)
    }

    /// Whether it was made by `cryo run`.
    pub fn is_of_run(&self) -> bool {
        self.name().starts_with(JOB)
    }

    /// Makes one for a job that this process is about to start, below its own, with the file by which the job enters it. None where
    /// that may not be divided.
    pub fn make_for_job() -> Option<(Self, OwnedFd)> {
        let own = std::process::id() as i32;
        let identity = ProcessIdentity::of(own).ok()?;
        let above = Self::of(own)?;
        sweep(&above);
        let cgroup = above.child(&format!("{JOB}{own}-{}", identity.start_time));
        cgroup.make().ok()?;
        let opened = fs::OpenOptions::new()
            .write(true)
            .open(cgroup.path.join("cgroup.procs"));
        match opened {
            Ok(file) => Some((cgroup, file.into())),
            Err(_) => {
                let _ = cgroup.remove();
                None
            }
        }
    }

    /// The one that it is a child of.
    pub fn parent(&self) -> Self {
        Self::at(self.path.parent().unwrap_or(&self.path))
    }

    /// A child of it.
    pub fn child(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    /// Those below it.
    pub fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| Self::at(entry.path()))
            .collect()
    }

    /// Whether a process is in it or below it.
    pub fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// The processes in it, zombies left out, nor those whose first thread has ended; none if it has gone.
    pub fn members(&self) -> Vec<i32> {
        self.listed("cgroup.procs")
    }

    /// The processes in it of which any thread is alive, found by way of their threads.
    pub fn members_by_thread(&self) -> Vec<i32> {
        let process = |&tid: &i32| Some(ProcessDirectory::open(tid).ok()?.status().ok()?.tgid);
        let mut pids: Vec<i32> = self
            .listed("cgroup.threads")
            .iter()
            .filter_map(process)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn listed(&self, file: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether it is asked to be frozen itself, whatever those above it are.
    pub fn is_asked_to_freeze(&self) -> bool {
        fs::read(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim_ascii() == b"1")
    }

    /// Whether all tasks in it stand still, for its own sake or that of one above it.
    pub fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }

    /// The one above it, if there is one, that keeps it frozen.
    pub fn frozen_from_above(&self) -> Option<Self> {
        let mut above = self.parent();
        while above.path.join("cgroup.freeze").exists() {
            if above.is_asked_to_freeze() {
                return Some(above);
            }
            above = above.parent();
        }
        None
    }

    /// Whether its tasks run no instruction, or will not in a moment, for its own sake or that of one above it.
    pub fn holds_its_tasks(&self) -> bool {
        self.is_asked_to_freeze() || self.frozen_from_above().is_some()
    }

    /// Makes it, if it is not there.
    pub fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes it, if no process is in it.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Moves a process into it; one that has ended is fine.
    pub fn take(&self, pid: i32) -> io::Result<()> {
        match fs::write(self.path.join("cgroup.procs"), pid.to_string()) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            outcome => outcome,
        }
    }

    /// Asks the kernel to stop every task in it, now and those that come.
    pub fn ask_to_freeze(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.freeze"), "1")
    }

    /// Lets its tasks go on.
    pub fn thaw(&self) -> io::Result<()> {
        match fs::write(self.path.join("cgroup.freeze"), "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Waits until every task in it stands still.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the process that does not, when the patience is over.
    pub fn await_frozen(&self) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        while !self.is_frozen() {
            if start.elapsed() > PATIENCE {
                return Err(Error::Failed(self.still_running()));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    fn still_running(&self) -> String {
        let stuck = self.members().into_iter().find_map(|pid| {
            let directory = ProcessDirectory::open(pid).ok()?;
            let stat = directory.stat().ok()?;
            let call = directory.read("wchan").unwrap_or_default();
            (stat.state == 'D').then(|| {
                format!(
                    "process {pid} ({}) is in an uninterruptible call ({})",
                    String::from_utf8_lossy(&stat.comm),
                    String::from_utf8_lossy(&call)
                )
            })
        });
        format!(
            "not all tasks stopped within {} s: {}; the job is as it was before. Try again when that has ended",
            PATIENCE.as_secs(),
            stuck.unwrap_or_else(|| "a task did not leave the kernel".into())
        )
    }
}

/// Removes what suspensions of jobs that were killed have left below a cgroup: children with nobody in them, whose first process
/// has gone.
pub fn sweep(below: &Cgroup) {
    for entry in fs::read_dir(below.path()).into_iter().flatten().flatten() {
        let child = Cgroup::at(entry.path());
        let named = child
            .name()
            .strip_prefix(SUSPENDED)
            .or(child.name().strip_prefix(JOB));
        let identity = named.and_then(|named| {
            let (pid, start_time) = named.split_once('-')?;
            Some(ProcessIdentity {
                pid: pid.parse().ok()?,
                start_time: start_time.parse().ok()?,
            })
        });
        if identity.is_some_and(|identity| !identity.is_alive()) {
            // One that somebody is in stays.
            let _ = child.remove();
        }
    }
}

/// The directory of the v2 cgroup among `memberships`, as this mount namespace shows it.
fn directory(memberships: &[CgroupMembership], mounts: &[Mount]) -> Option<PathBuf> {
    let membership = memberships
        .iter()
        .find(|membership| membership.is_unified() && !membership.deleted)?;
    // Outside of what this cgroup namespace shows.
    match membership.path.starts_with(b"/..") {
        true => None,
        false => cgroup_path(mounts, true, &membership.path),
    }
}

/// Refuses a job that somebody else has frozen: its memory may be theirs to judge, and thawing would not be ours.
pub(super) fn refuse_foreign(pids: &[i32], refusals: &mut Refusals) {
    for &pid in pids {
        let Some(cgroup) = Cgroup::of(pid) else {
            continue;
        };
        let own = cgroup.is_of_suspend() || cgroup.is_of_run();
        let foreign = match cgroup.frozen_from_above() {
            None if !own && cgroup.is_asked_to_freeze() => Some(cgroup),
            above => above,
        };
        if let Some(foreign) = foreign {
            refusals.add(
                (pid, &name_of(pid)),
                format!("its cgroup {}", foreign.path().display()),
                "somebody else has frozen it, and may thaw it at any time",
                "thaw it with what froze it (docker unpause, systemctl thaw, or 0 in its cgroup.freeze), then suspend",
            );
        }
    }
}

fn name_of(pid: i32) -> String {
    let comm = ProcessDirectory::open(pid).and_then(|directory| directory.comm());
    String::from_utf8_lossy(&comm.unwrap_or_default()).into_owned()
}

/// The cgroups that a job is frozen in: for each process where it goes.
#[derive(Clone, Debug)]
pub(super) struct Places {
    named: String,
    groups: Vec<Cgroup>,
}

impl Places {
    /// Plans them for these processes. Makes nothing.
    ///
    /// # Errors
    /// Why the freezer cannot be used, in words.
    pub fn plan(named: &str, pids: &[i32]) -> std::result::Result<Self, String> {
        let mut places = Self {
            named: format!("{SUSPENDED}{named}"),
            groups: Vec::new(),
        };
        for &pid in pids {
            let Some(cgroup) = Cgroup::of(pid) else {
                if ProcessDirectory::open(pid).is_err() {
                    continue;
                }
                return Err("no cgroup v2 hierarchy shows its processes here".into());
            };
            let place = places.place_of(cgroup, pids);
            if !places.groups.contains(&place) {
                places.groups.push(place);
            }
        }
        Ok(places)
    }

    /// Where a process goes that is in `cgroup` now.
    fn place_of(&self, cgroup: Cgroup, pids: &[i32]) -> Cgroup {
        let whole = cgroup.is_of_run() && cgroup.members().iter().all(|pid| pids.contains(pid));
        match whole || cgroup.is_of_suspend() {
            true => cgroup,
            false => cgroup.child(&self.named),
        }
    }

    /// Makes those that are not there yet, and tries whether processes may be moved into them.
    ///
    /// # Errors
    /// Why they cannot be used, in words; nothing is left behind.
    pub fn make(&self) -> std::result::Result<(), String> {
        for group in &self.groups {
            sweep(&group.parent());
            let tried = group.make().and_then(|()| {
                for file in ["cgroup.procs", "cgroup.freeze"] {
                    fs::OpenOptions::new()
                        .write(true)
                        .open(group.path().join(file))?;
                }
                match group.is_of_suspend() {
                    // Who moves a process has to be allowed to write where it comes from, or above both.
                    true => fs::OpenOptions::new()
                        .write(true)
                        .open(group.parent().path().join("cgroup.procs"))
                        .map(drop),
                    false => Ok(()),
                }
            });
            if let Err(error) = tried {
                self.remove();
                return Err(format!("{}: {error}", group.path().display()));
            }
        }
        Ok(())
    }

    /// Moves these processes to where they belong.
    ///
    /// # Errors
    /// The process that could not be moved, and why.
    pub fn take(&mut self, pids: &[i32]) -> std::result::Result<Moved, (i32, io::Error)> {
        let mut moved = Moved::None;
        for &pid in pids {
            let Some(cgroup) = Cgroup::of(pid).filter(|cgroup| !self.groups.contains(cgroup))
            else {
                continue;
            };
            let place = self.place_of(cgroup, pids);
            let arrived = place.make().and_then(|()| place.take(pid));
            arrived.map_err(|error| (pid, error))?;
            if !self.groups.contains(&place) {
                self.groups.push(place);
            }
            moved = Moved::Some;
        }
        Ok(moved)
    }

    /// Asks all of them to freeze.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub fn freeze(&self) -> Result<()> {
        for group in &self.groups {
            group
                .ask_to_freeze()
                .attempt(|| format!("freezing {}", group.path().display()))?;
        }
        Ok(())
    }

    /// Waits until all stand still.
    ///
    /// # Errors
    /// As [`Cgroup::await_frozen`].
    pub fn await_frozen(&self) -> Result<()> {
        self.groups.iter().try_for_each(Cgroup::await_frozen)
    }

    /// Their directories.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.groups
            .iter()
            .map(|group| group.path().to_owned())
            .collect()
    }

    /// Removes those that are empty.
    fn remove(&self) {
        for group in self.groups.iter().filter(|group| group.is_of_suspend()) {
            let _ = group.remove();
        }
    }
}

/// Whether any process had to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Some,
    None,
}

/// Puts the processes in a cgroup of `cryo suspend` back to where they came from, and removes it.
///
/// # Errors
/// When they cannot be moved; they run in any case.
pub(super) fn move_back(cgroup: &Cgroup) -> Result<()> {
    if !cgroup.is_of_suspend() {
        return Ok(());
    }
    let origin = cgroup.parent();
    let start = Instant::now();
    let mut members = cgroup.members();
    loop {
        for pid in members {
            origin
                .take(pid)
                .attempt(|| format!("moving process {pid} back to {}", origin.path().display()))?;
        }
        // A process that was born meanwhile is moved in the next round; one that is just ending keeps it busy for a moment.
        match cgroup.remove() {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error).attempt(|| format!("removing {}", cgroup.path().display()));
            }
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
        members = cgroup.members_by_thread();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_procfs::{cgroup, mountinfo};

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn found(membership: &[u8], mounts: &[u8]) -> Option<PathBuf> {
        directory(
            &cgroup::parse(membership).unwrap(),
            &mountinfo::parse(mounts).unwrap(),
        )
    }

    #[test]
    fn the_directory_is_found_in_every_layout() {
        let root = found(b"9:cpu:/a\n0::/\n", HYBRID);
        assert_eq!(root, Some("/sys/fs/cgroup/unified".into()));
        let deep = found(b"0::/user.slice/u:1/x\n", HYBRID);
        assert_eq!(deep, Some("/sys/fs/cgroup/unified/user.slice/u:1/x".into()));
        let part = b"41 31 0:38 /docker/7 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            found(b"0::/docker/7/x\n", part),
            Some("/sys/fs/cgroup/x".into())
        );
        assert_eq!(
            found(b"0::/docker/7\n", part),
            Some("/sys/fs/cgroup".into())
        );
        assert_eq!(found(b"0::/docker/77\n", part), None);
        assert_eq!(found(b"0::/../../x\n", HYBRID), None);
        assert_eq!(found(b"0::/x (deleted)\n", HYBRID), None);
        assert_eq!(found(b"3:cpu:/\n", HYBRID), None);
    }
}
