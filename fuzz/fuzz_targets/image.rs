//! Feeds images to all readers: arbitrary bytes, or a small image with bytes changed. Checksums are put right
//! first, except in inputs that begin with 'r', for else nothing would come past them. No reader may panic, what
//! streams must be readable from a file with the same result, and memory may grow only with the input.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use cryonaut_image::{
    ImageError, ImageReader, ImageWriter, PageBatchBuilder, PageBuffer, Preamble, RawRecord,
    RecordSet, SeekableImage, Summary, ZeroPages, verify,
};
use libfuzzer_sys::fuzz_target;

/// Where the image lies for the reader that needs a file.
static FILE: LazyLock<File> = LazyLock::new(|| tempfile::tempfile().expect("a temporary file"));

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(small);

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let mut image = data.to_vec();
    if choice != b'r' && choice != b'w' {
        image.clone_from(&SMALL);
        for patch in data.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % image.len();
            image[at] = patch[2];
        }
    }
    if choice != b'r' {
        repair(&mut image);
    }
    let streamed = stream(&image);
    assert_eq!(streamed.is_ok(), verify(image.as_slice()).is_ok());
    FILE.set_len(0).expect("emptied");
    FILE.write_all_at(&image, 0).expect("written");
    let sought = seek(FILE.try_clone().expect("a descriptor"));
    // The reader of a file takes the counts of pages from the end section; all else must be judged alike.
    if let Ok(streamed) = streamed {
        assert_eq!(streamed, sought.expect("what streams can be sought"));
    }
});

fn stream(image: &[u8]) -> Result<Summary, ImageError> {
    let mut reader = ImageReader::open(image)?;
    let mut buffer = PageBuffer::new();
    loop {
        assert!(reader.records()?.iter().all(|record| record.version > 0));
        let Some(section) = reader.next_pages(&mut buffer)? else {
            return Ok(reader.summary());
        };
        assert!(section.runs().all(|run| run.pages > 0));
    }
}

fn seek(file: File) -> Result<Summary, ImageError> {
    let image = SeekableImage::open(file)?;
    let mut buffer = PageBuffer::new();
    image.records()?;
    for location in image.pages_sections() {
        let section = image.read_pages(location, &mut buffer)?;
        assert!(section.runs().all(|run| run.pages > 0));
    }
    Ok(image.summary())
}

fn small() -> Vec<u8> {
    let mut writer = ImageWriter::begin(Vec::new(), &Preamble::default()).expect("begun");
    let mut records = RecordSet::new();
    for body in [b"one".as_slice(), b"another"] {
        let record = RawRecord {
            name: "fuzz.record",
            version: 1,
            body,
        };
        records.push_raw(record).expect("pushed");
    }
    writer.records(&records).expect("written");
    let mut batch = PageBatchBuilder::new(7);
    let memory = batch.stored(0x1000, 2, ZeroPages::Keep);
    memory.expect("room").fill(0xa5);
    batch.same(0x4000, 2, 8).expect("room");
    batch.zero(0x8000, 1).expect("room");
    writer.pages(&mut batch.seal()).expect("written");
    writer.finish().expect("finished").0
}

/// Puts right all checksums, walking from section to section as a reader would.
fn repair(image: &mut [u8]) {
    if image.len() < 64 {
        return;
    }
    let length = number(image, 16) as u32 as usize;
    if let Some(preamble) = image.get(64..64_usize.saturating_add(length)) {
        let crc = crc_fast::crc32_iscsi(preamble);
        put(image, 24, crc);
    }
    let crc = crc_fast::crc32_iscsi(&image[..60]);
    put(image, 60, crc);
    let mut chain = image[60..64].to_vec();
    let mut entries = Vec::new();
    let mut at = (64 + length).next_multiple_of(4096);
    while image.len().saturating_sub(at) >= 4096 {
        let kind = image[at + 8];
        let body = usize::try_from(number(image, at + 24)).unwrap_or(usize::MAX);
        let Some(end) = (at + 64)
            .checked_add(body)
            .filter(|end| *end <= image.len())
        else {
            return;
        };
        if kind == 3 {
            // The index must name the sections' checksums.
            for (entry, crc) in entries.iter().enumerate() {
                if at + 64 + 32 * entry + 24 <= end {
                    put(image, at + 64 + 32 * entry + 20, *crc);
                }
            }
        } else if kind == 4 && end >= at + 128 {
            let crc = crc_fast::crc32_iscsi(&chain);
            put(image, at + 64 + 56, crc);
        }
        let crc = crc_fast::crc32_iscsi(&image[at + 64..end]);
        put(image, at + 48, crc);
        let crc = crc_fast::crc32_iscsi(&image[at..at + 60]);
        put(image, at + 60, crc);
        chain.extend(crc.to_le_bytes());
        entries.push(crc);
        at = end.next_multiple_of(4096);
    }
}

fn number(image: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&image[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn put(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
