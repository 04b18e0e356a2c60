//! Restarts where the limit on descriptors leaves no room above the job's own.

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{await_ready, checkpoint, finish};
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user};

/// The status of a restart in the foreground that did not come about.
const NOT_RESTARTED: i32 = 125;

fn save(scene: &Scene, arguments: &[&str]) -> Outcome<Running> {
    let program = Program::victim("file_numbers", &[])?.arguments(arguments);
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    Ok(job)
}

/// Restarts the image by a `cryo` that may have no more descriptors than the job.
fn restart(scene: &Scene) -> Outcome<Running> {
    let mut command = scene.command(&Program::installed("prlimit")?.path);
    command.arg("--nofile=80:80").arg(scene.cryo_path());
    command.arg("restart").arg(scene.file("image"));
    scene.spawn("restart", command)
}

fn few_are_free(scene: &Scene) -> Outcome {
    let job = save(scene, &[])?;
    let life = restart(scene)?;
    finish(scene, &job, &life)
}

fn none_is_free(scene: &Scene) -> Outcome {
    let _job = save(scene, &["full"])?;
    let life = restart(scene)?;
    let status = scene.wait_within(&life, LIMIT)?;
    let told = life.errors();
    if status.code() == Some(NOT_RESTARTED) && told.contains("the limit on descriptors here is 80")
    {
        return Ok(());
    }
    failed(format!("it was not refused: {status}, {told}"))
}

for_each_user!(few_are_free, none_is_free);
