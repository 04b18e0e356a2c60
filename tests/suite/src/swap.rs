//! Swap space and cgroups that a test brings along, and takes away again whatever happens.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Outcome, failed, skip};
use crate::scene::Scene;

/// A swap file in use. Dropping it takes it out of use.
#[derive(Debug)]
pub struct SwapFile {
    path: PathBuf,
}

impl SwapFile {
    /// Adds a file of so many MiB; only root can, and not on every file system.
    pub fn add(scene: &Scene, mebibytes: u32) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("adding swap needs root");
        }
        let path = scene.file("swap");
        let size = format!("count={mebibytes}");
        let of = format!("of={}", path.display());
        // Holes are not allowed in a swap file.
        let steps: [(&str, Vec<&str>); 3] = [
            (
                "dd",
                vec!["if=/dev/zero", &of, "bs=1M", &size, "status=none"],
            ),
            ("mkswap", vec![path.to_str().unwrap_or_default()]),
            ("swapon", vec![path.to_str().unwrap_or_default()]),
        ];
        for (program, arguments) in steps {
            if path.exists() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            }
            let output = Command::new(program).args(&arguments).output();
            match output {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    return skip(format!(
                        "{program}: {}",
                        String::from_utf8_lossy(&output.stderr).trim()
                    ));
                }
                Err(error) => return skip(format!("{program}: {error}")),
            }
        }
        Ok(Self { path })
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        let done = Command::new("swapoff").arg(&self.path).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("{} is still in use as swap", self.path.display());
        }
    }
}

/// A cgroup of the v2 hierarchy that belongs to the acting user. Dropping it removes it with all below.
#[derive(Debug)]
pub struct Delegated {
    path: PathBuf,
}

impl Delegated {
    /// Makes one; only root can, and only where the hierarchy is mounted.
    pub fn make(scene: &Scene) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("delegating a cgroup needs root");
        }
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            line.split(' ')
                .nth(1)
                .filter(|_| line.contains(" cgroup2 "))
        });
        let Some(mount) = mount else {
            return skip("no cgroup v2 hierarchy is mounted");
        };
        let path = Path::new(mount).join(format!("cryonaut-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            return skip(format!("{}: {error}", path.display()));
        }
        let user = Some(scene.user_id());
        for file in [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            chown(path.join(file), user, user)?;
        }
        Ok(Self { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it.
    pub fn take(&self, pid: i32) -> Outcome {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())?;
        Ok(())
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // A frozen process can be killed, but a directory goes only when its processes have.
        for _ in 0..1000 {
            for child in fs::read_dir(&self.path).into_iter().flatten().flatten() {
                if child.path().is_dir() {
                    let _ = fs::write(child.path().join("cgroup.kill"), "1");
                    let _ = fs::remove_dir(child.path());
                }
            }
            let _ = fs::write(self.path.join("cgroup.kill"), "1");
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// What the v2 hierarchy says of a process: the last part of the path of its cgroup, and whether it is frozen.
#[must_use]
pub fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default()
        .to_owned()
}

/// A cgroup whose memory is limited, in whichever version of the hierarchy has the memory controller. Dropping it removes it; its
/// processes have to have gone.
#[derive(Debug)]
pub struct LimitedMemory {
    path: PathBuf,
    usage: &'static str,
}

impl LimitedMemory {
    /// Makes one of so many MiB; only root can.
    pub fn make(mebibytes: u64) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("limiting the memory of a cgroup needs root");
        }
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut limited = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, mount, kind, options, ..] = fields[..] else {
                continue;
            };
            let mount = Path::new(mount);
            let controllers = || fs::read_to_string(mount.join("cgroup.controllers"));
            let has_memory =
                |text: &str, separator| text.split(separator).any(|one| one == "memory");
            limited = match kind {
                "cgroup2" if has_memory(controllers().unwrap_or_default().trim(), ' ') => {
                    // Where it is passed on already, this changes nothing.
                    let _ = fs::write(mount.join("cgroup.subtree_control"), "+memory");
                    Some((mount.to_owned(), "memory.max", "memory.current"))
                }
                "cgroup" if has_memory(options, ',') => Some((
                    mount.to_owned(),
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                )),
                _ => continue,
            };
            break;
        }
        let Some((mount, limit, usage)) = limited else {
            return skip("no cgroup hierarchy has the memory controller");
        };
        let path = mount.join(format!("cryonaut-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            return skip(format!("{}: {error}", path.display()));
        }
        let made = Self { path, usage };
        match fs::write(made.path.join(limit), (mebibytes << 20).to_string()) {
            Ok(()) => Ok(made),
            Err(error) => skip(format!("{}: {error}", made.path.join(limit).display())),
        }
    }

    /// Puts a process into it.
    pub fn take(&self, pid: i32) -> Outcome {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())?;
        Ok(())
    }

    /// Bytes that its processes hold in memory.
    pub fn usage(&self) -> Outcome<u64> {
        let text = fs::read_to_string(self.path.join(self.usage))?;
        text.trim()
            .parse()
            .or_else(|_| failed(format!("{} is {text:?}", self.usage)))
    }
}

impl Drop for LimitedMemory {
    fn drop(&mut self) {
        let still_there = || fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for _ in 0..1000 {
            for pid in still_there().lines().filter_map(|pid| pid.parse().ok()) {
                crate::processes::signal(pid, rustix::process::Signal::KILL);
            }
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
