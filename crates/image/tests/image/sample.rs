//! Images to test with.

use std::io::Cursor;

use cryonaut_image::{
    ImageError, ImageReader, ImageWriter, Kind, Need, PAGE_SIZE, PageBatchBuilder, PageBuffer,
    Preamble, Record, RecordSet, SeekableImage, Summary, ZeroPages,
};

/// A record like those of the engine.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cat {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub lives: u64,
}

impl Record for Cat {
    const KIND: Kind = Kind {
        name: "test.cat",
        version: 2,
    };
}

/// Another kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
}

impl Record for Blob {
    const KIND: Kind = Kind {
        name: "test.blob",
        version: 1,
    };
}

pub fn preamble() -> Preamble {
    Preamble {
        created_by: "cryo 0.1.0".to_owned(),
        created_unix_nanoseconds: 17,
        job_name: "a job".to_owned(),
        generation: 3,
        needs: vec![Need {
            name: "cpu.xsave_size".to_owned(),
            value: "2696".to_owned(),
        }],
        image_id: (0..16).collect(),
        node: "here".to_owned(),
        kernel: "6.1.0".to_owned(),
    }
}

pub fn cat(name: &str) -> Cat {
    Cat {
        name: name.to_owned(),
        lives: 9,
    }
}

/// A small image with every kind of section and run.
pub fn small() -> Vec<u8> {
    let mut writer = ImageWriter::begin(Vec::new(), &preamble()).unwrap();
    let mut records = RecordSet::new();
    records.push(&cat("tom")).unwrap();
    records.push(&Blob { bytes: vec![1; 40] }).unwrap();
    writer.records(&records).unwrap();
    let mut batch = PageBatchBuilder::new(7);
    batch.stored(0x1000, 1, ZeroPages::Keep).unwrap().fill(0xa5);
    batch.same(0x2000, 2, 8).unwrap();
    batch.zero(0x8000, 1).unwrap();
    writer.pages(&mut batch.seal()).unwrap();
    let (image, _) = writer.finish().unwrap();
    image
}

/// Reads everything front to back.
pub fn read_stream(image: &[u8]) -> Result<Summary, ImageError> {
    let mut reader = ImageReader::open(Cursor::new(image))?;
    let mut buffer = PageBuffer::new();
    loop {
        for record in reader.records()?.iter() {
            assert!(!record.name.is_empty());
        }
        match reader.next_pages(&mut buffer)? {
            Some(section) => touch(section),
            None => return Ok(reader.summary()),
        }
    }
}

/// Reads everything through the index.
pub fn read_seekable(image: &SeekableImage) -> Result<Summary, ImageError> {
    let mut buffer = PageBuffer::new();
    image.records()?;
    for location in image.pages_sections() {
        touch(image.read_pages(location, &mut buffer)?);
    }
    Ok(image.summary())
}

fn touch(section: cryonaut_image::PagesSection<'_>) {
    for run in section.runs() {
        assert!(run.pages > 0);
        if let cryonaut_image::Contents::Stored(bytes) = run.contents {
            assert_eq!(bytes.len() as u64, run.pages * PAGE_SIZE as u64);
            assert!(bytes.as_ptr().addr().is_multiple_of(PAGE_SIZE));
        }
    }
}

/// A file with these bytes.
pub fn file_of(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    file
}
