//! File systems that are there for one test only.

use std::path::{Path, PathBuf};
use std::process::Command;

use cryonaut_sys::spawn::{namespace, unshare};

use crate::outcome::{Outcome, failed, skip};

/// Has this thread, and whatever it starts, see mounts of its own, which nobody else sees.
pub fn leave_mount_namespace() -> Outcome {
    if unshare(namespace::MOUNT).is_err() {
        return skip("only root may mount something");
    }
    run(Command::new("mount").args(["--make-rprivate", "/"]))
}

/// Something mounted, until it is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// mount(8) with these words before the place.
    pub fn new(words: &[&str], place: &Path) -> Outcome<Self> {
        run(Command::new("mount").args(words).arg(place))?;
        Ok(Self(place.into()))
    }

    /// Where.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["--lazy", "--recursive"])
            .arg(&self.0)
            .status();
    }
}

fn run(command: &mut Command) -> Outcome {
    let ended = command.output()?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    failed(format!("{command:?}: {}", said.trim()))
}
