//! `/proc/PID/maps`: proc_pid_maps(5), kernel `show_map_vma` in fs/proc/task_mmu.c.
//!
//! The kernel hands the file out a page at a time, so the map of a running process may be torn
//! between two pages; that of a stopped process is exact.

use crate::error::ParseError;
use crate::scan::{self, Lines};

/// One mapped area of an address space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address after the last one.
    pub end: u64,
    /// What may be done with it.
    pub permissions: Permissions,
    /// Offset in the mapped file, bytes; for private anonymous memory a number without meaning.
    pub offset: u64,
    /// Device of the mapped file; on btrfs and overlayfs not the one stat(2) tells.
    pub device: Device,
    /// Inode of the mapped file; 0 for none. For System V shared memory the segment's id.
    pub inode: u64,
    /// What the kernel calls it.
    pub name: AreaName,
}

impl Area {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Whether `address` lies in the area.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// Access allowed by the area's page protection, and whether writes are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions {
    /// `PROT_READ`.
    pub read: bool,
    /// `PROT_WRITE`.
    pub write: bool,
    /// `PROT_EXEC`.
    pub execute: bool,
    /// `MAP_SHARED`; otherwise `MAP_PRIVATE`.
    pub shared: bool,
}

/// A device number in its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Device {
    /// Major number, 0 for file systems without a device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// Both parts in one number: major << 32 | minor, whatever the kernel and the C library make of them elsewhere.
    #[must_use]
    pub const fn number(self) -> u64 {
        (self.major as u64) << 32 | self.minor as u64
    }
}

/// What backs an area, told from the name in its line.
///
/// The kernel marks an unlinked file with ` (deleted)` after its path, which a file's own name may
/// also end with, and shows a newline in a path as `\012`, which a path may also hold as such. Where it
/// matters compare device and inode, or open `/proc/PID/map_files`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AreaName {
    /// Private anonymous memory without a name.
    Anonymous,
    /// `[heap]`: private anonymous memory inside the brk area.
    Heap,
    /// `[stack]`: the initial stack.
    Stack,
    /// `[vdso]`.
    Vdso,
    /// `[vvar]`.
    Vvar,
    /// `[vvar_vclock]` (Linux 6.13).
    VvarVclock,
    /// `[vsyscall]`: the same in every process, above all user addresses.
    Vsyscall,
    /// `[uprobes]`: where the kernel single-steps probed instructions.
    Uprobes,
    /// `/dev/zero (deleted)`: shared anonymous memory, also a shared mapping of `/dev/zero`.
    SharedAnonymous,
    /// `/anon_hugepage (deleted)`: anonymous `MAP_HUGETLB` memory, private or shared.
    AnonymousHugetlb,
    /// `/SYSVkkkkkkkk (deleted)`: a System V shared memory segment; the area's inode is its id.
    SystemV {
        /// The segment's key, 0 for `IPC_PRIVATE`.
        key: u32,
    },
    /// `/[aio] (deleted)`: the ring of a context of io_setup(2).
    AioRing,
    /// `[anon:NAME]` (private) or `[anon_shmem:NAME]` (shared): anonymous memory named by `PR_SET_VMA_ANON_NAME`.
    AnonNamed {
        /// The name given.
        name: Vec<u8>,
        /// It is shared anonymous memory.
        shared: bool,
    },
    /// A mapped file, memfd (`/memfd:NAME`) included.
    File {
        /// Path as seen from the reader's root, newlines as they are, without the mark ` (deleted)`.
        path: Vec<u8>,
        /// The file is unlinked, or was never linked (memfd).
        deleted: bool,
    },
    /// Any other name: `anon_inode:[perf_event]`, `socket:[17]`, `(unreachable)/path`, `[stack:17]` …
    Other(Vec<u8>),
}

/// The mark after the path of an unlinked file.
const DELETED: &[u8] = b" (deleted)";

impl AreaName {
    /// Tells what a name of `maps` means.
    pub fn from_bytes(name: &[u8]) -> Self {
        match name.first() {
            None => Self::Anonymous,
            Some(b'/') => Self::from_path(name),
            Some(b'[') => Self::from_bracketed(name),
            Some(_) => Self::Other(scan::unescape_newline(name)),
        }
    }

    /// The name given to memfd_create(2), if the area maps such a file.
    pub fn memfd_name(&self) -> Option<&[u8]> {
        match self {
            Self::File {
                path,
                deleted: true,
            } => path.strip_prefix(b"/memfd:"),
            _ => None,
        }
    }

    /// The kernel makes these by itself at exec; they hold no data of the program.
    pub fn is_kernel_provided(&self) -> bool {
        matches!(
            self,
            Self::Vdso | Self::Vvar | Self::VvarVclock | Self::Vsyscall | Self::Uprobes
        )
    }

    /// Names that begin with a slash.
    fn from_path(name: &[u8]) -> Self {
        let Some(path) = name.strip_suffix(DELETED) else {
            return Self::File {
                path: scan::unescape_newline(name),
                deleted: false,
            };
        };
        match path {
            b"/dev/zero" => Self::SharedAnonymous,
            b"/anon_hugepage" => Self::AnonymousHugetlb,
            b"/[aio]" => Self::AioRing,
            _ => match path
                .strip_prefix(b"/SYSV")
                .filter(|key| key.len() == 8)
                .and_then(scan::hexadecimal)
            {
                Some(key) => Self::SystemV { key },
                None => Self::File {
                    path: scan::unescape_newline(path),
                    deleted: true,
                },
            },
        }
    }

    /// Names that begin with a bracket.
    fn from_bracketed(name: &[u8]) -> Self {
        match name {
            b"[heap]" => Self::Heap,
            b"[stack]" => Self::Stack,
            b"[vdso]" => Self::Vdso,
            b"[vvar]" => Self::Vvar,
            b"[vvar_vclock]" => Self::VvarVclock,
            b"[vsyscall]" => Self::Vsyscall,
            b"[uprobes]" => Self::Uprobes,
            _ => {
                let inner = name.strip_suffix(b"]").unwrap_or_default();
                if let Some(given) = inner.strip_prefix(b"[anon:") {
                    Self::AnonNamed {
                        name: given.to_vec(),
                        shared: false,
                    }
                } else if let Some(given) = inner.strip_prefix(b"[anon_shmem:") {
                    Self::AnonNamed {
                        name: given.to_vec(),
                        shared: true,
                    }
                } else {
                    Self::Other(scan::unescape_newline(name))
                }
            }
        }
    }
}

/// Iterator over the areas of a `maps` file, in address order; see [`areas`].
#[derive(Debug, Clone)]
pub struct Areas<'text> {
    lines: Lines<'text>,
}

impl Iterator for Areas<'_> {
    type Item = Result<Area, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, line) = self.lines.next()?;
        Some(parse_line(line).map_err(|what| ParseError::new("maps", number, what, line)))
    }
}

/// The areas of a `maps` file, parsed one at a time.
pub fn areas(text: &[u8]) -> Areas<'_> {
    Areas {
        lines: Lines::new(text),
    }
}

/// Parses a whole `maps` file.
///
/// # Errors
/// At the first line that is not an area.
pub fn parse(text: &[u8]) -> Result<Vec<Area>, ParseError> {
    areas(text).collect()
}

/// Parses one line of `maps`, which is also the first line of an area in `smaps`.
pub(crate) fn parse_line(line: &[u8]) -> Result<Area, &'static str> {
    let (start, rest) = hexadecimal_until(line, b'-').ok_or("bad start address")?;
    let (end, rest) = hexadecimal_until(rest, b' ').ok_or("bad end address")?;
    if start > end {
        return Err("area ends before it starts");
    }
    let (permissions, rest) = permissions(rest).ok_or("bad permissions")?;
    let (offset, rest) = hexadecimal_until(rest, b' ').ok_or("bad offset")?;
    let (major, rest) = hexadecimal_until(rest, b':').ok_or("bad device")?;
    let (minor, rest) = hexadecimal_until(rest, b' ').ok_or("bad device")?;
    let device = Device {
        major: u32::try_from(major).map_err(|_| "bad device")?,
        minor: u32::try_from(minor).map_err(|_| "bad device")?,
    };
    let digits = rest
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(rest.len());
    let (inode, name) = rest.split_at(digits);
    let inode = scan::unsigned(inode, 10).ok_or("bad inode")?;
    let blanks = name
        .iter()
        .position(|&byte| byte != b' ')
        .unwrap_or(name.len());
    let name = AreaName::from_bytes(name.get(blanks..).unwrap_or_default());
    Ok(Area {
        start,
        end,
        permissions,
        offset,
        device,
        inode,
        name,
    })
}

/// A hexadecimal number that ends at `separator`; also gives what follows it.
fn hexadecimal_until(text: &[u8], separator: u8) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte == separator {
            return (at > 0).then(|| (value, text.get(at + 1..).unwrap_or_default()));
        }
        if value >> 60 != 0 {
            return None;
        }
        value = value << 4 | scan::digit(byte, 16)?;
    }
    None
}

/// `rwxp ` and what follows it.
fn permissions(text: &[u8]) -> Option<(Permissions, &[u8])> {
    let ([read, write, execute, shared, b' '], rest) = text.split_first_chunk::<5>()? else {
        return None;
    };
    let letter = |byte: u8, set: u8, clear: u8| match byte {
        _ if byte == set => Some(true),
        _ if byte == clear => Some(false),
        _ => None,
    };
    let permissions = Permissions {
        read: letter(*read, b'r', b'-')?,
        write: letter(*write, b'w', b'-')?,
        execute: letter(*execute, b'x', b'-')?,
        shared: letter(*shared, b's', b'p')?,
    };
    Some((permissions, rest))
}
