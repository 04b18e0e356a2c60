//! Terminals, pseudo-terminals and waiting for descriptors to become ready.
//!
//! Thin wrappers over termios(3), ioctl_tty(2), pty(7) and poll(2).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

pub mod pseudo;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A terminal's settings (termios(3)).
#[derive(Clone, Copy)]
pub struct Settings(libc::termios);

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("input", &format_args!("{:o}", self.0.c_iflag))
            .field("output", &format_args!("{:o}", self.0.c_oflag))
            .field("control", &format_args!("{:o}", self.0.c_cflag))
            .field("local", &format_args!("{:o}", self.0.c_lflag))
            .finish_non_exhaustive()
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        let (one, two) = (&self.0, &other.0);
        (one.c_iflag, one.c_oflag, one.c_cflag, one.c_lflag)
            == (two.c_iflag, two.c_oflag, two.c_cflag, two.c_lflag)
            && one.c_cc == two.c_cc
    }
}

impl Eq for Settings {}

impl Settings {
    /// The settings of a terminal; `ENOTTY` if it is none.
    pub fn of(terminal: BorrowedFd<'_>) -> io::Result<Settings> {
        // SAFETY: termios is plain integers.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: settings outlives the call.
        check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) })?;
        Ok(Settings(settings))
    }

    /// Gives them to a terminal at once (TCSANOW).
    ///
    /// A caller in a background process group of that terminal must ignore or block SIGTTOU, or it
    /// is stopped.
    pub fn apply(&self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            // SAFETY: the settings outlive the call.
            match check(unsafe {
                libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const self.0)
            }) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The same settings, but every byte passes as it is, at once, with no echo (cfmakeraw).
    pub fn raw(&self) -> Settings {
        let mut settings = self.0;
        // SAFETY: works on the plain data given.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        Settings(settings)
    }

    /// What of them a program chooses: the four words of modes, little-endian, then the control characters.
    pub fn to_bytes(&self) -> Vec<u8> {
        let modes = [
            self.0.c_iflag,
            self.0.c_oflag,
            self.0.c_cflag,
            self.0.c_lflag,
        ];
        let mut bytes: Vec<u8> = modes.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.0.c_cc);
        bytes
    }

    /// These settings with modes and control characters from [`Settings::to_bytes`]; `None` if the bytes are none of those.
    pub fn with_bytes(&self, bytes: &[u8]) -> Option<Settings> {
        let mut settings = self.0;
        let (modes, characters) = bytes.split_at_checked(16)?;
        let mut words = modes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word));
        settings.c_iflag = words.next()?;
        settings.c_oflag = words.next()?;
        settings.c_cflag = words.next()?;
        settings.c_lflag = words.next()?;
        settings.c_cc = characters.try_into().ok()?;
        Some(Settings(settings))
    }

    /// These settings, but every byte of input and output passes as it is, with no echo and no signal. Lines stay lines, ended by a
    /// newline or by `keys.end_of_file`; `keys.stop` and `keys.start` hold output back and let it go. What cannot be told from
    /// the other side, such as TOSTOP and the speed, stays.
    pub fn literal(&self, keys: Keys) -> Settings {
        let mut settings = self.0;
        settings.c_iflag &= libc::IUTF8;
        settings.c_iflag |= libc::IXON;
        settings.c_oflag &= !libc::OPOST;
        settings.c_lflag &= libc::ICANON | libc::EXTPROC | libc::TOSTOP;
        // 0 (_POSIX_VDISABLE): no key has this meaning.
        settings.c_cc = [0; libc::NCCS];
        settings.c_cc[libc::VMIN] = 1;
        settings.c_cc[libc::VEOF] = keys.end_of_file;
        settings.c_cc[libc::VSTOP] = keys.stop;
        settings.c_cc[libc::VSTART] = keys.start;
        Settings(settings)
    }

    /// These settings with no key that holds output back: what such a key has stopped goes on.
    pub fn without_flow_keys(&self) -> Settings {
        let mut settings = self.0;
        settings.c_iflag &= !libc::IXON;
        Settings(settings)
    }

    /// These settings with bytes of input in place of lines (no ICANON).
    pub fn without_lines(&self) -> Settings {
        let mut settings = self.0;
        settings.c_lflag &= !libc::ICANON;
        Settings(settings)
    }

    /// Whether somebody at the other end edits the lines (EXTPROC).
    pub fn is_external(&self) -> bool {
        self.0.c_lflag & libc::EXTPROC != 0
    }

    /// Whether a byte, as the last of a line, has ended it by itself: a newline, or one of the further keys for that.
    pub fn ends_line(&self, byte: u8) -> bool {
        let further = [self.0.c_cc[libc::VEOL], self.0.c_cc[libc::VEOL2]];
        byte == b'\n' || byte != 0 && further.contains(&byte)
    }

    /// Whether input comes in lines (ICANON).
    pub fn takes_lines(&self) -> bool {
        self.0.c_lflag & libc::ICANON != 0
    }

    /// The character that means end of file at the start of a line (VEOF).
    pub fn end_of_file(&self) -> u8 {
        self.0.c_cc[libc::VEOF]
    }
}

/// Keys of a terminal ([`Settings::literal`]); 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// Holds output back (VSTOP).
    pub stop: u8,
    /// Lets it go (VSTART).
    pub start: u8,
    /// Hands over what was typed of a line (VEOF).
    pub end_of_file: u8,
}

/// Whether the descriptor is a terminal.
pub fn is_terminal(descriptor: BorrowedFd<'_>) -> bool {
    // SAFETY: integers only.
    unsafe { libc::isatty(descriptor.as_raw_fd()) == 1 }
}

/// The size of a terminal's window (TIOCGWINSZ).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// Width in pixels; 0 if unknown.
    pub width: u16,
    /// Height in pixels; 0 if unknown.
    pub height: u16,
}

/// The window size of a terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<WindowSize> {
    // SAFETY: winsize is plain integers.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: size outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
        width: size.ws_xpixel,
        height: size.ws_ypixel,
    })
}

/// Sets the window size of a terminal; its foreground group gets SIGWINCH if that changed it.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: size.width,
        ws_ypixel: size.height,
    };
    // SAFETY: size outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Opens a new pseudo-terminal's master side (posix_openpt(3)), unlocked, close-on-exec.
pub fn open_master() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: integers only.
    let number = check(unsafe { libc::posix_openpt(flags) })?;
    // SAFETY: the call just returned it, so nothing else owns it.
    let master = unsafe { OwnedFd::from_raw_fd(number) };
    pseudo::Switch::Lock.turn_off(master.as_fd())?;
    Ok(master)
}

/// Opens the slave side of a pseudo-terminal by its master (TIOCGPTPEER, Linux 4.13), which works
/// whatever is mounted at /dev/pts; it does not become the caller's controlling terminal.
pub fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    pseudo::open_slave_with(master, libc::O_RDWR)
}

/// The number of a pseudo-terminal: its slave is /dev/pts/NUMBER (TIOCGPTN).
pub fn slave_number(master: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number = 0u32;
    // SAFETY: number outlives the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    Ok(number)
}

/// Makes the terminal the controlling terminal of the caller, a session leader without one
/// (TIOCSCTTY). `terminal` is a raw number for the sake of a child between fork and exec.
pub fn set_controlling_terminal(terminal: i32) -> io::Result<()> {
    // SAFETY: the argument is an integer; 0 means not to take it from another session.
    check(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// The foreground process group of the caller's controlling terminal (tcgetpgrp(3)).
pub fn foreground_group(terminal: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: integers only.
    check(unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) })
}

/// What to wait for on a descriptor, and what was found, in poll(2)'s bits (`libc::POLLIN` …).
#[derive(Debug, Clone, Copy)]
pub struct Readiness<'a> {
    /// The descriptor.
    pub descriptor: BorrowedFd<'a>,
    /// The events waited for; POLLHUP, POLLERR and POLLNVAL always count.
    pub wanted: i16,
    /// The events found.
    pub found: i16,
}

impl<'a> Readiness<'a> {
    /// A wish for these events.
    pub fn new(descriptor: BorrowedFd<'a>, wanted: i16) -> Readiness<'a> {
        Readiness {
            descriptor,
            wanted,
            found: 0,
        }
    }
}

/// Waits until one of the descriptors is ready, a signal comes, or the time is up (ppoll).
///
/// Returns how many are ready: 0 for the time being up and for a signal. `None` waits for ever.
pub fn wait_ready(wishes: &mut [Readiness<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let mut entries: Vec<libc::pollfd> = wishes
        .iter()
        .map(|wish| libc::pollfd {
            fd: wish.descriptor.as_raw_fd(),
            events: wish.wanted,
            revents: 0,
        })
        .collect();
    let span = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let span = span.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = entries.len() as libc::nfds_t;
    // SAFETY: the entries and the time outlive the call; a null mask leaves the mask alone.
    let ready = unsafe { libc::ppoll(entries.as_mut_ptr(), count, span, std::ptr::null()) };
    let ready = match check(ready) {
        Ok(ready) => ready as usize,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    for (wish, entry) in wishes.iter_mut().zip(&entries) {
        wish.found = if ready == 0 { 0 } else { entry.revents };
    }
    Ok(ready)
}

/// Reads what is there, up to the size of `room` (read(2)); 0 at the end. Raw, so that nothing is
/// held back in a buffer.
pub fn read_some(descriptor: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: room is as long as said.
    let length =
        unsafe { libc::read(descriptor.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(length as usize)
}

/// Writes what there is room for (write(2)); returns how many bytes went out.
pub fn write_some(descriptor: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: bytes is as long as said.
    let length = unsafe { libc::write(descriptor.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(length as usize)
}
