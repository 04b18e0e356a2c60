//! `/proc/PID/pagemap`: one 64-bit word for each page, Documentation/admin-guide/mm/pagemap.rst.

/// One page's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PagemapEntry(pub u64);

impl PagemapEntry {
    /// The page is in memory.
    pub const fn present(self) -> bool {
        self.bit(63)
    }

    /// The page is in swap (or under migration).
    pub const fn swapped(self) -> bool {
        self.bit(62)
    }

    /// The page belongs to a file or to shared anonymous memory.
    pub const fn file_or_shared(self) -> bool {
        self.bit(61)
    }

    /// The page is a guard page of `MADV_GUARD_INSTALL` (Linux 6.15).
    pub const fn guard(self) -> bool {
        self.bit(58)
    }

    /// The page is write-protected through userfaultfd (Linux 5.13).
    pub const fn write_protected(self) -> bool {
        self.bit(57)
    }

    /// Only one process maps the page (Linux 4.2).
    pub const fn exclusive(self) -> bool {
        self.bit(56)
    }

    /// Written since the soft-dirty bits were cleared; always 0 in kernels without soft-dirty.
    pub const fn soft_dirty(self) -> bool {
        self.bit(55)
    }

    /// Page frame number of a present page; 0 for a reader without `CAP_SYS_ADMIN`.
    pub const fn pfn(self) -> u64 {
        self.0 & ((1 << 55) - 1)
    }

    /// One bit.
    const fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 != 0
    }
}

/// Decodes a piece of `pagemap`; bytes after the last whole word are left out.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = PagemapEntry> + '_ {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| PagemapEntry(u64::from_ne_bytes(*word)))
}
