//! A file is there whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cryonaut_image::{
    AtomicFile, ImageError, ImageWriter, PageBatchBuilder, SeekableImage, ZeroPages,
};

use crate::sample::preamble;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_commit_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    for text in ["first", "second, over the first"] {
        let mut file = AtomicFile::create(&path).unwrap();
        assert_eq!(file.path(), path);
        file.write_all(text.as_bytes()).unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(directory.path()), ["image"]);
    }
}

#[test]
fn an_earlier_image_survives_a_dropped_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, "earlier").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"half an im").unwrap();
    file.sync().unwrap();
    drop(file);
    assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(names(directory.path()), ["image"]);
}

#[test]
fn leftovers_under_the_temporary_name_are_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, "earlier").unwrap();
    fs::write(
        directory.path().join(".image.tmp"),
        "of a run that was killed",
    )
    .unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(names(directory.path()), [".image.tmp", "image"]);
}

#[test]
fn a_long_name_is_possible() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n".repeat(255));
    for _ in 0..2 {
        AtomicFile::create(&path).unwrap().commit().unwrap();
    }
    assert_eq!(names(directory.path()).len(), 1);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let to_directory = directory.path().join("link");
    symlink(directory.path(), &to_directory).unwrap();
    let slash = directory.path().join("new/");
    for path in [
        directory.path(),
        Path::new("/dev/null"),
        Path::new("/"),
        &socket,
        &to_directory,
        &slash,
    ] {
        let Err(error) = AtomicFile::create(path) else {
            panic!("{}", path.display());
        };
        assert!(matches!(error, ImageError::NotAFile { .. }), "{error}");
    }
    for path in [missing.join("image"), Path::new("").to_path_buf()] {
        assert!(AtomicFile::create(path).is_err());
    }
    assert!(Path::new("/dev/null").exists());
}

#[test]
fn a_symbolic_link_stays_one() {
    let directory = tempfile::tempdir().unwrap();
    let (link, target) = (
        directory.path().join("link"),
        directory.path().join("target"),
    );
    fs::write(&target, "earlier").unwrap();
    symlink("target", &link).unwrap();
    let mut file = AtomicFile::create(&link).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    let dangling = directory.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert!(matches!(
        AtomicFile::create(&dangling),
        Err(ImageError::Io { .. })
    ));
}

#[test]
fn an_image_can_be_verified_before_it_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let writer = ImageWriter::begin(AtomicFile::create(&path).unwrap(), &preamble()).unwrap();
    let (file, summary) = writer.finish().unwrap();
    let image = SeekableImage::open(file.file().try_clone().unwrap()).unwrap();
    assert_eq!(image.verify().unwrap(), summary);
    assert!(!path.exists());
    file.commit().unwrap();
    assert!(path.exists());
}

/// A file system of 64 KiB, unmounted in the end.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_leaves_the_earlier_image() {
    let Some(tiny) = Tiny::mount() else {
        eprintln!("skipped: a file system cannot be mounted here (needs root)");
        return;
    };
    let path = tiny.0.path().join("image");
    fs::write(&path, "earlier").unwrap();
    let mut writer = ImageWriter::begin(AtomicFile::create(&path).unwrap(), &preamble()).unwrap();
    let mut batch = PageBatchBuilder::new(1);
    batch.stored(0, 64, ZeroPages::Keep).unwrap().fill(7);
    let error = writer.pages(&mut batch.seal()).unwrap_err();
    let ImageError::Io { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    drop(writer);
    assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
    assert_eq!(names(tiny.0.path()), ["image"]);
}
