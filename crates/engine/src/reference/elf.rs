//! The build id of a program or library: the note that a linker leaves in it (`ld --build-id`, elf(5)).

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::StateOfFile;

/// Length of an ELF header of 64 bits.
const HEADER: usize = 64;
/// Length of an entry of its table of segments.
const SEGMENT: usize = 56;
/// No linker makes more segments, nor longer notes.
const MOST_SEGMENTS: usize = 256;
const MOST_NOTES: u64 = 1 << 16;
/// The longest build id that is taken, in bytes; usual are 8, 16 and 20.
const MOST_ID: usize = 64;
/// The type of a segment that holds notes.
const NOTES: u32 = 4;
/// The type of the note, by the owner "GNU".
const BUILD_ID: u32 = 3;

/// The build id of the file at `path`, if it is an ELF file of 64 bits that has one and may be read.
pub fn build_id(path: &Path) -> Option<Vec<u8>> {
    static KNOWN: LazyLock<Mutex<HashMap<StateOfFile, Option<Vec<u8>>>>> =
        LazyLock::new(Mutex::default);
    let (file, metadata) = super::open(path)?;
    let state = StateOfFile::of(&metadata);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(&state) {
        return found.clone();
    }
    let found = read(&file);
    known().insert(state, found.clone());
    found
}

fn read(file: &File) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    // 64 bits, little endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(&header, 32, 8)?;
    let entry = number(&header, 54, 2)? as usize;
    let count = (number(&header, 56, 2)? as usize).min(MOST_SEGMENTS);
    if entry < SEGMENT {
        return None;
    }
    let mut segments = vec![0; entry * count];
    file.read_exact_at(&mut segments, table).ok()?;
    segments.chunks_exact(entry).find_map(|segment| {
        if number(segment, 0, 4)? != u64::from(NOTES) {
            return None;
        }
        let (offset, length) = (number(segment, 8, 8)?, number(segment, 32, 8)?);
        let alignment = if number(segment, 48, 8)? == 8 { 8 } else { 4 };
        let mut notes = vec![0; length.min(MOST_NOTES) as usize];
        file.read_exact_at(&mut notes, offset).ok()?;
        in_notes(&notes, alignment)
    })
}

/// Looks for the build id in a segment of notes: lengths of owner and content, type, owner, content, each of the latter two
/// filled up to the alignment.
fn in_notes(mut notes: &[u8], alignment: usize) -> Option<Vec<u8>> {
    loop {
        let owner = number(notes, 0, 4)? as usize;
        let content = number(notes, 4, 4)? as usize;
        let kind = number(notes, 8, 4)? as u32;
        let begin = 12_usize.checked_add(owner)?.next_multiple_of(alignment);
        let end = begin.checked_add(content)?;
        if kind == BUILD_ID && notes.get(12..12 + owner)? == b"GNU\0" {
            return notes
                .get(begin..end)
                .filter(|id| !id.is_empty() && id.len() <= MOST_ID)
                .map(<[u8]>::to_vec);
        }
        notes = notes.get(end.next_multiple_of(alignment)..)?;
    }
}

/// A number of `length` bytes at most 8, little endian.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for value in [owner.len() as u32, content.len() as u32, kind] {
            note.extend(value.to_le_bytes());
        }
        for part in [owner, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    fn program(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; HEADER + SEGMENT];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = HEADER as u8;
        file[54] = SEGMENT as u8;
        file[56] = 1;
        file[HEADER] = 4;
        file[HEADER + 8] = (HEADER + SEGMENT) as u8;
        file[HEADER + 32..HEADER + 34].copy_from_slice(&(notes.len() as u16).to_le_bytes());
        file[HEADER + 48] = 4;
        file.extend(notes);
        file
    }

    fn found(content: &[u8]) -> Option<Vec<u8>> {
        let path =
            std::env::temp_dir().join(format!("cryonaut-elf-{}-{:p}", std::process::id(), content));
        std::fs::write(&path, content).unwrap();
        let found = build_id(&path);
        std::fs::remove_file(&path).unwrap();
        found
    }

    #[test]
    fn the_note_is_found_among_others() {
        let mut notes = note(b"GNU\0", 1, b"other");
        notes.extend(note(b"GNU\0", 3, b"\x01\x02\x03"));
        assert_eq!(found(&program(&notes)), Some(vec![1, 2, 3]));
        assert_eq!(found(&program(&note(b"Go\0\0", 4, b"x"))), None);
        assert_eq!(found(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn damaged_files_have_none() {
        let whole = program(&note(b"GNU\0", 3, b"\x01\x02\x03\x04"));
        for length in 0..whole.len() {
            assert_eq!(found(&whole[..length]), None, "cut at {length}");
        }
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] = 0xff;
            found(&bytes);
        }
    }
}
