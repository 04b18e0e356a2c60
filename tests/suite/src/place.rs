//! Where things are: the `cryo` under test, the victims' sources, and a directory for what is compiled from them.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Outcome, failed};

/// The directory of the victims' sources.
#[must_use]
pub fn victims() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../victims")
}

/// The directory of the suite's own small programs.
#[must_use]
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// The top of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program of the examples.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// A directory of this user for compiled programs, which ordinary users can read too.
pub fn cache() -> Outcome<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("cryonaut-suite-{own}"));
    match fs::DirBuilder::new().mode(0o755).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return failed(format!("cannot create {}: {error}", path.display()));
        }
        _ => {}
    }
    let status = fs::symlink_metadata(&path)?;
    if !status.is_dir() || status.uid() != own {
        return failed(format!(
            "{} belongs to somebody else; remove it",
            path.display()
        ));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The `cryo` under test, at a place that ordinary users can reach.
pub fn cryo() -> Outcome<PathBuf> {
    let path = match std::env::var_os("CRYO_BIN") {
        Some(path) => fs::canonicalize(path)?,
        None => built_cryo()?,
    };
    if !path.is_file() {
        return failed(format!(
            "there is no {}; build it first: cargo build -p cryonaut-cli (or set CRYO_BIN)",
            path.display()
        ));
    }
    if is_reachable(&path) {
        return Ok(path);
    }
    let status = fs::metadata(&path)?;
    let mut hasher = DefaultHasher::new();
    (&path, status.size(), status.mtime(), status.mtime_nsec()).hash(&mut hasher);
    let copy = cache()?.join(format!("cryo-{:016x}", hasher.finish()));
    if !copy.exists() {
        let fresh = copy.with_extension(std::process::id().to_string());
        fs::copy(&path, &fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        put_in_place(&fresh, &copy)?;
    }
    Ok(copy)
}

/// Gives a complete file its name. Several tests may make the same file at the same time: the first wins, for a program
/// that already runs must not be replaced.
fn put_in_place(fresh: &Path, place: &Path) -> Outcome {
    let linked = fs::hard_link(fresh, place);
    fs::remove_file(fresh)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// A copy of a file in the cache, where every user can read it.
pub fn publish(path: &Path) -> Outcome<PathBuf> {
    let content = fs::read(path)?;
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let directory = cache()?.join(format!("{:016x}", hasher.finish()));
    fs::create_dir_all(&directory)?;
    let copy = directory.join(path.file_name().unwrap_or_default());
    if !copy.exists() {
        let fresh = directory.join(format!("fresh.{}", std::process::id()));
        fs::write(&fresh, content)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        put_in_place(&fresh, &copy)?;
    }
    Ok(copy)
}

/// A directory that everybody can read, with libcryo in it under the names that compilers and loaders look for.
pub fn libcryo() -> Outcome<PathBuf> {
    let built = beside_test("libcryo.so")?;
    if !built.is_file() {
        return failed(format!(
            "there is no {}; build it first: cargo build -p cryonaut-libcryo",
            built.display()
        ));
    }
    let library = publish(&built)?;
    match std::os::unix::fs::symlink("libcryo.so", library.with_extension("so.0")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    match library.parent() {
        Some(directory) => Ok(directory.to_path_buf()),
        None => failed(format!("{} lies nowhere", library.display())),
    }
}

/// A directory that everybody can read, with BLCR's libraries under the names that compilers and loaders look for, and its commands.
pub fn blcr() -> Outcome<PathBuf> {
    const LIBRARIES: [&str; 3] = ["libcr.so", "libcr_run.so", "libcr_omit.so"];
    const COMMANDS: [&str; 4] = ["cr_run", "cr_checkpoint", "cr_restart", "cr_info"];
    let cryo = cryo()?;
    let mut hasher = DefaultHasher::new();
    cryo.hash(&mut hasher);
    let mut contents = Vec::new();
    for name in LIBRARIES {
        let built = beside_test(name)?;
        let Ok(content) = fs::read(&built) else {
            return failed(format!(
                "there is no {}; build it first: cargo build -p cryonaut-libcr -p cryonaut-libcr-run -p cryonaut-libcr-omit",
                built.display()
            ));
        };
        content.hash(&mut hasher);
        contents.push((name, content));
    }
    let directory = cache()?.join(format!("blcr-{:016x}", hasher.finish()));
    fs::create_dir_all(&directory)?;
    let link = |to: &Path, name: &str| match std::os::unix::fs::symlink(to, directory.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    };
    for (name, content) in contents {
        let fresh = directory.join(format!("fresh.{}", std::process::id()));
        fs::write(&fresh, content)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        put_in_place(&fresh, &directory.join(name))?;
        link(Path::new(name), &format!("{name}.0"))?;
    }
    for name in COMMANDS {
        link(&cryo, name)?;
    }
    Ok(directory)
}

/// Beside the running test: target/PROFILE/deps/TEST → target/PROFILE/cryo.
fn built_cryo() -> Outcome<PathBuf> {
    beside_test("cryo")
}

fn beside_test(name: &str) -> Outcome<PathBuf> {
    let test = std::env::current_exe()?;
    let mut directory = test.parent();
    if directory.is_some_and(|directory| directory.ends_with("deps")) {
        directory = directory.and_then(Path::parent);
    }
    match directory {
        Some(directory) => Ok(directory.join(name)),
        None => failed(format!("{} lies nowhere", test.display())),
    }
}

/// Whether everybody may execute a file and pass through the directories above it.
fn is_reachable(path: &Path) -> bool {
    path.ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|status| status.mode() & 0o005 == 0o005))
}

/// Compiles a program in C that is linked with libcryo.
pub fn compile_with_libcryo(compiler: &str, name: &str, source: PathBuf) -> Outcome<PathBuf> {
    let include = repository().join("crates/libcryo/include");
    let library = ("cryo", &*libcryo()?);
    compile_with((compiler, name), source, library, &include, &["cryo.h"])
}

/// Compiles a program in C that is linked with a library of ours: by which compiler and under which name, what the library is called
/// and where it lies, and where its headers do.
pub fn compile_with(
    (compiler, name): (&str, &str),
    source: PathBuf,
    (library, directory): (&str, &Path),
    include: &Path,
    headers: &[&str],
) -> Outcome<PathBuf> {
    let [directory, path] = [directory, include].map(|path| path.display().to_string());
    // The library comes after the source, which `compile` puts last: as needed or not, it is named again there.
    let options = [
        compiler,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        &format!("-I{path}"),
        "-Wl,--no-as-needed",
        &format!("-L{directory}"),
        &format!("-l{library}"),
        &format!("-Wl,-rpath,{directory}"),
    ];
    let headers = headers.iter().map(|header| include.join(header));
    let sources: Vec<PathBuf> = std::iter::once(source).chain(headers).collect();
    compile(name, &options, &sources)
}

/// Compiles `sources` (the first by the compiler, the others only looked at) to a program in the cache; once for each
/// content, command and compiler option.
pub fn compile(name: &str, compiler: &[&str], sources: &[PathBuf]) -> Outcome<PathBuf> {
    let mut hasher = DefaultHasher::new();
    compiler.hash(&mut hasher);
    for source in sources {
        match fs::read(source) {
            Ok(bytes) => bytes.hash(&mut hasher),
            Err(error) => return failed(format!("cannot read {}: {error}", source.display())),
        }
    }
    let directory = cache()?.join(format!("{:016x}", hasher.finish()));
    let program = directory.join(name);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&directory)?;
    let fresh = directory.join(format!("{name}.{}", std::process::id()));
    let output = Command::new(compiler[0])
        .args(&compiler[1..])
        .arg("-o")
        .arg(&fresh)
        .arg(&sources[0])
        .output();
    match output {
        Err(error) => failed(format!("cannot run {}: {error}", compiler[0])),
        Ok(output) if !output.status.success() => failed(format!(
            "{} does not compile:\n{}",
            sources[0].display(),
            String::from_utf8_lossy(&output.stderr)
        )),
        Ok(_) => {
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
            put_in_place(&fresh, &program)?;
            Ok(program)
        }
    }
}
