//! Writing pages: memory is read straight into what becomes a pages section.

use zerocopy::{FromBytes, IntoBytes};

use crate::ImageError;
use crate::format::{
    Block, FLAG_COMPRESSED, FRONT_BLOCKS, HEADER_SIZE, MAX_SECTION_PAGES, MAX_SECTION_RUNS,
    PAGE_SIZE, RUN_SAME, RUN_STORED, RUN_ZERO, RunEntry, SectionHeader, SectionType, all_zero, crc,
};
use crate::summary::PageCounts;

/// Pages in a batch if not said otherwise: 1 MiB, so that reading, checksum and writing meet in the cache.
pub const DEFAULT_BATCH_PAGES: usize = 256;

/// Page-aligned memory for one pages section, to be used again and again for writing and for reading.
///
/// It keeps what it held: whoever fills it must fill all that is asked for.
#[derive(Default)]
pub struct PageBuffer {
    pub(crate) blocks: Vec<Block>,
    /// Page data of a compressed section, unpacked.
    unpacked: Vec<Block>,
}

impl PageBuffer {
    /// An empty buffer; memory is taken when it is used.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            blocks: Vec::new(),
            unpacked: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.blocks.as_bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.blocks.as_mut_bytes()
    }

    /// Makes the buffer at least this many blocks long.
    pub(crate) fn grow(&mut self, blocks: usize) {
        grow(&mut self.blocks, blocks);
    }
}

fn grow(blocks: &mut Vec<Block>, count: usize) {
    if blocks.len() < count {
        blocks.resize(count, Block::ZERO);
    }
}

/// What becomes of pages that turn out to be all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPages {
    /// They are left out: for memory that is zero where the image says nothing (anonymous memory). Not for pages that
    /// an earlier batch may have stored with other contents, as when memory is copied while the job runs.
    Omit,
    /// They are recorded as zero without their contents: for private file mappings, and wherever else earlier
    /// contents must be replaced.
    Record,
    /// They are stored as they are, and not looked for.
    Keep,
}

/// A batch of pages of one space, being filled by one thread.
pub struct PageBatchBuilder {
    buffer: PageBuffer,
    space: u64,
    capacity: usize,
    ranges: Vec<Range>,
    /// Stored pages so far.
    stored: usize,
    /// Runs the table may need in the worst case.
    runs: usize,
}

#[derive(Clone, Copy)]
struct Range {
    address: u64,
    pages: u32,
    contents: RangeContents,
}

#[derive(Clone, Copy)]
enum RangeContents {
    Stored(ZeroPages),
    Same(u64),
    Zero,
}

impl PageBatchBuilder {
    /// A batch for [`DEFAULT_BATCH_PAGES`] pages of `space`, in memory of its own.
    ///
    /// `space` is the number by which records name an address space or a shared memory object.
    #[must_use]
    pub fn new(space: u64) -> Self {
        Self::with_buffer(space, DEFAULT_BATCH_PAGES, PageBuffer::new())
    }

    /// A batch for up to `capacity` stored pages of `space` (at most [`MAX_SECTION_PAGES`]), in memory used before.
    #[must_use]
    pub fn with_buffer(space: u64, capacity: usize, mut buffer: PageBuffer) -> Self {
        let capacity = capacity.clamp(1, MAX_SECTION_PAGES);
        buffer.grow(FRONT_BLOCKS + capacity);
        Self {
            buffer,
            space,
            capacity,
            ranges: Vec::new(),
            stored: 0,
            runs: 0,
        }
    }

    /// How many pages the next [`stored`](Self::stored) range may have; 0 if the batch is full.
    #[must_use]
    pub fn space_left(&self) -> usize {
        // A range can fall apart into as many runs as it has pages.
        (self.capacity - self.stored).min(self.runs_left())
    }

    /// How many more [`same`](Self::same) and [`zero`](Self::zero) runs fit.
    #[must_use]
    pub fn runs_left(&self) -> usize {
        MAX_SECTION_RUNS - self.runs
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The space the batch is for.
    #[must_use]
    pub fn space(&self) -> u64 {
        self.space
    }

    /// Adds a range whose contents are stored, and returns the memory for them: `pages` pages, page-aligned.
    ///
    /// The memory holds anything; all of it must be written, or the range cut with
    /// [`shorten_last`](Self::shorten_last). The memory of ranges added one after the other is contiguous.
    ///
    /// # Errors
    /// [`ImageError::BadRun`] if the range is empty, not page-aligned, wraps around, or has more pages than
    /// [`space_left`](Self::space_left).
    pub fn stored(
        &mut self,
        address: u64,
        pages: usize,
        zero: ZeroPages,
    ) -> Result<&mut [u8], ImageError> {
        self.stored_ranges(&[(address, pages)], zero)
    }

    /// Adds several ranges of (address, pages) and returns the memory for all of them as one piece, so that one
    /// process_vm_readv(2) can fill it.
    ///
    /// # Errors
    /// As [`stored`](Self::stored); then none of the ranges is added.
    pub fn stored_ranges(
        &mut self,
        ranges: &[(u64, usize)],
        zero: ZeroPages,
    ) -> Result<&mut [u8], ImageError> {
        let mut total = 0_usize;
        for &(address, pages) in ranges {
            check_run(address, pages as u64)?;
            total = total.saturating_add(pages);
            if total > self.space_left() {
                return Err(full(address, pages as u64));
            }
        }
        self.ranges
            .extend(ranges.iter().map(|&(address, pages)| Range {
                address,
                // Not more than the batch's capacity, as was just checked.
                pages: u32::try_from(pages).unwrap_or(u32::MAX),
                contents: RangeContents::Stored(zero),
            }));
        self.runs += total;
        let start = (FRONT_BLOCKS + self.stored) * PAGE_SIZE;
        self.stored += total;
        Ok(&mut self.buffer.bytes_mut()[start..start + total * PAGE_SIZE])
    }

    /// Takes the last `pages` stored pages back, where less could be read than was asked for. What was added as
    /// same or zero after them stays. Takes all stored pages if there are fewer.
    pub fn shorten_last(&mut self, pages: usize) {
        let mut left = pages.min(self.stored);
        self.stored -= left;
        self.runs -= left;
        for range in self.ranges.iter_mut().rev() {
            if let RangeContents::Stored(_) = range.contents {
                let taken = left.min(range.pages as usize);
                range.pages -= u32::try_from(taken).unwrap_or(range.pages);
                left -= taken;
            }
        }
        self.ranges.retain(|range| range.pages > 0);
    }

    /// Adds pages that equal those at the same addresses of the space `other`, as after fork(2).
    ///
    /// `other` must be the space that stores the pages, not one that itself refers to another.
    ///
    /// # Errors
    /// [`ImageError::BadRun`] if the run is empty, not page-aligned, wraps around, refers to its own space, or none
    /// of [`runs_left`](Self::runs_left) is left.
    pub fn same(&mut self, address: u64, pages: u32, other: u64) -> Result<(), ImageError> {
        if other == self.space {
            return Err(ImageError::BadRun {
                address,
                pages: u64::from(pages),
                why: "it refers to its own space",
            });
        }
        self.add_run(address, pages, RangeContents::Same(other))
    }

    /// Adds pages that are zero, where that must be said.
    ///
    /// # Errors
    /// [`ImageError::BadRun`] if the run is empty, not page-aligned, wraps around, or none of
    /// [`runs_left`](Self::runs_left) is left.
    pub fn zero(&mut self, address: u64, pages: u32) -> Result<(), ImageError> {
        self.add_run(address, pages, RangeContents::Zero)
    }

    fn add_run(
        &mut self,
        address: u64,
        pages: u32,
        contents: RangeContents,
    ) -> Result<(), ImageError> {
        check_run(address, u64::from(pages))?;
        if self.runs_left() == 0 {
            return Err(full(address, u64::from(pages)));
        }
        self.runs += 1;
        self.ranges.push(Range {
            address,
            pages,
            contents,
        });
        Ok(())
    }

    /// Ends the batch: looks for zero pages, writes the run table and computes the checksum.
    #[must_use]
    pub fn seal(mut self) -> SealedPages {
        let runs = self.compact();
        let mut counts = PageCounts::default();
        for run in &runs {
            let pages = u64::from(run.pages.get());
            match run.run_type.get() {
                RUN_STORED => counts.stored += pages,
                RUN_SAME => counts.same += pages,
                _ => counts.zero += pages,
            }
        }
        let front = (HEADER_SIZE + size_of_val(runs.as_slice())).next_multiple_of(PAGE_SIZE);
        let start = FRONT_BLOCKS * PAGE_SIZE - front;
        let stored_bytes = usize::try_from(counts.stored).unwrap_or(0) * PAGE_SIZE;
        let end = FRONT_BLOCKS * PAGE_SIZE + stored_bytes;
        let section = &mut self.buffer.bytes_mut()[start..end];
        let (table, _) = section[HEADER_SIZE..front].split_at_mut(size_of_val(runs.as_slice()));
        table.copy_from_slice(runs.as_bytes());
        let padding = HEADER_SIZE + size_of_val(runs.as_slice());
        section[padding..front].fill(0);
        // The sequence number and with it the header's checksum are the writer's.
        let mut header = SectionHeader::new(
            SectionType::Pages,
            0,
            runs.len() as u64,
            &section[HEADER_SIZE..],
        );
        header.space = self.space.into();
        section[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        SealedPages {
            buffer: self.buffer,
            start,
            end,
            header,
            counts,
        }
    }

    /// Moves the stored pages that are kept together, and gives the run table for them.
    fn compact(&mut self) -> Vec<RunEntry> {
        let mut table = Table {
            data: &mut self.buffer.bytes_mut()[FRONT_BLOCKS * PAGE_SIZE..],
            kept: 0,
            runs: Vec::new(),
        };
        let mut read = 0;
        for range in &self.ranges {
            let pages = range.pages as usize;
            match range.contents {
                RangeContents::Same(other) => table.run(range.address, pages, RUN_SAME, other),
                RangeContents::Zero => table.run(range.address, pages, RUN_ZERO, 0),
                RangeContents::Stored(zero) => {
                    table.stored(range.address, read, pages, zero);
                    read += pages;
                }
            }
        }
        table.runs
    }
}

/// The run table in the making, and the page data it describes.
struct Table<'a> {
    data: &'a mut [u8],
    /// Pages already at their final place.
    kept: usize,
    runs: Vec<RunEntry>,
}

impl Table<'_> {
    /// Adds a stored range whose contents lie from page `read` of the data on.
    fn stored(&mut self, address: u64, read: usize, pages: usize, zero: ZeroPages) {
        let mut done = 0;
        while done < pages {
            let is_zero = zero != ZeroPages::Keep && self.is_zero(read + done);
            let alike =
                |page: &usize| zero == ZeroPages::Keep || self.is_zero(read + page) == is_zero;
            let length = 1 + (done + 1..pages).take_while(alike).count();
            let run_address = address + (done * PAGE_SIZE) as u64;
            if !is_zero {
                self.keep(read + done, length);
                self.run(run_address, length, RUN_STORED, 0);
            } else if zero == ZeroPages::Record {
                self.run(run_address, length, RUN_ZERO, 0);
            }
            done += length;
        }
    }

    fn is_zero(&self, page: usize) -> bool {
        all_zero(&self.data[page * PAGE_SIZE..(page + 1) * PAGE_SIZE])
    }

    fn keep(&mut self, page: usize, pages: usize) {
        if page != self.kept {
            let from = page * PAGE_SIZE..(page + pages) * PAGE_SIZE;
            self.data.copy_within(from, self.kept * PAGE_SIZE);
        }
        self.kept += pages;
    }

    /// Adds a run, to the last one where it continues it.
    fn run(&mut self, address: u64, pages: usize, run_type: u32, other: u64) {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        if let Some(last) = self.runs.last_mut()
            && last.run_type.get() == run_type
            && last.other.get() == other
            && last.address.get() + u64::from(last.pages.get()) * PAGE_SIZE as u64 == address
            && let Some(joined) = last.pages.get().checked_add(pages)
        {
            last.pages = joined.into();
            return;
        }
        self.runs.push(RunEntry {
            address: address.into(),
            pages: pages.into(),
            run_type: run_type.into(),
            other: other.into(),
        });
    }
}

/// What is wrong with a run of pages, if anything.
pub(crate) fn run_fault(address: u64, pages: u64) -> Option<&'static str> {
    let length = pages.checked_mul(PAGE_SIZE as u64);
    if pages == 0 {
        Some("it has no pages")
    } else if !address.is_multiple_of(PAGE_SIZE as u64) {
        Some("its address is not page-aligned")
    } else if length
        .and_then(|length| address.checked_add(length))
        .is_none()
    {
        Some("it reaches beyond the last address")
    } else {
        None
    }
}

fn check_run(address: u64, pages: u64) -> Result<(), ImageError> {
    match run_fault(address, pages) {
        Some(why) => Err(ImageError::BadRun {
            address,
            pages,
            why,
        }),
        None => Ok(()),
    }
}

fn full(address: u64, pages: u64) -> ImageError {
    ImageError::BadRun {
        address,
        pages,
        why: "the batch has no room for it",
    }
}

/// A finished batch, ready to be written as one section.
pub struct SealedPages {
    buffer: PageBuffer,
    start: usize,
    end: usize,
    header: SectionHeader,
    counts: PageCounts,
}

impl SealedPages {
    /// Whether no run is left, so that there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.count.get() == 0
    }

    /// The space the pages belong to.
    #[must_use]
    pub fn space(&self) -> u64 {
        self.header.space.get()
    }

    /// How many pages the batch describes.
    #[must_use]
    pub fn counts(&self) -> PageCounts {
        self.counts
    }

    /// The section's bytes, page-aligned in memory and a whole number of pages long.
    ///
    /// Before [`ImageWriter::pages`](crate::ImageWriter::pages) has given it its place, the header is incomplete.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.start..self.end]
    }

    /// The memory, to be used for the next batch.
    #[must_use]
    pub fn into_buffer(self) -> PageBuffer {
        self.buffer
    }

    /// Gives the section its place in the image, and returns its header.
    pub(crate) fn number(&mut self, sequence: u64) -> SectionHeader {
        self.header.sequence = sequence.into();
        self.header.header_crc = self.header.own_crc().into();
        let place = &mut self.buffer.bytes_mut()[self.start..self.start + HEADER_SIZE];
        place.copy_from_slice(self.header.as_bytes());
        self.header
    }
}

/// Pages of one space, as read from one pages section whose checksum was right.
#[derive(Clone, Copy)]
pub struct PagesSection<'a> {
    space: u64,
    sequence: u64,
    table: &'a [RunEntry],
    data: &'a [u8],
    counts: PageCounts,
}

/// One run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    /// Address of the first page; in a shared memory object its offset.
    pub address: u64,
    /// Number of pages, 1 or more.
    pub pages: u64,
    /// What is in them.
    pub contents: Contents<'a>,
}

/// What is in a run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'a> {
    /// These bytes, `pages` times 4096 of them, page-aligned in memory.
    Stored(&'a [u8]),
    /// What is at the same addresses of this other space.
    Same(u64),
    /// Zeros.
    Zero,
}

impl<'a> PagesSection<'a> {
    /// The address space or shared memory object the pages belong to.
    #[must_use]
    pub fn space(&self) -> u64 {
        self.space
    }

    /// The section's place in the image. Where two sections describe a page, the one with the higher number counts.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How many pages the section describes.
    #[must_use]
    pub fn counts(&self) -> PageCounts {
        self.counts
    }

    /// The contents of all stored runs, one after the other.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The runs, in the order in which they take effect.
    pub fn runs(&self) -> impl Iterator<Item = Run<'a>> + use<'a> {
        let mut data = self.data;
        self.table.iter().map(move |entry| {
            let pages = u64::from(entry.pages.get());
            let contents = match entry.run_type.get() {
                RUN_STORED => {
                    // The sum of all stored runs was checked against the data's length.
                    let (now, later) = data.split_at(entry.pages.get() as usize * PAGE_SIZE);
                    data = later;
                    Contents::Stored(now)
                }
                RUN_SAME => Contents::Same(entry.other.get()),
                _ => Contents::Zero,
            };
            Run {
                address: entry.address.get(),
                pages,
                contents,
            }
        })
    }

    /// The run table as it stands in the section.
    pub(crate) fn table(&self) -> &'a [RunEntry] {
        self.table
    }

    /// Checks the whole section of `length` bytes in `buffer`, which lies at `offset` of the image and begins with `header`, and
    /// unpacks it where it is compressed.
    pub(crate) fn parse(
        header: &SectionHeader,
        buffer: &'a mut PageBuffer,
        length: usize,
        offset: u64,
    ) -> Result<Self, ImageError> {
        let damaged = |what: &str| ImageError::damaged(offset, what);
        let PageBuffer { blocks, unpacked } = buffer;
        let bytes = &blocks.as_bytes()[HEADER_SIZE..length];
        let body_length = usize::try_from(header.body_length.get()).unwrap_or(usize::MAX);
        let (body, padding) = bytes.split_at(body_length.min(bytes.len()));
        if crc(body) != header.body_crc.get() {
            return Err(damaged("the checksum of a pages section does not match"));
        }
        let count = usize::try_from(header.count.get()).unwrap_or(usize::MAX);
        let (table, rest) = <[RunEntry]>::ref_from_prefix_with_elems(body, count)
            .map_err(|_| damaged("a run table reaches beyond its section"))?;
        let counts = count_pages(table, header.space.get(), offset)?;
        let (front, data) = match header.flags.get() & FLAG_COMPRESSED {
            0 => rest.split_at(rest.len() % PAGE_SIZE),
            _ => (&[][..], unpack(rest, counts.stored, unpacked, offset)?),
        };
        if !all_zero(front) || !all_zero(padding) {
            return Err(damaged("padding is not zero"));
        }
        if counts.stored.checked_mul(PAGE_SIZE as u64) != Some(data.len() as u64) {
            return Err(damaged("the run table does not fit the page data"));
        }
        Ok(Self {
            space: header.space.get(),
            sequence: header.sequence.get(),
            table,
            data,
            counts,
        })
    }
}

/// Checks a run table of the space `space`, in a section at `offset`, and counts its pages.
fn count_pages(table: &[RunEntry], space: u64, offset: u64) -> Result<PageCounts, ImageError> {
    let mut counts = PageCounts::default();
    for run in table {
        let pages = u64::from(run.pages.get());
        if let Some(fault) = run_fault(run.address.get(), pages) {
            return Err(ImageError::damaged(
                offset,
                format!("there is a wrong run of pages: {fault}"),
            ));
        }
        let other = run.other.get();
        match run.run_type.get() {
            RUN_STORED if other == 0 => counts.stored += pages,
            RUN_SAME if other != space => counts.same += pages,
            RUN_ZERO if other == 0 => counts.zero += pages,
            _ => {
                return Err(ImageError::damaged(
                    offset,
                    "there is a run of pages of an unknown type",
                ));
            }
        }
    }
    Ok(counts)
}

/// Unpacks the data of so many pages; neither more nor less may be in there.
fn unpack<'a>(
    packed: &[u8],
    pages: u64,
    unpacked: &'a mut Vec<Block>,
    offset: u64,
) -> Result<&'a [u8], ImageError> {
    let damaged = |what: String| ImageError::damaged(offset, what);
    let pages = usize::try_from(pages).unwrap_or(usize::MAX);
    if pages > MAX_SECTION_PAGES {
        return Err(damaged(format!(
            "{pages} pages are in one section, the format allows {MAX_SECTION_PAGES}"
        )));
    }
    grow(unpacked, pages);
    let room = &mut unpacked.as_mut_bytes()[..pages * PAGE_SIZE];
    let length = zstd::bulk::decompress_to_buffer(packed, room)
        .map_err(|error| damaged(format!("compressed pages cannot be unpacked: {error}")))?;
    Ok(&room[..length])
}
