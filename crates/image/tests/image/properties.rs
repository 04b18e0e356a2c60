//! Any image comes back as it was; any bytes are read without harm.

use std::collections::BTreeMap;

use cryonaut_image::{
    Contents, ImageWriter, PAGE_SIZE, PageBatchBuilder, PageBuffer, RawRecord, RecordSet,
    SeekableImage, ZeroPages,
};
use proptest::prelude::*;

use crate::sample::{file_of, preamble, read_seekable, read_stream, small};

#[derive(Debug, Clone)]
enum Act {
    Stored(u64, Vec<u8>, ZeroPages),
    Same(u64, u32, u64),
    Zero(u64, u32),
    NewBatch(u64),
    Records(Vec<(String, u32, Vec<u8>)>),
}

/// What a page holds in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Filled(u8),
    Same(u64),
    Zero,
}

type Model = BTreeMap<(u64, u64), Page>;

fn act() -> impl Strategy<Value = Act> {
    let zero = prop_oneof![
        Just(ZeroPages::Omit),
        Just(ZeroPages::Record),
        Just(ZeroPages::Keep)
    ];
    let record = (
        "[a-z0-9._-]{1,8}",
        1..4_u32,
        prop::collection::vec(any::<u8>(), 0..200),
    );
    prop_oneof![
        4 => (0..64_u64, prop::collection::vec(0..4_u8, 1..12), zero).prop_map(|(at, fill, zero)| Act::Stored(at, fill, zero)),
        1 => (0..64_u64, 1..12_u32, 100..104_u64).prop_map(|(at, pages, other)| Act::Same(at, pages, other)),
        1 => (0..64_u64, 1..12_u32).prop_map(|(at, pages)| Act::Zero(at, pages)),
        1 => (0..3_u64).prop_map(Act::NewBatch),
        1 => prop::collection::vec(record, 0..5).prop_map(Act::Records),
    ]
}

/// Writes an image and says what it must hold.
fn write(acts: &[Act]) -> (Vec<u8>, Model, RecordSet) {
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    let (mut model, mut all_records) = (Model::new(), RecordSet::new());
    let mut batch = PageBatchBuilder::new(0);
    for act in acts {
        let space = batch.space();
        match act {
            Act::Stored(at, fill, zero) if fill.len() <= batch.space_left() => {
                let memory = batch.stored(at * 4096, fill.len(), *zero).unwrap();
                for (number, (page, value)) in memory.chunks_mut(PAGE_SIZE).zip(fill).enumerate() {
                    page.fill(*value);
                    let key = (space, at + number as u64);
                    match (value, zero) {
                        (0, ZeroPages::Omit) => None,
                        (0, ZeroPages::Record) => model.insert(key, Page::Zero),
                        _ => model.insert(key, Page::Filled(*value)),
                    };
                }
            }
            Act::Stored(..) => {}
            Act::Same(at, pages, other) => {
                batch.same(at * 4096, *pages, *other).unwrap();
                model.extend(
                    (0..u64::from(*pages)).map(|page| ((space, at + page), Page::Same(*other))),
                );
            }
            Act::Zero(at, pages) => {
                batch.zero(at * 4096, *pages).unwrap();
                model.extend((0..u64::from(*pages)).map(|page| ((space, at + page), Page::Zero)));
            }
            Act::NewBatch(space) => {
                let mut sealed = batch.seal();
                writer.pages(&mut sealed).unwrap();
                batch = PageBatchBuilder::with_buffer(*space, 20, sealed.into_buffer());
            }
            Act::Records(list) => {
                let mut records = RecordSet::new();
                for (name, version, body) in list {
                    let version = *version;
                    records
                        .push_raw(RawRecord {
                            name,
                            version,
                            body,
                        })
                        .unwrap();
                }
                writer.records(&records).unwrap();
                all_records.append(&records).unwrap();
            }
        }
    }
    writer.pages(&mut batch.seal()).unwrap();
    (writer.finish().unwrap().0, model, all_records)
}

fn read_model(image: &SeekableImage) -> Model {
    let mut model = Model::new();
    let mut buffer = PageBuffer::new();
    for location in image.pages_sections() {
        let section = image.read_pages(location, &mut buffer).unwrap();
        for run in section.runs() {
            for page in 0..run.pages {
                let contents = match run.contents {
                    Contents::Stored(bytes) => {
                        let bytes = &bytes[page as usize * PAGE_SIZE..][..PAGE_SIZE];
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                        Page::Filled(bytes[0])
                    }
                    Contents::Same(other) => Page::Same(other),
                    Contents::Zero => Page::Zero,
                };
                model.insert((section.space(), run.address / 4096 + page), contents);
            }
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_image_comes_back_as_it_was(acts in prop::collection::vec(act(), 0..30)) {
        let (bytes, model, records) = write(&acts);
        let streamed = read_stream(&bytes).unwrap();
        let image = SeekableImage::open(file_of(&bytes)).unwrap();
        prop_assert_eq!(image.summary(), streamed);
        prop_assert_eq!(read_model(&image), model);
        let read = image.records().unwrap();
        prop_assert!(read.iter().eq(records.iter()));
        prop_assert_eq!(read.kinds(), records.kinds());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(read_stream(&bytes).is_err());
        let with_magic = [b"CRYONAUT".as_slice(), &bytes].concat();
        prop_assert!(read_stream(&with_magic).is_err());
        prop_assert!(SeekableImage::open(file_of(&with_magic)).is_err());
    }

    #[test]
    fn any_overwritten_stretch_is_found(at in 0..6 * 4096_usize, patch in prop::collection::vec(any::<u8>(), 1..64)) {
        let mut image = small();
        let end = (at + patch.len()).min(image.len());
        image[at..end].copy_from_slice(&patch[..end - at]);
        if image != small() {
            prop_assert!(read_stream(&image).is_err());
            let sought = SeekableImage::open(file_of(&image)).and_then(|image| read_seekable(&image));
            prop_assert!(sought.is_err());
        }
    }
}
