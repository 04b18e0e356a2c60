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

/// Puts the kernel and its modules to `other-kernel` where cargo builds, unless they are there. Where they cannot be fetched, says
/// so: only one test lacks them, and skips.
pub fn fetch() {
    let place = target_directory().join("other-kernel");
    if place.join("vmlinuz").exists() {
        println!("another kernel is there");
        return;
    }
    // The lists of packages may be missing, or older than what the archive still has.
    let fetched = fetch_to(&place).or_else(|_| {
        steps::run(program("apt-get").args(["update", "-qq"]))?;
        fetch_to(&place)
    });
    if let Err(error) = fetched {
        let _ = fs::remove_dir_all(&place);
        println!(
            "no other kernel was fetched, and the test other_kernel will be skipped: {error}\n\
             With Debian's archive in reach, run as root: cargo xtask setup"
        );
    }
}

fn fetch_to(place: &Path) -> Result {
    if place.exists() {
        // From a time when it could not be finished.
        fs::remove_dir_all(place).map_err(at(place))?;
    }
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(at(&unpacked))?;
    let image = name()?;
    // Without a signature: the signed package is a copy of it for machines that start nothing else.
    steps::run(
        program("apt-get")
            .args(["download", "-qq", &format!("{image}-unsigned")])
            // Its own user for downloads need not be able to write here.
            .args(["-o", "APT::Sandbox::User=root"])
            .current_dir(place),
    )?;
    let package = only(place, |name| name.ends_with(".deb"))?;
    steps::run(program("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let release = image.trim_start_matches("linux-image-");
    // Newer ones lie below /usr, where /lib leads to.
    let built = ["lib/modules", "usr/lib/modules"]
        .map(|modules| unpacked.join(modules).join(release).join("kernel"))
        .into_iter()
        .find(|built| built.exists())
        .ok_or_else(|| format!("{} has no modules", package.display()))?;
    let modules = place.join("modules");
    fs::create_dir_all(&modules).map_err(at(&modules))?;
    for module in MODULES {
        copy_module(&built.join(module), &modules)?;
    }
    let kernel = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    // Last: it says that all is there.
    fs::rename(&kernel, place.join("vmlinuz")).map_err(at(&kernel))?;
    fs::remove_file(&package).map_err(at(&package))?;
    fs::remove_dir_all(&unpacked).map_err(at(&unpacked))
}

/// Copies a module to a directory, unpacked.
fn copy_module(from: &Path, directory: &Path) -> Result {
    let to = directory.join(from.file_name().unwrap_or_default());
    let mut packed = from.to_owned().into_os_string();
    packed.push(".xz");
    let packed = PathBuf::from(packed);
    if !packed.exists() {
        return fs::copy(from, &to).map(drop).map_err(at(from));
    }
    let file = fs::File::create(&to).map_err(at(&to))?;
    steps::run(program("xz").arg("-dc").arg(&packed).stdout(file))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_unpacked() {
        let top = std::env::temp_dir().join(format!("cryonaut-modules-{}", std::process::id()));
        let (from, to) = (top.join("from"), top.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for name in ["plain.ko", "packed.ko"] {
            fs::write(from.join(name), name).unwrap();
        }
        steps::run(program("xz").arg(from.join("packed.ko"))).unwrap();
        for name in ["plain.ko", "packed.ko"] {
            copy_module(&from.join(name), &to).unwrap();
            assert_eq!(fs::read_to_string(to.join(name)).unwrap(), name);
        }
        assert!(copy_module(&from.join("missing.ko"), &to).is_err());
        fs::remove_dir_all(&top).unwrap();
    }
}
