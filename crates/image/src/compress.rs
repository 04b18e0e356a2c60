//! Making a pages section smaller.

use zerocopy::IntoBytes;

use crate::format::{FLAG_COMPRESSED, HEADER_SIZE, PAGE_SIZE, SectionHeader, SectionType};
use crate::summary::PageCounts;
use crate::{ImageError, PagesSection};

/// The levels of compression: from 1, the fastest, to 19, the smallest.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// Pages of one space, compressed where that saves a block or more.
pub struct CompressedPages {
    pub(crate) body: Vec<u8>,
    pub(crate) counts: PageCounts,
    space: u64,
    runs: u64,
    flags: u32,
}

impl CompressedPages {
    /// Compresses what a section holds, each section for itself, so that sections can be read in any order.
    ///
    /// # Errors
    /// [`ImageError::Io`] if zstd fails, which it does only without memory.
    pub fn pack(section: &PagesSection<'_>, level: i32) -> Result<Self, ImageError> {
        let table = section.table().as_bytes();
        let packed =
            zstd::bulk::compress(section.data(), level.clamp(*LEVELS.start(), *LEVELS.end()))
                .map_err(ImageError::io("compress pages"))?;
        let blocks = |length: usize| (HEADER_SIZE + length).div_ceil(PAGE_SIZE);
        let plain_front = blocks(table.len()) * PAGE_SIZE - HEADER_SIZE;
        let plain = plain_front + section.data().len();
        let mut body = table.to_vec();
        let flags = if blocks(table.len() + packed.len()) < blocks(plain) {
            body.extend_from_slice(&packed);
            FLAG_COMPRESSED
        } else {
            body.resize(plain_front, 0);
            body.extend_from_slice(section.data());
            0
        };
        Ok(Self {
            body,
            counts: section.counts(),
            space: section.space(),
            runs: section.table().len() as u64,
            flags,
        })
    }

    pub(crate) fn header(&self, sequence: u64) -> SectionHeader {
        let mut header = SectionHeader::new(SectionType::Pages, sequence, self.runs, &self.body);
        header.flags = self.flags.into();
        header.space = self.space.into();
        header.header_crc = header.own_crc().into();
        header
    }
}
