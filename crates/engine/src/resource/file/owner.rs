//! Whose descriptors are looked at: processes, and threads with a table of their own.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use cryonaut_procfs::{FdInfo, ProcessDirectory, Stat, Status};
use cryonaut_sys::pidfd;

use crate::Result;
use crate::error::Attempt;
use crate::resource::fs_context;
use crate::resource::memory::under;
use crate::resource::sharing::{Shared, Sharing};

/// The descriptors that processes open again themselves, by the processes' pids as we see them.
pub type Omitted = BTreeMap<i32, BTreeSet<i32>>;

/// A process, or a thread with a table of its own, whose descriptors are looked at.
pub struct Owner<'a> {
    /// The process, as we see it.
    pub pid: i32,
    /// The task that has the table, as we see it.
    pub task: i32,
    /// What the image calls it: its id in its own namespace.
    pub inner: i32,
    /// Its name, printable.
    pub name: String,
    /// Its session and process group, as we see them, and in its own namespace.
    pub session: Ids,
    /// Its process group.
    pub group: Ids,
    /// Device number of its controlling terminal; 0 for none.
    pub terminal: i32,
    /// The foreground process group of that terminal, as we see it.
    pub foreground: i32,
    /// Ids of its tasks, as we see them.
    pub threads: Vec<i32>,
    directory: Directory<'a>,
    table: Table,
    /// What the paths that /proc shows of it are relative to: our root or that of its mount namespace, but never its own root
    /// (chroot), since the kernel words paths for the reader.
    base: PathBuf,
    pidfd: OnceCell<OwnedFd>,
}

/// The /proc directory of an owner.
enum Directory<'a> {
    Process(&'a ProcessDirectory),
    Thread(ProcessDirectory),
}

impl Deref for Directory<'_> {
    type Target = ProcessDirectory;

    fn deref(&self) -> &ProcessDirectory {
        match self {
            Directory::Process(directory) => directory,
            Directory::Thread(directory) => directory,
        }
    }
}

/// Whose descriptor table an owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// Its own.
    Own,
    /// That of an owner before it, with which it is looked at.
    Shared,
    /// None of the job's: its descriptors are copies of those in flight.
    Flight,
}

/// An id, as we see it and as the process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// As we see it.
    pub outer: i32,
    /// As the process sees it.
    pub inner: i32,
}

impl Owner<'_> {
    /// Whether its table is not that of an owner before it.
    pub fn has_table(&self) -> bool {
        self.table == Table::Own
    }

    /// Whether it is no process of the job, but stands for descriptors in flight.
    pub fn is_flight(&self) -> bool {
        self.table == Table::Flight
    }

    /// Whether it is reached through another thread than the first of its process.
    pub fn is_thread(&self) -> bool {
        self.task != self.pid
    }

    /// What refusals call it.
    pub fn label(&self) -> (i32, &str) {
        (self.pid, &self.name)
    }

    /// The path of a file as seen from here that the process' descriptors, mappings and directories show as `path`.
    pub fn reach(&self, path: &[u8]) -> PathBuf {
        under(&self.base, path)
    }

    /// What the paths that /proc shows of it are relative to.
    pub fn base(&self) -> &std::path::Path {
        &self.base
    }

    /// The link in /proc that leads to what one of its descriptors is open for.
    pub fn descriptor_path(&self, number: i32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{number}", self.task))
    }

    /// Its /proc directory.
    pub fn directory(&self) -> &ProcessDirectory {
        &self.directory
    }

    /// What /proc/PID/fdinfo tells of one of its descriptors now.
    ///
    /// # Errors
    /// When it is closed or may not be read.
    pub fn shown(&self, number: i32) -> Result<FdInfo> {
        Ok(self.directory.fdinfo(number)?)
    }

    /// A copy of one of its descriptors, taken without disturbing it.
    ///
    /// # Errors
    /// When it is closed or may not be taken.
    pub fn copy(&self, number: i32) -> Result<OwnedFd> {
        let what = || format!("process {}: taking a copy of descriptor {number}", self.pid);
        if self.pidfd.get().is_none() {
            // PIDFD_THREAD (Linux 6.9) for one that is not the first of its process.
            let flags = if self.is_thread() {
                libc::O_EXCL as u32
            } else {
                0
            };
            let opened = pidfd::open_with(self.task, flags).attempt(what)?;
            let _ = self.pidfd.set(opened);
        }
        let process = self.pidfd.get().expect("it was just opened");
        pidfd::get_descriptor(process.as_fd(), number).attempt(what)
    }
}

/// What is known of a process before its descriptors are looked at.
pub(super) struct Sight<'a, 'b> {
    pub(super) pid: i32,
    pub(super) name: String,
    pub(super) directory: &'a ProcessDirectory,
    pub(super) stat: &'b Stat,
    pub(super) status: &'b Status,
}

/// A process with these threads, for looking at it.
pub(super) fn owner<'a>(sight: &Sight<'a, '_>, threads: Vec<i32>, sharing: &Sharing) -> Owner<'a> {
    let ids = |outer: i32, nested: &[i32]| Ids {
        outer,
        inner: nested.last().copied().unwrap_or(outer),
    };
    let (stat, status, directory) = (sight.stat, sight.status, sight.directory);
    let table = if sharing.holds(Shared::Descriptors, sight.pid) {
        Table::Own
    } else {
        Table::Shared
    };
    Owner {
        pid: sight.pid,
        task: directory.pid(),
        base: base_of(directory),
        inner: ids(sight.pid, &status.namespace_pid).inner,
        name: sight.name.clone(),
        session: ids(stat.session, &status.namespace_sid),
        group: ids(stat.pgrp, &status.namespace_pgid),
        terminal: stat.tty_nr,
        foreground: stat.tpgid,
        threads,
        directory: Directory::Process(directory),
        table,
        pidfd: OnceCell::new(),
    }
}

/// A thread with a table of its own, for looking at it.
///
/// # Errors
/// When it has ended.
pub(super) fn thread_owner<'a>(sight: &Sight<'a, '_>, tid: i32) -> Result<Owner<'a>> {
    let directory = ProcessDirectory::open(tid)?;
    let status = directory.status()?;
    let none = Ids { outer: 0, inner: 0 };
    Ok(Owner {
        pid: sight.pid,
        task: tid,
        base: base_of(&directory),
        inner: status.namespace_pid.last().copied().unwrap_or(tid),
        name: sight.name.clone(),
        // These belong to its process.
        session: none,
        group: none,
        terminal: 0,
        foreground: 0,
        threads: Vec::new(),
        directory: Directory::Thread(directory),
        table: Table::Own,
        pidfd: OnceCell::new(),
    })
}

/// Where the paths that /proc shows of a task lead from.
fn base_of(directory: &ProcessDirectory) -> PathBuf {
    // What cannot be read of a process that has ended is not missed.
    let root = directory.link("root").unwrap_or_default();
    fs_context::base(directory, &root)
        .ok()
        .flatten()
        .unwrap_or_else(|| directory.path().join("root"))
}

/// This process, as the one that holds copies of the descriptors in flight.
///
/// # Errors
/// When it cannot be read.
pub(super) fn flight_owner<'a>() -> Result<Owner<'a>> {
    let pid = std::process::id() as i32;
    let directory = ProcessDirectory::open(pid)?;
    let nobody = Ids {
        outer: -1,
        inner: -1,
    };
    Ok(Owner {
        pid,
        task: pid,
        base: base_of(&directory),
        inner: 0,
        name: "descriptors in flight".into(),
        session: nobody,
        group: nobody,
        terminal: 0,
        foreground: 0,
        threads: Vec::new(),
        directory: Directory::Thread(directory),
        table: Table::Flight,
        pidfd: OnceCell::new(),
    })
}
