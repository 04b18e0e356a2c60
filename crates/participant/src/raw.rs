//! What a library inside of a program cannot do without `unsafe`: memory of its own, signals, futexes, a process without exec's
//! wrappers. Each function is one call, or the few that must not be apart.

use std::ffi::{CStr, c_char, c_int};
use std::io::{Error, Result};
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use crate::board::{Board, MAGIC, SIZE};
use crate::life::Life;

const PAGE: usize = 4096;

/// What this process knows of its taking part; null until it takes part, and again in a child after fork.
static LIFE: AtomicPtr<Life> = AtomicPtr::new(null_mut());

fn check(result: c_int) -> Result<()> {
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

/// What this process knows of its taking part, if it does.
pub fn life_so_far() -> Option<&'static Life> {
    // SAFETY: what is stored in LIFE came out of Box::leak in `life` and is never freed.
    unsafe { LIFE.load(Ordering::Acquire).as_ref() }
}

/// What this process knows of its taking part, which begins now if it has not.
///
/// # Errors
/// When there is no memory for a board.
pub fn life() -> Result<&'static Life> {
    static AT_FORK: Once = Once::new();
    if let Some(life) = life_so_far() {
        return Ok(life);
    }
    AT_FORK.call_once(|| {
        // SAFETY: the handler makes only calls that signal handlers may make. It stays loaded as long as this library does; a
        // library with thread-local destructors is not unloaded (dlclose(3)).
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    });
    let new: *mut Life = Box::leak(Box::new(Life::new(allocate_board()?)));
    match LIFE.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: it was leaked a moment ago.
        Ok(_) => Ok(unsafe { &*new }),
        Err(first) => {
            // SAFETY: nobody else has seen `new`, nor its board, which is not used any more.
            unsafe {
                unmap_board((*new).board);
                drop(Box::from_raw(new));
                Ok(&*first)
            }
        }
    }
}

/// The child after fork takes part in nothing: it has neither the waiter nor a board of its own.
extern "C" fn forget_in_child() {
    let old = LIFE.swap(null_mut(), Ordering::AcqRel);
    if crate::gate::forget_in_child() {
        // A callback that comes back in the child goes on with the old board, which nobody reads.
        return;
    }
    // SAFETY: as in `life_so_far`. The board is unmapped in the child only, whose one thread is here; nothing refers to it any
    // more but the old life, which nobody can reach now.
    unsafe {
        if let Some(old) = old.as_ref() {
            unmap_board(old.board);
        }
    }
}

/// # Safety
/// Nobody may use the board again.
unsafe fn unmap_board(board: &'static Board) {
    let start = std::ptr::from_ref(board).cast::<u8>();
    // SAFETY: `allocate_board` has mapped exactly this range; the caller says that nobody uses it.
    unsafe {
        libc::munmap(start.sub(PAGE).cast_mut().cast(), SIZE + 2 * PAGE);
    }
}

/// Memory for a board between two pages that nobody may touch, with its beginning filled in.
fn allocate_board() -> Result<&'static Board> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let start = unsafe { libc::mmap(null_mut(), SIZE + 2 * PAGE, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: inside of the mapping that was just made.
    let board = unsafe { start.cast::<u8>().add(PAGE) };
    // SAFETY: the same; nobody refers to it yet.
    check(unsafe { libc::mprotect(board.cast(), SIZE, libc::PROT_READ | libc::PROT_WRITE) })?;
    // SAFETY: the memory is as large as a Board (asserted there), zeroed, aligned to a page, and stays mapped; a Board is all
    // atomic numbers, for which every content is good, and which may change behind our back.
    let board: &'static Board = unsafe { &*board.cast::<Board>() };
    board.process.store(process_id(), Ordering::Relaxed);
    let address = std::ptr::from_ref(board) as u64;
    board.address.store(address, Ordering::Relaxed);
    for (place, byte) in board.magic.iter().zip(MAGIC) {
        place.store(byte, Ordering::Relaxed);
    }
    Ok(board)
}

/// This process.
pub fn process_id() -> u32 {
    std::process::id()
}

/// This thread (gettid(2)).
pub fn thread_id() -> u32 {
    // SAFETY: a call without arguments, which cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// The highest real-time signal that this program leaves to its default, but for the last two, which others like to take.
pub fn free_signal() -> Option<c_int> {
    (libc::SIGRTMIN()..=libc::SIGRTMAX() - 2)
        .rev()
        .find(|signal| {
            // SAFETY: all zeros is a sigaction, and it is only written to.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(*signal, null(), &raw mut action) == 0
                    && action.sa_sigaction == libc::SIG_DFL
            }
        })
}

/// Has `signal` handled by [`crate::threads::asked`], with all signals blocked.
///
/// # Errors
/// As sigaction(2).
pub fn handle_signal(signal: c_int) -> Result<()> {
    // SAFETY: all zeros is a sigaction; the handler below makes only calls that handlers may make, and keeps errno.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        action.sa_mask = all_but_synchronous();
        check(libc::sigaction(signal, &raw const action, null_mut()))
    }
}

extern "C" fn handler(_signal: c_int) {
    // SAFETY: the place of this thread's errno is always there.
    let errno = unsafe { *libc::__errno_location() };
    crate::threads::asked();
    // SAFETY: the same.
    unsafe { *libc::__errno_location() = errno };
}

/// All signals but those that an instruction causes: blocked, the kernel would kill a program that handles them.
fn all_but_synchronous() -> libc::sigset_t {
    // SAFETY: all zeros is a set of signals, on this stack.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGSYS,
        ] {
            libc::sigdelset(&raw mut all, signal);
        }
        all
    }
}

/// Runs something with the signals of this thread blocked, but for those that an instruction causes: a thread that it starts has
/// them blocked for ever.
pub fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: sets of signals on this stack; all zeros is one.
    let before = unsafe {
        let all = all_but_synchronous();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    };
    let result = work();
    // SAFETY: the mask that was just read.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, null_mut()) };
    result
}

/// Waits for a signal that this thread blocks, for so long or for ever.
pub fn await_signal(signal: c_int, limit: Option<Duration>) {
    let limit = limit.map(time_of);
    let limit = limit.as_ref().map_or(null(), std::ptr::from_ref);
    // SAFETY: the set and the time are on this stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigtimedwait(&raw const set, null_mut(), limit);
    }
}

fn time_of(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// The threads of this process that do not block a signal, as far as /proc shows them.
pub fn threads_accepting(signal: c_int) -> Vec<u32> {
    let accepts = |thread: &u32| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status"));
        let status = status.unwrap_or_default();
        let blocked = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        blocked.is_some_and(|mask| mask & 1 << (signal - 1) == 0)
    };
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let threads = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    threads.filter(accepts).collect()
}

/// Sends a signal to a thread of this process; an error means that it has ended.
pub fn signal_thread(thread: u32, signal: c_int) -> Result<()> {
    // SAFETY: a call with three numbers.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process_id(), thread, signal) };
    check(result as c_int)
}

/// Waits as long as `word` is `value`, for so long at most. It may return early.
pub fn await_change(word: &AtomicU32, value: u32, limit: Option<Duration>) {
    let limit = limit.map(time_of);
    let limit = limit.as_ref().map_or(null(), std::ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is borrowed as long as the call lasts, and the kernel only reads it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, limit) };
}

/// Wakes all who wait for a change of `word`.
pub fn wake_all(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel only takes the address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, c_int::MAX) };
}

/// Where standard input and output of a program lead that is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// Nowhere.
    Nowhere,
    /// Where those of this process do.
    Own,
}

/// Starts a program as a child of which no SIGCHLD and no ordinary wait tells, with nothing blocked.
///
/// # Errors
/// As clone(2). A program that cannot be executed ends with 127.
pub fn start_quietly(path: &CStr, arguments: &[&CStr], standard: Standard) -> Result<i32> {
    let mut vector: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    vector.push(null());
    // Where Yama keeps processes from tracing others than their children: whoever descends from this one may trace it now. Elsewhere it
    // says that it is not there.
    // SAFETY: a call with numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, process_id(), 0, 0, 0) };
    // SAFETY: like fork, but for the exit signal. The child makes only calls that signal handlers may make, on memory that was
    // laid out before, and then executes or ends. The environment is read as execvp does.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0);
        if child < 0 {
            return Err(Error::last_os_error());
        }
        if child == 0 {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            let nothing = match standard {
                Standard::Nowhere => libc::open(c"/dev/null".as_ptr(), libc::O_RDWR),
                Standard::Own => -1,
            };
            if nothing >= 0 {
                libc::dup2(nothing, 0);
                libc::dup2(nothing, 1);
                if nothing > 2 {
                    libc::close(nothing);
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, null_mut());
            libc::execvp(path.as_ptr(), vector.as_ptr());
            libc::_exit(127);
        }
        Ok(child as i32)
    }
}

/// Lets nobody trace this process who could not by default: the end of what [`start_quietly`] allows.
pub fn allow_nobody() {
    // SAFETY: a call with numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, 0, 0, 0, 0) };
}

/// The wait status of a child that was started quietly, if it has ended.
pub fn has_ended(child: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the status is on this stack.
    let ended = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL | libc::WNOHANG) };
    (ended == child).then_some(status)
}

/// Waits for the end of a child that was started quietly; its wait status, or nothing if there is no such child (any more).
pub fn await_end(child: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: the status is on this stack.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
        if ended == child {
            return Some(status);
        }
        if ended < 0 && Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}
