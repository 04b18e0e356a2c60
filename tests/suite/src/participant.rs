//! Programs that take part in their own checkpoints by libcryo.

use std::path::PathBuf;

use crate::lines::await_word;
use crate::outcome::{Outcome, failed, skip};
use crate::place;
use crate::program::Program;
use crate::scene::{CryoCall, Running, Scene};

/// A program in C that is linked with libcryo.
pub fn linked(name: &str, source: PathBuf) -> Outcome<Program> {
    let program = place::compile_with_libcryo("gcc", name, source)?;
    Ok(Program::at(program))
}

/// The program of the tests, which does what it is told.
pub fn participant(what: &str) -> Outcome<Program> {
    let source = place::programs().join("participant.c");
    Ok(linked("participant", source)?.argument(what))
}

/// Starts that, and waits until it is ready.
pub fn start(scene: &Scene, what: &str) -> Outcome<Running> {
    let job = scene.start("job", &participant(what)?)?;
    await_word(scene, &job, "READY")?;
    Ok(job)
}

/// A checkpoint of the job, with these arguments.
pub fn checkpoint<'a>(scene: &'a Scene, job: &Running, arguments: &[&str]) -> CryoCall<'a> {
    let pid = job.pid().to_string();
    let call = scene
        .cryo(["checkpoint", &pid, "-o"])
        .arguments([scene.file("image")])
        .arguments(arguments);
    match arguments.contains(&"--grace") {
        true => call,
        false => call.arguments(["--grace", "60s"]),
    }
}

/// Python with a module that it must have for this.
pub fn python(module: &str) -> Outcome<Program> {
    let python = Program::installed("python3")?;
    let probe = std::process::Command::new(&python.path)
        .args(["-c", &format!("import {module}")])
        .output()?;
    if !probe.status.success() {
        return skip(format!("python3 has no {module}; run cargo xtask setup"));
    }
    let package = place::publish(&place::repository().join("python/src/cryonaut/__init__.py"))?;
    let directory = package.with_file_name("path");
    let place = directory.join("cryonaut");
    std::fs::create_dir_all(&place)?;
    let link = std::os::unix::fs::symlink("../../__init__.py", place.join("__init__.py"));
    if link.is_err_and(|error| error.kind() != std::io::ErrorKind::AlreadyExists) {
        return failed("cannot lay out the Python package");
    }
    Ok(python
        .variable("PYTHONPATH", directory)
        .variable("PYTHONDONTWRITEBYTECODE", "1")
        .variable("CRYONAUT_LIBCRYO", place::libcryo()?.join("libcryo.so.0")))
}
