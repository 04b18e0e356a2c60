//! `cryo restart` killed with SIGKILL at random instants: there is the whole job, or nothing of it, and the image restarts as before.

use std::time::{Duration, Instant};

use cryonaut_suite::lines::await_word;
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{
    Outcome, Program, Random, Scene, failed, for_each_user, kill_rounds, processes,
};
use rustix::process::Signal;

/// A job of three processes.
const JOB: &str = "sleep 1000 & sleep 1000 & echo READY; wait";
const NAMES: [&str; 3] = ["dash", "sleep", "sleep"];

fn at_any_instant(scene: &Scene) -> Outcome {
    let program = Program::installed("dash")?.arguments(["-c", JOB]);
    let job = scene.start("job", &program)?;
    await_word(scene, &job, "READY\n")?;
    let family = processes::family(job.pid());
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let start = Instant::now();
    let whole = restart(scene, &image, "whole")?;
    let usual = start.elapsed();
    whole.running.signal(Signal::KILL);
    scene.wait(&whole.running)?;
    let (mut random, mut nothing, mut all) = (Random::new(), 0, 0);
    for number in 0..kill_rounds(40) {
        scene.end_all(scene.whole_or_nothing(&NAMES)?)?;
        let delay = random.between(Duration::ZERO, usual * 3 / 2);
        let restarting = scene
            .cryo(["restart"])
            .arguments([&image])
            .start(&format!("restart.{number}"))?;
        std::thread::sleep(delay);
        restarting.signal(Signal::KILL);
        scene.wait(&restarting)?;
        match scene.whole_or_nothing(&NAMES)?.is_empty() {
            true => nothing += 1,
            false => all += 1,
        }
    }
    scene.note(format!("{nothing} times nothing, {all} times the job"));
    match nothing {
        0 => failed("none was killed before its end"),
        _ => Ok(()),
    }
}

for_each_user! { at_any_instant }
