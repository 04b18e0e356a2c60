//! Bringing processes into being: clone, exec, namespaces, descriptors, waiting, signals and the
//! socket messages that carry descriptors.
//!
//! Every function is a thin wrapper: one system call, its errno as [`std::io::Error`]. None of those
//! that a child needs between fork and exec allocates or takes a lock, which is what makes them
//! usable in the child of a process that has threads. Pages of the manual named below are those of
//! section 2 unless said otherwise.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub mod message;
pub mod signal;

/// Namespaces for [`unshare`]; see namespaces(7).
pub mod namespace {
    /// A new user namespace (user_namespaces(7)).
    pub const USER: i32 = libc::CLONE_NEWUSER;
    /// A new pid namespace for children to come (pid_namespaces(7)).
    pub const PID: i32 = libc::CLONE_NEWPID;
    /// A new mount namespace (mount_namespaces(7)).
    pub const MOUNT: i32 = libc::CLONE_NEWNS;
    /// A new time namespace for children to come (time_namespaces(7)); Linux 5.6.
    pub const TIME: i32 = 0x80;
    /// A new IPC namespace (ipc_namespaces(7)).
    pub const IPC: i32 = libc::CLONE_NEWIPC;
    /// A new UTS namespace: names of host and domain (uts_namespaces(7)).
    pub const UTS: i32 = libc::CLONE_NEWUTS;
    /// A new cgroup namespace (cgroup_namespaces(7)).
    pub const CGROUP: i32 = 0x0200_0000;
    /// A new network namespace (network_namespaces(7)).
    pub const NETWORK: i32 = libc::CLONE_NEWNET;
}

/// `CLONE_PARENT`: the child's parent is the caller's parent.
pub const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;

pub(crate) fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn check_int(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn owned(result: c_long) -> io::Result<OwnedFd> {
    let number = check(result)?;
    // SAFETY: the system call just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

/// What a new process is to be like; see clone(2), `clone3`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneRequest<'a> {
    /// Clone flags beyond `CLONE_PIDFD`, which is always given. `CLONE_VM` and `CLONE_THREAD` are refused.
    pub flags: u64,
    /// Pids the child is to have, innermost pid namespace first; empty lets the kernel choose.
    /// Needs CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) over each of the pid namespaces.
    pub set_tid: &'a [i32],
    /// The signal its parent gets when it ends; must be 0 with `CLONE_PARENT`.
    pub exit_signal: i32,
}

/// A process that was just started.
#[derive(Debug)]
pub struct Started {
    /// Its pid as the caller sees it.
    pub pid: i32,
    /// Its pid descriptor, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Starts a copy of the calling process with `clone3`, which runs `body` and ends with its result.
///
/// The C library does not know of this child: its locks stay as they were at this instant, so if the
/// caller has other threads `body` must neither allocate nor lock. `EEXIST` says that a pid asked for
/// is taken.
pub fn clone_child(request: &CloneRequest<'_>, body: impl FnOnce() -> i32) -> io::Result<Started> {
    if request.flags & (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64 != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which all zeros is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = request.flags | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = request.exit_signal as u64;
    if !request.set_tid.is_empty() {
        arguments.set_tid = request.set_tid.as_ptr() as u64;
        arguments.set_tid_size = request.set_tid.len() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of this memory and goes on here like after
    // fork; both pointers outlive the call.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        exit_now(run_body(body));
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Started {
        pid: pid as i32,
        pidfd,
    })
}

/// Starts a copy of the calling process with the C library's fork(3), which runs `body` and ends
/// with its result.
///
/// Unlike after [`clone_child`] the child may allocate even if the caller has threads: the C library
/// carries its allocator over. Locks of the program itself are not carried over.
pub fn fork_child(body: impl FnOnce() -> i32) -> io::Result<Started> {
    // SAFETY: the child goes on with its own copy of everything and leaves by _exit below.
    let pid = check_int(unsafe { libc::fork() })?;
    if pid == 0 {
        exit_now(run_body(body));
    }
    // The child cannot be reaped, and its number not reused, before the caller waits for it.
    let pidfd = crate::pidfd::open(pid)?;
    Ok(Started { pid, pidfd })
}

fn run_body(body: impl FnOnce() -> i32) -> i32 {
    // A panic must not unwind into the caller's frames: they belong to the parent.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(125)
}

/// Ends the calling process at once, without running exit handlers (_exit).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(status) }
}

/// A NUL-terminated string array as execve(2) takes it, ready before the fork.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    /// Takes the strings over and lays the pointers out.
    pub fn new(strings: Vec<CString>) -> StringArray {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        StringArray { strings, pointers }
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces the program (execve); returns only on failure.
pub fn execute(path: &CStr, arguments: &StringArray, environment: &StringArray) -> io::Error {
    // SAFETY: path and both arrays are NUL-terminated and live across the call.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Replaces the program by the executable behind a descriptor (execveat with AT_EMPTY_PATH); returns
/// only on failure. `image` is a raw number for the sake of a child between fork and exec.
pub fn execute_number(
    image: RawFd,
    arguments: &StringArray,
    environment: &StringArray,
) -> io::Error {
    // SAFETY: the empty path and both arrays are NUL-terminated and live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Sends a signal (kill); a negative `pid` means the process group.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Sends a signal to one thread of a process (tgkill).
pub fn kill_thread(pid: i32, tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) })?;
    Ok(())
}

/// The calling thread's id, asked from the kernel.
pub fn own_tid() -> i32 {
    // SAFETY: no precondition.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Stops the calling process with SIGSTOP, until somebody sends SIGCONT.
pub fn stop_self() -> io::Result<()> {
    kill(own_pid(), libc::SIGSTOP)
}

/// The caller's pid, asked from the kernel.
pub fn own_pid() -> i32 {
    // SAFETY: no precondition.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// Has the next process or thread that is born in the caller's pid namespace get this id, if it is free (pid_namespaces(7),
/// ns_last_pid).
///
/// # Errors
/// EPERM without CAP_CHECKPOINT_RESTORE over the pid namespace; ENOENT on a kernel without CONFIG_CHECKPOINT_RESTORE.
pub fn choose_next_id(id: i32) -> io::Result<()> {
    let last = id.saturating_sub(1).to_string();
    std::fs::write("/proc/sys/kernel/ns_last_pid", last)
}

/// The caller's parent's pid; 0 if that lies outside the pid namespace.
pub fn parent_pid() -> i32 {
    // SAFETY: no precondition.
    unsafe { libc::getppid() }
}

/// The caller's effective user id.
pub fn effective_user() -> u32 {
    // SAFETY: no precondition.
    unsafe { libc::geteuid() }
}

/// The caller's effective group id.
pub fn effective_group() -> u32 {
    // SAFETY: no precondition.
    unsafe { libc::getegid() }
}

/// Makes the caller leader of a new session (setsid).
pub fn new_session() -> io::Result<i32> {
    // SAFETY: no precondition.
    check_int(unsafe { libc::setsid() })
}

/// Moves a process into a process group (setpgid); 0 means the caller, or its own pid.
pub fn set_process_group(pid: i32, group: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::setpgid(pid, group) })?;
    Ok(())
}

/// The process group of a process (getpgid).
pub fn process_group(pid: i32) -> io::Result<i32> {
    // SAFETY: integers only.
    check_int(unsafe { libc::getpgid(pid) })
}

/// The session of a process (getsid); 0 means the caller.
pub fn session(pid: i32) -> io::Result<i32> {
    // SAFETY: integers only.
    check_int(unsafe { libc::getsid(pid) })
}

/// Changes the working directory (chdir).
pub fn change_directory(path: &CStr) -> io::Result<()> {
    // SAFETY: path is NUL-terminated.
    check_int(unsafe { libc::chdir(path.as_ptr()) })?;
    Ok(())
}

/// Gives the calling process new namespaces (unshare); see [`namespace`].
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: integers only; the new namespaces change no memory of ours.
    check_int(unsafe { libc::unshare(flags) })?;
    Ok(())
}

/// Mounts a file system (mount). `flags` are `libc::MS_*`.
pub fn mount(
    source: &CStr,
    target: &CStr,
    file_system: Option<&CStr>,
    flags: u64,
) -> io::Result<()> {
    mount_with(source, target, file_system, flags, None)
}

/// Mounts a file system with options of its own.
pub fn mount_with(
    source: &CStr,
    target: &CStr,
    file_system: Option<&CStr>,
    flags: u64,
    options: Option<&CStr>,
) -> io::Result<()> {
    let options = options.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all strings are NUL-terminated; a null type and null data are allowed.
    check_int(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            file_system.map_or(std::ptr::null(), CStr::as_ptr),
            flags,
            options.cast(),
        )
    })?;
    Ok(())
}

fn prctl(option: c_int, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers only, or a pointer that the caller keeps alive.
    check_int(unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) })?;
    Ok(())
}

/// Names the calling thread as /proc/PID/comm shows it; only 15 bytes are kept (PR_SET_NAME).
pub fn set_thread_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as u64)
}

/// The signal the caller gets when the thread that started it ends; 0 for none (PR_SET_PDEATHSIG).
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64)
}

/// Whether orphaned descendants become the caller's children (PR_SET_CHILD_SUBREAPER).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subreaper {
    /// They do.
    On,
    /// They go to the next one up.
    Off,
}

/// Sets whether orphaned descendants become the caller's children.
pub fn set_child_subreaper(subreaper: Subreaper) -> io::Result<()> {
    prctl(
        libc::PR_SET_CHILD_SUBREAPER,
        u64::from(subreaper == Subreaper::On),
    )
}

/// Lets processes of the same user inspect the caller, as after an ordinary exec (PR_SET_DUMPABLE),
/// and under Yama lets any of them trace it (PR_SET_PTRACER), where Yama is there.
pub fn allow_inspection() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1)?;
    // Without Yama the kernel answers EINVAL, which means that there is nothing to allow.
    let _ = prctl(libc::PR_SET_PTRACER, u64::MAX);
    Ok(())
}

/// Shows `text` as the caller's command line in /proc/PID/cmdline, cut to the room that the
/// original one took.
///
/// Only for a process that no longer looks at its own arguments and has a single thread.
pub fn set_command_line(text: &str) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // proc_pid_stat(5): arg_start and arg_end are fields 48 and 49; `after_name` begins with field 3.
    let mut bounds = after_name.split_whitespace().skip(45);
    let mut next = || bounds.next().and_then(|field| field.parse::<usize>().ok());
    let (Some(start), Some(end)) = (next(), next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if start == 0 || end <= start {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let room = end - start;
    let shown = &text.as_bytes()[..text.len().min(room - 1)];
    // SAFETY: the kernel says that these bytes hold our own argument strings: they lie on the initial
    // stack, which is writable and stays mapped; no other thread reads them.
    unsafe {
        let area = std::slice::from_raw_parts_mut(start as *mut u8, room);
        area.fill(0);
        area[..shown.len()].copy_from_slice(shown);
    }
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

fn capabilities() -> io::Result<[CapabilityWord; 2]> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: version 3 fills exactly two words.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) })?;
    Ok(words)
}

/// The caller's effective capabilities as a bit set (capabilities(7); bit n is capability n).
pub fn effective_capabilities() -> io::Result<u64> {
    let words = capabilities()?;
    Ok(u64::from(words[0].effective) | u64::from(words[1].effective) << 32)
}

/// Gives up all capabilities of the calling thread.
pub fn drop_capabilities() -> io::Result<()> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let words = [CapabilityWord::default(); 2];
    // SAFETY: version 3 reads exactly two words.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })?;
    Ok(())
}

/// Has no program that the calling thread executes gain privileges, as root's do (prctl(2), PR_SET_NO_NEW_PRIVS). It cannot be
/// taken back.
pub fn gain_no_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Makes all permitted capabilities ambient, so that a program started by a user other than root
/// keeps them over exec (capabilities(7), "Ambient").
pub fn keep_capabilities_over_exec() -> io::Result<()> {
    let mut words = capabilities()?;
    for word in &mut words {
        word.inheritable |= word.permitted;
    }
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    // SAFETY: version 3 reads exactly two words.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })?;
    let permitted = u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32;
    for capability in (0..64u64).filter(|bit| permitted >> bit & 1 == 1) {
        // SAFETY: integers only.
        check_int(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                capability,
                0u64,
                0u64,
            )
        })?;
    }
    Ok(())
}

/// Whether a descriptor closes when its process starts another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExec {
    /// It closes.
    Close,
    /// It stays open.
    Keep,
}

/// Puts a copy of `descriptor` at `number`, replacing what is there (dup3).
///
/// `descriptor` is a raw number because a child between fork and exec shuffles numbers that no
/// object owns there.
pub fn duplicate_onto(descriptor: RawFd, number: RawFd, on_exec: OnExec) -> io::Result<()> {
    let flags = match on_exec {
        OnExec::Close => libc::O_CLOEXEC,
        OnExec::Keep => 0,
    };
    // SAFETY: integers only.
    check_int(unsafe { libc::dup3(descriptor, number, flags) })?;
    Ok(())
}

/// A close-on-exec copy of `descriptor` with a number of at least `lowest` (F_DUPFD_CLOEXEC).
pub fn duplicate_above(descriptor: RawFd, lowest: RawFd) -> io::Result<RawFd> {
    // SAFETY: integers only.
    check_int(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, lowest) })
}

/// A close-on-exec copy of the descriptor with this number, above the standard ones.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } as c_long)
}

/// What happens to `descriptor` at exec (F_GETFD); `EBADF` if it is not open.
pub fn on_exec(descriptor: RawFd) -> io::Result<OnExec> {
    // SAFETY: integers only.
    let flags = check_int(unsafe { libc::fcntl(descriptor, libc::F_GETFD) })?;
    Ok(if flags & libc::FD_CLOEXEC != 0 {
        OnExec::Close
    } else {
        OnExec::Keep
    })
}

/// Makes every descriptor from `first` to the last close at exec (close_range, Linux 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: integers only; no descriptor is closed yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Closes every descriptor from `first` to `last` (close_range).
///
/// Only for a freshly forked process that leaves by [`exit_now`]: objects that think they own such a
/// descriptor must neither be used nor dropped any more.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: integers only; the caller vouches that the owners are never used again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Writes to a descriptor by its number (write), for a child between fork and exec.
pub fn write_number(number: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: bytes is as long as said.
    let length =
        check(unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) } as c_long)?;
    Ok(length as usize)
}

/// Reads from a descriptor by its number (read), for a child between fork and exec; 0 at the end.
pub fn read_number(number: RawFd, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: room is as long as said.
    let length =
        check(unsafe { libc::read(number, room.as_mut_ptr().cast(), room.len()) } as c_long)?;
    Ok(length as usize)
}

/// Closes one descriptor number; same condition as for [`close_range`].
pub fn close_number(number: RawFd) -> io::Result<()> {
    close_range(number as u32, number as u32)
}

/// Makes reads and writes on the open file description behind `descriptor` never block.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers only.
    let flags = check_int(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: integers only.
    check_int(unsafe {
        libc::fcntl(
            descriptor.as_raw_fd(),
            libc::F_SETFL,
            flags | libc::O_NONBLOCK,
        )
    })?;
    Ok(())
}

/// What a lock of an open file (flock(2)) permits others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLock {
    /// The same lock.
    Shared,
    /// None.
    Exclusive,
}

/// Takes the lock of an open file (flock) if that can be had at once, and says whether it was. It belongs to all duplicates of the
/// descriptor, and is given back when the last of them is closed.
///
/// # Errors
/// As the file system has it: ENOLCK, EOPNOTSUPP where it knows no locks.
pub fn try_lock_file(file: BorrowedFd<'_>, lock: FileLock) -> io::Result<bool> {
    let operation = match lock {
        FileLock::Shared => libc::LOCK_SH,
        FileLock::Exclusive => libc::LOCK_EX,
    };
    // SAFETY: integers only.
    match check_int(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the exclusive lock of an open file (flock), waiting for it; closing the file gives it back.
pub fn lock_file(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: integers only.
        match check_int(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// How a process changed, as its parent learns it (waitid).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// It ended by itself with this status, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal stopped it.
    Stopped(i32),
    /// SIGCONT let it go on.
    Continued,
}

/// Whom to wait for.
#[derive(Debug, Clone, Copy)]
pub enum WaitFor<'a> {
    /// Any child.
    Any,
    /// The child with this pid.
    Pid(i32),
    /// The child behind this pid descriptor.
    Descriptor(BorrowedFd<'a>),
}

/// Takes the next change of a child (waitid) without blocking; `None` if there is none yet.
///
/// `changes` are `libc::WEXITED`, `WSTOPPED`, `WCONTINUED`. `ECHILD` says that there is no such child.
pub fn wait_now(whom: WaitFor<'_>, changes: i32) -> io::Result<Option<(i32, WaitStatus)>> {
    wait(whom, changes | libc::WNOHANG)
}

/// Takes the next change of a child (waitid), waiting for it.
pub fn wait_for(whom: WaitFor<'_>, changes: i32) -> io::Result<(i32, WaitStatus)> {
    loop {
        match wait(whom, changes) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(whom: WaitFor<'_>, options: i32) -> io::Result<Option<(i32, WaitStatus)>> {
    let (kind, id) = match whom {
        WaitFor::Any => (libc::P_ALL, 0),
        WaitFor::Pid(pid) => (libc::P_PID, pid as libc::id_t),
        WaitFor::Descriptor(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t),
    };
    // SAFETY: siginfo_t is plain data, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info outlives the call.
    check_int(unsafe { libc::waitid(kind, id, &raw mut info, options | libc::__WALL) })?;
    // SAFETY: waitid filled the SIGCHLD members, or left the zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => WaitStatus::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => WaitStatus::Killed(status),
        libc::CLD_CONTINUED => WaitStatus::Continued,
        _ => WaitStatus::Stopped(status),
    };
    Ok(Some((pid, status)))
}
