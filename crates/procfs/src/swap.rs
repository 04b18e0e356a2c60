//! `/proc/swaps`: proc(5), kernel `swap_show` in mm/swapfile.c.

use crate::error::ParseError;
use crate::scan;

/// One swap area in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapArea {
    /// The file or device, with octal escapes undone; one that was removed ends with ` (deleted)`.
    pub name: Vec<u8>,
    /// `file` or `partition`; block devices of any kind are partitions.
    pub kind: Vec<u8>,
    /// Its size in KiB.
    pub size: u64,
    /// What is in use of it, in KiB.
    pub used: u64,
    /// Areas of higher priority are filled first.
    pub priority: i32,
}

impl SwapArea {
    /// What is left of it, in KiB.
    pub fn free(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }

    /// Whether it is a compressed device in memory (zram).
    pub fn is_compressed_memory(&self) -> bool {
        self.name
            .rsplit(|&byte| byte == b'/')
            .next()
            .is_some_and(|name| name.starts_with(b"zram"))
    }
}

/// Parses `/proc/swaps`: a heading, then one line for each area.
///
/// # Errors
/// At the first line that is not an area.
pub fn parse(text: &[u8]) -> Result<Vec<SwapArea>, ParseError> {
    scan::Lines::new(text)
        .skip(1)
        .map(|(number, line)| {
            parse_line(line).ok_or_else(|| ParseError::new("swaps", number, "not an area", line))
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<SwapArea> {
    let mut words = scan::words(line);
    Some(SwapArea {
        name: scan::unescape_octal(words.next()?),
        kind: words.next()?.to_vec(),
        size: scan::decimal(words.next()?)?,
        used: scan::decimal(words.next()?)?,
        priority: scan::decimal(words.next()?)?,
    })
}
