//! What only pseudo-terminals have, and what tells terminals apart: ioctl_tty(2), pts(4), drivers/tty/pty.c.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// `_IOR('T', 0x32, unsigned int)`: the device number of the terminal itself, also behind /dev/tty.
const TIOCGDEV: libc::Ioctl = 0x8004_5432_u32 as libc::Ioctl;
/// `_IOR('T', 0x38, int)`.
const TIOCGPKT: libc::Ioctl = 0x8004_5438_u32 as libc::Ioctl;
/// `_IOR('T', 0x39, int)`.
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439_u32 as libc::Ioctl;
/// `_IOR('T', 0x40, int)`.
const TIOCGEXCL: libc::Ioctl = 0x8004_5440_u32 as libc::Ioctl;

fn ask(terminal: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<c_int> {
    let mut answer: c_int = 0;
    // SAFETY: the answer, which these requests write one int of, outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), request, &raw mut answer) })?;
    Ok(answer)
}

fn tell(terminal: BorrowedFd<'_>, request: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: the value, which these requests read one int of, outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), request, &raw const value) })?;
    Ok(())
}

/// A switch that a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Packet mode of a master (TIOCPKT). Switching it on forgets messages that were not read.
    PacketMode,
    /// The lock of a master: while it is on, nobody can open the slave (TIOCSPTLCK).
    Lock,
    /// Exclusive mode of either side: only CAP_SYS_ADMIN can open it once more (TIOCEXCL).
    Exclusive,
}

impl Switch {
    /// Whether it is on. `EIO` on a slave whose master is gone, `ENOTTY` on what has no such switch.
    pub fn is_on(self, terminal: BorrowedFd<'_>) -> io::Result<bool> {
        let request = match self {
            Switch::PacketMode => TIOCGPKT,
            Switch::Lock => TIOCGPTLCK,
            Switch::Exclusive => TIOCGEXCL,
        };
        Ok(ask(terminal, request)? != 0)
    }

    /// Turns it on.
    pub fn turn_on(self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        self.turn(terminal, 1)
    }

    /// Turns it off.
    pub fn turn_off(self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        self.turn(terminal, 0)
    }

    fn turn(self, terminal: BorrowedFd<'_>, value: c_int) -> io::Result<()> {
        match (self, value) {
            (Switch::PacketMode, _) => tell(terminal, libc::TIOCPKT, value),
            (Switch::Lock, _) => tell(terminal, libc::TIOCSPTLCK, value),
            (Switch::Exclusive, 0) => tell(terminal, libc::TIOCNXCL, 0),
            (Switch::Exclusive, _) => tell(terminal, libc::TIOCEXCL, 0),
        }
    }
}

/// The device number of the terminal behind a descriptor (TIOCGDEV), major and minor: that of the slave for both sides of a
/// pseudo-terminal, that of the terminal itself for /dev/tty. `EIO` when it has been hung up, `ENOTTY` for what is no terminal.
pub fn device_of(terminal: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    Ok(device_number(ask(terminal, TIOCGDEV)?))
}

/// Major and minor of a device number as the kernel tells it in 32 bits (new_decode_dev in linux/kdev_t.h), such as `tty_nr` in
/// /proc/PID/stat.
pub fn device_number(encoded: i32) -> (u32, u32) {
    let encoded = encoded as u32;
    let major = (encoded & 0xf_ff00) >> 8;
    let minor = (encoded & 0xff) | (encoded >> 12 & 0xf_ff00);
    (major, minor)
}

/// The session whose controlling terminal it is (TIOCGSID): of any terminal if asked by way of a pseudo-terminal's master,
/// otherwise of the caller's own only. `None` when it is nobody's; 0 where the session lies outside the caller's pid namespace.
pub fn session_of(terminal: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    match ask(terminal, libc::TIOCGSID) {
        Ok(session) => Ok(Some(session)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The line discipline (TIOCGETD), 0 for N_TTY.
pub fn line_discipline(terminal: BorrowedFd<'_>) -> io::Result<i32> {
    ask(terminal, libc::TIOCGETD)
}

/// Opens the slave side by its master (TIOCGPTPEER) with these `O_*` flags. `O_PATH` names it without opening it, which works
/// on locked and exclusive ones and changes nothing. The number is close-on-exec.
pub fn open_slave_with(master: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_NOCTTY;
    // SAFETY: the argument is an integer.
    let number = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the call just returned it, so nothing else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(number) };
    // Not O_CLOEXEC: this call keeps it among the flags of the open file itself.
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(slave)
}

/// What becomes of a terminal's output (tcflow(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It is held back.
    Off,
    /// It goes on, if a call had stopped it.
    On,
}

/// Stops a terminal's output, or lets it go on, as tcflow(3) does.
pub fn set_flow(terminal: BorrowedFd<'_>, flow: Flow) -> io::Result<()> {
    let action: c_int = match flow {
        Flow::Off => libc::TCOOFF,
        Flow::On => libc::TCOON,
    };
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCXONC, action) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::terminal::{open_master, open_slave, slave_number};

    #[test]
    fn both_sides_tell_the_same_device() {
        let master = open_master().unwrap();
        let number = slave_number(master.as_fd()).unwrap();
        let slave = open_slave(master.as_fd()).unwrap();
        assert_eq!(device_of(master.as_fd()).unwrap(), (136, number));
        assert_eq!(device_of(slave.as_fd()).unwrap(), (136, number));
        assert_eq!(session_of(master.as_fd()).unwrap(), None);
        assert_eq!(line_discipline(slave.as_fd()).unwrap(), 0);
        drop(master);
        let error = device_of(slave.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn switches_go_on_and_off() {
        let master = open_master().unwrap();
        for switch in [Switch::PacketMode, Switch::Lock, Switch::Exclusive] {
            assert!(!switch.is_on(master.as_fd()).unwrap());
            switch.turn_on(master.as_fd()).unwrap();
            assert!(switch.is_on(master.as_fd()).unwrap(), "{switch:?}");
            let named = open_slave_with(master.as_fd(), libc::O_PATH);
            assert!(named.is_ok(), "{switch:?}: {named:?}");
            switch.turn_off(master.as_fd()).unwrap();
            assert!(!switch.is_on(master.as_fd()).unwrap());
        }
    }

    #[test]
    fn device_numbers_are_decoded() {
        assert_eq!(device_number(0x8803), (136, 3));
        assert_eq!(device_number(0x10_8803), (136, 0x103));
        assert_eq!(device_number(0x0401), (4, 1));
    }
}
