//! `/proc/PID/smaps`: `maps` with sizes and flags for each area; kernel `show_smap` in fs/proc/task_mmu.c.
//!
//! Reading it makes the kernel walk the page tables of the whole process.

use crate::error::ParseError;
use crate::maps::{self, Area};
use crate::scan::{self, Lines};

/// One area with its sizes and flags. Sizes are in KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmapsArea {
    /// The area itself.
    pub area: Area,
    /// Page size the kernel maps it with: 4, or the hugetlb page size.
    pub kernel_page_size: u64,
    /// Resident pages of any kind, without hugetlb.
    pub rss: u64,
    /// Resident pages, each divided by the number of processes that map it.
    pub proportional: u64,
    /// Resident pages used since the kernel last looked, or since 1 was written to `clear_refs`.
    pub referenced: u64,
    /// Resident anonymous pages; for a private file mapping the pages written to.
    pub anonymous: u64,
    /// Anonymous memory in huge pages.
    pub anonymous_huge_pages: u64,
    /// Shared memory mapped by huge page entries.
    pub shared_memory_huge_pages: u64,
    /// Pages marked `MADV_FREE` and not written since.
    pub lazy_free: u64,
    /// Resident pages that more than one process maps, clean and dirty.
    pub shared: u64,
    /// hugetlb pages mapped by this process alone.
    pub private_hugetlb: u64,
    /// hugetlb pages mapped by several processes.
    pub shared_hugetlb: u64,
    /// Swapped-out pages.
    pub swap: u64,
    /// Resident pages that are locked, a proportional share as `Pss`; an unlocked area has 0.
    pub locked: u64,
    /// Memory protection key; absent where processor or kernel have none.
    pub protection_key: Option<u32>,
    /// The area may get transparent huge pages now (Linux 5.0).
    pub thp_eligible: Option<bool>,
    /// The kernel's flags of the area.
    pub flags: VmFlags,
}

impl SmapsArea {
    /// An area of which only what `maps` tells is known: sizes are 0, no flag is set.
    #[must_use]
    pub fn without_details(area: Area) -> Self {
        Self {
            area,
            kernel_page_size: 0,
            rss: 0,
            proportional: 0,
            referenced: 0,
            anonymous: 0,
            anonymous_huge_pages: 0,
            shared_memory_huge_pages: 0,
            lazy_free: 0,
            shared: 0,
            private_hugetlb: 0,
            shared_hugetlb: 0,
            swap: 0,
            locked: 0,
            protection_key: None,
            thp_eligible: None,
            flags: VmFlags::default(),
        }
    }
}

macro_rules! vm_flags {
    ($($(#[doc = $doc:literal])+ $name:ident = $first:literal $second:literal,)+) => {
        /// One flag of an area, by its two letters in the line `VmFlags` (`show_smap_vma_flags`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum VmFlag {
            $($(#[doc = $doc])+ $name,)+
        }

        impl VmFlag {
            /// Every flag that has a name here.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The two letters the kernel writes.
            pub const fn code(self) -> [u8; 2] {
                match self { $(Self::$name => [$first, $second],)+ }
            }

            /// The flag with these two letters.
            pub const fn from_code(code: [u8; 2]) -> Option<Self> {
                match code {
                    $([$first, $second] => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

vm_flags! {
    /// `rd`: readable.
    Read = b'r' b'd',
    /// `wr`: writable.
    Write = b'w' b'r',
    /// `ex`: executable.
    Execute = b'e' b'x',
    /// `sh`: shared.
    Shared = b's' b'h',
    /// `mr`: may be made readable.
    MayRead = b'm' b'r',
    /// `mw`: may be made writable.
    MayWrite = b'm' b'w',
    /// `me`: may be made executable.
    MayExecute = b'm' b'e',
    /// `ms`: may be shared: a shared mapping, writable or not.
    MayShare = b'm' b's',
    /// `gd`: grows down (`MAP_GROWSDOWN`, the stack).
    GrowsDown = b'g' b'd',
    /// `pf`: maps page frames without struct pages: a device, the vDSO data.
    PageFrames = b'p' b'f',
    /// `dw`: writing to the mapped file is disabled (before Linux 6.6).
    DenyWrite = b'd' b'w',
    /// `lo`: locked in memory (`mlock`, `MAP_LOCKED`).
    Locked = b'l' b'o',
    /// `lf`: locked as pages are touched (`MLOCK_ONFAULT`).
    LockOnFault = b'l' b'f',
    /// `io`: device memory.
    DeviceMemory = b'i' b'o',
    /// `sr`: `MADV_SEQUENTIAL`.
    SequentialRead = b's' b'r',
    /// `rr`: `MADV_RANDOM`.
    RandomRead = b'r' b'r',
    /// `dc`: `MADV_DONTFORK`.
    DontFork = b'd' b'c',
    /// `de`: may not be expanded by mremap(2).
    DontExpand = b'd' b'e',
    /// `ac`: counts towards the commit limit.
    Accounted = b'a' b'c',
    /// `nr`: `MAP_NORESERVE`.
    NoReserve = b'n' b'r',
    /// `ht`: hugetlb pages.
    HugeTlb = b'h' b't',
    /// `sf`: `MAP_SYNC`.
    SynchronousFault = b's' b'f',
    /// `nl`: non-linear (before Linux 4.0).
    NonLinear = b'n' b'l',
    /// `ar`: architecture-specific.
    Architecture = b'a' b'r',
    /// `wf`: `MADV_WIPEONFORK`.
    WipeOnFork = b'w' b'f',
    /// `dd`: `MADV_DONTDUMP`.
    DontDump = b'd' b'd',
    /// `sd`: soft-dirty.
    SoftDirty = b's' b'd',
    /// `mm`: mixed map of page frames and pages.
    MixedMap = b'm' b'm',
    /// `hg`: `MADV_HUGEPAGE`.
    HugePage = b'h' b'g',
    /// `nh`: `MADV_NOHUGEPAGE`.
    NoHugePage = b'n' b'h',
    /// `mg`: `MADV_MERGEABLE`.
    Mergeable = b'm' b'g',
    /// `um`: userfaultfd reports missing pages.
    UserfaultMissing = b'u' b'm',
    /// `uw`: userfaultfd write protection.
    UserfaultWriteProtect = b'u' b'w',
    /// `ui`: userfaultfd minor faults.
    UserfaultMinor = b'u' b'i',
    /// `ss`: shadow stack.
    ShadowStack = b's' b's',
    /// `sl`: sealed by mseal(2).
    Sealed = b's' b'l',
    /// `dp`: `MAP_DROPPABLE`.
    Droppable = b'd' b'p',
    /// `gu`: may hold guard pages (`MADV_GUARD_INSTALL`).
    Guard = b'g' b'u',
}

/// The flags of an area.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmFlags {
    /// Bit `flag as u8` for each known flag.
    known: u64,
    /// Codes without a name here, in the kernel's order.
    pub unknown: Vec<[u8; 2]>,
}

impl VmFlags {
    /// Whether `flag` is set.
    pub fn contains(&self, flag: VmFlag) -> bool {
        self.known & Self::bit(flag) != 0
    }

    /// Sets `flag`.
    pub fn insert(&mut self, flag: VmFlag) {
        self.known |= Self::bit(flag);
    }

    /// The known flags that are set.
    pub fn iter(&self) -> impl Iterator<Item = VmFlag> + '_ {
        VmFlag::ALL
            .iter()
            .copied()
            .filter(|&flag| self.contains(flag))
    }

    /// The bit of a flag.
    const fn bit(flag: VmFlag) -> u64 {
        1 << flag as u8
    }

    /// Reads the two-letter codes after `VmFlags:`.
    fn from_codes(codes: &[u8]) -> Option<Self> {
        let mut flags = Self::default();
        for word in scan::words(codes) {
            let code: [u8; 2] = word.try_into().ok()?;
            match VmFlag::from_code(code) {
                Some(flag) => flags.insert(flag),
                None => flags.unknown.push(code),
            }
        }
        Some(flags)
    }
}

impl FromIterator<VmFlag> for VmFlags {
    fn from_iter<I: IntoIterator<Item = VmFlag>>(flags: I) -> Self {
        let mut set = Self::default();
        for flag in flags {
            set.insert(flag);
        }
        set
    }
}

/// Iterator over the areas of an `smaps` file; see [`areas`].
#[derive(Debug, Clone)]
pub struct SmapsAreas<'text> {
    lines: Lines<'text>,
}

/// The areas of an `smaps` file, parsed one at a time.
pub fn areas(text: &[u8]) -> SmapsAreas<'_> {
    SmapsAreas {
        lines: Lines::new(text),
    }
}

/// Parses a whole `smaps` file.
///
/// # Errors
/// At the first area whose lines are not understood, or that has no `VmFlags` line.
pub fn parse(text: &[u8]) -> Result<Vec<SmapsArea>, ParseError> {
    areas(text).collect()
}

impl Iterator for SmapsAreas<'_> {
    type Item = Result<SmapsArea, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, header) = self.lines.next()?;
        Some(self.read_area(header).map_err(|(what, line)| {
            let number = if std::ptr::eq(line, header) {
                number
            } else {
                self.lines.number()
            };
            ParseError::new("smaps", number, what, line)
        }))
    }
}

impl<'text> SmapsAreas<'text> {
    /// Reads the lines of one area after its header; an error carries the line.
    fn read_area(&mut self, header: &'text [u8]) -> Result<SmapsArea, (&'static str, &'text [u8])> {
        let mut area =
            SmapsArea::without_details(maps::parse_line(header).map_err(|what| (what, header))?);
        let mut complete = false;
        // A header starts with a lower-case hexadecimal digit, every other line with a capital letter.
        while self
            .lines
            .peek()
            .is_some_and(|byte| byte.is_ascii_uppercase())
        {
            let Some((_, line)) = self.lines.next() else {
                break;
            };
            let (key, value) = scan::cut(line, b':').ok_or(("no ':'", line))?;
            if key == b"VmFlags" {
                area.flags = VmFlags::from_codes(value).ok_or(("bad flags", line))?;
                complete = true;
            } else {
                store(&mut area, key, value).ok_or(("bad value", line))?;
            }
        }
        if complete {
            Ok(area)
        } else {
            Err(("area without a VmFlags line", header))
        }
    }
}

/// Stores the value of one line; `None` if it is not valid. Unknown lines are skipped.
fn store(area: &mut SmapsArea, key: &[u8], value: &[u8]) -> Option<()> {
    let place = match key {
        b"Rss" => &mut area.rss,
        b"Pss" => &mut area.proportional,
        b"Referenced" => &mut area.referenced,
        b"Anonymous" => &mut area.anonymous,
        b"Swap" => &mut area.swap,
        b"Locked" => &mut area.locked,
        b"KernelPageSize" => &mut area.kernel_page_size,
        b"AnonHugePages" => &mut area.anonymous_huge_pages,
        b"ShmemPmdMapped" => &mut area.shared_memory_huge_pages,
        b"LazyFree" => &mut area.lazy_free,
        b"Private_Hugetlb" => &mut area.private_hugetlb,
        b"Shared_Hugetlb" => &mut area.shared_hugetlb,
        b"Shared_Clean" | b"Shared_Dirty" => {
            let size: u64 = scan::unsigned(value.strip_suffix(b" kB")?.trim_ascii_start(), 10)?;
            area.shared = area.shared.saturating_add(size);
            return Some(());
        }
        b"ProtectionKey" => {
            area.protection_key = Some(scan::decimal(value.trim_ascii())?);
            return Some(());
        }
        b"THPeligible" => {
            area.thp_eligible = Some(match value.trim_ascii() {
                b"0" => false,
                b"1" => true,
                _ => return None,
            });
            return Some(());
        }
        _ => return Some(()),
    };
    *place = scan::unsigned(value.strip_suffix(b" kB")?.trim_ascii_start(), 10)?;
    Some(())
}
