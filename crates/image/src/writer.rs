//! Writing an image to anything that takes bytes.

use std::io::Write;

use zerocopy::IntoBytes;

use crate::format::{
    EndBody, FLAG_COMPRESSED, FileHeader, HEADER_SIZE, IndexEntry, MAX_SECTIONS, PAGE_SIZE,
    RECORDS_BODY_TARGET, RunningCrc, SectionHeader, SectionType,
};
use crate::{CompressedPages, ImageError, Preamble, RecordSet, SealedPages, Summary};

/// Writes an image front to back; needs no seeking, so a pipe or a socket will do.
pub struct ImageWriter<W: Write> {
    sink: W,
    offset: u64,
    index: Vec<IndexEntry>,
    chain: RunningCrc,
    summary: Summary,
    record_bytes: u64,
    failed: bool,
}

impl<W: Write> ImageWriter<W> {
    /// Begins an image with its header and preamble.
    ///
    /// # Errors
    /// [`ImageError::Oversized`] if the preamble is, [`ImageError::Io`] if the sink fails.
    pub fn begin(sink: W, preamble: &Preamble) -> Result<Self, ImageError> {
        Self::begin_with(sink, preamble, 0)
    }

    /// As [`begin`](Self::begin), of an image whose pages may be compressed: programs that do not know how to unpack them see it at
    /// its header.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_compressed(sink: W, preamble: &Preamble) -> Result<Self, ImageError> {
        Self::begin_with(sink, preamble, FLAG_COMPRESSED)
    }

    fn begin_with(sink: W, preamble: &Preamble, flags: u32) -> Result<Self, ImageError> {
        let message = prost::Message::encode_to_vec(preamble);
        let header = FileHeader::new(&message, flags)?;
        let mut chain = RunningCrc::new();
        chain.add(header.header_crc.as_bytes());
        let mut writer = Self {
            sink,
            offset: 0,
            index: Vec::new(),
            chain,
            summary: Summary::default(),
            record_bytes: 0,
            failed: false,
        };
        let mut bytes = vec![0; FileHeader::length_with_preamble(message.len())];
        bytes[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        bytes[HEADER_SIZE..HEADER_SIZE + message.len()].copy_from_slice(&message);
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Writes records, in as many sections as they need. May be called several times, before and after pages; a
    /// restart from a stream is best served with all records first.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the sink fails, [`ImageError::Oversized`] if all records written so far are together
    /// larger than an image may hold.
    pub fn records(&mut self, records: &RecordSet) -> Result<(), ImageError> {
        for (body, count) in records.section_bodies(RECORDS_BODY_TARGET) {
            self.record_bytes += body.len() as u64;
            crate::record::check_total(self.record_bytes)?;
            self.section(SectionType::Records, count, body)?;
            self.summary.records += count;
        }
        Ok(())
    }

    /// Writes a batch of pages; one without any runs is passed over.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the sink fails.
    pub fn pages(&mut self, pages: &mut SealedPages) -> Result<(), ImageError> {
        if pages.is_empty() {
            return Ok(());
        }
        let header = pages.number(self.next_sequence()?);
        self.note(SectionType::Pages, &header);
        self.write(pages.bytes())?;
        self.summary.add_pages(pages.counts());
        Ok(())
    }

    /// Writes pages that were compressed, into an image that was begun with [`begin_compressed`](Self::begin_compressed).
    ///
    /// # Errors
    /// [`ImageError::Io`] if the sink fails.
    pub fn compressed(&mut self, pages: &CompressedPages) -> Result<(), ImageError> {
        let header = pages.header(self.next_sequence()?);
        self.note(SectionType::Pages, &header);
        self.padded(&header, &pages.body)?;
        self.summary.add_pages(pages.counts);
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Ends the image with its index and end section, and flushes the sink.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the sink fails.
    pub fn finish(mut self) -> Result<(W, Summary), ImageError> {
        self.summary.sections = self.index.len() as u64;
        let index_offset = self.offset;
        let index = std::mem::take(&mut self.index);
        let header = SectionHeader::new(
            SectionType::Index,
            self.summary.sections,
            index.len() as u64,
            index.as_bytes(),
        );
        self.chain.add(header.header_crc.as_bytes());
        self.padded(&header, index.as_bytes())?;
        let end = EndBody {
            sections: (self.summary.sections + 1).into(),
            total_length: (self.offset + PAGE_SIZE as u64).into(),
            index_offset: index_offset.into(),
            records: self.summary.records.into(),
            stored_pages: self.summary.stored_pages.into(),
            same_pages: self.summary.same_pages.into(),
            zero_pages: self.summary.zero_pages.into(),
            chain_crc: self.chain.value().into(),
            reserved: [0; 4],
        };
        let header = SectionHeader::new(
            SectionType::End,
            self.summary.sections + 1,
            0,
            end.as_bytes(),
        );
        self.padded(&header, end.as_bytes())?;
        self.sink
            .flush()
            .map_err(ImageError::io("flush the image"))?;
        self.summary.bytes = self.offset;
        Ok((self.sink, self.summary))
    }

    fn next_sequence(&self) -> Result<u64, ImageError> {
        let size = self.index.len() as u64;
        if size < MAX_SECTIONS {
            return Ok(size);
        }
        Err(ImageError::Oversized {
            what: "the image's index, in entries,".to_owned(),
            size: size + 1,
            limit: MAX_SECTIONS,
        })
    }

    fn section(
        &mut self,
        section_type: SectionType,
        count: u64,
        body: &[u8],
    ) -> Result<(), ImageError> {
        let header = SectionHeader::new(section_type, self.next_sequence()?, count, body);
        self.note(section_type, &header);
        self.padded(&header, body)
    }

    /// Takes a section that is about to be written into the index and the chain of checksums.
    fn note(&mut self, section_type: SectionType, header: &SectionHeader) {
        self.chain.add(header.header_crc.as_bytes());
        self.index.push(IndexEntry {
            offset: self.offset.into(),
            length: header.section_length().into(),
            section_type: (section_type as u32).into(),
            header_crc: header.header_crc,
            space: header.space,
        });
    }

    fn padded(&mut self, header: &SectionHeader, body: &[u8]) -> Result<(), ImageError> {
        let length = HEADER_SIZE + body.len();
        let padding = length.next_multiple_of(PAGE_SIZE) - length;
        let mut bytes = Vec::with_capacity(length + padding);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(length + padding, 0);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.failed {
            return Err(ImageError::Failed);
        }
        // Cleared only by success: after an error nobody knows how much of it was written.
        self.failed = true;
        self.sink.write_all(bytes).map_err(ImageError::io(format!(
            "write the image at byte {}",
            self.offset
        )))?;
        self.failed = false;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}
