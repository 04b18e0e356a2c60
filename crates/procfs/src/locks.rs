//! File locks as `/proc/locks` and the `lock:` lines of `fdinfo` show them: proc_locks(5), kernel `lock_get_status` in
//! fs/locks.c.

use crate::error::ParseError;
use crate::maps::Device;
use crate::scan;

/// One lock that is held, or a request that waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLock {
    /// Whether it is only waited for (`->`, in `/proc/locks` only).
    pub waits: bool,
    /// Whose it is and how it came about.
    pub family: LockFamily,
    /// What it permits its holder; for a lease that is being broken, what is left of it once the holder has complied.
    pub access: LockAccess,
    /// The process that set it, in the reader's pid namespace; -1 for locks of open file descriptions, which belong to no
    /// process, 0 if outside of the namespace. It may have ended since.
    pub pid: i32,
    /// The file system, as in `mountinfo`: on overlay and btrfs not what stat(2) says.
    pub device: Device,
    /// The file's inode number.
    pub inode: u64,
    /// First byte; 0 for locks of whole files.
    pub start: u64,
    /// Last byte; none stands for the end of the file, wherever that is.
    pub end: Option<u64>,
}

/// What kind of lock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockFamily {
    /// flock(2): belongs to an open file description.
    Flock,
    /// fcntl(2) `F_SETLK`: belongs to a process.
    Posix,
    /// fcntl(2) `F_OFD_SETLK`: belongs to an open file description.
    Description,
    /// fcntl(2) `F_SETLEASE`.
    Lease(LeaseState),
    /// `F_SETDELEG`, a network file server's layout, or what is not known here.
    Other,
}

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody objects.
    Active,
    /// Somebody wants the file; the holder has been told.
    Breaking,
}

/// What a lock permits its holder, and so denies others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockAccess {
    /// Reading: shared.
    Read,
    /// Writing: exclusive.
    Write,
    /// Nothing: of a lease that has to be given up.
    None,
}

/// Parses one line, without its newline.
///
/// # Errors
/// When it is not a lock's line.
pub fn parse_line(line: &[u8]) -> Result<FileLock, ParseError> {
    read_line(line).ok_or_else(|| ParseError::new("locks", 1, "not a lock", line))
}

/// Parses `/proc/locks`.
///
/// # Errors
/// At the first line that is not a lock's.
pub fn parse(text: &[u8]) -> Result<Vec<FileLock>, ParseError> {
    scan::Lines::new(text)
        .map(|(number, line)| {
            read_line(line).ok_or_else(|| ParseError::new("locks", number, "not a lock", line))
        })
        .collect()
}

/// `ID: [->] FAMILY STATE ACCESS PID MAJOR:MINOR:INODE START END`.
fn read_line(line: &[u8]) -> Option<FileLock> {
    let mut words = scan::words(line);
    words.next()?.strip_suffix(b":")?;
    let mut family = words.next()?;
    let waits = family == b"->";
    if waits {
        family = words.next()?;
    }
    let state = words.next()?;
    let family = match family {
        b"FLOCK" => LockFamily::Flock,
        b"POSIX" => LockFamily::Posix,
        b"OFDLCK" => LockFamily::Description,
        b"LEASE" if state == b"BREAKING" => LockFamily::Lease(LeaseState::Breaking),
        b"LEASE" if state == b"ACTIVE" => LockFamily::Lease(LeaseState::Active),
        _ => LockFamily::Other,
    };
    let access = match words.next()? {
        b"READ" => LockAccess::Read,
        b"WRITE" | b"RW" => LockAccess::Write,
        _ => LockAccess::None,
    };
    let pid = scan::decimal(words.next()?)?;
    let file = words.next()?;
    let (device, inode) = match file.strip_prefix(b"<none>:") {
        Some(_) => (Device { major: 0, minor: 0 }, 0),
        None => {
            let (major, rest) = scan::cut(file, b':')?;
            let (minor, inode) = scan::cut(rest, b':')?;
            let device = Device {
                major: scan::hexadecimal(major)?,
                minor: scan::hexadecimal(minor)?,
            };
            (device, scan::decimal(inode)?)
        }
    };
    let start = scan::decimal(words.next()?)?;
    let end = match words.next()? {
        b"EOF" => None,
        end => Some(scan::decimal(end)?),
    };
    Some(FileLock {
        waits,
        family,
        access,
        pid,
        device,
        inode,
        start,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"1: LEASE  ACTIVE    WRITE 32105 fe:00:10273690 0 EOF\n\
        2: FLOCK  ADVISORY  READ 32105 fe:00:10273688 0 EOF\n\
        3: OFDLCK ADVISORY  READ -1 fe:00:10273688 100 EOF\n\
        4: POSIX  ADVISORY  WRITE 32105 fe:00:10273688 10 14\n\
        4: -> POSIX  ADVISORY  WRITE 32107 fe:00:10273688 10 10\n\
        5: LEASE  BREAKING  UNLCK 7 00:2a:3 0 EOF\n\
        6: DELEG  ACTIVE    READ 7 00:2a:3 0 EOF\n";

    #[test]
    fn a_captured_file() {
        let locks = parse(SAMPLE).unwrap();
        assert_eq!(locks.len(), 7);
        assert_eq!(locks[0].family, LockFamily::Lease(LeaseState::Active));
        assert_eq!((locks[1].family, locks[1].end), (LockFamily::Flock, None));
        assert_eq!((locks[2].pid, locks[2].start), (-1, 100));
        let posix = FileLock {
            waits: false,
            family: LockFamily::Posix,
            access: LockAccess::Write,
            pid: 32105,
            device: Device {
                major: 0xfe,
                minor: 0,
            },
            inode: 10273688,
            start: 10,
            end: Some(14),
        };
        assert_eq!(locks[3], posix);
        assert!(locks[4].waits && !locks[3].waits);
        assert_eq!(locks[5].family, LockFamily::Lease(LeaseState::Breaking));
        assert_eq!(locks[5].access, LockAccess::None);
        assert_eq!(locks[6].family, LockFamily::Other);
    }

    #[test]
    fn what_is_no_lock() {
        for line in [
            &b""[..],
            b"1: POSIX",
            b"POSIX  ADVISORY  WRITE 1 fe:00:1 0 EOF",
            b"1: POSIX  ADVISORY  WRITE x fe:00:1 0 EOF",
            b"1: POSIX  ADVISORY  WRITE 1 fe:1 0 EOF",
        ] {
            assert!(parse_line(line).is_err());
        }
    }
}
