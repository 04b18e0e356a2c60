//! State of tasks that the kernel tells by number, without ptrace: scheduling, limits, robust lists, kcmp.

use crate::{Result, check};

/// `struct sched_attr` (include/uapi/linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulingAttributes {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20..=19, for normal policies.
    pub nice: i32,
    /// 1..=99, for real-time policies.
    pub priority: u32,
    /// Deadline policy: run time in ns.
    pub runtime: u64,
    /// Deadline policy: deadline in ns.
    pub deadline: u64,
    /// Deadline policy: period in ns.
    pub period: u64,
    /// Utilization clamp, minimum (0..=1024).
    pub utilization_min: u32,
    /// Utilization clamp, maximum (0..=1024).
    pub utilization_max: u32,
}

const _: () = assert!(size_of::<SchedulingAttributes>() == 56);

/// Reads the scheduling policy and parameters of task `tid`.
///
/// # Errors
/// ESRCH, EPERM.
pub fn scheduling(tid: i32) -> Result<SchedulingAttributes> {
    let mut attributes = SchedulingAttributes::default();
    let size = size_of::<SchedulingAttributes>();
    // SAFETY: the structure has the size that is passed along.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attributes, size, 0) })?;
    Ok(attributes)
}

/// Sets the scheduling policy and parameters of task `tid`.
///
/// # Errors
/// ESRCH, EPERM, EINVAL, E2BIG.
pub fn set_scheduling(tid: i32, attributes: &SchedulingAttributes) -> Result<()> {
    // SAFETY: the structure carries its own size and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            tid,
            std::ptr::from_ref(attributes),
            0,
        )
    })?;
    Ok(())
}

/// Reads the processors that task `tid` may run on, as a bit mask in 64-bit words.
///
/// # Errors
/// ESRCH.
pub fn affinity(tid: i32) -> Result<Vec<u64>> {
    let mut mask = vec![0_u64; 128];
    // SAFETY: the buffer has the length that is passed along.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            mask.len() * 8,
            mask.as_mut_ptr(),
        )
    })?;
    mask.truncate((length / 8) as usize);
    Ok(mask)
}

/// Sets the processors that task `tid` may run on.
///
/// # Errors
/// EINVAL when none of them exists here; EPERM; ESRCH.
pub fn set_affinity(tid: i32, mask: &[u64]) -> Result<()> {
    // SAFETY: the buffer has the length that is passed along.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            tid,
            mask.len() * 8,
            mask.as_ptr(),
        )
    })?;
    Ok(())
}

/// Reads the I/O priority of task `tid` (`IOPRIO_PRIO_VALUE`).
///
/// # Errors
/// ESRCH, EPERM.
pub fn io_priority(tid: i32) -> Result<i32> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) }).map(|value| value as i32)
}

/// Head and length of a task's list of robust futexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RobustList {
    /// Address of the list head in the task, 0 for none.
    pub head: u64,
    /// Size of the head structure in bytes.
    pub length: u64,
}

/// Reads where task `tid` keeps its robust futex list. Needs ptrace access.
///
/// # Errors
/// ESRCH, EPERM.
pub fn robust_list(tid: i32) -> Result<RobustList> {
    let mut list = RobustList::default();
    // SAFETY: both targets are 8 bytes wide, as the call expects, and outlive it.
    check(unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid,
            &raw mut list.head,
            &raw mut list.length,
        )
    })?;
    Ok(list)
}

/// A soft and a hard limit (getrlimit(2)); `u64::MAX` means unlimited.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft one may be raised.
    pub hard: u64,
}

/// Number of resources that have a limit.
pub const LIMIT_COUNT: u32 = 16;

/// Reads limit `resource` (`RLIMIT_*`) of process `pid`.
///
/// # Errors
/// ESRCH, EPERM, EINVAL.
pub fn limit(pid: i32, resource: u32) -> Result<Limit> {
    let mut limit = Limit::default();
    // SAFETY: `Limit` has the layout of `struct rlimit64`.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            std::ptr::null::<Limit>(),
            &raw mut limit,
        )
    })?;
    Ok(limit)
}

/// Sets limit `resource` of process `pid`.
///
/// # Errors
/// EPERM when the hard limit would rise without CAP_SYS_RESOURCE; ESRCH, EINVAL.
pub fn set_limit(pid: i32, resource: u32, limit: Limit) -> Result<()> {
    // SAFETY: `Limit` has the layout of `struct rlimit64`.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<Limit>(),
        )
    })?;
    Ok(())
}

/// What kcmp(2) compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Compare {
    /// Two descriptors: the same open file description?
    File = 0,
    /// Two tasks: the same memory?
    Memory = 1,
    /// Two tasks: the same table of descriptors?
    Descriptors = 2,
    /// Two tasks: the same working directory, root and umask?
    FileSystem = 3,
    /// Two tasks: the same signal actions?
    SignalActions = 4,
    /// Two tasks: the same I/O context?
    Io = 5,
    /// Two tasks: the same System V semaphore undo list?
    SemaphoreUndo = 6,
}

/// Orders the kernel objects of two tasks; equal means that they share it.
///
/// # Errors
/// EPERM, ESRCH, EBADF; ENOSYS without CONFIG_KCMP.
pub fn compare(what: Compare, first: (i32, u64), second: (i32, u64)) -> Result<std::cmp::Ordering> {
    // SAFETY: no pointers are passed.
    let order = check(unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            first.0,
            second.0,
            what as u32,
            first.1,
            second.1,
        )
    })?;
    Ok(match order {
        0 => std::cmp::Ordering::Equal,
        1 => std::cmp::Ordering::Less,
        2 => std::cmp::Ordering::Greater,
        _ => return Err(std::io::Error::from_raw_os_error(libc::EINVAL)),
    })
}

#[repr(C)]
struct EpollSlot {
    epoll: u32,
    target: u32,
    offset: u32,
}

/// Whether descriptor `fd` of task `tid` is the file behind entry number `offset` for target number `target` in the epoll
/// descriptor `epoll` of task `owner`.
///
/// # Errors
/// ENOENT when the epoll has no such entry; as [`compare`] otherwise.
pub fn is_epoll_target(
    (tid, fd): (i32, i32),
    (owner, epoll): (i32, i32),
    target: i32,
    offset: u32,
) -> Result<bool> {
    let slot = EpollSlot {
        epoll: epoll as u32,
        target: target as u32,
        offset,
    };
    // SAFETY: `slot` has the layout of `struct kcmp_epoll_slot` and outlives the call.
    let order =
        check(unsafe { libc::syscall(libc::SYS_kcmp, tid, owner, 7, fd, &raw const slot) })?;
    Ok(order == 0)
}

/// Sends a signal to one process by number. Prefer [`crate::pidfd::send_signal`].
///
/// # Errors
/// ESRCH, EPERM, EINVAL.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// Sends a signal to one thread of a process (tgkill(2)).
///
/// # Errors
/// ESRCH when that process has no such thread; EPERM, EINVAL.
pub fn signal_thread(pid: i32, tid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// The effective user and group ids of the caller.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: these calls cannot fail and take nothing.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// The time of a clock (`CLOCK_*`) in nanoseconds.
///
/// # Errors
/// EINVAL for an unknown clock.
pub fn clock(clock: i32) -> Result<i128> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call.
    check(i64::from(unsafe {
        libc::clock_gettime(clock, &raw mut time)
    }))?;
    Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}

/// The core scheduling cookie of task `tid`; 0 when it has none (prctl(2), PR_SCHED_CORE_GET). Needs ptrace access.
///
/// # Errors
/// EINVAL without CONFIG_SCHED_CORE (Linux 5.14); ENODEV without simultaneous multithreading; EPERM, ESRCH.
pub fn core_scheduling_cookie(tid: i32) -> Result<u64> {
    const PR_SCHED_CORE: i32 = 62;
    const PR_SCHED_CORE_GET: libc::c_ulong = 0;
    const PR_SCHED_CORE_SCOPE_THREAD: libc::c_ulong = 0;
    let tid = tid as libc::c_ulong;
    let mut cookie = 0_u64;
    // SAFETY: the command stores eight bytes at the address given, which outlives the call.
    check(i64::from(unsafe {
        libc::prctl(
            PR_SCHED_CORE,
            PR_SCHED_CORE_GET,
            tid,
            PR_SCHED_CORE_SCOPE_THREAD,
            &raw mut cookie,
        )
    }))?;
    Ok(cookie)
}

/// The caller's secure bits (capabilities(7), "The securebits flags").
///
/// # Errors
/// None known.
pub fn secure_bits() -> Result<u32> {
    // SAFETY: no pointers are passed.
    check(i64::from(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) })).map(|bits| bits as u32)
}

/// Whether timer_create(2) can be told which id to give (prctl PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15). Asks only.
pub fn may_choose_timer_ids() -> bool {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const GET: libc::c_ulong = 2;
    // SAFETY: no pointers are passed.
    let answer = unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, 0_u64, 0_u64, 0_u64) };
    answer >= 0
}

/// The process that last changed semaphore `number` of System V set `set` (semctl(2), GETPID); 0 when it lies outside of the
/// caller's pid namespace or nobody has.
///
/// # Errors
/// EACCES, EINVAL, EIDRM.
pub fn last_semaphore_user(set: i32, number: i32) -> Result<i32> {
    // SAFETY: the command takes no fourth argument.
    check(i64::from(unsafe {
        libc::semctl(set, number, libc::GETPID)
    }))
    .map(|pid| pid as i32)
}

/// How the caller stands to a speculation control: `PR_SPEC_*` bits (prctl(2), PR_GET_SPECULATION_CTRL).
///
/// # Errors
/// ENODEV for a control that this processor or kernel does not know.
pub fn speculation_control(control: u64) -> Result<u32> {
    // SAFETY: no pointers are passed.
    let answer = unsafe {
        libc::prctl(
            crate::uapi::PR_GET_SPECULATION_CTRL,
            control,
            0_u64,
            0_u64,
            0_u64,
        )
    };
    check(i64::from(answer)).map(|bits| bits as u32)
}

/// Gives task `tid` a fresh core scheduling cookie, which only it has (prctl(2), PR_SCHED_CORE_CREATE). Needs ptrace access.
///
/// # Errors
/// As [`core_scheduling_cookie`]; ENOMEM.
pub fn create_core_scheduling_cookie(tid: i32) -> Result<()> {
    const PR_SCHED_CORE: i32 = 62;
    const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
    const PR_SCHED_CORE_SCOPE_THREAD: libc::c_ulong = 0;
    let tid = tid as libc::c_ulong;
    // SAFETY: no pointers are passed.
    let answer = unsafe {
        libc::prctl(
            PR_SCHED_CORE,
            PR_SCHED_CORE_CREATE,
            tid,
            PR_SCHED_CORE_SCOPE_THREAD,
            0_u64,
        )
    };
    check(i64::from(answer)).map(drop)
}

/// Has the calling thread be of this user and group from now on: real, effective and saved (setresgid(2), setresuid(2)).
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID; EINVAL for what its user namespace does not know.
pub fn become_user(user: u32, group: u32) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) })?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }).map(drop)
}

/// Whether there can be Landlock domains (landlock_create_ruleset(2) for the version); where nobody may ask, there can.
pub fn knows_landlock() -> bool {
    const LANDLOCK_CREATE_RULESET_VERSION: u64 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: asked for the version the kernel reads nothing.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    });
    let absent = |error: std::io::Error| {
        matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP))
    };
    !version.is_err_and(absent)
}

/// Whether others with the caller's users and capabilities may look at it (prctl(2), PR_GET_DUMPABLE).
pub fn is_dumpable() -> bool {
    // SAFETY: no pointers are passed.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) == 1 }
}
