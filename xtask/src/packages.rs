//! The test of `cargo xtask dist`: what it makes is unpacked and used.

use std::fs;
use std::path::Path;

use crate::dist::{self, Made, VERSION, at};
use crate::steps::{self, Result, output, program};

/// How binaries for this test are built: as those for users, but quickly (Cargo.toml).
const PROFILE: &str = "dist-test";

/// Makes the tarball and the package, and runs the programs that are in them.
pub fn check() -> Result {
    let Made { tarball, package } = dist::make(PROFILE)?;
    let place = std::env::temp_dir().join(format!("cryonaut-packages-{}", std::process::id()));
    fs::create_dir_all(&place).map_err(at(&place))?;
    let result = check_tarball(&tarball, &place).and_then(|()| match &package {
        Some(package) => check_package(package, &place),
        None => Ok(()),
    });
    let _ = fs::remove_dir_all(&place);
    result
}

fn check_tarball(tarball: &Path, place: &Path) -> Result {
    steps::run(
        program("tar")
            .arg("--extract")
            .arg("--file")
            .arg(tarball)
            .arg("--directory")
            .arg(place),
    )?;
    let files = place.join(format!("cryo-{VERSION}-x86_64-linux"));
    for name in [
        "man/man1/cryo.1",
        "man/man1/cryo-checkpoint.1",
        "completions/cryo.bash",
        "completions/_cryo",
        "completions/cryo.fish",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "LICENSES-OF-PARTS.txt",
        "lib/libcryo.so",
        "lib/pkgconfig/libcryo.pc",
        "include/cryo.h",
        "python/pyproject.toml",
        "docs/libcryo.md",
        "lib/libcr.so",
        "lib/libcr_run.so.0",
        "lib/libcr_omit.so.0",
        "include/libcr.h",
        "include/blcr_common.h",
        "docs/blcr.md",
        "cr_checkpoint",
    ] {
        let path = files.join(name);
        let size = fs::metadata(&path).map_err(at(&path))?.len();
        if size == 0 {
            return Err(format!("{name} in the tarball is empty"));
        }
    }
    check_program(&files.join("cryo"), place)?;
    let version =
        output(program(&files.join("cr_checkpoint").display().to_string()).arg("--version"))?;
    if !version.starts_with("cr_checkpoint version") {
        return Err(format!("cr_checkpoint says that it is {version:?}"));
    }
    check_library(&files, &files.join("cryo"), place)
}

/// That a program can be built with it, takes part, and that the program among the same files saves it.
fn check_library(files: &Path, cryo: &Path, place: &Path) -> Result {
    let solver = place.join("solver");
    let [library, include] = ["lib", "include"].map(|name| files.join(name));
    steps::run(
        program("gcc")
            .arg(format!("-I{}", include.display()))
            .arg(steps::repository().join("examples/solver.c"))
            .arg(format!("-L{}", library.display()))
            .arg("-lcryo")
            .arg(format!("-Wl,-rpath,{}", library.display()))
            .arg("-o")
            .arg(&solver),
    )?;
    let said = output(
        program(&solver.display().to_string())
            .args(["20", "10"])
            .arg(place.join("solver.cryo"))
            .env("CRYO_COMMAND", cryo)
            .env("XDG_RUNTIME_DIR", place),
    )?;
    if !said.contains("step 10: saved") {
        return Err(format!("a program that takes part says {said:?}"));
    }
    Ok(())
}

fn check_package(package: &Path, place: &Path) -> Result {
    let about = output(program("dpkg-deb").arg("--info").arg(package))?;
    for wanted in [
        "Package: cryonaut".to_owned(),
        format!("Version: {VERSION}"),
        "Architecture: amd64".to_owned(),
    ] {
        if !about.lines().any(|line| line.trim() == wanted) {
            return Err(format!("the package does not say \"{wanted}\":\n{about}"));
        }
    }
    let contents = output(program("dpkg-deb").arg("--contents").arg(package))?;
    for wanted in [
        "-rwxr-xr-x root/root ./usr/bin/cryo",
        "-rw-r--r-- root/root ./usr/share/man/man1/cryo.1.gz",
        "-rw-r--r-- root/root ./usr/share/bash-completion/completions/cryo",
        "-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_cryo",
        "-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/cryo.fish",
        "-rw-r--r-- root/root ./usr/share/doc/cryonaut/copyright",
        "-rw-r--r-- root/root ./usr/lib/libcryo.so.0",
        "-rw-r--r-- root/root ./usr/lib/pkgconfig/libcryo.pc",
        "-rw-r--r-- root/root ./usr/include/cryo.h",
        "-rw-r--r-- root/root ./usr/lib/libcr.so.0",
        "-rw-r--r-- root/root ./usr/lib/libcr_run.so.0",
        "-rw-r--r-- root/root ./usr/lib/libcr_omit.so.0",
        "-rw-r--r-- root/root ./usr/include/libcr.h",
        "-rw-r--r-- root/root ./usr/lib/python3/dist-packages/cryonaut/__init__.py",
    ] {
        if !contents.lines().any(|line| without_size(line) == wanted) {
            return Err(format!(
                "the package does not hold \"{wanted}\":\n{contents}"
            ));
        }
    }
    let tree = place.join("package");
    steps::run(program("dpkg-deb").arg("--extract").arg(package).arg(&tree))?;
    check_program(&tree.join("usr/bin/cryo"), place)
}

/// A line of `dpkg-deb --contents` without its size and time.
fn without_size(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [mode, owner, _, _, _, name] => format!("{mode} {owner} {name}"),
        _ => line.to_owned(),
    }
}

/// That it is of this version, needs nothing of this system, and does its work.
fn check_program(path: &Path, place: &Path) -> Result {
    let name = path.display().to_string();
    let version = output(program(&name).arg("--version"))?;
    if version.trim() != format!("cryo {VERSION}") {
        return Err(format!("{name} says that it is {}", version.trim()));
    }
    let bytes = fs::read(path).map_err(at(path))?;
    // Where a program asks for an interpreter, it needs shared libraries.
    if bytes.windows(8).any(|window| window == b"/ld-linu") {
        return Err(format!("{name} is not static"));
    }
    // A list of jobs of its own, which no other cryo tidies.
    let list = place.join("jobs");
    fs::create_dir_all(&list).map_err(at(&list))?;
    steps::run(program(&name).arg("demo").env("XDG_RUNTIME_DIR", &list))
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_of_contents() {
        let line = "-rwxr-xr-x root/root   9123456 2026-11-22 10:00 ./usr/bin/cryo";
        assert_eq!(
            super::without_size(line),
            "-rwxr-xr-x root/root ./usr/bin/cryo"
        );
    }
}
