//! The files that an image names and does not hold.

use std::collections::BTreeMap;

use cryonaut_image::RecordSet;
use serde::Serialize;

use super::objects::flags_in_words;
use crate::Result;
use crate::resource::embedded::EmbeddedFile;
use crate::resource::file::{Fifo, NamedPlace, OpenDirectory, RegularFile};
use crate::resource::fs_context::FsContextRecord;
use crate::resource::memory::{AddressSpace, FileIdentity, printable};

/// A file that must be there at a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileDescription {
    /// Its path.
    pub path: String,
    /// What it is: `file`, `directory`, `fifo`, `other`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified_unix_nanoseconds: i64,
    /// Its build id, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The BLAKE3 hash of its content, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// Mappings of it.
    pub mappings: usize,
    /// Processes whose executable it is.
    pub executable_of: usize,
    /// Processes that it is the working or root directory of.
    pub directory_of: usize,
    /// How it is open: once for each open file description.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
}

/// All files by reference, by path.
///
/// # Errors
/// When their records are damaged.
pub(super) fn read(records: &RecordSet) -> Result<Vec<FileDescription>> {
    let mut files = Files::default();
    for space in records.all::<AddressSpace>()? {
        for file in space.areas.iter().filter_map(|area| area.file.as_ref()) {
            files.of(file).mappings += 1;
        }
        if let Some(executable) = &space.executable {
            files.of(executable).executable_of += 1;
        }
    }
    let mut open = |identity: &Option<FileIdentity>, flags: u32| {
        if let Some(identity) = identity {
            files.of(identity).open.push(flags_in_words(flags));
        }
    };
    for file in records.all::<RegularFile>()? {
        open(&file.identity, file.flags);
    }
    for directory in records.all::<OpenDirectory>()? {
        open(&directory.identity, directory.flags);
    }
    for place in records.all::<NamedPlace>()? {
        open(&place.identity, place.flags);
    }
    for fifo in records.all::<Fifo>()? {
        for end in &fifo.ends {
            open(&fifo.identity, end.flags);
        }
    }
    for context in records.all::<FsContextRecord>()? {
        files.directory(&context.working_directory);
        if context.root != b"/" {
            files.directory(&context.root);
        }
    }
    Ok(files.0.into_values().collect())
}

/// A file that is in an image for machines that lack it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EmbeddedDescription {
    /// Its path.
    pub path: String,
    /// What it is: `file`, `directory`, `link`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that it takes in the image, holes left out; 0 where another file has the same content.
    pub stored_bytes: u64,
    /// What a symbolic link leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// All embedded files, by path.
///
/// # Errors
/// When their records are damaged.
pub(crate) fn embedded(records: &RecordSet) -> Result<Vec<EmbeddedDescription>> {
    let mut files = Vec::new();
    let mut told = std::collections::BTreeSet::new();
    for file in records.all::<EmbeddedFile>()? {
        let identity = file.checked()?;
        let kind = match identity.mode & libc::S_IFMT {
            libc::S_IFDIR => "directory",
            libc::S_IFLNK => "link",
            _ => "file",
        };
        files.push(EmbeddedDescription {
            path: printable(&identity.path),
            kind,
            bytes: if kind == "file" { identity.size } else { 0 },
            stored_bytes: if told.insert(file.content) {
                file.stored
            } else {
                0
            },
            target: (kind == "link").then(|| printable(&file.target)),
        });
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

#[derive(Default)]
struct Files(BTreeMap<Vec<u8>, FileDescription>);

impl Files {
    fn of(&mut self, identity: &FileIdentity) -> &mut FileDescription {
        let known = self
            .0
            .entry(identity.path.clone())
            .or_insert_with(|| FileDescription {
                path: printable(&identity.path),
                ..Default::default()
            });
        let hexadecimal =
            |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        known.kind = match identity.mode & libc::S_IFMT {
            libc::S_IFREG => "file",
            libc::S_IFDIR => "directory",
            libc::S_IFIFO => "fifo",
            _ => "other",
        };
        known.bytes = identity.size;
        known.modified_unix_nanoseconds = identity.modified;
        // A file that is mapped and open has these in one of its records only.
        if let Some(id) = &identity.build_id {
            known.build_id = Some(hexadecimal(id));
        }
        if let Some(hash) = &identity.content_hash {
            known.content_hash = Some(hexadecimal(hash));
        }
        known
    }

    fn directory(&mut self, path: &[u8]) {
        let known = self
            .0
            .entry(path.to_vec())
            .or_insert_with(|| FileDescription {
                path: printable(path),
                kind: "directory",
                ..Default::default()
            });
        known.directory_of += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_once_with_all_its_uses() {
        let identity = FileIdentity {
            path: b"/log\xff".to_vec(),
            size: 5,
            mode: libc::S_IFREG,
            content_hash: Some(vec![0xab]),
            ..Default::default()
        };
        let mut records = RecordSet::new();
        for flags in [0, 1] {
            let file = RegularFile {
                flags,
                identity: Some(identity.clone()),
                ..Default::default()
            };
            records.push(&file).unwrap();
        }
        let found = read(&records).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "/log\u{fffd}");
        assert_eq!(found[0].open, ["read", "write"]);
        assert_eq!(found[0].content_hash.as_deref(), Some("ab"));
    }
}
