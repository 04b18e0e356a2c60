//! Reading an image front to back, from anything that gives bytes.

use std::io::{self, Read};

use zerocopy::{FromBytes, IntoBytes};

use crate::format::{
    ARCHITECTURE, EndBody, FILE_MAGIC, FLAG_COMPRESSED, FORMAT_VERSION, FileHeader, HEADER_SIZE,
    IndexEntry, MAX_PREAMBLE, MAX_SECTIONS, PAGE_SIZE, READ_STEP, RunningCrc, SectionHeader,
    SectionType, all_zero, crc,
};
use crate::{ImageError, PageBuffer, PagesSection, Preamble, RecordSet, Summary};

/// Reads and checks an image front to back.
///
/// Everything it hands out has been checked, but only when [`next_pages`](Self::next_pages) has returned `None` is it
/// certain that the image is complete: nothing may be started before.
pub struct ImageReader<R: Read> {
    source: Source<R>,
    preamble: Preamble,
    state: State,
    /// Records read and not yet handed out.
    records: RecordSet,
    /// Body of a section without pages; kept for its memory.
    body: Vec<u8>,
    /// Checksum that the index must have.
    index_crc: RunningCrc,
    chain: RunningCrc,
    index_offset: u64,
    /// Sections seen, index included.
    sequence: u64,
    record_bytes: u64,
    summary: Summary,
}

enum State {
    /// Before a section header.
    Between,
    /// The first block of a section was read.
    Begun {
        offset: u64,
        header: SectionHeader,
        section_type: SectionType,
        block: Box<[u8; PAGE_SIZE]>,
    },
    /// The end was read and everything was right.
    Done,
    /// An error was reported.
    Failed,
}

/// A source that knows its position.
pub(crate) struct Source<R> {
    reader: R,
    pub offset: u64,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(reader: R, offset: u64) -> Self {
        Self { reader, offset }
    }

    /// Reads as much as there is, up to the buffer's length.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count.min(buffer.len() - filled),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(ImageError::io(format!(
                        "read the image at byte {}",
                        self.offset
                    ))(error));
                }
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImageError> {
        if self.read_up_to(buffer)? == buffer.len() {
            Ok(())
        } else {
            Err(ImageError::Truncated {
                offset: self.offset,
            })
        }
    }

    /// Appends `length` bytes, taking memory only as they arrive.
    fn append(&mut self, buffer: &mut Vec<u8>, length: u64) -> Result<(), ImageError> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let start = buffer.len();
            let step = left.min(READ_STEP);
            buffer.resize(start + step, 0);
            self.fill(&mut buffer[start..])?;
            left -= step;
        }
        Ok(())
    }

    /// Reads the rest of a section whose first block is `block` into `buffer`, and returns its length.
    pub(crate) fn section_into(
        &mut self,
        header: &SectionHeader,
        block: &[u8; PAGE_SIZE],
        buffer: &mut PageBuffer,
    ) -> Result<usize, ImageError> {
        // The header's limits keep this at 4 MiB and a little.
        let length = usize::try_from(header.section_length()).unwrap_or(usize::MAX);
        buffer.grow(1);
        buffer.bytes_mut()[..PAGE_SIZE].copy_from_slice(block);
        let mut have = PAGE_SIZE;
        while have < length {
            let step = (length - have).min(READ_STEP);
            buffer.grow((have + step) / PAGE_SIZE);
            self.fill(&mut buffer.bytes_mut()[have..have + step])?;
            have += step;
        }
        Ok(length)
    }

    /// Reads the rest of a section whose first block is `block`, checks it, and leaves its body in `body`.
    pub(crate) fn body_into(
        &mut self,
        header: &SectionHeader,
        block: &[u8; PAGE_SIZE],
        body: &mut Vec<u8>,
    ) -> Result<(), ImageError> {
        let start = self.offset - PAGE_SIZE as u64;
        body.clear();
        body.extend_from_slice(&block[HEADER_SIZE..]);
        self.append(body, header.section_length() - PAGE_SIZE as u64)?;
        let length = usize::try_from(header.body_length.get()).unwrap_or(usize::MAX);
        let (used, padding) = body.split_at(length.min(body.len()));
        if crc(used) != header.body_crc.get() {
            return Err(ImageError::damaged(
                start,
                "the checksum of a section does not match",
            ));
        }
        if !all_zero(padding) {
            return Err(ImageError::damaged(start, "padding is not zero"));
        }
        body.truncate(length);
        Ok(())
    }

    /// Reads and checks the header and the preamble; returns the header's checksum too.
    pub(crate) fn preamble(&mut self) -> Result<(Preamble, u32), ImageError> {
        let mut bytes = [0; HEADER_SIZE];
        let have = self.read_up_to(&mut bytes)?;
        if !bytes[..have].starts_with(&FILE_MAGIC[..have.min(FILE_MAGIC.len())]) {
            return Err(ImageError::NotAnImage);
        }
        if have < HEADER_SIZE {
            return Err(ImageError::Truncated {
                offset: self.offset,
            });
        }
        let header: FileHeader = zerocopy::transmute!(bytes);
        if header.header_crc.get() != header.own_crc() {
            return Err(ImageError::damaged(
                0,
                "the header's checksum does not match",
            ));
        }
        let preamble = self.preamble_after(&header);
        if header.version.get() > FORMAT_VERSION {
            // A later version may have changed the preamble's limits, but it keeps the place of its author's name.
            return Err(ImageError::FutureVersion {
                found: header.version.get(),
                supported: FORMAT_VERSION,
                created_by: match preamble {
                    Ok(preamble) if !preamble.created_by.is_empty() => preamble.created_by,
                    _ => "an unknown version".to_owned(),
                },
            });
        }
        if header.version.get() == 0 || header.reserved != [0; 32] {
            return Err(ImageError::damaged(
                0,
                "the header breaks the rules of its format version",
            ));
        }
        if header.flags.get() & !FLAG_COMPRESSED != 0 {
            return Err(ImageError::UnknownFlags {
                offset: 0,
                flags: header.flags.get(),
            });
        }
        if header.architecture.get() != ARCHITECTURE {
            return Err(ImageError::OtherArchitecture {
                found: header.architecture.get(),
                supported: ARCHITECTURE,
            });
        }
        Ok((preamble?, header.header_crc.get()))
    }

    fn preamble_after(&mut self, header: &FileHeader) -> Result<Preamble, ImageError> {
        let length = header.preamble_length.get() as usize;
        if length > MAX_PREAMBLE {
            return Err(ImageError::Oversized {
                what: "the preamble".to_owned(),
                size: length as u64,
                limit: MAX_PREAMBLE as u64,
            });
        }
        let mut bytes = Vec::new();
        let padded = FileHeader::length_with_preamble(length) - HEADER_SIZE;
        self.append(&mut bytes, padded as u64)?;
        let (message, padding) = bytes.split_at(length);
        if crc(message) != header.preamble_crc.get() {
            return Err(ImageError::damaged(
                HEADER_SIZE as u64,
                "the preamble's checksum does not match",
            ));
        }
        if !all_zero(padding) {
            return Err(ImageError::damaged(
                HEADER_SIZE as u64,
                "padding is not zero",
            ));
        }
        <Preamble as prost::Message>::decode(message).map_err(|error| {
            ImageError::damaged(
                HEADER_SIZE as u64,
                format!("the preamble cannot be decoded: {error}"),
            )
        })
    }
}

impl<R: Read> ImageReader<R> {
    /// Reads the header and the preamble.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`], [`ImageError::FutureVersion`], [`ImageError::OtherArchitecture`],
    /// [`ImageError::UnknownFlags`], and what reading can give: [`ImageError::Truncated`], [`ImageError::Damaged`],
    /// [`ImageError::Oversized`], [`ImageError::Io`].
    pub fn open(reader: R) -> Result<Self, ImageError> {
        let mut source = Source::new(reader, 0);
        let (preamble, header_crc) = source.preamble()?;
        let mut chain = RunningCrc::new();
        chain.add(&header_crc.to_le_bytes());
        Ok(Self {
            source,
            records: RecordSet::read_from(&preamble.created_by),
            preamble,
            state: State::Between,
            body: Vec::new(),
            index_crc: RunningCrc::new(),
            chain,
            index_offset: 0,
            sequence: 0,
            record_bytes: 0,
            summary: Summary::default(),
        })
    }

    /// What is known of the image without decoding a record.
    #[must_use]
    pub fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    /// The records up to the next pages section (or to the end), beginning with those that
    /// [`next_pages`](Self::next_pages) passed over.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`], [`ImageError::Oversized`], [`ImageError::UnknownFlags`],
    /// [`ImageError::Io`]; [`ImageError::Failed`] after an earlier one.
    pub fn records(&mut self) -> Result<RecordSet, ImageError> {
        while matches!(self.begin_section()?, Some(SectionType::Records)) {
            self.guarded(Self::read_records)?;
        }
        let fresh = RecordSet::read_from(&self.preamble.created_by);
        Ok(std::mem::replace(&mut self.records, fresh))
    }

    /// The next pages section, read into `buffer`; `None` at the end of a complete and correct image.
    ///
    /// Records met on the way are kept for [`records`](Self::records). At the end the index and the checksum over all
    /// sections are checked, and that nothing follows.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn next_pages<'b>(
        &mut self,
        buffer: &'b mut PageBuffer,
    ) -> Result<Option<PagesSection<'b>>, ImageError> {
        loop {
            match self.begin_section()? {
                None => return Ok(None),
                Some(SectionType::Records) => self.guarded(Self::read_records)?,
                Some(SectionType::Index) => self.guarded(Self::read_index)?,
                Some(SectionType::End) => self.guarded(Self::read_end)?,
                Some(SectionType::Pages) => {
                    let (header, offset, length) =
                        self.guarded(|reader| reader.read_pages(buffer))?;
                    let section = PagesSection::parse(&header, buffer, length, offset);
                    match &section {
                        Ok(section) => self.summary.add_pages(section.counts()),
                        Err(_) => self.state = State::Failed,
                    }
                    return section.map(Some);
                }
            }
        }
    }

    /// Counts over what was read so far; complete once [`next_pages`](Self::next_pages) has returned `None`.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            bytes: self.source.offset,
            ..self.summary
        }
    }

    /// Reads the rest and checks it, without handing anything out.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn verify_rest(&mut self) -> Result<Summary, ImageError> {
        let mut buffer = PageBuffer::new();
        while self.next_pages(&mut buffer)?.is_some() {}
        Ok(self.summary())
    }

    /// Runs one step; if it fails, no other step is possible.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let result = step(self);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    /// The type of the section that comes next, whose first block is read if it was not; `None` after the end.
    fn begin_section(&mut self) -> Result<Option<SectionType>, ImageError> {
        if matches!(self.state, State::Between) {
            self.guarded(Self::read_first_block)?;
        }
        match &self.state {
            State::Begun { section_type, .. } => Ok(Some(*section_type)),
            State::Done => Ok(None),
            State::Between | State::Failed => Err(ImageError::Failed),
        }
    }

    fn read_first_block(&mut self) -> Result<(), ImageError> {
        let offset = self.source.offset;
        let mut block = Box::new([0; PAGE_SIZE]);
        self.source.fill(&mut block[..])?;
        let (header, section_type) = parse_first(&block, offset)?;
        if header.sequence.get() != self.sequence {
            return Err(ImageError::damaged(
                offset,
                format!(
                    "section {} stands where section {} is due",
                    header.sequence, self.sequence
                ),
            ));
        }
        let order_is_right = match section_type {
            SectionType::End => self.index_offset != 0,
            _ => self.index_offset == 0,
        };
        if !order_is_right || self.sequence > MAX_SECTIONS + 1 {
            return Err(ImageError::damaged(
                offset,
                "the sections are not in the right order",
            ));
        }
        self.state = State::Begun {
            offset,
            header,
            section_type,
            block,
        };
        Ok(())
    }

    /// Takes the section that was begun; it counts as seen.
    fn take_begun(&mut self) -> Result<(u64, SectionHeader, Box<[u8; PAGE_SIZE]>), ImageError> {
        let State::Begun {
            offset,
            header,
            section_type,
            block,
        } = std::mem::replace(&mut self.state, State::Between)
        else {
            return Err(ImageError::Failed);
        };
        self.sequence += 1;
        if section_type != SectionType::End {
            self.chain.add(header.header_crc.as_bytes());
        }
        if matches!(section_type, SectionType::Records | SectionType::Pages) {
            self.summary.sections += 1;
            let entry = IndexEntry {
                offset: offset.into(),
                length: header.section_length().into(),
                section_type: header.section_type,
                header_crc: header.header_crc,
                space: header.space,
            };
            self.index_crc.add(entry.as_bytes());
        }
        Ok((offset, header, block))
    }

    fn read_records(&mut self) -> Result<(), ImageError> {
        let (offset, header, block) = self.take_begun()?;
        self.record_bytes += header.body_length.get();
        crate::record::check_total(self.record_bytes)?;
        self.source.body_into(&header, &block, &mut self.body)?;
        let count = header.count.get();
        self.records
            .read_body(&self.body, count, offset + HEADER_SIZE as u64)?;
        // Added only now, when the count is known to be true.
        self.summary.records += count;
        Ok(())
    }

    fn read_pages(
        &mut self,
        buffer: &mut PageBuffer,
    ) -> Result<(SectionHeader, u64, usize), ImageError> {
        let (offset, header, block) = self.take_begun()?;
        let length = self.source.section_into(&header, &block, buffer)?;
        Ok((header, offset, length))
    }

    fn read_index(&mut self) -> Result<(), ImageError> {
        let (offset, header, block) = self.take_begun()?;
        // What the index must say is known, so its length is checked before it is read.
        if header.count.get() != self.summary.sections
            || header.body_crc.get() != self.index_crc.value()
        {
            return Err(ImageError::damaged(
                offset,
                "the index does not fit the sections",
            ));
        }
        self.index_offset = offset;
        self.source.body_into(&header, &block, &mut self.body)
    }

    fn read_end(&mut self) -> Result<(), ImageError> {
        let (offset, header, block) = self.take_begun()?;
        self.source.body_into(&header, &block, &mut self.body)?;
        let end = parse_end(&self.body, offset)?;
        let expected = EndBody {
            sections: (self.summary.sections + 1).into(),
            total_length: self.source.offset.into(),
            index_offset: self.index_offset.into(),
            records: self.summary.records.into(),
            stored_pages: self.summary.stored_pages.into(),
            same_pages: self.summary.same_pages.into(),
            zero_pages: self.summary.zero_pages.into(),
            chain_crc: self.chain.value().into(),
            reserved: [0; 4],
        };
        if end.as_bytes() != expected.as_bytes() {
            return Err(ImageError::damaged(
                offset,
                "the end section does not fit what came before",
            ));
        }
        if self.source.read_up_to(&mut [0])? != 0 {
            return Err(ImageError::damaged(
                self.source.offset - 1,
                "something follows the end of the image",
            ));
        }
        self.state = State::Done;
        Ok(())
    }
}

/// Checks the header in the first block of a section at `offset`.
pub(crate) fn parse_first(
    block: &[u8; PAGE_SIZE],
    offset: u64,
) -> Result<(SectionHeader, SectionType), ImageError> {
    let mut header = [0; HEADER_SIZE];
    header.copy_from_slice(&block[..HEADER_SIZE]);
    SectionHeader::parse(&header, offset)
}

pub(crate) fn parse_end(body: &[u8], offset: u64) -> Result<EndBody, ImageError> {
    EndBody::read_from_bytes(body)
        .map_err(|_| ImageError::damaged(offset, "the end section has a wrong length"))
}

/// Reads a whole image and checks everything that can be checked without decoding records.
///
/// # Errors
/// As [`ImageReader::open`] and [`ImageReader::records`].
pub fn verify(reader: impl Read) -> Result<Summary, ImageError> {
    let mut reader = ImageReader::open(reader)?;
    let mut buffer = PageBuffer::new();
    loop {
        // Taking the records lets their memory go.
        reader.records()?;
        if reader.next_pages(&mut buffer)?.is_none() {
            return Ok(reader.summary());
        }
    }
}
