//! No damage goes unseen.

use std::os::unix::fs::FileExt;

use cryonaut_image::{ImageError, SeekableImage};

use crate::sample::{file_of, read_seekable, read_stream, small};

fn seekable(bytes: &[u8]) -> Result<(), ImageError> {
    let image = SeekableImage::open(file_of(bytes))?;
    read_seekable(&image).map(drop)
}

#[test]
fn every_flipped_bit_is_found_in_a_stream() {
    let mut image = small();
    for byte in 0..image.len() {
        for bit in 0..8 {
            image[byte] ^= 1 << bit;
            let read = read_stream(&image);
            assert!(read.is_err(), "byte {byte} bit {bit}: {read:?}");
            image[byte] ^= 1 << bit;
        }
    }
    read_stream(&image).unwrap();
}

#[test]
fn every_flipped_bit_is_found_in_a_file() {
    let image = small();
    let file = file_of(&image);
    for (at, byte) in image.iter().enumerate() {
        for bit in 0..8 {
            file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
            let opened = SeekableImage::open(file.try_clone().unwrap());
            let read = opened.and_then(|image| read_seekable(&image));
            assert!(read.is_err(), "byte {at} bit {bit}: {read:?}");
        }
        file.write_all_at(&[*byte], at as u64).unwrap();
    }
    seekable(&image).unwrap();
}

#[test]
fn every_truncation_is_found() {
    let image = small();
    let file = file_of(&image);
    for length in (0..image.len()).rev() {
        let error = read_stream(&image[..length]).unwrap_err();
        let ImageError::Truncated { offset } = error else {
            panic!("cut at {length}: {error}");
        };
        assert_eq!(offset, length as u64);
        file.set_len(length as u64).unwrap();
        let sought = SeekableImage::open(file.try_clone().unwrap());
        assert!(
            matches!(sought, Err(ImageError::Truncated { .. })),
            "cut at {length}"
        );
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_gives_an_error() {
    let file = file_of(&small());
    let image = SeekableImage::open(file.try_clone().unwrap()).unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(image.records(), Err(ImageError::Truncated { .. })));
    let location = image.pages_sections()[0];
    let mut buffer = cryonaut_image::PageBuffer::new();
    assert!(matches!(
        image.read_pages(&location, &mut buffer),
        Err(ImageError::Truncated { .. })
    ));
}

#[test]
fn nothing_may_follow() {
    for extra in [1, 4096, 8192] {
        for value in [0, 0x5a] {
            let mut image = small();
            image.resize(image.len() + extra, value);
            assert!(matches!(
                read_stream(&image),
                Err(ImageError::Damaged { .. })
            ));
            assert!(seekable(&image).is_err());
        }
    }
    let twice = [small(), small()].concat();
    assert!(matches!(
        read_stream(&twice),
        Err(ImageError::Damaged { .. })
    ));
    assert!(seekable(&twice).is_err());
}

#[test]
fn sections_cannot_be_lost_doubled_swapped_or_mixed() {
    let image = small();
    let blocks: Vec<&[u8]> = image.chunks(4096).collect();
    // Preamble, records, two blocks of pages, index, end.
    assert_eq!(blocks.len(), 6);
    let orders: [&[usize]; 7] = [
        &[0, 2, 3, 4, 5],
        &[0, 1, 4, 5],
        &[0, 1, 2, 3, 5],
        &[0, 2, 3, 1, 4, 5],
        &[0, 1, 1, 2, 3, 4, 5],
        &[0, 1, 2, 3, 4, 4, 5],
        &[0, 1, 2, 3, 5, 4],
    ];
    for order in orders {
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|block| blocks[*block].iter().copied())
            .collect();
        assert!(
            matches!(read_stream(&bytes), Err(ImageError::Damaged { .. })),
            "{order:?}"
        );
        assert!(seekable(&bytes).is_err(), "{order:?}");
    }
}

#[test]
fn something_else_is_no_image() {
    assert!(matches!(
        read_stream(b"#!/bin/sh\necho hello"),
        Err(ImageError::NotAnImage)
    ));
    assert!(matches!(
        read_stream(&[0; 10000]),
        Err(ImageError::NotAnImage)
    ));
    assert!(matches!(seekable(&[0; 8192]), Err(ImageError::NotAnImage)));
    assert!(matches!(
        read_stream(b"CRYO"),
        Err(ImageError::Truncated { offset: 4 })
    ));
    assert!(matches!(
        read_stream(b""),
        Err(ImageError::Truncated { offset: 0 })
    ));
}

#[test]
fn after_an_error_nothing_more_is_read() {
    let mut image = small();
    image[2 * 4096 + 100] ^= 1;
    let mut reader = cryonaut_image::ImageReader::open(image.as_slice()).unwrap();
    reader.records().unwrap();
    let mut buffer = cryonaut_image::PageBuffer::new();
    assert!(matches!(
        reader.next_pages(&mut buffer),
        Err(ImageError::Damaged { .. })
    ));
    assert!(matches!(
        reader.next_pages(&mut buffer),
        Err(ImageError::Failed)
    ));
    assert!(matches!(reader.records(), Err(ImageError::Failed)));
}
