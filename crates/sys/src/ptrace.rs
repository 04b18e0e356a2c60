//! ptrace(2), one function per request. The caller must be the thread that seized the task.

pub mod seccomp;
pub mod segment;

use std::ptr;

use crate::arch::Registers;
use crate::{Result, check};

/// `PTRACE_O_*` options; combine with `|`.
pub type Options = i32;

/// Stop on fork, vfork and clone, following the new task.
pub const FOLLOW_TASKS: Options =
    libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
/// Stop after a successful execve.
pub const STOP_AT_EXEC: Options = libc::PTRACE_O_TRACEEXEC;
/// Mark system call stops with bit 0x80 of the stop signal.
pub const MARK_SYSTEM_CALLS: Options = libc::PTRACE_O_TRACESYSGOOD;
/// Kill the tracee when the tracer ends.
pub const KILL_WITH_TRACER: Options = libc::PTRACE_O_EXITKILL;
/// Suspend the tracee's seccomp filters while it is traced (CAP_SYS_ADMIN in the initial user namespace).
pub const SUSPEND_SECCOMP: Options = 1 << 21;

/// The event number of a stop by PTRACE_INTERRUPT and of group stops, for seized tracees.
pub const EVENT_STOP: i32 = 128;
/// The event number of an execve stop.
pub const EVENT_EXEC: i32 = libc::PTRACE_EVENT_EXEC;

const PEEKSIGINFO_SHARED: u32 = 1;
// Named here too: their type in `libc` is not that of the other requests everywhere.
const PTRACE_GETSIGMASK: Request = 0x420a;
const PTRACE_SETSIGMASK: Request = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: Request = 0x420f;
const PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: Request = 0x4210;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: Request = 0x4211;
const NT_X86_XSTATE: usize = 0x202;

/// One `siginfo_t` as the kernel lays it out: 128 bytes, opaque here.
pub type RawSiginfo = [u8; 128];

/// What ptrace(2) calls a request: the C libraries disagree about its sign.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
/// What ptrace(2) calls a request: the C libraries disagree about its sign.
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn request(number: Request, tid: i32, address: usize, data: usize) -> Result<u64> {
    // SAFETY: callers in this module pass in `data` either a plain number or the address of a buffer of the size that the request
    // documents, and that buffer outlives the call.
    check(unsafe { libc::ptrace(number, tid, address, data) })
}

/// Attaches to task `tid` without stopping it.
///
/// # Errors
/// EPERM (no access, or traced by another), ESRCH.
pub fn seize(tid: i32, options: Options) -> Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options as usize).map(drop)
}

/// Asks a seized task to stop; the stop is then reported by wait with [`EVENT_STOP`].
///
/// # Errors
/// ESRCH when it has ended.
pub fn interrupt(tid: i32) -> Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped tracee run on, delivering `signal` (0 for none).
///
/// # Errors
/// ESRCH when it is not stopped or has ended.
pub fn resume(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Like [`resume`], to the next entry to or exit from a system call.
///
/// # Errors
/// As [`resume`].
pub fn resume_to_system_call(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Executes one instruction, delivering `signal` (0 for none) first.
///
/// # Errors
/// As [`resume`].
pub fn single_step(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_SINGLESTEP, tid, 0, signal as usize).map(drop)
}

/// Ends tracing of a stopped tracee and lets it run, delivering `signal` (0 for none).
///
/// # Errors
/// As [`resume`].
pub fn detach(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// Replaces the options of a stopped tracee.
///
/// # Errors
/// As [`resume`]; EPERM for [`SUSPEND_SECCOMP`] without the privilege.
pub fn set_options(tid: i32, options: Options) -> Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Reads the general registers of a stopped tracee.
///
/// # Errors
/// As [`resume`].
pub fn registers(tid: i32) -> Result<Registers> {
    let mut registers = Registers::default();
    request(libc::PTRACE_GETREGS, tid, 0, (&raw mut registers) as usize)?;
    Ok(registers)
}

/// Writes the general registers of a stopped tracee.
///
/// # Errors
/// As [`resume`]; EIO for values that user mode may not have.
pub fn set_registers(tid: i32, registers: &Registers) -> Result<()> {
    request(
        libc::PTRACE_SETREGS,
        tid,
        0,
        ptr::from_ref(registers) as usize,
    )
    .map(drop)
}

/// Reads the extended processor state (xsave area, standard format) into `buffer`; returns its length in bytes.
///
/// # Errors
/// As [`resume`]; ENODEV on processors without xsave.
pub fn extended_state(tid: i32, buffer: &mut [u8]) -> Result<usize> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut vector) as usize,
    )?;
    Ok(vector.iov_len)
}

/// Writes the extended processor state back.
///
/// # Errors
/// EINVAL when the area does not fit this processor.
pub fn set_extended_state(tid: i32, state: &[u8]) -> Result<()> {
    let mut vector = libc::iovec {
        iov_base: state.as_ptr().cast_mut().cast(),
        iov_len: state.len(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut vector) as usize,
    )
    .map(drop)
}

/// Reads the mask of blocked signals; inside a call that swaps masks (ppoll and its kin) the one that will be put back.
///
/// # Errors
/// As [`resume`].
pub fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask = 0_u64;
    request(PTRACE_GETSIGMASK, tid, 8, (&raw mut mask) as usize)?;
    Ok(mask)
}

/// Sets the mask of blocked signals.
///
/// # Errors
/// As [`resume`].
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    request(PTRACE_SETSIGMASK, tid, 8, (&raw const mask) as usize).map(drop)
}

/// Which queue of pending signals to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The task's own.
    Task,
    /// The one that all tasks of the process share.
    Process,
}

/// Reads pending signals without taking them, in order of delivery.
///
/// # Errors
/// As [`resume`].
pub fn pending_signals(tid: i32, queue: Queue) -> Result<Vec<RawSiginfo>> {
    #[repr(C)]
    struct PeekArguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    let mut found = Vec::new();
    let mut buffer = [[0_u8; 128]; 32];
    loop {
        let flags = if queue == Queue::Process {
            PEEKSIGINFO_SHARED
        } else {
            0
        };
        let arguments = PeekArguments {
            offset: found.len() as u64,
            flags,
            count: buffer.len() as i32,
        };
        let count = request(
            libc::PTRACE_PEEKSIGINFO,
            tid,
            (&raw const arguments) as usize,
            buffer.as_mut_ptr() as usize,
        )? as usize;
        found.extend_from_slice(&buffer[..count]);
        if count < buffer.len() {
            return Ok(found);
        }
    }
}

/// Reads the `siginfo_t` of the current stop.
///
/// # Errors
/// EINVAL at a group stop.
pub fn stop_siginfo(tid: i32) -> Result<RawSiginfo> {
    let mut siginfo = [0_u8; 128];
    request(
        libc::PTRACE_GETSIGINFO,
        tid,
        0,
        siginfo.as_mut_ptr() as usize,
    )?;
    Ok(siginfo)
}

/// Reads the message of an event stop: the new task's id at fork, vfork and clone.
///
/// # Errors
/// As [`resume`].
pub fn event_message(tid: i32) -> Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(
        libc::PTRACE_GETEVENTMSG,
        tid,
        0,
        (&raw mut message) as usize,
    )?;
    Ok(message)
}

/// A task's registration of restartable sequences (rseq(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of `struct rseq`, 0 when not registered.
    pub address: u64,
    /// Its registered length in bytes.
    pub length: u32,
    /// The signature before abort handlers.
    pub signature: u32,
    /// Always 0 today.
    pub flags: u32,
    padding: u32,
}

/// Reads a task's rseq registration.
///
/// # Errors
/// EIO on kernels before 5.13.
pub fn rseq_configuration(tid: i32) -> Result<RseqConfiguration> {
    let mut configuration = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size,
        (&raw mut configuration) as usize,
    )?;
    Ok(configuration)
}

/// A task's system call user dispatch (prctl(2), PR_SET_SYSCALL_USER_DISPATCH).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserDispatch {
    /// 0 when off.
    pub mode: u64,
    /// Address of the selector byte.
    pub selector: u64,
    /// Start of the region whose calls pass.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Reads a task's system call user dispatch.
///
/// # Errors
/// EIO on kernels before 6.4.
pub fn user_dispatch(tid: i32) -> Result<UserDispatch> {
    let mut configuration = UserDispatch::default();
    let size = size_of::<UserDispatch>();
    request(
        PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
        tid,
        size,
        (&raw mut configuration) as usize,
    )?;
    Ok(configuration)
}

/// Sets a task's system call user dispatch. A region that is told inverted, since only calls from within are dispatched
/// (PR_SYS_DISPATCH_INCLUSIVE_ON, Linux 6.17), is set as what it is.
///
/// # Errors
/// EIO on kernels before 6.4; EINVAL for a region that wraps around; EFAULT for a selector outside of user memory.
pub fn set_user_dispatch(tid: i32, dispatch: &UserDispatch) -> Result<()> {
    const INCLUSIVE: u64 = 2;
    let set = |dispatch: &UserDispatch| {
        let address = ptr::from_ref(dispatch) as usize;
        let size = size_of::<UserDispatch>();
        request(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, address).map(drop)
    };
    let end = dispatch.offset.wrapping_add(dispatch.length);
    if dispatch.mode == 1 && dispatch.offset != 0 && end <= dispatch.offset {
        let inclusive = UserDispatch {
            mode: INCLUSIVE,
            offset: end,
            length: dispatch.length.wrapping_neg(),
            ..*dispatch
        };
        return set(&inclusive);
    }
    set(dispatch)
}

/// Writes eight bytes into the tracee, also where its own protection forbids it.
///
/// # Errors
/// EIO for an unmapped address.
pub fn poke(tid: i32, address: u64, word: u64) -> Result<()> {
    request(libc::PTRACE_POKEDATA, tid, address as usize, word as usize).map(drop)
}

const _: () = assert!(size_of::<RseqConfiguration>() == 24);
const _: () = assert!(size_of::<UserDispatch>() == 32);
