//! `cr_run`: starts a program with one of BLCR's libraries.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{USAGE, VERSION, print};

const HELP: &str = "\
Usage: cr_run [options] [--] program [arguments]
Starts a program, with a library that decides how it takes part in checkpoints.

  --run      it can be checkpointed, as any program can (the default)
  --omit     it leaves itself out of every checkpoint, with all that it starts
  -?, --help
  --version
";

/// Where the loader looks for libraries to load first.
const VARIABLE: &str = "LD_PRELOAD";

/// Starts it.
pub fn run(words: Vec<OsString>) -> u8 {
    let mut library = "libcr_run.so.0";
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.peek() {
        match word.as_bytes() {
            b"--help" | b"-?" => return print(HELP),
            b"--version" => return print(&format!("cr_run: version {VERSION}\n")),
            b"--run" => library = "libcr_run.so.0",
            b"--omit" => library = "libcr_omit.so.0",
            b"--" => {
                words.next();
                break;
            }
            _ => break,
        }
        words.next();
    }
    let Some(program) = words.next() else {
        eprint!("cr_run: no program is given\n{HELP}");
        return USAGE;
    };
    let before = std::env::var_os(VARIABLE).unwrap_or_default();
    let error = Command::new(&program)
        .args(words)
        .env(VARIABLE, preloaded(&place_of(library), &before))
        .exec();
    eprintln!("cr_run: {}: {error}", program.to_string_lossy());
    match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}

/// Where a library is that lies beside this program, as it does where Cryonaut was unpacked or installed; otherwise the loader has to
/// find it by its name.
fn place_of(name: &str) -> OsString {
    let own = std::env::current_exe().ok();
    let called = called_as();
    let above = [called.as_deref(), own.as_deref()].into_iter().flatten();
    let above = above.filter_map(Path::parent);
    let places = above.flat_map(|above| ["lib", "../lib", "."].map(|place| above.join(place)));
    for place in places {
        if let Ok(path) = std::fs::canonicalize(place.join(name))
            // What separates names in the variable cannot be in one.
            && !path.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte))
        {
            return path.into_os_string();
        }
    }
    name.into()
}

/// The path that this program was called by, which may be a link that lies elsewhere than what it leads to.
fn called_as() -> Option<PathBuf> {
    let name = PathBuf::from(std::env::args_os().next()?);
    if name.components().count() > 1 {
        return Some(name);
    }
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|place| place.join(&name));
    places.find(|place| place.is_file())
}

/// The variable with this library first, and without those that another `cr_run` has put there.
fn preloaded(library: &OsStr, before: &OsStr) -> OsString {
    let mut value = library.to_owned();
    let others = before
        .as_bytes()
        .split(|byte| b": \t\n".contains(byte))
        .filter(|name| !name.is_empty());
    for other in others {
        let base = other.rsplit(|byte| *byte == b'/').next().unwrap_or(other);
        if !base.starts_with(b"libcr_run.so") && !base.starts_with(b"libcr_omit.so") {
            value.push(":");
            value.push(OsStr::from_bytes(other));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_first_and_once() {
        let before = OsStr::new("/a/libcr_omit.so.0: libother.so  /b/libcr_run.so.0.5.5");
        let value = preloaded(OsStr::new("libcr_run.so.0"), before);
        assert_eq!(value, "libcr_run.so.0:libother.so");
        assert_eq!(preloaded(OsStr::new("x"), OsStr::new("")), "x");
    }
}
