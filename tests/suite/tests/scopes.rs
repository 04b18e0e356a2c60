//! What belongs to a job, and what becomes of it afterwards, as the options of `cryo checkpoint` say.

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

/// A shell with a child, both of one process group.
fn family(scene: &Scene, label: &str) -> Outcome<(Running, i32)> {
    let program = Program::installed("dash")?.arguments(["-c", "sleep 1000 & echo READY; wait"]);
    let job = scene.start(label, &program)?;
    let child = scene.wait_for("the child", LIMIT, || {
        let ready = job.output().contains("READY\n");
        let child = processes::descendants(job.pid()).first().copied();
        child.filter(|_| ready)
    })?;
    Ok((job, child))
}

/// The pids in an image, in order.
fn saved(scene: &Scene, scope: &str, target: i32) -> Outcome<String> {
    let image = scene.file("image");
    let target = target.to_string();
    let call = scene.cryo(["checkpoint", scope, &target, "-o"]);
    call.arguments([&image]).run()?.success()?;
    let shown = scene.cryo(["show"]).arguments([&image]).run()?.success()?;
    Ok(shown.stdout)
}

fn expect(shown: &str, inside: &[i32], outside: &[i32]) -> Outcome {
    let has = |pid: &i32| {
        let begin = format!("{pid} ");
        shown
            .lines()
            .any(|line| line.trim_start().starts_with(&begin))
    };
    match inside.iter().all(has) && !outside.iter().any(has) {
        true => Ok(()),
        false => failed(format!(
            "not {inside:?} without {outside:?} in the image: {shown}"
        )),
    }
}

fn process_alone(scene: &Scene) -> Outcome {
    let (job, child) = family(scene, "job")?;
    expect(&saved(scene, "--process", child)?, &[child], &[])?;
    // One with a child in the job's tree cannot be had without it.
    let parent = job.pid().to_string();
    scene
        .cryo(["checkpoint", "--process", &parent, "-o"])
        .arguments([scene.file("refused")])
        .run()?
        .refusal_saying_all(&[&child.to_string(), "--tree"])?;
    let image = scene.file("image");
    let line = [
        "checkpoint",
        "--process",
        &child.to_string(),
        "--kill",
        "-o",
    ];
    scene.cryo(line).arguments([&image]).run()?.success()?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    life.running.signal(Signal::TERM);
    scene.wait(&life.running)?;
    Ok(())
}

fn group(scene: &Scene) -> Outcome {
    let (job, child) = family(scene, "job")?;
    let (other, other_child) = family(scene, "other")?;
    expect(
        &saved(scene, "--group", job.pid())?,
        &[job.pid(), child],
        &[other.pid(), other_child],
    )
}

fn stopped_afterwards(scene: &Scene) -> Outcome {
    let (job, child) = family(scene, "job")?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--stop")?;
    for pid in [job.pid(), child] {
        if processes::state(pid) != Some('T') {
            return failed(format!("process {pid} is not stopped"));
        }
    }
    for pid in [child, job.pid()] {
        processes::signal(pid, Signal::CONT);
    }
    scene.wait_for("both to run", LIMIT, || {
        let both = [job.pid(), child];
        both.iter()
            .all(|&pid| processes::state(pid) == Some('S'))
            .then_some(())
    })?;
    processes::signal(child, Signal::KILL);
    match scene.wait(&job)?.success() {
        true => Ok(()),
        false => failed("the job did not go on"),
    }
}

for_each_user! { process_alone, group, stopped_afterwards }
