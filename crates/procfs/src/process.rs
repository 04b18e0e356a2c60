//! The files of one process or thread.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{ParseError, ProcCause, ProcError};
use crate::{
    Area, AuxiliaryEntry, CgroupMembership, FdInfo, Mount, PagemapEntry, SmapsArea, Stat, Status,
    Timer, auxv, cgroup, fdinfo, maps, mountinfo, namespace, pagemap, scalar, smaps, stat, status,
    strings, system, timers,
};

/// Where `/proc` is mounted.
pub(crate) const PROC: &str = "/proc";
/// Page size of x86-64, the unit of `pagemap`.
const PAGE_SIZE: u64 = 4096;
/// A read buffer larger than this is given back after use.
const KEPT_CAPACITY: usize = 1 << 20;

thread_local! {
    /// The buffer that parsed files are read into: most are read often and are small.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An open directory of `/proc`: one process, or one thread of it.
///
/// It stays with the process it was opened for: after that one has ended every call fails with an
/// error that [is gone](ProcError::is_gone), even if another process has got the same pid. It holds
/// one descriptor. A process that ends keeps its directory as a zombie until its parent waits for it.
///
/// Every method fails if the process has ended, if the kernel has no such file, or if the reader may
/// not read it (see "ptrace access mode checking" in ptrace(2)); see [`ProcError`].
#[derive(Debug)]
pub struct ProcessDirectory {
    pid: i32,
    /// For people.
    path: PathBuf,
    /// Where `/proc` is mounted that this directory belongs to.
    root: PathBuf,
    /// Keeps the process apart from later ones with its pid.
    directory: File,
}

impl ProcessDirectory {
    /// Opens `/proc/PID`. A thread id of another than the leader works too, as for the kernel.
    ///
    /// # Errors
    /// If there is no such process, or it is hidden (`hidepid`).
    pub fn open(pid: i32) -> Result<Self, ProcError> {
        Self::open_under(Path::new(PROC), pid)
    }

    /// Opens the directory of a process under another mount of procfs, that of a pid namespace.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_under(root: &Path, pid: i32) -> Result<Self, ProcError> {
        let path = root.join(pid.to_string());
        let directory = File::open(&path).map_err(|error| directory_error(&path, error))?;
        Ok(Self {
            pid,
            path,
            root: root.to_path_buf(),
            directory,
        })
    }

    /// Opens the directory of a thread of this process, `/proc/PID/task/TID`.
    ///
    /// # Errors
    /// If there is no such thread.
    pub fn task(&self, tid: i32) -> Result<Self, ProcError> {
        let name = format!("task/{tid}");
        let path = self.path.join(&name);
        let directory =
            File::open(self.reach(&name)).map_err(|error| directory_error(&path, error))?;
        Ok(Self {
            pid: tid,
            path,
            root: self.root.clone(),
            directory,
        })
    }

    /// The process id, or the thread id for the directory of a [`task`](Self::task).
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The directory's path, as a person would type it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the process is still there, be it as a zombie.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(self.reach("stat")).is_ok()
    }

    /// Path that reaches `name` through the open directory, whatever became of the pid. It goes by
    /// the calling thread, whose descriptor table may be its own.
    fn reach(&self, name: &str) -> String {
        format!(
            "{PROC}/thread-self/fd/{}/{name}",
            self.directory.as_raw_fd()
        )
    }

    /// Describes a failure on `name`. `ENOENT` has two meanings; whether `stat` is there tells them apart.
    fn error(&self, name: &str, error: io::Error) -> ProcError {
        let path = self.path.join(name);
        if error.kind() == io::ErrorKind::NotFound && !self.exists() {
            return ProcError {
                path,
                cause: ProcCause::Ended,
            };
        }
        ProcError::io(path, error)
    }

    /// Opens one file for reading, for example `mem` or `pagemap`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn open_file(&self, name: &str) -> Result<File, ProcError> {
        File::open(self.reach(name)).map_err(|error| self.error(name, error))
    }

    /// Reads one file into `buffer`, which is cleared first.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn read_into(&self, name: &str, buffer: &mut Vec<u8>) -> Result<(), ProcError> {
        let file = self.open_file(name)?;
        read_whole(file, buffer).map_err(|error| self.error(name, error))
    }

    /// Reads one file.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ProcError> {
        let mut bytes = Vec::new();
        self.read_into(name, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads `name` and parses it.
    fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, ProcError> {
        let mut buffer = BUFFER.take();
        let parsed = self.read_into(name, &mut buffer).and_then(|()| {
            parse(&buffer).map_err(|error| ProcError::parse(self.path.join(name), error))
        });
        if buffer.capacity() <= KEPT_CAPACITY {
            BUFFER.set(buffer);
        }
        parsed
    }

    /// Reads the numbers that name the entries of a directory, sorted.
    fn numbers(&self, name: &str) -> Result<Vec<i32>, ProcError> {
        let entries = fs::read_dir(self.reach(name)).map_err(|error| self.error(name, error))?;
        numeric_names(entries).map_err(|error| self.error(name, error))
    }

    /// The target of a link: `exe`, `cwd`, `root`, `fd/3` … An unlinked file's path ends with ` (deleted)`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`]; [missing](ProcError::is_missing) for `exe` of a kernel thread or zombie.
    pub fn link(&self, name: &str) -> Result<Vec<u8>, ProcError> {
        let target = fs::read_link(self.reach(name)).map_err(|error| self.error(name, error))?;
        Ok(target.into_os_string().into_vec())
    }

    /// `stat`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn stat(&self) -> Result<Stat, ProcError> {
        self.parsed("stat", stat::parse)
    }

    /// `status`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn status(&self) -> Result<Status, ProcError> {
        self.parsed("status", status::parse)
    }

    /// The command name, unescaped.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn comm(&self) -> Result<Vec<u8>, ProcError> {
        self.parsed("comm", |text| Ok(scalar::parse_comm(text)))
    }

    /// The areas of the address space; none for zombies and kernel threads.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn maps(&self) -> Result<Vec<Area>, ProcError> {
        self.parsed("maps", maps::parse)
    }

    /// The areas with sizes and flags; makes the kernel walk the page tables.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn smaps(&self) -> Result<Vec<SmapsArea>, ProcError> {
        self.parsed("smaps", smaps::parse)
    }

    /// The words of `pagemap` for the pages in the addresses `start..end`, widened to whole pages;
    /// fewer if the address space ends before.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn pagemap(&self, start: u64, end: u64) -> Result<Vec<PagemapEntry>, ProcError> {
        let file = self.open_file("pagemap")?;
        let (mut page, last) = (start / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        let mut entries = Vec::new();
        let mut chunk = vec![0_u8; 64 << 10];
        while page < last {
            let wanted = usize::try_from((last - page) * 8)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            let read = match file.read_at(&mut chunk[..wanted], page * 8) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.error("pagemap", error)),
            };
            let before = entries.len();
            entries.extend(pagemap::decode(&chunk[..read]));
            if entries.len() == before {
                break;
            }
            page += (entries.len() - before) as u64;
        }
        Ok(entries)
    }

    /// The open descriptors, ascending.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn descriptors(&self) -> Result<Vec<i32>, ProcError> {
        self.numbers("fd")
    }

    /// What a descriptor refers to: a path, or `TYPE:[INODE]`, `anon_inode:NAME`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`]; [missing](ProcError::is_missing) if it is closed.
    pub fn descriptor_link(&self, descriptor: i32) -> Result<Vec<u8>, ProcError> {
        self.link(&format!("fd/{descriptor}"))
    }

    /// What the kernel tells about a descriptor.
    ///
    /// # Errors
    /// See [`ProcessDirectory`]; [missing](ProcError::is_missing) if it is closed.
    pub fn fdinfo(&self, descriptor: i32) -> Result<FdInfo, ProcError> {
        self.parsed(&format!("fdinfo/{descriptor}"), fdinfo::parse)
    }

    /// The thread ids, ascending; a running process may add threads while they are read.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn threads(&self) -> Result<Vec<i32>, ProcError> {
        self.numbers("task")
    }

    /// The children that thread `tid` of this process made, ascending, zombies included.
    ///
    /// Kernels without `CONFIG_PROC_CHILDREN` do not tell which thread made a child: there every
    /// child counts as the leader's. The children of all threads together are always right, and of
    /// a running process always a moment old.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn children(&self, tid: i32) -> Result<Vec<i32>, ProcError> {
        match self.parsed(&format!("task/{tid}/children"), scalar::parse_children) {
            Ok(mut children) => {
                children.sort_unstable();
                Ok(children)
            }
            Err(error) if error.is_missing() && tid == self.pid => self.children_by_parent(),
            // No such thread is an error, no such file is not.
            Err(error) if error.is_missing() => self.task(tid).map(|_| Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The children of all threads of this process, ascending; see [`children`](Self::children).
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn all_children(&self) -> Result<Vec<i32>, ProcError> {
        let mut all = Vec::new();
        for tid in self.threads()? {
            match self.children(tid) {
                Ok(children) => all.extend(children),
                // That thread has ended; its children have passed to another one.
                Err(error) if error.is_gone() && self.exists() => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// The processes whose parent this one is.
    fn children_by_parent(&self) -> Result<Vec<i32>, ProcError> {
        let processes = system::all_stats_under(&self.root)?;
        Ok(processes
            .iter()
            .filter(|process| process.ppid == self.pid)
            .map(|process| process.pid)
            .collect())
    }

    /// POSIX timers (CONFIG_CHECKPOINT_RESTORE, else [missing](ProcError::is_missing)).
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn timers(&self) -> Result<Vec<Timer>, ProcError> {
        self.parsed("timers", timers::parse)
    }

    /// The auxiliary vector.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn auxv(&self) -> Result<Vec<AuxiliaryEntry>, ProcError> {
        self.parsed("auxv", auxv::parse)
    }

    /// The mounts of its mount namespace, as far as its root reaches.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn mountinfo(&self) -> Result<Vec<Mount>, ProcError> {
        self.parsed("mountinfo", mountinfo::parse)
    }

    /// Its cgroups.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn cgroups(&self) -> Result<Vec<CgroupMembership>, ProcError> {
        self.parsed("cgroup", cgroup::parse)
    }

    /// The command line.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn command_line(&self) -> Result<Vec<Vec<u8>>, ProcError> {
        self.parsed("cmdline", |bytes| Ok(strings::parse(bytes)))
    }

    /// The environment it was started with.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn environment(&self) -> Result<Vec<Vec<u8>>, ProcError> {
        self.parsed("environ", |bytes| Ok(strings::parse(bytes)))
    }

    /// Inode number of a namespace: `pid`, `pid_for_children`, `user`, `mnt`, `net`, `ipc`, `uts`, `cgroup`, `time`, `time_for_children`.
    ///
    /// # Errors
    /// See [`ProcessDirectory`]; [missing](ProcError::is_missing) if the kernel has no such namespaces.
    pub fn namespace(&self, kind: &str) -> Result<u64, ProcError> {
        let name = format!("ns/{kind}");
        let target = self.link(&name)?;
        namespace::parse_link(&target)
            .map_err(|error| ProcError::parse(self.path.join(name), error))
    }

    /// User ids of its user namespace.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn uid_map(&self) -> Result<Vec<namespace::IdRange>, ProcError> {
        self.parsed("uid_map", namespace::parse_id_map)
    }

    /// Group ids of its user namespace.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn gid_map(&self) -> Result<Vec<namespace::IdRange>, ProcError> {
        self.parsed("gid_map", namespace::parse_id_map)
    }

    /// Clock offsets of the time namespace its children will be in.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn time_offsets(&self) -> Result<Vec<namespace::ClockOffset>, ProcError> {
        self.parsed("timens_offsets", namespace::parse_time_offsets)
    }

    /// Execution domain.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn personality(&self) -> Result<u32, ProcError> {
        self.parsed("personality", scalar::parse_personality)
    }

    /// Adjustment for the out-of-memory killer, -1000 to 1000.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn oom_score_adj(&self) -> Result<i32, ProcError> {
        self.parsed("oom_score_adj", scalar::parse_oom_score_adj)
    }

    /// Timer slack of the process's leader, nanoseconds. [Denied](ProcError::is_denied) without
    /// `CAP_SYS_NICE`, even for the reader's own process, unless the reading thread is that leader.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn timerslack_ns(&self) -> Result<u64, ProcError> {
        self.parsed("timerslack_ns", scalar::parse_timerslack_ns)
    }

    /// Which areas a core dump holds; `None` without memory.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn coredump_filter(&self) -> Result<Option<u32>, ProcError> {
        self.parsed("coredump_filter", scalar::parse_coredump_filter)
    }

    /// The user who logged in; `None` if unset or the kernel has no audit.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn loginuid(&self) -> Result<Option<u32>, ProcError> {
        unless_missing(self.parsed("loginuid", scalar::parse_loginuid))
    }

    /// When the task last ran, milliseconds on the scheduler's clock; `None` if the kernel does not tell.
    ///
    /// # Errors
    /// See [`ProcessDirectory`].
    pub fn exec_start(&self) -> Result<Option<f64>, ProcError> {
        unless_missing(self.parsed("sched", scalar::parse_exec_start))
    }
}

/// `None` for a file this kernel does not have.
fn unless_missing<T>(result: Result<Option<T>, ProcError>) -> Result<Option<T>, ProcError> {
    match result {
        Err(error) if error.is_missing() => Ok(None),
        other => other,
    }
}

/// Without its directory a process or thread has ended, or never was.
fn directory_error(path: &Path, error: io::Error) -> ProcError {
    if error.kind() == io::ErrorKind::NotFound {
        return ProcError {
            path: path.to_path_buf(),
            cause: ProcCause::Ended,
        };
    }
    ProcError::io(path, error)
}

/// Reads `file` to its end. `take` keeps the standard library from asking for the size, which is always 0 in `/proc`.
pub(crate) fn read_whole(file: File, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(4096);
    file.take(u64::MAX).read_to_end(buffer).map(|_| ())
}

/// The directory entries that are numbers, sorted.
pub(crate) fn numeric_names(entries: fs::ReadDir) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in entries {
        if let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
