//! The file tree of a machine, as an archive that a kernel unpacks into memory when it starts (cpio, format "newc":
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use cryonaut_suite::Outcome;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive that is being made.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
}

/// What the archive says of a file besides its content.
struct About {
    mode: u32,
    owner: (u32, u32),
    modified: i64,
}

impl About {
    fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: metadata.mtime(),
        }
    }

    fn roots(mode: u32) -> Self {
        Self {
            mode,
            owner: (0, 0),
            modified: 0,
        }
    }
}

impl Archive {
    /// Adds a directory of root's.
    pub fn directory(&mut self, path: &str) {
        self.put(Path::new(path), &About::roots(DIRECTORY | 0o755), b"");
    }

    /// Adds an executable file of root's.
    pub fn executable(&mut self, path: &str, content: &[u8]) {
        self.put(Path::new(path), &About::roots(FILE | 0o755), content);
    }

    /// Adds a file or directory of this machine at its own path, as it is, with all that leads there: directories, and
    /// links with what they point to.
    pub fn add(&mut self, path: &Path) -> Outcome {
        let mut place = PathBuf::from("/");
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let Component::Normal(name) = component else {
                continue;
            };
            let parent = place.clone();
            place.push(name);
            let metadata = fs::symlink_metadata(&place)?;
            if metadata.is_symlink() {
                let target = fs::read_link(&place)?;
                self.put(&place, &About::of(&metadata), target.as_os_str().as_bytes());
                let rest: PathBuf = components.collect();
                return self.add(&normal(&parent.join(target).join(rest)));
            }
            if metadata.is_file() {
                self.put(&place, &About::of(&metadata), &fs::read(&place)?);
            } else if metadata.is_dir() {
                self.put(&place, &About::of(&metadata), b"");
            }
        }
        Ok(())
    }

    /// Adds a directory with all that is in it.
    pub fn add_all(&mut self, path: &Path) -> Outcome {
        self.add(path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.add_all(&entry.path())?;
            } else {
                self.add(&entry.path())?;
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, about: &About, content: &[u8]) {
        if !self.names.insert(path.to_owned()) {
            return;
        }
        let name = path.strip_prefix("/").unwrap_or(path);
        self.entry(name.as_os_str().as_bytes(), about, content);
    }

    fn entry(&mut self, name: &[u8], about: &About, content: &[u8]) {
        let number = self.names.len() as u32;
        let fields = [
            number,
            about.mode,
            about.owner.0,
            about.owner.1,
            1,
            about.modified as u32,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name);
        self.bytes.push(0);
        self.fill();
        self.bytes.extend(content);
        self.fill();
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(b"TRAILER!!!", &About::roots(0), b"");
        self.bytes
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}
