//! The Cryonaut image: one self-describing, checksummed, streamable file.
//!
//! An image is a header with a [`Preamble`], then sections: *records* (typed, versioned messages), *pages* (memory
//! contents with the addresses they belong to), an index of both, and an end with a checksum over all. This crate knows
//! the container only; what records mean is their owners' matter. `docs/image-format.md` describes every byte.
//!
//! Writing: [`ImageWriter`], with [`PageBatchBuilder`]s filled on as many threads as there are, into an
//! [`AtomicFile`] or any other sink. Reading: [`ImageReader`] front to back from a stream, [`SeekableImage`] from a file
//! in any order and on many threads.
//!
//! Readers trust nothing: any input gives a result or an [`ImageError`], memory grows only with what was really read.
#![forbid(unsafe_code)]

mod atomic;
mod batch;
mod compress;
mod error;
mod format;
mod preamble;
mod reader;
mod record;
mod seekable;
mod summary;
mod writer;

pub use atomic::AtomicFile;
pub use batch::{
    Contents, DEFAULT_BATCH_PAGES, PageBatchBuilder, PageBuffer, PagesSection, Run, SealedPages,
    ZeroPages,
};
pub use compress::{CompressedPages, LEVELS};
pub use error::ImageError;
pub use format::{
    ARCHITECTURE, FORMAT_VERSION, MAX_PREAMBLE, MAX_RECORD, MAX_RECORDS, MAX_SECTION_PAGES,
    MAX_SECTION_RUNS, MAX_SECTIONS, PAGE_SIZE,
};
pub use preamble::{Need, Preamble};
pub use reader::{ImageReader, verify};
pub use record::{Kind, KindCount, RawRecord, Record, RecordSet};
pub use seekable::{Location, SeekableImage};
pub use summary::{PageCounts, Summary};
pub use writer::ImageWriter;
