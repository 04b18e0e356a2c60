//! What programs and libraries say of themselves (elf(5)): the build id, a note that a linker leaves in them
//! (`ld --build-id`), and what they ask of the dynamic loader.

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
    segments(file)?.iter().find_map(|segment| {
        if segment.kind != u64::from(NOTES) {
            return None;
        }
        let alignment = if segment.alignment == 8 { 8 } else { 4 };
        let mut notes = vec![0; segment.length.min(MOST_NOTES) as usize];
        file.read_exact_at(&mut notes, segment.offset).ok()?;
        in_notes(&notes, alignment)
    })
}

/// What a program or library says to the dynamic loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// The path of the loader that a program asks for.
    pub interpreter: Option<Vec<u8>>,
    /// Names of the libraries that it needs.
    pub needed: Vec<Vec<u8>>,
    /// Where these are looked for first, separated by colons; `$ORIGIN` stands for its own directory.
    pub search: Vec<Vec<u8>>,
    /// The name by which others need it.
    pub name: Option<Vec<u8>>,
}

/// What the file at `path` says to the dynamic loader, if it is an ELF file of 64 bits and may be read.
pub fn dynamic(path: &Path) -> Option<Dynamic> {
    const LOAD: u64 = 1;
    const DYNAMIC: u64 = 2;
    const INTERPRETER: u64 = 3;
    const LONGEST_PATH: u64 = 4096;
    const MOST_ENTRIES: u64 = 1 << 16;
    const MOST_STRINGS: u64 = 1 << 24;
    let (file, _) = super::open(path)?;
    let segments = segments(&file)?;
    let of = |kind: u64| move |segment: &&Segment| segment.kind == kind;
    let read = |offset: u64, length: u64| {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let mut found = Dynamic::default();
    if let Some(segment) = segments.iter().find(of(INTERPRETER)) {
        let bytes = read(segment.offset, segment.length.min(LONGEST_PATH))?;
        found.interpreter = Some(until_zero(&bytes).to_vec());
    }
    let Some(segment) = segments.iter().find(of(DYNAMIC)) else {
        return Some(found);
    };
    let table = read(segment.offset, segment.length.min(MOST_ENTRIES))?;
    let entries = || {
        table.chunks_exact(16).map_while(|entry| {
            let (tag, value) = (number(entry, 0, 8)?, number(entry, 8, 8)?);
            (tag != 0).then_some((tag, value))
        })
    };
    let value = |wanted: u64| {
        entries()
            .find(|(tag, _)| *tag == wanted)
            .map(|(_, value)| value)
    };
    // DT_STRTAB, DT_STRSZ
    let (Some(address), Some(length)) = (value(5), value(10)) else {
        return Some(found);
    };
    let place = segments.iter().filter(of(LOAD)).find_map(|segment| {
        let inside = address.checked_sub(segment.address)?;
        (inside < segment.length).then(|| segment.offset.checked_add(inside))?
    })?;
    let strings = read(place, length.min(MOST_STRINGS))?;
    let text = |at: u64| {
        strings
            .get(at as usize..)
            .map(|rest| until_zero(rest).to_vec())
    };
    for (tag, at) in entries() {
        match tag {
            // DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH
            1 => found.needed.extend(text(at)),
            14 => found.name = text(at),
            15 | 29 => found.search.extend(text(at)),
            _ => {}
        }
    }
    Some(found)
}

/// A segment of a program or library.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    length: u64,
    alignment: u64,
}

fn segments(file: &File) -> Option<Vec<Segment>> {
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
    let mut bytes = vec![0; entry * count];
    file.read_exact_at(&mut bytes, table).ok()?;
    let read = |segment: &[u8]| {
        Some(Segment {
            kind: number(segment, 0, 4)?,
            offset: number(segment, 8, 8)?,
            address: number(segment, 16, 8)?,
            length: number(segment, 32, 8)?,
            alignment: number(segment, 48, 8)?,
        })
    };
    bytes.chunks_exact(entry).map(read).collect()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
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

/// A number of `length` bytes at most 8, little endian, if all of it is there.
pub(crate) fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
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

    #[test]
    fn a_program_says_what_it_asks_of_the_loader() {
        let found = dynamic(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.interpreter.unwrap().starts_with(b"/"));
        assert!(found.needed.contains(&b"libc.so.6".to_vec()));
        assert_eq!(dynamic(Path::new("/proc/self/maps")), None);
    }

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
