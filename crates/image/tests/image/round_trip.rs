//! What was written is what is read.

use std::io::{self, Read};

use cryonaut_image::{
    Contents, ImageError, ImageReader, ImageWriter, Kind, MAX_RECORD, MAX_SECTION_PAGES,
    MAX_SECTION_RUNS, PAGE_SIZE, PageBatchBuilder, PageBuffer, Preamble, RawRecord, Record,
    RecordSet, Run, SealedPages, SeekableImage, Summary, ZeroPages, verify,
};

use crate::sample::{Blob, Cat, cat, file_of, preamble, read_seekable, read_stream, small};

#[test]
fn a_small_image_is_read_both_ways() {
    let image = small();
    let mut reader = ImageReader::open(image.as_slice()).unwrap();
    assert_eq!(reader.preamble(), &preamble());
    let records = reader.records().unwrap();
    assert_eq!(records.one::<Cat>().unwrap(), cat("tom"));
    assert_eq!(records.one::<Blob>().unwrap().bytes, [1; 40]);
    let mut buffer = PageBuffer::new();
    let section = reader.next_pages(&mut buffer).unwrap().unwrap();
    assert_eq!((section.space(), section.sequence()), (7, 1));
    let runs: Vec<Run<'_>> = section.runs().collect();
    let stored = [0xa5; PAGE_SIZE];
    let expected = [
        (0x1000, 1, Contents::Stored(&stored)),
        (0x2000, 2, Contents::Same(8)),
        (0x8000, 1, Contents::Zero),
    ];
    let expected = expected.map(|(address, pages, contents)| Run {
        address,
        pages,
        contents,
    });
    assert_eq!(runs, expected);
    assert!(reader.next_pages(&mut buffer).unwrap().is_none());
    assert!(reader.next_pages(&mut buffer).unwrap().is_none());
    assert!(reader.records().unwrap().is_empty());
    let expected = Summary {
        bytes: image.len() as u64,
        sections: 2,
        records: 2,
        stored_pages: 1,
        same_pages: 2,
        zero_pages: 1,
    };
    assert_eq!(reader.summary(), expected);
    assert_eq!(verify(image.as_slice()).unwrap(), expected);
    let seekable = SeekableImage::open(file_of(&image)).unwrap();
    assert_eq!(read_seekable(&seekable).unwrap(), expected);
    assert_eq!(seekable.verify().unwrap(), expected);
    assert_eq!(seekable.preamble(), &preamble());
    assert_eq!(seekable.stream().unwrap().verify_rest().unwrap(), expected);
}

#[test]
fn an_image_without_sections_is_complete() {
    let (image, summary) = ImageWriter::begin(Vec::new(), &Preamble::default())
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(summary.bytes, image.len() as u64);
    assert_eq!(verify(image.as_slice()).unwrap(), summary);
    let seekable = SeekableImage::open(file_of(&image)).unwrap();
    assert!(seekable.records().unwrap().is_empty());
    assert!(seekable.pages_sections().is_empty());
}

/// Gives one byte at a time, with interruptions.
struct Dribble<'a>(&'a [u8], bool);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn short_and_interrupted_reads_are_no_error() {
    let image = small();
    assert_eq!(
        verify(Dribble(&image, false)).unwrap().bytes,
        image.len() as u64
    );
}

#[test]
fn records_and_pages_may_alternate() {
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    for name in ["first", "second", "third"] {
        let mut batch = PageBatchBuilder::new(1);
        batch
            .stored(0x1000, 1, ZeroPages::Keep)
            .unwrap()
            .fill(name.len() as u8);
        writer.pages(&mut batch.seal()).unwrap();
        let mut records = RecordSet::new();
        records.push(&cat(name)).unwrap();
        writer.records(&records).unwrap();
    }
    let (image, _) = writer.finish().unwrap();
    let mut reader = ImageReader::open(image.as_slice()).unwrap();
    let mut buffer = PageBuffer::new();
    assert!(reader.records().unwrap().is_empty());
    let mut count = 0;
    while reader.next_pages(&mut buffer).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
    let names = |records: RecordSet| {
        records
            .all::<Cat>()
            .unwrap()
            .into_iter()
            .map(|cat| cat.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(reader.records().unwrap()),
        ["first", "second", "third"]
    );
    let seekable = SeekableImage::open(file_of(&image)).unwrap();
    assert_eq!(
        names(seekable.records().unwrap()),
        ["first", "second", "third"]
    );
    let sequences: Vec<u64> = seekable
        .pages_sections()
        .iter()
        .map(|location| location.sequence)
        .collect();
    assert_eq!(sequences, [0, 2, 4]);
}

#[test]
fn many_and_large_records_take_several_sections() {
    let mut records = RecordSet::new();
    for number in 0..3000 {
        records.push(&cat(&format!("{number:0700}"))).unwrap();
    }
    let large = Blob {
        bytes: vec![3; MAX_RECORD - 5],
    };
    records.push(&large).unwrap();
    records.push(&cat("last")).unwrap();
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    writer.records(&records).unwrap();
    let (image, summary) = writer.finish().unwrap();
    assert!(summary.sections > 3);
    let read = SeekableImage::open(file_of(&image))
        .unwrap()
        .records()
        .unwrap();
    assert_eq!(read.len(), 3002);
    assert!(read.iter().eq(records.iter()));
    assert!(read.one::<Blob>().unwrap() == large);
    let too_large = Blob {
        bytes: vec![3; MAX_RECORD],
    };
    assert!(matches!(
        records.push(&too_large),
        Err(ImageError::Oversized { .. })
    ));
    assert_eq!(records.len(), 3002);
}

/// `Cat` as an older program knows it.
#[derive(Clone, PartialEq, prost::Message)]
struct OldCat {
    #[prost(string, tag = "1")]
    name: String,
}

impl Record for OldCat {
    const KIND: Kind = Kind {
        name: "test.cat",
        version: 1,
    };
}

#[test]
fn versions_of_a_kind() {
    let mut newer = RecordSet::new();
    newer.push(&cat("tom")).unwrap();
    let error = newer.all::<OldCat>().unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::NewerKind {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(newer.unknown(&[OldCat::KIND, Blob::KIND]).len(), 1);
    assert!(newer.unknown(&[Cat::KIND]).is_empty());
    assert_eq!(newer.unknown(&[])[0].count, 1);

    let mut older = RecordSet::new();
    older
        .push(&OldCat {
            name: "tom".to_owned(),
        })
        .unwrap();
    assert_eq!(older.one::<Cat>().unwrap().lives, 0);
    older.push(&cat("jerry")).unwrap();
    assert_eq!(older.kinds().len(), 2);
    assert!(matches!(
        older.one::<Cat>(),
        Err(ImageError::RepeatedRecord { count: 2, .. })
    ));
    assert!(matches!(
        older.one::<Blob>(),
        Err(ImageError::MissingRecord {
            kind: "test.blob",
            ..
        })
    ));
    assert_eq!(older.optional::<Blob>().unwrap(), None);
    let mut both = RecordSet::new();
    both.append(&older).unwrap();
    both.append(&newer).unwrap();
    assert_eq!(both.len(), 3);
    let broken = RawRecord {
        name: "test.blob",
        version: 1,
        body: &[0xff],
    };
    both.push_raw(broken).unwrap();
    assert!(matches!(
        both.all::<Blob>(),
        Err(ImageError::BadRecord { .. })
    ));
    for (name, version) in [
        ("", 1),
        ("Upper", 1),
        ("a b", 1),
        ("fine", 0),
        (&*"x".repeat(65), 1),
    ] {
        let raw = RawRecord {
            name,
            version,
            body: &[],
        };
        assert!(
            matches!(both.push_raw(raw), Err(ImageError::BadKind { .. })),
            "{name}"
        );
    }
}

/// The runs of a sealed batch, as they are read.
fn read_back(mut sealed: SealedPages) -> Vec<(u64, u64, char, Vec<u8>)> {
    assert!(sealed.bytes().as_ptr().addr().is_multiple_of(PAGE_SIZE));
    assert!(sealed.bytes().len().is_multiple_of(PAGE_SIZE));
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    writer.pages(&mut sealed).unwrap();
    let (image, _) = writer.finish().unwrap();
    let mut reader = ImageReader::open(image.as_slice()).unwrap();
    let mut buffer = PageBuffer::new();
    let mut runs = Vec::new();
    while let Some(section) = reader.next_pages(&mut buffer).unwrap() {
        runs.extend(section.runs().map(|run| match run.contents {
            Contents::Stored(bytes) => {
                let firsts = bytes
                    .chunks(PAGE_SIZE)
                    .map(|page| page[PAGE_SIZE - 1])
                    .collect();
                (run.address, run.pages, 's', firsts)
            }
            Contents::Same(other) => (run.address, run.pages, '=', vec![other as u8]),
            Contents::Zero => (run.address, run.pages, '0', vec![]),
        }));
    }
    runs
}

/// Fills pages with these values, in their last byte only.
fn mark(memory: &mut [u8], values: &[u8]) {
    assert_eq!(memory.len(), values.len() * PAGE_SIZE);
    memory.fill(0);
    for (page, value) in memory.chunks_mut(PAGE_SIZE).zip(values) {
        page[PAGE_SIZE - 1] = *value;
    }
}

#[test]
fn zero_pages_are_treated_as_asked() {
    let values = [0, 1, 2, 0, 0, 3, 0];
    let run = |zero| {
        let mut batch = PageBatchBuilder::new(1);
        mark(batch.stored(0x10000, 7, zero).unwrap(), &values);
        // Data after the compacted range must move with it.
        mark(batch.stored(0x50000, 1, ZeroPages::Keep).unwrap(), &[9]);
        read_back(batch.seal())
    };
    let last = (0x50000, 1, 's', vec![9]);
    assert_eq!(
        run(ZeroPages::Omit),
        [
            (0x11000, 2, 's', vec![1, 2]),
            (0x15000, 1, 's', vec![3]),
            last.clone()
        ]
    );
    assert_eq!(
        run(ZeroPages::Record),
        [
            (0x10000, 1, '0', vec![]),
            (0x11000, 2, 's', vec![1, 2]),
            (0x13000, 2, '0', vec![]),
            (0x15000, 1, 's', vec![3]),
            (0x16000, 1, '0', vec![]),
            last.clone()
        ]
    );
    assert_eq!(
        run(ZeroPages::Keep),
        [(0x10000, 7, 's', values.to_vec()), last]
    );
}

#[test]
fn a_batch_of_zeros_only_leaves_nothing_to_write() {
    let mut batch = PageBatchBuilder::new(1);
    assert!(batch.is_empty());
    batch.stored(0, 5, ZeroPages::Omit).unwrap().fill(0);
    let sealed = batch.seal();
    assert!(sealed.is_empty());
    assert_eq!(read_back(sealed), []);
}

#[test]
fn ranges_can_be_read_as_one_and_shortened() {
    let mut batch = PageBatchBuilder::new(1);
    let ranges = [(0x10000, 2), (0x20000, 1), (0x30000, 2)];
    mark(
        batch.stored_ranges(&ranges, ZeroPages::Keep).unwrap(),
        &[1, 2, 3, 4, 5],
    );
    batch.same(0x90000, 1, 2).unwrap();
    batch.shorten_last(3);
    mark(batch.stored(0x40000, 1, ZeroPages::Keep).unwrap(), &[6]);
    assert_eq!(batch.space_left(), 256 - 3);
    assert_eq!(
        read_back(batch.seal()),
        [
            (0x10000, 2, 's', vec![1, 2]),
            (0x90000, 1, '=', vec![2]),
            (0x40000, 1, 's', vec![6])
        ]
    );
    let mut batch = PageBatchBuilder::new(1);
    batch.stored(0x1000, 2, ZeroPages::Keep).unwrap();
    batch.shorten_last(100);
    assert!(batch.is_empty());
    assert!(batch.seal().is_empty());
}

#[test]
fn a_buffer_is_used_again() {
    let mut batch = PageBatchBuilder::new(1);
    batch.stored(0, 256, ZeroPages::Keep).unwrap().fill(0xff);
    for page in 0..300 {
        batch.zero((1000 + 2 * page) << 12, 1).unwrap();
    }
    let buffer = batch.seal().into_buffer();
    let mut batch = PageBatchBuilder::with_buffer(2, 4, buffer);
    assert_eq!((batch.space(), batch.space_left()), (2, 4));
    mark(batch.stored(0x1000, 1, ZeroPages::Omit).unwrap(), &[4]);
    assert_eq!(read_back(batch.seal()), [(0x1000, 1, 's', vec![4])]);
}

#[test]
fn neighbouring_runs_become_one() {
    let mut batch = PageBatchBuilder::new(1);
    mark(batch.stored(0x1000, 1, ZeroPages::Omit).unwrap(), &[1]);
    mark(batch.stored(0x2000, 1, ZeroPages::Keep).unwrap(), &[2]);
    batch.same(0x3000, 1, 2).unwrap();
    batch.same(0x4000, 1, 2).unwrap();
    batch.same(0x5000, 1, 3).unwrap();
    assert_eq!(
        read_back(batch.seal()),
        [
            (0x1000, 2, 's', vec![1, 2]),
            (0x3000, 2, '=', vec![2]),
            (0x5000, 1, '=', vec![3])
        ]
    );
}

#[test]
fn a_full_batch_says_so() {
    let mut batch = PageBatchBuilder::with_buffer(1, usize::MAX, PageBuffer::new());
    assert_eq!(batch.space_left(), MAX_SECTION_PAGES);
    let values: Vec<u8> = (0..MAX_SECTION_PAGES)
        .map(|page| (page % 2) as u8)
        .collect();
    mark(
        batch
            .stored(0, MAX_SECTION_PAGES, ZeroPages::Record)
            .unwrap(),
        &values,
    );
    assert_eq!(batch.space_left(), 0);
    assert!(matches!(
        batch.stored(0, 1, ZeroPages::Keep),
        Err(ImageError::BadRun { .. })
    ));
    while batch.runs_left() > 0 {
        batch
            .zero((1 << 40) + ((batch.runs_left() as u64) << 13), 1)
            .unwrap();
    }
    assert!(matches!(
        batch.zero(1 << 30, 1),
        Err(ImageError::BadRun { .. })
    ));
    let runs = read_back(batch.seal());
    assert_eq!(runs.len(), MAX_SECTION_RUNS);
    assert_eq!(runs[1], (0x1000, 1, 's', vec![1]));
}

#[test]
fn impossible_runs_are_refused() {
    let mut batch = PageBatchBuilder::new(1);
    assert!(batch.stored(1, 1, ZeroPages::Keep).is_err());
    assert!(batch.stored(0, 0, ZeroPages::Keep).is_err());
    assert!(batch.stored(0, usize::MAX, ZeroPages::Keep).is_err());
    assert!(
        batch
            .stored_ranges(&[(0, 256), (0x10_0000, 1)], ZeroPages::Keep)
            .is_err()
    );
    assert!(batch.zero(u64::MAX - 4095, 1).is_err());
    assert!(batch.same(0x1000, 1, 1).is_err());
    assert!(batch.is_empty());
    assert_eq!(batch.space_left(), 256);
}

#[test]
fn a_fresh_preamble_names_its_image() {
    let (one, two) = (
        Preamble::new("cryo").unwrap(),
        Preamble::new("cryo").unwrap(),
    );
    assert_eq!(one.image_id.len(), 16);
    assert_ne!(one.image_id_text(), two.image_id_text());
    assert!(one.created_unix_nanoseconds > 1_600_000_000_000_000_000);
}

#[test]
fn an_oversized_preamble_is_not_written() {
    let preamble = Preamble {
        job_name: "x".repeat(1 << 20),
        ..Preamble::default()
    };
    assert!(matches!(
        ImageWriter::begin(Vec::new(), &preamble),
        Err(ImageError::Oversized { .. })
    ));
}

#[test]
fn a_full_sink_fails_the_writer_for_good() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let Err(error) = ImageWriter::begin(full, &preamble()) else {
        panic!("wrote to a full device");
    };
    let ImageError::Io { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);

    let mut space = [0; 6000];
    let mut writer = ImageWriter::begin(space.as_mut_slice(), &preamble()).unwrap();
    let mut records = RecordSet::new();
    records.push(&cat("tom")).unwrap();
    assert!(matches!(
        writer.records(&records),
        Err(ImageError::Io { .. })
    ));
    assert!(matches!(writer.records(&records), Err(ImageError::Failed)));
    assert!(matches!(writer.finish(), Err(ImageError::Failed)));
}

#[test]
fn the_work_can_be_spread_over_threads() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync>() {}
    sendable::<PageBatchBuilder>();
    sendable::<SealedPages>();
    sendable::<ImageReader<std::fs::File>>();
    shareable::<SeekableImage>();
    shareable::<RecordSet>();
    shareable::<ImageError>();
}

/// The same image with compressed pages.
fn compressed(image: &[u8], level: i32) -> Vec<u8> {
    let image = SeekableImage::open(file_of(image)).unwrap();
    let mut writer = ImageWriter::begin_compressed(Vec::new(), image.preamble()).unwrap();
    writer.records(&image.records().unwrap()).unwrap();
    let mut buffer = PageBuffer::new();
    for section in image.pages_sections() {
        let section = image.read_pages(section, &mut buffer).unwrap();
        let packed = cryonaut_image::CompressedPages::pack(&section, level).unwrap();
        writer.compressed(&packed).unwrap();
    }
    writer.finish().unwrap().0
}

/// An image with pages that can be compressed and pages that cannot.
fn mixed() -> Vec<u8> {
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    let mut batch = PageBatchBuilder::new(7);
    let text = batch.stored(0x1000, 200, ZeroPages::Keep).unwrap();
    for (place, byte) in text.iter_mut().enumerate() {
        *byte = (place / 1000) as u8;
    }
    batch.same(0x20_0000, 2, 8).unwrap();
    batch.zero(0x80_0000, 1).unwrap();
    writer.pages(&mut batch.seal()).unwrap();
    let mut batch = PageBatchBuilder::new(9);
    let noise = batch.stored(0x5000, 3, ZeroPages::Keep).unwrap();
    let mut state = 1_u64;
    for byte in noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    writer.pages(&mut batch.seal()).unwrap();
    writer.finish().unwrap().0
}

#[test]
fn compressed_pages_come_back_as_they_were() {
    let plain = mixed();
    for level in [1, 3, 19] {
        let packed = compressed(&plain, level);
        assert!(packed.len() < plain.len() / 10, "{}", packed.len());
        assert_eq!(
            read_stream(&packed).unwrap().stored_pages,
            read_stream(&plain).unwrap().stored_pages
        );
        let (before, after) = (
            SeekableImage::open(file_of(&plain)).unwrap(),
            SeekableImage::open(file_of(&packed)).unwrap(),
        );
        after.verify().unwrap();
        let (mut one, mut other) = (PageBuffer::new(), PageBuffer::new());
        assert_eq!(before.pages_sections().len(), after.pages_sections().len());
        for (section, packed) in before.pages_sections().iter().zip(after.pages_sections()) {
            let section = before.read_pages(section, &mut one).unwrap();
            let packed = after.read_pages(packed, &mut other).unwrap();
            assert!(section.runs().eq(packed.runs()));
            assert_eq!(section.space(), packed.space());
        }
    }
}

#[test]
fn damaged_compressed_pages_are_noticed_and_never_unpacked_beyond_their_pages() {
    let packed = compressed(&mixed(), 3);
    for place in (0..packed.len()).step_by(61) {
        let mut damaged = packed.clone();
        damaged[place] ^= 0x10;
        assert!(read_stream(&damaged).is_err(), "byte {place}");
    }
    for length in (0..packed.len()).step_by(997) {
        assert!(read_stream(&packed[..length]).is_err(), "length {length}");
    }
}
