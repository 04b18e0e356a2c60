//! Restarting with files in other places than they were in: paths in records are changed before the restart is planned.
//!
//! What is changed are the paths by which `cryo` opens files, directories, FIFOs and mappings, the executables, and working and
//! root directories. Paths in the memory of programs stay as they are: nobody knows which of their bytes are paths.

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cryonaut_image::{RawRecord, Record, RecordSet};

use crate::Result;
use crate::resource::embedded::EmbeddedFile;
use crate::resource::file::{Fifo, HeldLock, NamedPlace, OpenDirectory, RegularFile};
use crate::resource::fs_context::FsContextRecord;
use crate::resource::kept_file::{KeptFile, Standing};
use crate::resource::memory::{AddressSpace, FileIdentity};

/// That what was at one path is at another now, with all that lies below it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Relocation {
    from: PathBuf,
    to: PathBuf,
}

/// Why a text is no relocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give OLD=NEW, two absolute paths")]
pub struct NoRelocation;

impl FromStr for Relocation {
    type Err = NoRelocation;

    /// `OLD=NEW`; the first `=` before a `/` divides them.
    fn from_str(text: &str) -> std::result::Result<Self, NoRelocation> {
        Self::parse(text.as_bytes())
    }
}

impl Relocation {
    /// As [`FromStr`], of any bytes.
    ///
    /// # Errors
    /// When these are not two absolute paths.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, NoRelocation> {
        let middle = text
            .windows(2)
            .position(|two| two == b"=/")
            .ok_or(NoRelocation)?;
        let (from, to) = (&text[..middle], &text[middle + 1..]);
        if !from.starts_with(b"/") || from.contains(&0) || to.contains(&0) {
            return Err(NoRelocation);
        }
        // Components alone: without doubled slashes, and one at the end.
        let path = |bytes: &[u8]| {
            Path::new(std::ffi::OsStr::from_bytes(bytes))
                .components()
                .collect()
        };
        Ok(Self {
            from: path(from),
            to: path(to),
        })
    }

    /// Where `path` is now, if it is concerned.
    fn apply(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.from).ok()?;
        // Joining nothing would add a slash.
        Some(match below.as_os_str().is_empty() {
            true => self.to.clone(),
            false => self.to.join(below),
        })
    }
}

impl fmt::Display for Relocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.from.display(), self.to.display())
    }
}

/// Records with changed paths.
#[derive(Clone, Debug)]
pub struct Relocated {
    /// The records.
    pub records: RecordSet,
    /// What the user should know: relocations that concern no path.
    pub remarks: Vec<String>,
}

/// Changes the paths in records: of the relocations that concern a path, the one with the longest beginning.
///
/// # Errors
/// When a record that has paths cannot be decoded.
pub fn relocate(records: &RecordSet, relocations: &[Relocation]) -> Result<Relocated> {
    if relocations.is_empty() {
        return Ok(Relocated {
            records: records.clone(),
            remarks: Vec::new(),
        });
    }
    let mut order: Vec<usize> = (0..relocations.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(relocations[index].from.as_os_str().len()));
    let mut used = vec![false; relocations.len()];
    let mut change = |path: &mut Vec<u8>| {
        let old = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
        for &index in &order {
            if let Some(new) = relocations[index].apply(&old) {
                used[index] = true;
                *path = new.into_os_string().into_vec();
                return;
            }
        }
    };
    let mut changed = RecordSet::new();
    for record in records.iter() {
        let body = match REWRITERS.iter().find(|(name, _)| *name == record.name) {
            Some((_, rewrite)) => rewrite(record, &mut change)?,
            None => None,
        };
        changed.push_raw(RawRecord {
            body: body.as_deref().unwrap_or(record.body),
            ..record
        })?;
    }
    let unused = relocations.iter().zip(used).filter(|(_, used)| !used);
    Ok(Relocated {
        records: changed,
        remarks: unused
            .map(|(relocation, _)| {
                format!("--relocate {relocation} concerns no path of this image")
            })
            .collect(),
    })
}

/// A record that names files.
trait Paths: Record {
    /// Calls `change` with each path.
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>));
}

/// Changes the paths of an encoded record; nothing for one of a version that is not known, which the plan refuses.
type Rewrite = fn(RawRecord<'_>, &mut dyn FnMut(&mut Vec<u8>)) -> Result<Option<Vec<u8>>>;

/// One line for each kind of record that has paths.
const REWRITERS: &[(&str, Rewrite)] = &[
    (AddressSpace::KIND.name, rewrite::<AddressSpace>),
    (FsContextRecord::KIND.name, rewrite::<FsContextRecord>),
    (RegularFile::KIND.name, rewrite::<RegularFile>),
    (OpenDirectory::KIND.name, rewrite::<OpenDirectory>),
    (NamedPlace::KIND.name, rewrite::<NamedPlace>),
    (Fifo::KIND.name, rewrite::<Fifo>),
    (KeptFile::KIND.name, rewrite::<KeptFile>),
    (HeldLock::KIND.name, rewrite::<HeldLock>),
    (EmbeddedFile::KIND.name, rewrite::<EmbeddedFile>),
];

fn rewrite<R: Paths>(
    record: RawRecord<'_>,
    change: &mut dyn FnMut(&mut Vec<u8>),
) -> Result<Option<Vec<u8>>> {
    let mut alone = RecordSet::new();
    alone.push_raw(record)?;
    if record.version > R::KIND.version {
        return Ok(None);
    }
    let mut decoded: R = alone.one()?;
    decoded.paths(change);
    Ok(Some(decoded.encode_to_vec()))
}

fn path_of(identity: &mut Option<FileIdentity>, change: &mut dyn FnMut(&mut Vec<u8>)) {
    if let Some(identity) = identity {
        change(&mut identity.path);
    }
}

impl Paths for AddressSpace {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        for area in &mut self.areas {
            path_of(&mut area.file, change);
        }
        path_of(&mut self.executable, change);
    }
}

impl Paths for FsContextRecord {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        change(&mut self.working_directory);
        change(&mut self.root);
    }
}

impl Paths for HeldLock {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        change(&mut self.path);
    }
}

impl Paths for RegularFile {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        path_of(&mut self.identity, change);
    }
}

impl Paths for OpenDirectory {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        path_of(&mut self.identity, change);
    }
}

impl Paths for NamedPlace {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        path_of(&mut self.identity, change);
    }
}

impl Paths for Fifo {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        path_of(&mut self.identity, change);
    }
}

impl Paths for EmbeddedFile {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        path_of(&mut self.identity, change);
    }
}

impl Paths for KeptFile {
    fn paths(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        // That of a memory file is its name.
        if self.standing() != Standing::Memory {
            path_of(&mut self.identity, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relocation(text: &str) -> Relocation {
        text.parse().unwrap()
    }

    #[test]
    fn relocations_are_two_absolute_paths() {
        let found = relocation("/a=b//c/=/d/");
        assert_eq!(found, relocation("/a=b/c=/d"));
        assert_eq!(found.to_string(), "/a=b/c=/d");
        for text in ["", "/a", "a=/b", "/a=b", "=/b", "/a\0=/b"] {
            assert_eq!(text.parse::<Relocation>(), Err(NoRelocation), "{text:?}");
        }
        assert!(Relocation::parse(b"/\xff=/b").is_ok());
    }

    #[test]
    fn the_longest_beginning_counts_and_names_are_whole() {
        let mut records = RecordSet::new();
        for path in ["/data/in", "/data", "/database", "/data/deep/in"] {
            let identity = Some(FileIdentity {
                path: path.into(),
                ..Default::default()
            });
            records
                .push(&RegularFile {
                    identity,
                    ..Default::default()
                })
                .unwrap();
        }
        let context = FsContextRecord {
            working_directory: b"/data".to_vec(),
            root: b"/".to_vec(),
            ..Default::default()
        };
        records.push(&context).unwrap();
        let relocations = ["/data=/new", "/data/deep=/", "/none=/x"].map(relocation);
        let found = relocate(&records, &relocations).unwrap();
        let paths: Vec<String> = found
            .records
            .all::<RegularFile>()
            .unwrap()
            .into_iter()
            .map(|file| String::from_utf8(file.identity.unwrap().path).unwrap())
            .collect();
        assert_eq!(paths, ["/new/in", "/new", "/database", "/in"]);
        let context = found.records.one::<FsContextRecord>().unwrap();
        assert_eq!(
            (context.working_directory, context.root),
            (b"/new".to_vec(), b"/".to_vec())
        );
        assert_eq!(
            found.remarks,
            ["--relocate /none=/x concerns no path of this image"]
        );
    }
}
