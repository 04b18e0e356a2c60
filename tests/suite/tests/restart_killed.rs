//! `cryo restart` killed with SIGKILL at random instants: there is the whole job, or nothing of it, and the image restarts as before.

use std::fs;
use std::time::{Duration, Instant};

use cryonaut_suite::lines::await_word;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{
    Outcome, Program, Random, Scene, failed, for_each_user, kill_rounds, processes,
};
use rustix::process::Signal;

/// A job of three processes.
const JOB: &str = "sleep 1000 & sleep 1000 & echo READY; wait";
const PROCESSES: usize = 3;

fn is_of_job(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), "sh" | "dash" | "sleep")
}

/// Whether it stands in a call of its own, and nobody traces it.
fn is_free(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    processes::state(pid) == Some('S') && status.lines().any(|line| line == "TracerPid:\t0")
}

/// Waits until all of the job runs, or no process is left; gives what is left.
fn settle(scene: &Scene) -> Outcome<Vec<i32>> {
    let own = std::process::id() as i32;
    scene.wait_for("the whole job, or nothing", LIMIT, || {
        processes::reap_orphans(&Default::default());
        let left = processes::descendants(own);
        let job: Vec<i32> = left.iter().copied().filter(|&pid| is_of_job(pid)).collect();
        let whole = job.len() == PROCESSES && job.iter().all(|&pid| is_free(pid));
        (whole || left.is_empty()).then_some(left)
    })
}

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
        for pid in settle(scene)? {
            processes::signal(pid, Signal::KILL);
        }
        scene.wait_for("the job to be gone", LIMIT, || {
            processes::reap_orphans(&Default::default());
            processes::descendants(std::process::id() as i32)
                .is_empty()
                .then_some(())
        })?;
        let delay = random.between(Duration::ZERO, usual * 3 / 2);
        let restarting = scene
            .cryo(["restart"])
            .arguments([&image])
            .start(&format!("restart.{number}"))?;
        std::thread::sleep(delay);
        restarting.signal(Signal::KILL);
        scene.wait(&restarting)?;
        match settle(scene)?.is_empty() {
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
