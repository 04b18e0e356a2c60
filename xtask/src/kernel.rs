//! Debian's own kernel, which the tests run under an emulator: fetched and unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dist::{at, target_directory};
use crate::steps::{self, Result, output, program};

/// What stands for the newest kernel of the distribution.
const STANDS_FOR_IT: &str = "linux-image-amd64";
/// What the emulated machine needs to have a disk, and to list unix sockets.
const MODULES: [&str; 7] = [
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/block/virtio_blk.ko",
    "net/unix/unix_diag.ko",
];

/// Puts the kernel and its modules to `other-kernel` where cargo builds, unless they are there.
pub fn fetch() -> Result {
    let place = target_directory().join("other-kernel");
    if place.join("vmlinuz").exists() {
        println!("another kernel is there");
        return Ok(());
    }
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(at(&unpacked))?;
    let image = name()?;
    // Without a signature: the signed package is a copy of it for machines that start nothing else.
    steps::run(
        program("apt-get")
            .args(["download", "-qq", &format!("{image}-unsigned")])
            .current_dir(&place),
    )?;
    let package = only(&place, |name| name.ends_with(".deb"))?;
    steps::run(program("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let release = image.trim_start_matches("linux-image-");
    let built = unpacked.join("lib/modules").join(release).join("kernel");
    let modules = place.join("modules");
    fs::create_dir_all(&modules).map_err(at(&modules))?;
    for module in MODULES {
        let from = built.join(module);
        let name = from.file_name().unwrap_or_default();
        fs::copy(&from, modules.join(name)).map_err(at(&from))?;
    }
    let kernel = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    // Last: it says that all is there.
    fs::rename(&kernel, place.join("vmlinuz")).map_err(at(&kernel))?;
    fs::remove_file(&package).map_err(at(&package))?;
    fs::remove_dir_all(&unpacked).map_err(at(&unpacked))
}

/// The package of the distribution's newest kernel.
fn name() -> Result<String> {
    let text = output(program("apt-cache").args(["depends", STANDS_FOR_IT]))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let found = lines.find(|name| name.starts_with("linux-image-"));
    found
        .map(str::to_owned)
        .ok_or_else(|| format!("{STANDS_FOR_IT} stands for no kernel:\n{text}"))
}

/// The only file in a directory whose name is so.
fn only(directory: &Path, so: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).map_err(at(directory))?;
    let mut found = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name()
            .is_some_and(|name| so(&name.to_string_lossy()))
    });
    found
        .next()
        .ok_or_else(|| format!("nothing was fetched to {}", directory.display()))
}
