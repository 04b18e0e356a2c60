//! Swap space and a cgroup of limited memory for the measurements of suspensions; both go when they are dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command;
use crate::failure::Failure;

/// A swap file in use.
#[derive(Debug)]
pub struct SwapFile(PathBuf);

impl SwapFile {
    /// Makes one of so many bytes, and has it used first. Needs root.
    pub fn add(directory: &Path, bytes: u64) -> Result<Self, Failure> {
        let path = directory.join("swap");
        let output = directory.join("swap.output");
        let made = Self(path.clone());
        let mut allocate = Command::new("fallocate");
        allocate.arg("-l").arg(bytes.to_string()).arg(&path);
        let mut protect = Command::new("chmod");
        protect.arg("600").arg(&path);
        let mut make = Command::new("mkswap");
        make.arg(&path);
        let mut add = Command::new("swapon");
        add.args(["-p", "100"]).arg(&path);
        for step in [allocate, protect, make, add] {
            command::run(step, &output)?;
        }
        Ok(made)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        // It may not be in use yet.
        let _ = Command::new("swapoff").arg(&self.0).output();
        let _ = fs::remove_file(&self.0);
    }
}

/// A cgroup with a limit, in either version of the hierarchy.
#[derive(Debug)]
pub struct Room {
    path: PathBuf,
    usage: &'static str,
}

impl Room {
    /// Makes one of so many bytes. Needs root, and a memory controller.
    pub fn make(bytes: u64) -> Result<Self, Failure> {
        let name = format!("cryonaut-bench-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (path, limit, usage) = if first.join("memory.limit_in_bytes").exists() {
            (
                first.join(name),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        } else {
            let root = Path::new("/sys/fs/cgroup");
            // Where it is passed on already, this changes nothing; where it cannot be, the limit cannot be set below.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.join(name), "memory.max", "memory.current")
        };
        fs::create_dir(&path).map_err(|error| Failure::at(&path, &error))?;
        let room = Self { path, usage };
        let limit = room.path.join(limit);
        fs::write(&limit, bytes.to_string()).map_err(|error| Failure::at(&limit, &error))?;
        Ok(room)
    }

    /// Puts a process into it.
    pub fn take(&self, pid: u32) -> Result<(), Failure> {
        let path = self.path.join("cgroup.procs");
        fs::write(&path, pid.to_string()).map_err(|error| Failure::at(&path, &error))
    }

    /// Bytes that are held in it.
    pub fn usage(&self) -> Result<f64, Failure> {
        let path = self.path.join(self.usage);
        let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, &error))?;
        text.trim()
            .parse()
            .map_err(|_| Failure::new(format!("{} says {text:?}", path.display())))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for _ in 0..500 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} is still there", self.path.display());
    }
}
