//! Programs written for BLCR, and its commands.

use crate::lines::await_word;
use crate::outcome::Outcome;
use crate::place;
use crate::program::Program;
use crate::scene::{CryoCall, Running, Scene};

/// The program of the tests, compiled as one for BLCR is.
pub fn program(arguments: &[&str]) -> Outcome<Program> {
    let program = place::compile_with(
        ("gcc", "blcr"),
        place::programs().join("blcr.c"),
        ("cr", &place::blcr()?),
        &place::repository().join("crates/libcr/include"),
        &["libcr.h", "blcr_common.h", "blcr_errcodes.h"],
    );
    let program = Program::at(program?);
    Ok(program.arguments(arguments.iter().copied()))
}

/// Starts that, and waits until it is ready.
pub fn start(scene: &Scene, arguments: &[&str]) -> Outcome<Running> {
    let command = scene.cryo_path().to_path_buf();
    let job = scene.start(
        "job",
        &program(arguments)?.variable("CRYO_COMMAND", command),
    )?;
    await_word(scene, &job, "READY")?;
    Ok(job)
}

/// One of the commands.
pub fn command<'a>(scene: &'a Scene, name: &str, arguments: &[&str]) -> Outcome<CryoCall<'a>> {
    Ok(scene.cryo(arguments).by(place::blcr()?.join(name)))
}

/// `cr_checkpoint` of the job into the scene's image.
pub fn checkpoint<'a>(scene: &'a Scene, job: &Running, options: &[&str]) -> Outcome<CryoCall<'a>> {
    let (image, pid) = (scene.file("image"), job.pid().to_string());
    let call = command(scene, "cr_checkpoint", options)?;
    Ok(call.arguments(["-f"]).arguments([image]).arguments([pid]))
}

/// Starts `cr_restart` of the image.
pub fn restart(scene: &Scene, options: &[&str]) -> Outcome<Running> {
    command(scene, "cr_restart", options)?
        .arguments([scene.file("image")])
        .start("restart")
}
