//! A job that ends by itself while it is being checkpointed: there is an error and no image, or an image that can be restarted.

use std::time::Duration;

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::victim::restart;
use cryonaut_suite::{Outcome, Program, Scene, User, failed, test};

/// Jobs of different lengths, so that some end in the midst of their checkpoint.
const JOBS: u32 = 50;

fn ends_meanwhile(scene: &Scene) -> Outcome {
    let (mut saved, mut ended) = (0, 0);
    for number in 0..JOBS {
        let seconds = Duration::from_micros(3000 + u64::from(number) * 600).as_secs_f64();
        let program = Program::installed("sleep")?.argument(seconds.to_string());
        let job = scene.start(&format!("job.{number}"), &program)?;
        let image = scene.file(format!("image.{number}"));
        let result = scene
            .cryo(["checkpoint", &job.pid().to_string(), "-o"])
            .arguments([&image])
            .arguments(["--leave-running"])
            .run()?;
        scene.wait(&job)?;
        if !result.status.success() {
            if image.exists() {
                return failed(format!("{} failed and left an image", result.what));
            }
            ended += 1;
            continue;
        }
        saved += 1;
        let life = restart(scene, &image, &format!("restart.{number}"))?;
        let status = scene.wait(&life.running)?;
        if !status.success() {
            return failed(format!("the restarted job {}", describe_status(status)));
        }
    }
    scene.note(format!("{saved} were saved, {ended} had ended"));
    Ok(())
}

#[test]
fn root() {
    test("ending::root", User::Root, ends_meanwhile);
}

#[test]
fn user() {
    test("ending::user", User::Ordinary, ends_meanwhile);
}
