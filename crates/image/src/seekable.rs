//! Reading an image from a file, in any order and on many threads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zerocopy::{FromBytes, IntoBytes};

use crate::format::{
    EndBody, HEADER_SIZE, IndexEntry, PAGE_SIZE, RunningCrc, SectionHeader, SectionType,
};
use crate::reader::{Source, parse_end, parse_first};
use crate::{ImageError, ImageReader, PageBuffer, PagesSection, Preamble, RecordSet, Summary};

/// An image in a file. Reading moves no file position, so one image serves many threads.
pub struct SeekableImage {
    file: File,
    preamble: Preamble,
    records_sections: Vec<Location>,
    pages_sections: Vec<Location>,
    /// Their places in that list by space, and in their order.
    by_space: Vec<usize>,
    summary: Summary,
}

/// Where a section lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Bytes from the start of the image.
    pub offset: u64,
    /// Length in bytes, padding included.
    pub length: u64,
    /// The section's number in the image. Where two sections describe a page, the one with the higher number counts.
    pub sequence: u64,
    /// For a pages section the address space or shared memory object it belongs to, otherwise 0.
    pub space: u64,
    header_crc: u32,
}

/// A file read from a position of its own.
struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

fn at(file: &File, offset: u64) -> Source<At<'_>> {
    Source::new(
        At {
            file,
            position: offset,
        },
        offset,
    )
}

impl SeekableImage {
    /// Reads header, preamble, index and end, and checks them against each other and the file's length. The sections
    /// themselves are checked when they are read.
    ///
    /// # Errors
    /// As [`ImageReader::open`]; [`ImageError::Truncated`] also if the file does not end with an end section.
    pub fn open(file: File) -> Result<Self, ImageError> {
        let mut source = at(&file, 0);
        let (preamble, header_crc) = source.preamble()?;
        let first_section = source.offset;
        let length = file
            .metadata()
            .map_err(ImageError::io("get the image's length"))?
            .len();
        let (end_header, end) = read_end(&file, first_section, length)?;
        let end_offset = length - PAGE_SIZE as u64;
        let (index_header, entries) = read_index(&file, first_section, end_offset, &end)?;
        let damaged = |what: &str| Err(ImageError::damaged(end_offset, what));
        if end.total_length.get() != length
            || end.sections.get() != entries.len() as u64 + 1
            || end_header.sequence.get() != entries.len() as u64 + 1
            || index_header.sequence.get() != entries.len() as u64
            || end.reserved != [0; 4]
        {
            return damaged("the end section does not fit the image");
        }
        let mut chain = RunningCrc::new();
        chain.add(&header_crc.to_le_bytes());
        entries
            .iter()
            .for_each(|entry| chain.add(entry.header_crc.as_bytes()));
        chain.add(index_header.header_crc.as_bytes());
        if chain.value() != end.chain_crc.get() {
            return damaged("the checksum over all sections does not match");
        }
        let (records_sections, pages_sections) = locate(&entries, first_section, &end)?;
        let mut by_space: Vec<usize> = (0..pages_sections.len()).collect();
        by_space.sort_by_key(|place| pages_sections[*place].space);
        Ok(Self {
            file,
            preamble,
            records_sections,
            pages_sections,
            by_space,
            summary: Summary {
                bytes: length,
                sections: entries.len() as u64,
                records: end.records.get(),
                stored_pages: end.stored_pages.get(),
                same_pages: end.same_pages.get(),
                zero_pages: end.zero_pages.get(),
            },
        })
    }

    /// What is known of the image without decoding a record.
    #[must_use]
    pub fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    /// Counts over the whole image, as its end section states them.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// All records, in their order.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`], [`ImageError::Oversized`], [`ImageError::Io`].
    pub fn records(&self) -> Result<RecordSet, ImageError> {
        let mut records = RecordSet::read_from(&self.preamble.created_by);
        let mut body = Vec::new();
        let mut total = 0;
        for location in &self.records_sections {
            let (mut source, header, block) = self.begin(location, SectionType::Records)?;
            total += header.body_length.get();
            crate::record::check_total(total)?;
            source.body_into(&header, &block, &mut body)?;
            records.read_body(
                &body,
                header.count.get(),
                location.offset + HEADER_SIZE as u64,
            )?;
        }
        if records.len() as u64 == self.summary.records {
            Ok(records)
        } else {
            Err(ImageError::damaged(
                self.summary.bytes - PAGE_SIZE as u64,
                "the number of records in the end section is wrong",
            ))
        }
    }

    /// Where the pages sections lie, in their order in the image.
    #[must_use]
    pub fn pages_sections(&self) -> &[Location] {
        &self.pages_sections
    }

    /// Those of one space, in their order in the image.
    pub fn pages_sections_of(&self, space: u64) -> impl Iterator<Item = &Location> {
        let at = |place: &usize| &self.pages_sections[*place];
        let start = self
            .by_space
            .partition_point(|place| at(place).space < space);
        let places = self.by_space[start..].iter();
        places
            .map(at)
            .take_while(move |location| location.space == space)
    }

    /// Reads and checks one pages section. Threads may do so at the same time, each with its own buffer.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`], [`ImageError::Io`].
    pub fn read_pages<'b>(
        &self,
        location: &Location,
        buffer: &'b mut PageBuffer,
    ) -> Result<PagesSection<'b>, ImageError> {
        let (mut source, header, block) = self.begin(location, SectionType::Pages)?;
        let length = source.section_into(&header, &block, buffer)?;
        PagesSection::parse(&header, buffer, length, location.offset)
    }

    /// Reads the whole image front to back and checks everything that can be checked without decoding records.
    ///
    /// # Errors
    /// As [`verify`](crate::verify).
    pub fn verify(&self) -> Result<Summary, ImageError> {
        crate::verify(At {
            file: &self.file,
            position: 0,
        })
    }

    /// A reader for the whole image, front to back, that leaves this one as it is.
    ///
    /// # Errors
    /// As [`ImageReader::open`].
    pub fn stream(&self) -> Result<ImageReader<impl Read + '_>, ImageError> {
        ImageReader::open(At {
            file: &self.file,
            position: 0,
        })
    }

    /// Reads the first block of a section and checks that it is the one the index means.
    fn begin(&self, location: &Location, expected: SectionType) -> Result<Begun<'_>, ImageError> {
        let mut source = at(&self.file, location.offset);
        let mut block = Box::new([0; PAGE_SIZE]);
        source.fill(&mut block[..])?;
        let (header, section_type) = parse_first(&block, location.offset)?;
        if section_type != expected
            || header.header_crc.get() != location.header_crc
            || header.sequence.get() != location.sequence
            || header.space.get() != location.space
            || header.section_length() != location.length
        {
            return Err(ImageError::damaged(
                location.offset,
                "the section is not the one the index names",
            ));
        }
        Ok((source, header, block))
    }
}

type Begun<'a> = (Source<At<'a>>, SectionHeader, Box<[u8; PAGE_SIZE]>);

fn read_end(
    file: &File,
    first_section: u64,
    length: u64,
) -> Result<(SectionHeader, EndBody), ImageError> {
    let offset = length.saturating_sub(PAGE_SIZE as u64);
    if offset < first_section || !length.is_multiple_of(PAGE_SIZE as u64) {
        return Err(ImageError::Truncated { offset: length });
    }
    let mut source = at(file, offset);
    let mut block = [0; PAGE_SIZE];
    source.fill(&mut block)?;
    let (header, section_type) = match parse_first(&block, offset) {
        Ok(parsed) => parsed,
        // Half an image ends with whatever was written last; that is the likelier story than damage just here.
        Err(_) if !block.starts_with(&crate::format::SECTION_MAGIC) => {
            return Err(ImageError::Truncated { offset: length });
        }
        Err(error) => return Err(error),
    };
    if section_type != SectionType::End {
        return Err(ImageError::Truncated { offset: length });
    }
    let mut body = Vec::new();
    source.body_into(&header, &block, &mut body)?;
    Ok((header, parse_end(&body, offset)?))
}

fn read_index(
    file: &File,
    first_section: u64,
    end_offset: u64,
    end: &EndBody,
) -> Result<(SectionHeader, Vec<IndexEntry>), ImageError> {
    let offset = end.index_offset.get();
    let damaged = |what: &str| ImageError::damaged(end_offset, what);
    if offset < first_section || offset >= end_offset || !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(damaged("the end section names no place for the index"));
    }
    let mut source = at(file, offset);
    let mut block = [0; PAGE_SIZE];
    source.fill(&mut block)?;
    let (header, section_type) = parse_first(&block, offset)?;
    if section_type != SectionType::Index
        || offset.checked_add(header.section_length()) != Some(end_offset)
    {
        return Err(damaged("the index is not where the end section says"));
    }
    let mut body = Vec::new();
    source.body_into(&header, &block, &mut body)?;
    let entries = <[IndexEntry]>::ref_from_bytes(&body)
        .map_err(|_| damaged("the index has a wrong length"))?;
    Ok((header, entries.to_vec()))
}

/// The records and the pages sections of an index that covers the image without gap or overlap.
fn locate(
    entries: &[IndexEntry],
    first_section: u64,
    end: &EndBody,
) -> Result<(Vec<Location>, Vec<Location>), ImageError> {
    let damaged = |what: &str| ImageError::damaged(end.index_offset.get(), what);
    let (mut records, mut pages) = (Vec::new(), Vec::new());
    let mut due = first_section;
    for (sequence, entry) in entries.iter().enumerate() {
        let length = entry.length.get();
        if entry.offset.get() != due || length == 0 || !length.is_multiple_of(PAGE_SIZE as u64) {
            return Err(damaged("the index does not fit the sections"));
        }
        due = due
            .checked_add(length)
            .ok_or_else(|| damaged("the index does not fit the sections"))?;
        let location = Location {
            offset: entry.offset.get(),
            length,
            sequence: sequence as u64,
            space: entry.space.get(),
            header_crc: entry.header_crc.get(),
        };
        match entry.section_type.get() {
            1 => records.push(location),
            2 => pages.push(location),
            _ => return Err(damaged("the index names a section of unknown type")),
        }
    }
    if due == end.index_offset.get() {
        Ok((records, pages))
    } else {
        Err(damaged("the index does not fit the sections"))
    }
}
