//! The image of a job that was received, until the job runs.
//!
//! It has no name, and goes with this process, until the sender may kill the original on the strength of it; then it has one, with
//! a text beside it that says what to do with it. Both are on the medium before anybody is told so. As long as a copy stands
//! rebuilt from it, the file is locked (flock(2)), and `cryo restart` does not take it: the copy may still be let go.

use std::fs::{DirBuilder, File, Metadata};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryonaut_image::AtomicFile;
use cryonaut_sys::spawn::{self, FileLock};

use crate::exit::{Code, Failure};
use crate::handover::Offer;
use crate::when;

/// An image that was received.
#[derive(Debug)]
pub struct Kept {
    image: AtomicFile,
    text: AtomicFile,
}

impl Kept {
    /// Begins one, in a directory that is made if it is not there. It is locked from the beginning, until this is dropped.
    pub fn create(directory: &Path, label: &str) -> Result<Kept, Failure> {
        make(directory)?;
        let name = format!("{label}-{}", when::stamp());
        // One that lies here from an earlier move may be all that is left of its job.
        let free = (1..1000).map(|number| match number {
            1 => directory.join(format!("{name}.cryo")),
            _ => directory.join(format!("{name}-{number}.cryo")),
        });
        let mut free = free.filter(|path| {
            let taken = |path: &Path| std::fs::symlink_metadata(path).is_ok();
            !taken(path) && !taken(&text_beside(path))
        });
        let path = free.next().ok_or_else(|| {
            Failure::new(
                Code::Failed,
                format!(
                    "there is no free name for the image in {}",
                    directory.display()
                ),
            )
        })?;
        let kept = Kept {
            image: AtomicFile::create(&path)?,
            text: AtomicFile::create(text_beside(&path))?,
        };
        match spawn::try_lock_file(kept.image.as_fd(), FileLock::Exclusive) {
            Ok(true) => Ok(kept),
            locked => {
                let why = match locked {
                    Err(error) => format!(": {error}"),
                    Ok(_) => String::new(),
                };
                let what = directory.display();
                Err(Failure::new(
                    Code::Failed,
                    format!(
                        "files in {what} cannot be locked{why}: `cryo receive --dir DIR` with another directory"
                    ),
                ))
            }
        }
    }

    /// Where it lies when it has its name.
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// The file.
    pub fn image(&mut self) -> &mut AtomicFile {
        &mut self.image
    }

    /// The file, to be read.
    pub fn open(&self) -> Result<File, Failure> {
        let copy = self.image.file().try_clone();
        copy.map_err(Failure::system("open the image"))
    }

    /// Gives it its name, with the text beside it.
    pub fn publish(&mut self, offer: &Offer) -> Result<(), Failure> {
        let Offer { label, node, .. } = offer;
        let text = format!(
            "The image beside this file is of the job {label}, which was on its way here from {node}.\n\
             When this was written it was not known to run here. If `cryo list` shows it here, or it still runs on {node},\n\
             remove the image and this file: two copies of one job would undo each other's work. If it runs nowhere, this\n\
             brings it back here:\n\n    {}\n",
            restart_command(offer, self.path())
        );
        self.text
            .write_all(text.as_bytes())
            .map_err(Failure::system("write the text beside the image"))?;
        self.text.publish()?;
        Ok(self.image.publish()?)
    }

    /// Takes the names away again, if it had them.
    pub fn withdraw(&mut self) -> Result<(), Failure> {
        self.image.withdraw()?;
        Ok(self.text.withdraw()?)
    }

    /// Leaves it, and adds to the text what happened.
    pub fn explain(&mut self, failure: Failure, told: &str) -> Failure {
        let why = &failure.message;
        let more = format!("\nWhat happened: {why}. {told}\n");
        let written = self
            .text
            .write_all(more.as_bytes())
            .and_then(|()| self.text.file().sync_all());
        let beside = self.text.path().display();
        let text = match written {
            Ok(()) => format!("{beside} says what to do"),
            Err(error) => format!("{beside} says what to do, though not why ({error})"),
        };
        Failure {
            message: format!(
                "{why}; the image stays in {}, and {text}",
                self.path().display()
            ),
            ..failure
        }
    }
}

fn text_beside(image: &Path) -> PathBuf {
    image.with_extension("txt")
}

/// Makes a directory for images, or sees whether one is the user's alone to write.
fn make(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(Failure::system(format!("make {shown}")))?;
    for made in missing {
        // What lies in it is all that may be left of a job: its own name is to survive as well.
        bring_to_medium(made.parent().unwrap_or(Path::new("/")))
            .map_err(Failure::system(format!("bring {shown} to the medium")))?;
    }
    let facts: Metadata =
        std::fs::metadata(directory).map_err(Failure::system(format!("look at {shown}")))?;
    let problem = match facts {
        facts if facts.uid() != spawn::effective_user() => "belongs to another user",
        facts if facts.mode() & 0o022 != 0 => "can be written by other users",
        _ => return Ok(()),
    };
    Err(Failure::new(
        Code::NotPermitted,
        format!(
            "{shown} {problem}, who could put another image in its place: `cryo receive --dir DIR` with a directory of your own"
        ),
    ))
}

/// Makes the names in a directory durable. Some network file systems have nothing to do for it, and say so (fsync(2)); one that may
/// be written but not read is left to the system.
fn bring_to_medium(directory: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied};
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    match synced {
        Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied) => Ok(()),
        synced => synced,
    }
}

/// The command that brings it back, as sh reads it.
fn restart_command(offer: &Offer, image: &Path) -> String {
    let mut words = vec!["cryo restart --detach".to_owned()];
    words.extend(offer.restart_options());
    words.push(quoted(&image.to_string_lossy()));
    words.join(" ")
}

/// A word as sh reads it.
pub fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "@%+=:,./_-".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Refuses an image from which a copy stands rebuilt that may still be let go: there would be two.
pub fn expect_no_copy(image: &Path) -> Result<(), Failure> {
    /// How long one who was killed may take to go.
    const MOMENT: Duration = Duration::from_secs(2);
    let file = match image == Path::new("-") {
        // Opened anew: a lock of the one that we were given would be the caller's as well.
        true => Path::new("/proc/self/fd/0"),
        false => image,
    };
    // What cannot be opened is told by whoever reads it; a FIFO would wait for somebody.
    if !std::fs::metadata(file).is_ok_and(|facts| facts.is_file()) {
        return Ok(());
    }
    let Ok(file) = File::open(file) else {
        return Ok(());
    };
    let start = Instant::now();
    // Where there are no locks nobody holds one.
    while let Ok(false) = spawn::try_lock_file(file.as_fd(), FileLock::Shared) {
        if start.elapsed() > MOMENT {
            let holder = match holder(&file) {
                Some(pid) => format!("cryo receive, pid {pid},"),
                None => "a cryo receive".into(),
            };
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "{}: {holder} holds a copy built from it that may still be let go; end that first, then there is one copy for sure",
                    image.display()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Who has the lock of a file.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino();
    let locks = cryonaut_procfs::locks::parse(&std::fs::read("/proc/locks").ok()?).ok()?;
    let held = locks.into_iter().find(|lock| {
        lock.inode == inode && !lock.waits && lock.family == cryonaut_procfs::LockFamily::Flock
    });
    held.map(|lock| lock.pid).filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::command::Taking;

    fn offer() -> Offer {
        Offer {
            version: String::new(),
            node: "node7".into(),
            name: Some("trip".into()),
            label: "trip".into(),
            taking: Taking::default(),
            patience: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_image_is_held_until_it_is_given_up() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("it's here");
        let mut kept = Kept::create(&directory, "trip").unwrap();
        let path = kept.path().to_owned();
        let count = || std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(count(), 0);
        kept.publish(&offer()).unwrap();
        assert_eq!(count(), 2);
        let refused = expect_no_copy(&path).unwrap_err();
        assert_eq!(refused.code, Code::Refused);
        let pid = format!("pid {},", std::process::id());
        assert!(refused.message.contains(&pid), "{}", refused.message);
        let failure = kept.explain(Failure::new(Code::Failed, "lost"), "Nobody knows.");
        drop(kept);
        expect_no_copy(&path).unwrap();
        assert!(failure.message.contains("stays in"));
        let text = std::fs::read_to_string(text_beside(&path)).unwrap();
        let command = "    cryo restart --detach --name trip '/";
        assert!(
            text.contains(command) && text.contains("it'\\''s here"),
            "{text}"
        );
        assert!(
            text.ends_with("What happened: lost. Nobody knows.\n"),
            "{text}"
        );
        let mut kept = Kept::create(&directory, "trip").unwrap();
        kept.publish(&offer()).unwrap();
        kept.withdraw().unwrap();
        assert_eq!(count(), 2);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(place.path(), open).unwrap();
        let refused = Kept::create(place.path(), "trip").unwrap_err();
        assert_eq!(refused.code, Code::NotPermitted);
    }
}
