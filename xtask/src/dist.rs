//! `cargo xtask dist`: a static binary, and libcryo for programs that take part, in a tarball and in a Debian package.
//!
//! What is made depends on the sources and the toolchain only, as far as that is easy: times are those of the last commit
//! (or `SOURCE_DATE_EPOCH`), names are sorted, owners are root, paths of this machine do not come in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::notices;
use crate::steps::{self, Result, cargo, output, program, repository, succeeds};

/// What the binary is built for: musl links statically, so it runs wherever the kernel does.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// What the library for programs is built for.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// How a binary for users is built (Cargo.toml).
pub const PROFILE: &str = "dist-release";

/// The workspace's version, which all its crates have.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Shells with completions, and where Debian has them.
const COMPLETIONS: [(&str, &str, &str); 3] = [
    (
        "bash",
        "cryo.bash",
        "usr/share/bash-completion/completions/cryo",
    ),
    ("zsh", "_cryo", "usr/share/zsh/vendor-completions/_cryo"),
    (
        "fish",
        "cryo.fish",
        "usr/share/fish/vendor_completions.d/cryo.fish",
    ),
];

/// What programs that take part are built with: its name in the tarball, and its place in the Debian package.
const LIBRARY: [(&str, &str); 4] = [
    ("lib/libcryo.so.0", "usr/lib/libcryo.so.0"),
    ("lib/pkgconfig/libcryo.pc", "usr/lib/pkgconfig/libcryo.pc"),
    ("include/cryo.h", "usr/include/cryo.h"),
    (
        "python/src/cryonaut/__init__.py",
        "usr/lib/python3/dist-packages/cryonaut/__init__.py",
    ),
];

/// The libraries of BLCR: their packages, and their names.
pub const BLCR_LIBRARIES: [(&str, &str); 3] = [
    ("cryonaut-libcr", "libcr.so"),
    ("cryonaut-libcr-run", "libcr_run.so"),
    ("cryonaut-libcr-omit", "libcr_omit.so"),
];

/// Its commands, which `cryo` is by these names.
const BLCR_COMMANDS: [&str; 4] = ["cr_run", "cr_checkpoint", "cr_restart", "cr_info"];

/// Its headers.
const BLCR_HEADERS: [&str; 5] = [
    "libcr.h",
    "blcr_common.h",
    "blcr_errcodes.h",
    "blcr_ioctl.h",
    "blcr_proc.h",
];

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The tarball.
    pub tarball: PathBuf,
    /// The Debian package; none where there is no dpkg-deb.
    pub package: Option<PathBuf>,
}

/// Makes both, says what and how large.
pub fn run(profile: &str) -> Result {
    let made = make(profile)?;
    for path in [Some(&made.tarball), made.package.as_ref()]
        .into_iter()
        .flatten()
    {
        let size = fs::metadata(path).map_err(at(path))?.len();
        println!(
            "{}  {:.2} MiB",
            path.display(),
            size as f64 / f64::from(1 << 20)
        );
    }
    Ok(())
}

/// Makes both, under `dist` in the directory that cargo builds in.
pub fn make(profile: &str) -> Result<Made> {
    require_target()?;
    let epoch = epoch();
    let binary = build("cryonaut-cli", profile, TARGET, "cryo")?;
    // This is for programs that have a C library of their own: the one of this machine, or a newer one.
    let library = build("cryonaut-libcryo", profile, HOST, "libcryo.so")?;
    let of_blcr = BLCR_LIBRARIES.map(|(package, name)| build(package, profile, HOST, name));
    let directory = target_directory().join("dist");
    let files = directory.join(format!("cryo-{VERSION}-x86_64-linux"));
    remove(&files)?;
    gather(&binary, &files)?;
    gather_library(&library, &files)?;
    for library in of_blcr {
        let library = library?;
        let bytes = fs::read(&library).map_err(at(&library))?;
        put_blcr_library(&files.join("lib"), &file_name(&library), &bytes)?;
    }
    gather_blcr(&files)?;
    let tarball = pack(&directory, &files, &epoch)?;
    let package = if succeeds(program("dpkg-deb").arg("--version")) {
        Some(debian(&directory, &files, &epoch)?)
    } else {
        println!("no Debian package is made: dpkg-deb is not installed");
        None
    };
    remove(&files)?;
    Ok(Made { tarball, package })
}

/// Sees to the standard library for [`TARGET`], through rustup where it is missing.
pub fn require_target() -> Result {
    if has_target() {
        return Ok(());
    }
    let added = steps::run(program("rustup").args(["target", "add", TARGET]));
    if has_target() {
        return Ok(());
    }
    Err(format!(
        "the standard library for {TARGET} is not installed ({}); run `rustup target add {TARGET}` where the network is \
         reachable, or install your distribution's package of it (Debian: libstd-rust-dev, Fedora: \
         rust-std-static-{TARGET})",
        added
            .err()
            .unwrap_or_else(|| "rustup has not put it in place".to_owned())
    ))
}

fn has_target() -> bool {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    output(program(&compiler).args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|path| Path::new(path.trim()).is_dir())
}

/// Where cargo builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || repository().join("target"),
        |path| repository().join(path),
    )
}

/// Where cargo keeps the sources of other crates.
pub fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

/// The time that everything carries, in seconds since 1970.
fn epoch() -> String {
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(|| output(program("git").args(["log", "-1", "--format=%ct"])).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| text.parse::<u64>().is_ok())
        // Sources without history: the first moment that every archive format can say.
        .unwrap_or_else(|| "315532800".to_owned())
}

fn build(package: &str, profile: &str, target: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "-p", package]);
    command.args(["--target", target, "--profile", profile]);
    if std::env::var_os("RUSTFLAGS").is_none() {
        let here = fs::canonicalize(repository()).map_err(at(&repository()))?;
        command.env(
            "RUSTFLAGS",
            format!(
                "--remap-path-prefix={}=cryonaut --remap-path-prefix={}=cargo",
                here.display(),
                cargo_home().display()
            ),
        );
    }
    steps::run(&mut command)?;
    let place = if profile == "dev" { "debug" } else { profile };
    Ok(target_directory().join(target).join(place).join(name))
}

/// Lays out what programs that take part are built with.
fn gather_library(library: &Path, files: &Path) -> Result {
    let source = |name: &str| {
        let path = repository().join(name);
        fs::read(&path).map_err(at(&path))
    };
    let link = fs::read(library).map_err(at(library))?;
    put(&files.join("lib/libcryo.so.0"), &link, 0o644)?;
    link_library(&files.join("lib"))?;
    let description = String::from_utf8_lossy(&source("crates/libcryo/libcryo.pc")?)
        .replace("@VERSION@", VERSION);
    put(
        &files.join("lib/pkgconfig/libcryo.pc"),
        description.as_bytes(),
        0o644,
    )?;
    for (from, to) in [
        ("crates/libcryo/include/cryo.h", "include/cryo.h"),
        ("python/pyproject.toml", "python/pyproject.toml"),
        (
            "python/src/cryonaut/__init__.py",
            "python/src/cryonaut/__init__.py",
        ),
        ("docs/libcryo.md", "docs/libcryo.md"),
    ] {
        put(&files.join(to), &source(from)?, 0o644)?;
    }
    Ok(())
}

/// One of BLCR's libraries under the names that programs and compilers look for.
fn put_blcr_library(directory: &Path, name: &str, bytes: &[u8]) -> Result {
    put(&directory.join(format!("{name}.0")), bytes, 0o644)?;
    link(&format!("{name}.0"), &directory.join(name))
}

/// Lays out the rest of what BLCR's users look for.
fn gather_blcr(files: &Path) -> Result {
    for name in BLCR_HEADERS {
        let path = repository().join("crates/libcr/include").join(name);
        let header = fs::read(&path).map_err(at(&path))?;
        put(&files.join("include").join(name), &header, 0o644)?;
    }
    let path = repository().join("docs/blcr.md");
    let document = fs::read(&path).map_err(at(&path))?;
    put(&files.join("docs/blcr.md"), &document, 0o644)?;
    for name in BLCR_COMMANDS {
        link("cryo", &files.join(name))?;
    }
    Ok(())
}

fn link(to: &str, name: &Path) -> Result {
    std::os::unix::fs::symlink(to, name).map_err(at(name))
}

/// The name that compilers look for.
fn link_library(directory: &Path) -> Result {
    link("libcryo.so.0", &directory.join("libcryo.so"))
}

/// Lays out what the tarball holds.
fn gather(binary: &Path, files: &Path) -> Result {
    put(
        &files.join("cryo"),
        &fs::read(binary).map_err(at(binary))?,
        0o755,
    )?;
    let command = || program(&binary.display().to_string());
    let manuals = files.join("man/man1");
    output(command().arg("man").arg(&manuals))?;
    for page in sorted(&manuals)? {
        allow(&page, 0o644)?;
    }
    for (shell, name, _) in COMPLETIONS {
        let script = output(command().args(["completions", shell]))?;
        put(
            &files.join("completions").join(name),
            script.as_bytes(),
            0o644,
        )?;
    }
    for name in [
        "README.md",
        "SUPPORT.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ] {
        let source = repository().join(name);
        put(
            &files.join(name),
            &fs::read(&source).map_err(at(&source))?,
            0o644,
        )?;
    }
    put(
        &files.join("LICENSES-OF-PARTS.txt"),
        notices::text()?.as_bytes(),
        0o644,
    )
}

fn pack(directory: &Path, files: &Path, epoch: &str) -> Result<PathBuf> {
    let name = file_name(files);
    let tarball = directory.join(format!("{name}.tar.gz"));
    let time = format!("--mtime=@{epoch}");
    steps::run(
        program("tar")
            .args(["--create", "--format=gnu", "--sort=name", &time])
            .args(["--owner=root:0", "--group=root:0", "--mode=go-w"])
            .args(["--use-compress-program", "gzip -n -9", "--file"])
            .arg(&tarball)
            .arg("--directory")
            .arg(directory)
            .arg(&name),
    )?;
    Ok(tarball)
}

/// Lays out the package's tree beside the tarball's, and packs it.
fn debian(directory: &Path, files: &Path, epoch: &str) -> Result<PathBuf> {
    let stage = directory.join("package");
    remove(&stage)?;
    let copy = |from: &Path, to: &str, mode| {
        put(&stage.join(to), &fs::read(from).map_err(at(from))?, mode)
    };
    copy(&files.join("cryo"), "usr/bin/cryo", 0o755)?;
    for (_, name, place) in COMPLETIONS {
        copy(&files.join("completions").join(name), place, 0o644)?;
    }
    for page in sorted(&files.join("man/man1"))? {
        let place = format!("usr/share/man/man1/{}", file_name(&page));
        copy(&page, &place, 0o644)?;
        compress(&stage.join(place))?;
    }
    for (name, place) in LIBRARY {
        copy(&files.join(name), place, 0o644)?;
    }
    link_library(&stage.join("usr/lib"))?;
    for (_, name) in BLCR_LIBRARIES {
        let built = files.join("lib").join(format!("{name}.0"));
        let bytes = fs::read(&built).map_err(at(&built))?;
        put_blcr_library(&stage.join("usr/lib"), name, &bytes)?;
    }
    for name in BLCR_HEADERS {
        let from = files.join("include").join(name);
        copy(&from, &format!("usr/include/{name}"), 0o644)?;
    }
    for name in BLCR_COMMANDS {
        link("cryo", &stage.join("usr/bin").join(name))?;
    }
    let documents = "usr/share/doc/cryonaut";
    for name in ["README.md", "SUPPORT.md", "LICENSES-OF-PARTS.txt"] {
        copy(&files.join(name), &format!("{documents}/{name}"), 0o644)?;
    }
    let changelog = format!("{documents}/changelog");
    copy(&files.join("CHANGELOG.md"), &changelog, 0o644)?;
    compress(&stage.join(changelog))?;
    compress(&stage.join(format!("{documents}/LICENSES-OF-PARTS.txt")))?;
    let copyright = copyright(&fs::read_to_string(files.join("LICENSE-MIT")).map_err(at(files))?);
    put(
        &stage.join(documents).join("copyright"),
        copyright.as_bytes(),
        0o644,
    )?;
    let all = output(
        program("find")
            .current_dir(&stage)
            .args(["usr", "-type", "f", "-printf", "%s %p\\n"]),
    )?;
    let mut names: Vec<&str> = all
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1))
        .collect();
    names.sort_unstable();
    let sizes = all
        .lines()
        .filter_map(|line| line.split_once(' ')?.0.parse::<u64>().ok());
    let kibibytes: u64 = sizes.map(|size| size.div_ceil(1024)).sum();
    let sums = output(program("md5sum").current_dir(&stage).args(&names))?;
    put(&stage.join("DEBIAN/md5sums"), sums.as_bytes(), 0o644)?;
    put(
        &stage.join("DEBIAN/control"),
        control(kibibytes).as_bytes(),
        0o644,
    )?;
    // A umask may have been strict.
    steps::run(program("chmod").args(["-R", "u=rwX,go=rX"]).arg(&stage))?;
    let package = directory.join(format!("cryonaut_{VERSION}_amd64.deb"));
    steps::run(
        program("dpkg-deb")
            .args(["--build", "--root-owner-group", "-Zxz"])
            .arg(&stage)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", epoch)
            .stdout(Stdio::null()),
    )?;
    remove(&stage)?;
    Ok(package)
}

/// No dependencies: the binary is static, and the library is for programs that have a C library.
fn control(kibibytes: u64) -> String {
    format!(
        "Package: cryonaut\n\
         Version: {VERSION}\n\
         Architecture: amd64\n\
         Maintainer: The Cryonaut contributors <contributors@cryonaut.invalid>\n\
         Installed-Size: {kibibytes}\n\
         Section: utils\n\
         Priority: optional\n\
         Description: saves running programs in files and brings them back\n \
         cryo saves a process with all its descendants, threads, memory, open files,\n \
         pipes, timers and signals to one file, and starts them again later: after a\n \
         crash or a reboot, as root or as an ordinary user. It needs no kernel module.\n"
    )
}

/// The form of Debian's machine-readable copyright files (DEP 5).
fn copyright(mit: &str) -> String {
    let mut text = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: Cryonaut\n\
         Comment: The parts that are linked in have licences of their own:\n \
         see LICENSES-OF-PARTS.txt.gz in this directory.\n\n\
         Files: *\n\
         Copyright: the Cryonaut contributors\n\
         License: MIT or Apache-2.0\n\n\
         License: Apache-2.0\n \
         On Debian systems its text is in /usr/share/common-licenses/Apache-2.0.\n\n\
         License: MIT\n",
    );
    for line in mit.lines() {
        let line = line.trim_end();
        text += &format!(" {}\n", if line.is_empty() { "." } else { line });
    }
    text
}

fn compress(path: &Path) -> Result {
    steps::quietly(program("gzip").args(["-n", "-9", "-f"]).arg(path))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(at(above))?;
    }
    fs::write(path, bytes).map_err(at(path))?;
    allow(path, mode)
}

fn allow(path: &Path, mode: u32) -> Result {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))
}

fn remove(path: &Path) -> Result {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// The paths in a directory, in order.
pub fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(at(directory))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    Ok(paths)
}

/// The last part of a path, as text.
pub fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Names the path in an error.
pub fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_control_file_is_well_formed() {
        let control = super::control(42);
        assert!(control.contains("\nInstalled-Size: 42\n"));
        assert!(!control.contains("Depends"));
        // Every line is a field or goes on with one.
        assert!(
            control
                .lines()
                .all(|line| line.starts_with(' ') || line.contains(": "))
        );
    }

    #[test]
    fn licences_keep_their_empty_lines() {
        assert!(super::copyright("one\n\ntwo\n").ends_with("License: MIT\n one\n .\n two\n"));
    }
}
