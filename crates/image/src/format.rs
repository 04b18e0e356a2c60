//! The bytes of an image: headers, limits, checksums. `docs/image-format.md` describes them for other readers.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ImageError;

/// The format version this crate writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Bytes in a page, and the alignment of everything in an image.
pub const PAGE_SIZE: usize = 4096;

/// ELF `e_machine` of this build (62 is x86-64, 183 aarch64; see elf(5)).
pub const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") {
    183
} else {
    62
};

/// Largest encoded preamble, in bytes.
pub const MAX_PREAMBLE: usize = 1 << 20;

/// Largest body of one record, in bytes. Decoding may take many times this memory, so it is kept low.
pub const MAX_RECORD: usize = 16 << 20;

/// Largest total of record bodies and their entry headers in one image, in bytes.
pub const MAX_RECORDS: u64 = 1 << 30;

/// Most pages whose contents one pages section carries (4 MiB).
pub const MAX_SECTION_PAGES: usize = 1024;

/// Most runs in one pages section: what fits, with the section header, in 8 blocks.
pub const MAX_SECTION_RUNS: usize =
    (FRONT_BLOCKS * PAGE_SIZE - HEADER_SIZE) / size_of::<RunEntry>();

/// Most sections in one image, index and end not counted.
pub const MAX_SECTIONS: u64 = 1 << 24;

/// Blocks before the page data that a section header and the largest run table need.
pub(crate) const FRONT_BLOCKS: usize = 8;
/// Bytes in a file header and in a section header.
pub(crate) const HEADER_SIZE: usize = 64;
/// Largest body of a records section.
pub(crate) const MAX_RECORDS_BODY: u64 = 32 << 20;
/// Size from which the writer begins another records section.
pub(crate) const RECORDS_BODY_TARGET: usize = 1 << 20;
/// Bytes that one read asks for, so that memory grows only with what was really read.
pub(crate) const READ_STEP: usize = 1 << 20;
/// Most kinds of records in one image, counting each version of a kind.
pub(crate) const MAX_KINDS: u64 = 4096;
/// Longest name of a kind, in bytes.
pub(crate) const MAX_KIND_NAME: usize = 64;

/// Flag of the file header: pages sections may be compressed. Flag of a pages section: its page data are.
pub(crate) const FLAG_COMPRESSED: u32 = 1;

pub(crate) const FILE_MAGIC: [u8; 8] = *b"CRYONAUT";
pub(crate) const SECTION_MAGIC: [u8; 8] = *b"CRYOSECT";

/// The first 64 bytes of an image. The layout is the same in all format versions.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub magic: [u8; 8],
    pub version: U32,
    pub architecture: U32,
    pub preamble_length: U32,
    pub flags: U32,
    pub preamble_crc: U32,
    pub reserved: [u8; 32],
    pub header_crc: U32,
}

/// The first 64 bytes of a section.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SectionHeader {
    pub magic: [u8; 8],
    pub section_type: U32,
    pub flags: U32,
    pub sequence: U64,
    pub body_length: U64,
    pub count: U64,
    pub space: U64,
    pub body_crc: U32,
    pub reserved: [u8; 8],
    pub header_crc: U32,
}

/// One entry of a pages section's run table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RunEntry {
    pub address: U64,
    pub pages: U32,
    pub run_type: U32,
    pub other: U64,
}

/// What comes before each record in a records section; the name and the body follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RecordEntry {
    pub name_length: U32,
    pub version: U32,
    pub body_length: U32,
}

/// One entry of the index.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexEntry {
    pub offset: U64,
    pub length: U64,
    pub section_type: U32,
    pub header_crc: U32,
    pub space: U64,
}

/// The body of the end section.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EndBody {
    pub sections: U64,
    pub total_length: U64,
    pub index_offset: U64,
    pub records: U64,
    pub stored_pages: U64,
    pub same_pages: U64,
    pub zero_pages: U64,
    pub chain_crc: U32,
    pub reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<FileHeader>() == HEADER_SIZE);
    assert!(size_of::<SectionHeader>() == HEADER_SIZE);
    assert!(size_of::<RunEntry>() == 24);
    assert!(size_of::<RecordEntry>() == 12);
    assert!(size_of::<IndexEntry>() == 32);
    assert!(size_of::<EndBody>() == 64);
};

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum SectionType {
    Records = 1,
    Pages = 2,
    Index = 3,
    End = 4,
}

pub(crate) const RUN_STORED: u32 = 1;
pub(crate) const RUN_SAME: u32 = 2;
pub(crate) const RUN_ZERO: u32 = 3;

/// One 4 KiB block at a 4 KiB boundary, so that page data in memory is aligned as in the file.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub(crate) struct Block(pub [u8; PAGE_SIZE]);

impl Block {
    pub(crate) const ZERO: Self = Self([0; PAGE_SIZE]);
}

/// CRC-32/ISCSI (Castagnoli), as used by everything in an image.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A running CRC-32/ISCSI.
pub(crate) struct RunningCrc(crc_fast::Digest);

impl RunningCrc {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        u32::try_from(self.0.finalize() & 0xffff_ffff).unwrap_or(0)
    }
}

impl FileHeader {
    pub(crate) fn new(preamble: &[u8], flags: u32) -> Result<Self, ImageError> {
        let length = u32::try_from(preamble.len()).unwrap_or(u32::MAX);
        if preamble.len() > MAX_PREAMBLE {
            return Err(ImageError::Oversized {
                what: "the preamble".to_owned(),
                size: u64::from(length),
                limit: MAX_PREAMBLE as u64,
            });
        }
        let mut header = Self {
            magic: FILE_MAGIC,
            version: FORMAT_VERSION.into(),
            architecture: ARCHITECTURE.into(),
            preamble_length: length.into(),
            flags: flags.into(),
            preamble_crc: crc(preamble).into(),
            reserved: [0; 32],
            header_crc: 0.into(),
        };
        header.header_crc = header.own_crc().into();
        Ok(header)
    }

    /// The checksum over everything before the checksum.
    pub(crate) fn own_crc(&self) -> u32 {
        crc(&self.as_bytes()[..HEADER_SIZE - 4])
    }

    /// Length in the file of header, preamble and padding, for a preamble of this length.
    pub(crate) fn length_with_preamble(preamble: usize) -> usize {
        (HEADER_SIZE + preamble).next_multiple_of(PAGE_SIZE)
    }
}

impl SectionHeader {
    pub(crate) fn new(section_type: SectionType, sequence: u64, count: u64, body: &[u8]) -> Self {
        let mut header = Self {
            magic: SECTION_MAGIC,
            section_type: (section_type as u32).into(),
            flags: 0.into(),
            sequence: sequence.into(),
            body_length: (body.len() as u64).into(),
            count: count.into(),
            space: 0.into(),
            body_crc: crc(body).into(),
            reserved: [0; 8],
            header_crc: 0.into(),
        };
        header.header_crc = header.own_crc().into();
        header
    }

    /// The checksum over everything before the checksum.
    pub(crate) fn own_crc(&self) -> u32 {
        crc(&self.as_bytes()[..HEADER_SIZE - 4])
    }

    /// Reads and checks the header that a section at `offset` begins with.
    pub(crate) fn parse(
        bytes: &[u8; HEADER_SIZE],
        offset: u64,
    ) -> Result<(Self, SectionType), ImageError> {
        let header: Self = zerocopy::transmute!(*bytes);
        if header.magic != SECTION_MAGIC || header.header_crc.get() != header.own_crc() {
            return Err(ImageError::damaged(
                offset,
                "the section header's checksum does not match",
            ));
        }
        if header.reserved != [0; 8] {
            return Err(ImageError::damaged(
                offset,
                "reserved bytes of the section header are not zero",
            ));
        }
        let section_type = match header.section_type.get() {
            1 => SectionType::Records,
            2 => SectionType::Pages,
            3 => SectionType::Index,
            4 => SectionType::End,
            other => {
                return Err(ImageError::damaged(
                    offset,
                    format!("there is no section type {other}"),
                ));
            }
        };
        let known = match section_type {
            SectionType::Pages => FLAG_COMPRESSED,
            _ => 0,
        };
        if header.flags.get() & !known != 0 {
            return Err(ImageError::UnknownFlags {
                offset,
                flags: header.flags.get(),
            });
        }
        header.check_limits(section_type, offset)?;
        Ok((header, section_type))
    }

    fn check_limits(&self, section_type: SectionType, offset: u64) -> Result<(), ImageError> {
        let (length, count) = (self.body_length.get(), self.count.get());
        let limit = match section_type {
            SectionType::Records => MAX_RECORDS_BODY,
            SectionType::Pages => {
                ((FRONT_BLOCKS + MAX_SECTION_PAGES) * PAGE_SIZE - HEADER_SIZE) as u64
            }
            SectionType::Index => MAX_SECTIONS * size_of::<IndexEntry>() as u64,
            SectionType::End => size_of::<EndBody>() as u64,
        };
        if length > limit {
            return Err(ImageError::Oversized {
                what: format!("the section at byte {offset} of the image"),
                size: length,
                limit,
            });
        }
        let wrong = |what: &str| Err(ImageError::damaged(offset, what));
        match section_type {
            SectionType::Records if count == 0 => wrong("a records section without records"),
            SectionType::Pages if count == 0 || count > MAX_SECTION_RUNS as u64 => {
                wrong("a pages section with a wrong number of runs")
            }
            SectionType::Index
                if Some(length) != count.checked_mul(size_of::<IndexEntry>() as u64) =>
            {
                wrong("the index's length does not fit its count")
            }
            SectionType::End if length != size_of::<EndBody>() as u64 || count != 0 => {
                wrong("the end section has a wrong length")
            }
            SectionType::Pages => Ok(()),
            _ if self.space.get() != 0 => wrong("a section without pages names a space"),
            _ => Ok(()),
        }
    }

    /// Length in the file, padding included. Only for headers that were checked.
    pub(crate) fn section_length(&self) -> u64 {
        (HEADER_SIZE as u64 + self.body_length.get()).next_multiple_of(PAGE_SIZE as u64)
    }
}

/// Whether every byte is zero.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    static ZERO: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    // Comparing slices becomes memcmp, which uses the widest vectors of the processor and stops early.
    bytes
        .chunks(PAGE_SIZE)
        .all(|chunk| *chunk == ZERO[..chunk.len()])
}
