//! Jobs that never stop starting short-lived processes, checkpointed again and again while they run: none may fail, whatever
//! instant of a process' life it meets.
//!
//! `CRYONAUT_FORK_ROUNDS` says how many checkpoints (100 of each job, as root and as an ordinary user, unless said).

use std::time::Duration;

use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{Outcome, Program, Scene, User, failed, processes, test};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);

/// One process after the other.
const ONE_BY_ONE: &str = "while :; do /bin/true; echo -n . >> steps; done";
/// Several at a time, with pipes between them that come and go.
const PIPELINES: &str = "while :; do /bin/echo one two | /bin/cat | /usr/bin/wc -w > /dev/null; echo -n . >> steps; done";
/// Processes of a shell that does not wait for them, and of shells below it.
const BACKGROUND: &str =
    "while :; do (/bin/true; /bin/true) & { /bin/true & wait; } & wait; echo -n . >> steps; done";

fn rounds() -> u32 {
    std::env::var("CRYONAUT_FORK_ROUNDS").map_or(100, |text| text.parse().expect("a number"))
}

/// How many rounds the script has made.
fn steps(scene: &Scene) -> u64 {
    std::fs::metadata(scene.work("steps")).map_or(0, |file| file.len())
}

fn wait_for_progress(scene: &Scene) -> Outcome {
    let before = steps(scene);
    scene.wait_for("the script to go on", LIMIT, || {
        (steps(scene) > before).then_some(())
    })
}

fn busy(scene: &Scene, script: &str) -> Outcome {
    let job = scene.start(
        "job",
        &Program::installed("bash")?.arguments(["-c", script]),
    )?;
    let image = scene.file("image");
    wait_for_progress(scene)?;
    for _ in 0..rounds() {
        checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    }
    wait_for_progress(scene)?;
    if let Some(status) = job.ended() {
        return failed(format!("the script has ended: {status}"));
    }
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    // The killed children are left to the test.
    scene.wait_for_disappearance(&processes::descendants(std::process::id() as i32))?;
    let life = restart(scene, &image, "restart")?;
    wait_for_progress(scene)?;
    processes::signal(life.pid, Signal::KILL);
    scene.wait(&life.running)?;
    Ok(())
}

/// Each holds a lock for a moment: when it is killed with the job that lock is free, whoever has it and however young that is.
fn locks_of_the_young(scene: &Scene) -> Outcome {
    const JOBS: u32 = 20;
    const SCRIPT: &str = "while :; do flock lock sleep 0.003; echo -n . >> steps; done";
    for number in 0..JOBS {
        let program = Program::installed("bash")?.arguments(["-c", SCRIPT]);
        let job = scene.start(&format!("job.{number}"), &program)?;
        wait_for_progress(scene)?;
        let image = scene.file(format!("image.{number}"));
        checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
        scene.wait(&job)?;
        scene.wait_for_disappearance(&processes::descendants(std::process::id() as i32))?;
    }
    let life = restart(scene, &scene.file("image.0"), "restart")?;
    wait_for_progress(scene)?;
    processes::signal(life.pid, Signal::KILL);
    scene.wait(&life.running)?;
    Ok(())
}

#[test]
fn locks_root() {
    test("busy_forks::locks_root", User::Root, locks_of_the_young);
}

#[test]
fn locks_user() {
    test("busy_forks::locks_user", User::Ordinary, locks_of_the_young);
}

/// Each script for both users.
macro_rules! scripts {
    ($($name:ident $script:ident),*) => {
        $(mod $name {
            use super::*;
            #[test]
            fn root() {
                test(concat!("busy_forks::", stringify!($name), "::root"), User::Root, |scene| busy(scene, $script));
            }
            #[test]
            fn user() {
                test(concat!("busy_forks::", stringify!($name), "::user"), User::Ordinary, |scene| busy(scene, $script));
            }
        })*
    };
}

scripts!(one_by_one ONE_BY_ONE, pipelines PIPELINES, background BACKGROUND);
