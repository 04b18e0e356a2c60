//! Calls that were interrupted by checkpoints before they are brought to another life.

use cryonaut_suite::victim::{await_ready, checkpoint, finish, restart};
use cryonaut_suite::{Outcome, Program, Scene, for_each_user};

/// What is interrupted a second time no longer shows which call it was.
fn several_times(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("blocking_continued", &[])?)?;
    await_ready(scene, &job)?;
    let pid = job.pid().to_string();
    let image = scene.file("image");
    for _ in 0..3 {
        checkpoint(scene, &pid, &image, "--leave-running")?;
    }
    checkpoint(scene, &pid, &image, "--kill")?;
    let life = restart(scene, &image, "restart")?;
    for _ in 0..2 {
        checkpoint(scene, &life.pid.to_string(), &image, "--leave-running")?;
    }
    finish(scene, &job, &life.running)
}

for_each_user! { several_times }
