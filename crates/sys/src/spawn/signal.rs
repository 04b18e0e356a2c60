//! Signal masks, signals as readable events (signalfd) and a periodic clock (timerfd).

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{check, check_int, owned};

/// A set of signals, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// Every signal.
    pub const FULL: SignalSet = SignalSet(u64::MAX);

    /// These signals; numbers outside 1 to 64 are left out.
    pub fn of(signals: &[i32]) -> SignalSet {
        SignalSet(
            signals
                .iter()
                .filter(|signal| (1..=64).contains(*signal))
                .fold(0, |bits, signal| bits | 1 << (signal - 1)),
        )
    }

    /// The set as /proc/PID/status prints it: bit n - 1 is signal n.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The set from such bits.
    pub fn from_bits(bits: u64) -> SignalSet {
        SignalSet(bits)
    }

    /// Both sets together.
    pub fn union(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }
}

fn change_mask(how: c_int, set: SignalSet) -> io::Result<SignalSet> {
    let mut before = 0u64;
    // The system call itself: the C library's function keeps two signals out of reach.
    // SAFETY: both sets are eight bytes, as said.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set.0,
            &raw mut before,
            size_of::<u64>(),
        )
    })?;
    Ok(SignalSet(before))
}

/// Blocks these signals too in the calling thread; returns the mask before.
pub fn block_signals(set: SignalSet) -> io::Result<SignalSet> {
    change_mask(libc::SIG_BLOCK, set)
}

/// Sets the calling thread's signal mask; returns the mask before.
pub fn set_signal_mask(set: SignalSet) -> io::Result<SignalSet> {
    change_mask(libc::SIG_SETMASK, set)
}

/// Gives a signal its default action.
pub fn default_signal_action(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives every signal that has a handler its default action, as exec would, and SIGPIPE too, which
/// the Rust runtime ignores. Other ignored signals stay ignored: `nohup` means it.
pub fn reset_signal_actions() {
    for signal in 1..=64 {
        // SAFETY: sigaction is plain data; a null new action only reads the old one.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                continue;
            }
            action.sa_sigaction
        };
        if action != libc::SIG_DFL && (action != libc::SIG_IGN || signal == libc::SIGPIPE) {
            // A signal whose action cannot be set has none to reset.
            let _ = default_signal_action(signal);
        }
    }
}

/// Signals as readable events (signalfd); never blocks, close-on-exec.
///
/// The signals must be blocked in all threads, or they take their ordinary way.
#[derive(Debug)]
pub struct SignalDescriptor(OwnedFd);

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrivedSignal {
    /// Its number.
    pub number: i32,
    /// Its `si_code`; `SI_KERNEL` (0x80) if the kernel sent it, as for a key on the terminal.
    pub code: i32,
    /// The sender's pid; 0 for the kernel and for senders outside the pid namespace.
    pub sender: u32,
}

impl SignalDescriptor {
    /// Opens one for these signals.
    pub fn new(set: SignalSet) -> io::Result<SignalDescriptor> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is eight bytes, as said.
        let descriptor = owned(unsafe {
            libc::syscall(
                libc::SYS_signalfd4,
                -1,
                &raw const set.0,
                size_of::<u64>(),
                flags,
            )
        })?;
        Ok(SignalDescriptor(descriptor))
    }

    /// The next signal that is pending; `None` if none is.
    pub fn next(&self) -> io::Result<Option<ArrivedSignal>> {
        // SAFETY: signalfd_siginfo is plain integers.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::signalfd_siginfo>();
        // SAFETY: info has `length` bytes of room.
        match check(unsafe {
            libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), length) as c_long
        }) {
            Ok(_) => Ok(Some(ArrivedSignal {
                number: info.ssi_signo as i32,
                code: info.ssi_code,
                sender: info.ssi_pid,
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for SignalDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A clock that becomes readable again and again (timerfd on CLOCK_MONOTONIC).
#[derive(Debug)]
pub struct IntervalTimer(OwnedFd);

impl IntervalTimer {
    /// Fires after `interval`, and then every `interval`; zero is refused with `EINVAL`.
    pub fn every(interval: Duration) -> io::Result<IntervalTimer> {
        if interval.is_zero() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: integers only.
        let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) } as c_long)?;
        let span = libc::timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(interval.subsec_nanos()),
        };
        let times = libc::itimerspec {
            it_interval: span,
            it_value: span,
        };
        // SAFETY: times outlives the call; a null old value is allowed.
        check_int(unsafe {
            libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut())
        })?;
        Ok(IntervalTimer(timer))
    }

    /// How often it fired since last asked; 0 if it has not.
    pub fn fired(&self) -> io::Result<u64> {
        let mut count = 0u64;
        // SAFETY: count has eight bytes of room.
        match check(unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) as c_long })
        {
            Ok(_) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for IntervalTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
