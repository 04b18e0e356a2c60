//! `/proc/PID/fdinfo/FD`: proc_pid_fdinfo(5), kernel fs/proc/fd.c and each file type's `show_fdinfo`.

use crate::error::ParseError;
use crate::scan;

/// What the kernel tells about one descriptor. The extra fields exist for the file types named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// File position.
    pub position: i64,
    /// Open flags (`O_*`, also `O_CLOEXEC` of this descriptor).
    pub flags: u32,
    /// Id of the mount the file was opened on, as in `mountinfo`; internal mounts are not listed there.
    pub mount_id: i32,
    /// Inode number (Linux 5.15).
    pub inode: Option<u64>,
    /// eventfd: its state.
    pub eventfd: Option<EventFd>,
    /// signalfd: its signal set; bit 0 is signal 1.
    pub signal_mask: Option<u64>,
    /// epoll: the descriptors it watches.
    pub epoll_targets: Vec<EpollTarget>,
    /// timerfd: its state.
    pub timerfd: Option<TimerFd>,
    /// inotify: its watches.
    pub inotify_watches: Vec<InotifyWatch>,
    /// fanotify: its lines, raw; not empty for any fanotify descriptor.
    pub fanotify: Vec<Vec<u8>>,
    /// Locks that were set through this description and belong to it or to the process: what follows `lock:`, raw, for
    /// [`crate::locks::parse_line`].
    pub locks: Vec<Vec<u8>>,
    /// pidfd: the process; -1 if it has been reaped, 0 if outside the reader's pid namespace.
    pub pid: Option<i32>,
    /// pidfd: the process in each nested pid namespace.
    pub namespace_pids: Vec<i32>,
    /// Unix socket: descriptors waiting in its receive queue.
    pub scm_fds: Option<u32>,
    /// Every other line, raw: userfaultfd, io_uring, tun, DRM, dma-buf …
    pub other: Vec<Vec<u8>>,
}

/// State of an eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventFd {
    /// Counter.
    pub count: u64,
    /// Id, the same for all descriptors of one eventfd (Linux 5.2).
    pub id: Option<i32>,
    /// Made with `EFD_SEMAPHORE` (Linux 6.5).
    pub semaphore: Option<bool>,
}

/// One registration in an epoll instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpollTarget {
    /// Descriptor number it was registered under; may since be closed or another file.
    pub descriptor: i32,
    /// `EPOLL*` bits; 0 interest bits after `EPOLLONESHOT` fired.
    pub events: u32,
    /// The user's data.
    pub data: u64,
    /// Position of the target file.
    pub position: i64,
    /// Inode of the target file.
    pub inode: u64,
    /// Device of the target file, the kernel's internal number (major << 20 | minor).
    pub device: u64,
}

/// State of a timerfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimerFd {
    /// Clock id.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// Flags of timerfd_settime(2).
    pub settime_flags: u32,
    /// Time to the next expiration, seconds and nanoseconds; zero when disarmed. Relative in any case.
    pub value: (u64, u32),
    /// Interval, seconds and nanoseconds.
    pub interval: (u64, u32),
}

/// One watch of an inotify instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyWatch {
    /// Watch descriptor.
    pub descriptor: i32,
    /// Watched inode.
    pub inode: u64,
    /// Its file system, the kernel's internal device number (major << 20 | minor).
    pub device: u64,
    /// `IN_*` event mask.
    pub mask: u32,
    /// Type of the file handle for open_by_handle_at(2), where the file system has handles.
    pub handle_type: Option<i32>,
    /// The file handle's bytes.
    pub handle: Vec<u8>,
}

/// Parses one `fdinfo` file.
///
/// # Errors
/// If a known line has no valid value, or `pos`, `flags` or `mnt_id` is missing.
pub fn parse(text: &[u8]) -> Result<FdInfo, ParseError> {
    let mut information = FdInfo::default();
    let mut seen = 0_u32;
    let mut last = 1;
    for (number, line) in scan::Lines::new(text) {
        last = number;
        let bit = read_line(&mut information, line)
            .ok_or_else(|| ParseError::new("fdinfo", number, "bad value", line))?;
        seen |= bit;
    }
    if seen != POSITION | FLAGS | MOUNT {
        return Err(ParseError::new(
            "fdinfo",
            last,
            "one of pos, flags, mnt_id is missing",
            text,
        ));
    }
    Ok(information)
}

const POSITION: u32 = 1;
const FLAGS: u32 = 2;
const MOUNT: u32 = 4;

/// Reads one line; gives the bit of a required line (else 0), or `None` if the value is bad.
fn read_line(information: &mut FdInfo, line: &[u8]) -> Option<u32> {
    if line.starts_with(b"inotify ") {
        information.inotify_watches.push(inotify(line)?);
        return Some(0);
    }
    if line.starts_with(b"fanotify ") {
        information.fanotify.push(line.to_vec());
        return Some(0);
    }
    let Some((key, raw)) = scan::cut(line, b':') else {
        information.other.push(line.to_vec());
        return Some(0);
    };
    let value = raw.trim_ascii();
    match key {
        b"pos" => {
            information.position = scan::decimal(value)?;
            return Some(POSITION);
        }
        b"flags" => {
            information.flags = octal(value)?;
            return Some(FLAGS);
        }
        b"mnt_id" => {
            information.mount_id = scan::decimal(value)?;
            return Some(MOUNT);
        }
        b"ino" => information.inode = Some(scan::decimal(value)?),
        b"sigmask" => information.signal_mask = Some(scan::hexadecimal(value)?),
        b"lock" => information.locks.push(value.to_vec()),
        b"Pid" => information.pid = Some(scan::decimal(value)?),
        b"NSpid" => information.namespace_pids = scan::numbers(value)?,
        b"scm_fds" => information.scm_fds = Some(scan::decimal(value)?),
        b"tfd" => information.epoll_targets.push(epoll_target(line)?),
        _ => return event_or_timer(information, key, value, line),
    }
    Some(0)
}

/// Lines of eventfd and timerfd, and lines of no type known here.
fn event_or_timer(information: &mut FdInfo, key: &[u8], value: &[u8], line: &[u8]) -> Option<u32> {
    match key {
        b"eventfd-count" => event(information).count = scan::hexadecimal(value)?,
        b"eventfd-id" => event(information).id = Some(scan::decimal(value)?),
        b"eventfd-semaphore" => {
            event(information).semaphore = Some(scan::decimal::<u32>(value)? != 0)
        }
        b"clockid" => timer(information).clock = scan::decimal(value)?,
        b"ticks" => timer(information).ticks = scan::decimal(value)?,
        b"settime flags" => timer(information).settime_flags = octal(value)?,
        b"it_value" => timer(information).value = time(value)?,
        b"it_interval" => timer(information).interval = time(value)?,
        _ => information.other.push(line.to_vec()),
    }
    Some(0)
}

/// The eventfd state, made at its first line.
fn event(information: &mut FdInfo) -> &mut EventFd {
    information.eventfd.get_or_insert_default()
}

/// The timerfd state, made at its first line.
fn timer(information: &mut FdInfo) -> &mut TimerFd {
    information.timerfd.get_or_insert_default()
}

/// An octal number.
fn octal(value: &[u8]) -> Option<u32> {
    scan::unsigned(value, 8).and_then(|value| u32::try_from(value).ok())
}

/// `(seconds, nanoseconds)`.
fn time(value: &[u8]) -> Option<(u64, u32)> {
    let inner = value.strip_prefix(b"(")?.strip_suffix(b")")?;
    let (seconds, nanoseconds) = scan::cut(inner, b',')?;
    Some((
        scan::decimal(seconds.trim_ascii())?,
        scan::decimal(nanoseconds.trim_ascii())?,
    ))
}

/// `tfd: D events: X data: X  pos:D ino:X sdev:X`, kernel `ep_show_fdinfo`.
fn epoll_target(line: &[u8]) -> Option<EpollTarget> {
    let mut target = EpollTarget {
        descriptor: -1,
        events: 0,
        data: 0,
        position: 0,
        inode: 0,
        device: 0,
    };
    let mut words = scan::words(line);
    while let Some(word) = words.next() {
        let (key, mut value) = scan::cut(word, b':')?;
        if value.is_empty() {
            value = words.next()?;
        }
        match key {
            b"tfd" => target.descriptor = scan::decimal(value)?,
            b"events" => target.events = scan::hexadecimal(value)?,
            b"data" => target.data = scan::hexadecimal(value)?,
            b"pos" => target.position = scan::decimal(value)?,
            b"ino" => target.inode = scan::hexadecimal(value)?,
            b"sdev" => target.device = scan::hexadecimal(value)?,
            _ => {}
        }
    }
    (target.descriptor >= 0).then_some(target)
}

/// `inotify wd:X ino:X sdev:X mask:X ignored_mask:X fhandle-bytes:X fhandle-type:X f_handle:XX…`, kernel `inotify_fdinfo`.
fn inotify(line: &[u8]) -> Option<InotifyWatch> {
    let mut watch = InotifyWatch {
        descriptor: -1,
        inode: 0,
        device: 0,
        mask: 0,
        handle_type: None,
        handle: Vec::new(),
    };
    for word in scan::words(line).skip(1) {
        let (key, value) = scan::cut(word, b':')?;
        match key {
            b"wd" => watch.descriptor = scan::hexadecimal(value)?,
            b"ino" => watch.inode = scan::hexadecimal(value)?,
            b"sdev" => watch.device = scan::hexadecimal(value)?,
            b"mask" => watch.mask = scan::hexadecimal(value)?,
            b"fhandle-type" => watch.handle_type = Some(scan::hexadecimal(value)?),
            b"f_handle" => {
                watch.handle = value
                    .chunks(2)
                    .map(scan::hexadecimal)
                    .collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    (watch.descriptor >= 0).then_some(watch)
}
