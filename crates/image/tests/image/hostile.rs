//! Images with right checksums and wrong contents.

use crc_fast::crc32_iscsi as crc;
use cryonaut_image::{ImageError, SeekableImage};

use crate::sample::{file_of, read_seekable, read_stream, small};

const RECORDS: usize = 4096;
const PAGES: usize = 2 * 4096;
const INDEX: usize = 4 * 4096;
const END: usize = 5 * 4096;

/// Puts the checksums of everything right again, and the index and the end with them as far as they depend on headers.
fn repair(image: &mut [u8]) {
    repair_header(image, 0);
    let mut chain = image[60..64].to_vec();
    for (entry, section) in [RECORDS, PAGES].into_iter().enumerate() {
        repair_section(image, section);
        let header_crc: [u8; 4] = image[section + 60..section + 64].try_into().unwrap();
        let entry = INDEX + 64 + 32 * entry;
        image[entry + 20..entry + 24].copy_from_slice(&header_crc);
        image.copy_within(section + 40..section + 48, entry + 24);
        chain.extend(header_crc);
    }
    repair_section(image, INDEX);
    chain.extend(&image[INDEX + 60..INDEX + 64]);
    put(image, END + 64 + 56, &crc(&chain).to_le_bytes());
    repair_section(image, END);
}

fn repair_section(image: &mut [u8], at: usize) {
    let length = u64::from_le_bytes(image[at + 24..at + 32].try_into().unwrap());
    let body_end = (at as u64)
        .saturating_add(64)
        .saturating_add(length)
        .min(image.len() as u64);
    let body_crc = crc(&image[at + 64..body_end as usize]);
    put(image, at + 48, &body_crc.to_le_bytes());
    repair_header(image, at);
}

fn repair_header(image: &mut [u8], at: usize) {
    let header_crc = crc(&image[at..at + 60]);
    put(image, at + 60, &header_crc.to_le_bytes());
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The errors of both readers for the small image with this change.
fn with(at: usize, bytes: &[u8]) -> [ImageError; 2] {
    let mut image = small();
    put(&mut image, at, bytes);
    repair(&mut image);
    errors(&image)
}

fn errors(image: &[u8]) -> [ImageError; 2] {
    let sought = SeekableImage::open(file_of(image)).and_then(|image| read_seekable(&image));
    [read_stream(image).unwrap_err(), sought.unwrap_err()]
}

#[test]
fn the_repaired_image_is_right() {
    let (mut image, before) = (small(), small());
    repair(&mut image);
    assert!(image == before);
}

#[test]
fn headers_of_other_times_and_places() {
    for error in with(8, &2_u32.to_le_bytes()) {
        let ImageError::FutureVersion {
            found: 2,
            supported: 1,
            created_by,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(created_by, "cryo 0.1.0");
    }
    for error in with(12, &183_u32.to_le_bytes()) {
        assert!(
            matches!(error, ImageError::OtherArchitecture { found: 183, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("aarch64"));
    }
    for at in [20, RECORDS + 12, PAGES + 12, INDEX + 12, END + 12] {
        for error in with(at, &[4]) {
            assert!(
                matches!(error, ImageError::UnknownFlags { flags: 4, .. }),
                "{at}: {error}"
            );
        }
    }
    for (at, bytes) in [(8, [0]), (28, [1]), (59, [1])] {
        for error in with(at, &bytes) {
            assert!(
                matches!(error, ImageError::Damaged { offset: 0, .. }),
                "{at}: {error}"
            );
        }
    }
}

#[test]
fn a_future_image_whose_preamble_is_strange_is_still_a_future_image() {
    let mut image = small();
    put(&mut image, 8, &7_u32.to_le_bytes());
    put(&mut image, 16, &u32::MAX.to_le_bytes());
    repair_header(&mut image, 0);
    let [streamed, _] = errors(&image);
    assert!(
        streamed.to_string().contains("an unknown version"),
        "{streamed}"
    );
}

#[test]
fn lengths_without_measure() {
    for error in with(16, &u32::MAX.to_le_bytes()) {
        assert!(matches!(error, ImageError::Oversized { .. }), "{error}");
    }
    for section in [RECORDS, PAGES, INDEX, END] {
        for length in [u64::MAX, u64::MAX - 63, 1 << 62, 1 << 33] {
            let mut image = small();
            put(&mut image, section + 24, &length.to_le_bytes());
            if section == INDEX {
                put(&mut image, section + 32, &(length / 32).to_le_bytes());
            }
            repair(&mut image);
            for error in errors(&image) {
                assert!(
                    matches!(
                        error,
                        ImageError::Oversized { .. } | ImageError::Damaged { .. }
                    ),
                    "{section} {length:#x}: {error}"
                );
            }
        }
    }
    // Within the limit, but more than there is.
    let [streamed, _] = with(RECORDS + 24, &(30_u64 << 20).to_le_bytes());
    assert!(
        matches!(streamed, ImageError::Truncated { .. }),
        "{streamed}"
    );
}

#[test]
fn counts_that_do_not_count() {
    for section in [RECORDS, PAGES, INDEX, END] {
        for count in [0, 1, 4, 1 << 20, u64::MAX] {
            let fits = small()[section + 32..section + 40] == u64::to_le_bytes(count);
            if !fits {
                with(section + 32, &count.to_le_bytes());
            }
        }
    }
    for section in [RECORDS, PAGES, INDEX, END] {
        with(section + 16, &9_u64.to_le_bytes());
        with(section + 8, &9_u32.to_le_bytes());
        with(section + 52, &[1]);
    }
    for section in [RECORDS, INDEX, END] {
        with(section + 40, &[1]);
    }
}

#[test]
fn records_that_reach_too_far() {
    let entry = RECORDS + 64;
    for at in [entry, entry + 8] {
        for length in [0, 6, 4000, u32::MAX] {
            with(at, &u32::to_le_bytes(length));
        }
    }
    with(entry + 4, &[0]);
    for name in [b"Test.cat", b"test/cat", b"test\xffcat"] {
        for error in with(entry + 12, name) {
            assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
        }
    }
}

#[test]
fn runs_that_cannot_be() {
    let table = PAGES + 64;
    for (at, bytes) in [
        (table, 0x1001_u64.to_le_bytes()),
        (table, u64::MAX.to_le_bytes()),
        (table, (u64::MAX - 4095).to_le_bytes()),
        (table + 8, [2, 0, 0, 0, 1, 0, 0, 0]),
        (table + 8, [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]),
        (table + 8, [0, 0, 0, 0, 1, 0, 0, 0]),
        (table + 8, [1, 0, 0, 0, 0, 0, 0, 0]),
        (table + 8, [1, 0, 0, 0, 4, 0, 0, 0]),
        (table + 8, [1, 0, 0, 0, 3, 0, 0, 0]),
        (table + 16, 1_u64.to_le_bytes()),
        (table + 24 + 16, 7_u64.to_le_bytes()),
        (table + 48 + 16, 1_u64.to_le_bytes()),
        // Padding between table and data.
        (table + 72, 1_u64.to_le_bytes()),
        (PAGES + 4096 - 8, 1_u64.to_le_bytes()),
    ] {
        for error in with(at, &bytes) {
            assert!(
                matches!(error, ImageError::Damaged { .. }),
                "{at} {bytes:?}: {error}"
            );
        }
    }
    // A section whose length is no whole number of pages.
    with(PAGES + 24, &(8192_u64 - 65).to_le_bytes());
}

#[test]
fn an_index_that_leads_astray() {
    for entry in [INDEX + 64, INDEX + 96] {
        for (at, value) in [
            (entry, 0_u64),
            (entry, u64::MAX),
            (entry + 8, 0),
            (entry + 8, 12288),
            (entry + 8, 1),
            (entry + 8, u64::MAX - 4095),
        ] {
            with(at, &value.to_le_bytes());
        }
        with(entry + 16, &[3]);
    }
    let body = END + 64;
    for at in (body..body + 56).step_by(8) {
        for value in [77, u64::MAX, 4096, 0] {
            // The counts of pages are only known once all pages were read.
            let mut image = small();
            put(&mut image, at, &value.to_le_bytes());
            repair(&mut image);
            if image != small() {
                assert!(
                    matches!(read_stream(&image), Err(ImageError::Damaged { .. })),
                    "{at} {value}"
                );
            }
            if at < body + 32 {
                let sought =
                    SeekableImage::open(file_of(&image)).and_then(|image| read_seekable(&image));
                assert!(image == small() || sought.is_err(), "{at} {value}");
            }
        }
    }
    with(body + 60, &[1]);
    // Padding after the bodies of the other sections.
    for at in [100 + 4096 - 104, RECORDS + 4095, INDEX + 4095, END + 4095] {
        for error in with(at, &[1]) {
            assert!(matches!(error, ImageError::Damaged { .. }), "{at}: {error}");
        }
    }
}

/// Gives zeros for ever.
struct Endless(Vec<u8>, u64);

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.len().min(buffer.len());
        buffer.fill(0);
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0.drain(..length);
        self.1 += buffer.len() as u64;
        Ok(buffer.len())
    }
}

#[test]
fn an_endless_stream_is_left_early() {
    let mut source = Endless(small(), 0);
    assert!(cryonaut_image::verify(&mut source).is_err());
    assert_eq!(source.1, small().len() as u64 + 1);
    let mut image = small();
    image.truncate(RECORDS + 64);
    put(&mut image, RECORDS + 24, &(32_u64 << 20).to_le_bytes());
    repair_header(&mut image, RECORDS);
    let mut source = Endless(image, 0);
    assert!(matches!(
        cryonaut_image::verify(&mut source),
        Err(ImageError::Damaged { .. })
    ));
    assert!(source.1 < 33 << 20);
}
