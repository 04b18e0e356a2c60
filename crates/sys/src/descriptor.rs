//! Descriptors of this process: flags, pipes, event sources, waiting.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

fn owned(value: libc::c_long) -> Result<OwnedFd> {
    let fd = check(value)?;
    // SAFETY: callers pass the result of a call that has just created this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fcntl(2) with a plain number as argument.
///
/// # Errors
/// As the command says.
pub fn control(fd: BorrowedFd<'_>, command: i32, argument: i64) -> Result<i64> {
    // SAFETY: used with commands whose argument is a number; the kernel checks it.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), command, argument)
    }))
    .map(|value| value as i64)
}

/// Bytes that can be read at once (FIONREAD).
///
/// # Errors
/// ENOTTY for descriptors that do not know.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut count = 0_i32;
    // SAFETY: `count` outlives the call, which writes one int.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count)
    }))?;
    Ok(count.max(0) as usize)
}

/// Copies up to `length` bytes from pipe to pipe without consuming them (tee(2)), never blocking.
///
/// # Errors
/// EAGAIN when there is nothing to copy or no room.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<usize> {
    // SAFETY: no pointers are passed.
    check(unsafe {
        libc::tee(
            from.as_raw_fd(),
            to.as_raw_fd(),
            length,
            libc::SPLICE_F_NONBLOCK,
        )
    } as i64)
    .map(|n| n as usize)
}

/// Makes a pipe: (read end, write end), both close-on-exec, with the `O_*` flags given.
///
/// # Errors
/// EMFILE, ENFILE.
pub fn pipe(flags: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: the array has room for both descriptors.
    check(i64::from(unsafe {
        libc::pipe2(ends.as_mut_ptr(), flags | libc::O_CLOEXEC)
    }))?;
    // SAFETY: pipe2 has just created both.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes an eventfd(2) with the given count and `EFD_*` flags.
///
/// # Errors
/// EMFILE, EINVAL.
pub fn eventfd(count: u32, flags: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(i64::from(unsafe {
        libc::eventfd(count, flags | libc::EFD_CLOEXEC)
    }))
}

/// Makes an epoll(7) instance.
///
/// # Errors
/// EMFILE.
pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(i64::from(unsafe {
        libc::epoll_create1(libc::EPOLL_CLOEXEC)
    }))
}

/// Makes a timerfd_create(2) timer on `clock` with `TFD_*` flags.
///
/// # Errors
/// EINVAL, EPERM for alarm clocks without CAP_WAKE_ALARM.
pub fn timerfd(clock: i32, flags: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(i64::from(unsafe {
        libc::timerfd_create(clock, flags | libc::TFD_CLOEXEC)
    }))
}

/// Makes a signalfd(2) for the signals in `mask` (bit 0 is signal 1).
///
/// # Errors
/// EMFILE, EINVAL.
pub fn signalfd(mask: u64, flags: i32) -> Result<OwnedFd> {
    // SAFETY: the mask is 8 bytes long, as is told, and outlives the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            8,
            flags | libc::SFD_CLOEXEC,
        )
    })
}

/// Makes a memory file (memfd_create(2)), close-on-exec.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn memory_file(name: &std::ffi::CStr) -> Result<OwnedFd> {
    // SAFETY: `name` is a valid C string.
    owned(i64::from(unsafe {
        libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC)
    }))
}

/// The events (`POLL*`) that are there right now, of those asked for and of POLLERR, POLLHUP.
///
/// # Errors
/// ENOMEM.
pub fn poll_now(fd: BorrowedFd<'_>, events: i16) -> Result<i16> {
    poll_for(fd, events, 0)
}

/// The events that come within `milliseconds`, as [`poll_now`].
///
/// # Errors
/// ENOMEM, EINTR.
pub fn poll_for(fd: BorrowedFd<'_>, events: i16, milliseconds: i32) -> Result<i16> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one entry, which outlives the call.
    check(i64::from(unsafe {
        libc::poll(&raw mut entry, 1, milliseconds)
    }))?;
    Ok(entry.revents)
}

/// Waits without limit until one of two descriptors has one of its events (`POLL*`), POLLERR or POLLHUP.
///
/// # Errors
/// ENOMEM, EINTR.
pub fn poll_pair(
    (first, first_events): (BorrowedFd<'_>, i16),
    (second, second_events): (BorrowedFd<'_>, i16),
) -> Result<()> {
    let entry = |fd: BorrowedFd<'_>, events| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut entries = [entry(first, first_events), entry(second, second_events)];
    // SAFETY: two entries, which outlive the call.
    check(i64::from(unsafe {
        libc::poll(entries.as_mut_ptr(), 2, -1)
    }))
    .map(drop)
}

/// Arms a timerfd: (first expiry, interval) in nanoseconds, 0 disarms; `TFD_TIMER_*` flags.
///
/// # Errors
/// EINVAL; ECANCELED.
pub fn set_timerfd(fd: BorrowedFd<'_>, flags: i32, value: u64, interval: u64) -> Result<()> {
    let time = |ns: u64| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    };
    let setting = libc::itimerspec {
        it_interval: time(interval),
        it_value: time(value),
    };
    // SAFETY: `setting` outlives the call; no old value is asked for.
    check(i64::from(unsafe {
        libc::timerfd_settime(
            fd.as_raw_fd(),
            flags,
            &raw const setting,
            std::ptr::null_mut(),
        )
    }))?;
    Ok(())
}

/// Asks a timerfd for its time (timerfd_gettime(2)), which makes the kernel count the expirations of a periodic one up to now:
/// until then it has counted the first only. The owner sees no difference.
///
/// # Errors
/// EINVAL for a descriptor of another kind.
pub fn count_timerfd(fd: BorrowedFd<'_>) -> Result<()> {
    const ZERO: libc::timespec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut setting = libc::itimerspec {
        it_interval: ZERO,
        it_value: ZERO,
    };
    // SAFETY: `setting` outlives the call, which fills it.
    check(i64::from(unsafe {
        libc::timerfd_gettime(fd.as_raw_fd(), &raw mut setting)
    }))
    .map(drop)
}

/// Sets the number of expirations that a timerfd has not reported yet (TFD_IOC_SET_TICKS).
///
/// # Errors
/// ENOTTY without CONFIG_CHECKPOINT_RESTORE.
pub fn set_timerfd_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<()> {
    const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;
    // SAFETY: `ticks` outlives the call, which reads 8 bytes.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks)
    }))?;
    Ok(())
}

/// A duplicate, close-on-exec, of the descriptor with a number that this process was started with: such a one does not close at
/// exec, unlike all that it opens itself.
///
/// # Errors
/// EBADF, also for one that closes at exec.
pub fn copy_of_number(number: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let flags = check(i64::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    if flags & libc::FD_CLOEXEC as u64 != 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: no pointers are passed; what the number stands for is not touched, and the duplicate is nobody else's.
    owned(i64::from(unsafe {
        libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3)
    }))
}

/// Duplicates a descriptor at exactly the number `target`, which is replaced.
///
/// # Errors
/// EBADF.
pub fn duplicate_to(fd: BorrowedFd<'_>, target: i32) -> Result<()> {
    // SAFETY: no pointers; the caller decides about `target`, which this crate's owners do not hold.
    check(i64::from(unsafe { libc::dup3(fd.as_raw_fd(), target, 0) })).map(drop)
}

/// Makes the calling process' table of descriptors large enough for `count` (or for as many as its limit allows), once and for
/// all. Done while there is one thread it costs nothing; with several the kernel waits for a grace period of several
/// milliseconds at every doubling (`expand_fdtable` in fs/file.c).
pub fn make_room(count: i32) {
    let limit = crate::task::limit(0, crate::uapi::RLIMIT_NOFILE).map_or(1024, |limit| limit.soft);
    let highest = i64::from(count).min(i64::try_from(limit).unwrap_or(i64::MAX)) - 1;
    // SAFETY: integers only; the descriptor that this makes is closed again and was nobody's before.
    unsafe {
        let high = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, highest);
        if high >= 0 {
            libc::close(high);
        }
    }
}
