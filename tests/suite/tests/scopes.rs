//! What belongs to a job, and what becomes of it afterwards, as the options of `cryo checkpoint` say.

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{await_ready, checkpoint, restart};
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
        .refusal(&[&child.to_string(), "--tree"])?;
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

/// Waits for its child, and says how that ended.
const WAITING: &str = r#"
import os, signal
child = os.fork()
if child == 0:
    signal.pause()
signal.signal(signal.SIGCHLD, lambda *told: print("TOLD", flush=True))
print("READY", flush=True)
try:
    print("ENDED", os.waitpid(child, 0)[1], flush=True)
except ChildProcessError:
    print("NO CHILD", flush=True)
"#;

/// A program whose child stays outside of the image, restarted when all of it has ended: what it is told of its child.
fn cut(scene: &Scene, how: &str) -> Outcome<String> {
    let program = Program::installed("python3")?.arguments(["-c", WAITING]);
    let job = scene.start("job", &program)?;
    await_ready(scene, &job)?;
    let pid = job.pid().to_string();
    let check = scene.cryo(["check", "--process", &pid]).run()?;
    check.refusal(&["its child", "--cut"])?;
    let line = ["check", "--process", "--cut", how, &pid];
    scene.cryo(line).run()?.success()?;
    let image = scene.file("image");
    let line = ["checkpoint", "--process", "--cut", how, &pid, "-o"];
    scene.cryo(line).arguments([&image]).run()?.success()?;
    // It must not see its child end before.
    job.signal(Signal::KILL);
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    scene.wait(&life.running)?;
    Ok(job.output())
}

fn cut_as_killed(scene: &Scene) -> Outcome {
    let told = cut(scene, "killed")?;
    match told.contains("TOLD\nENDED 9\n") {
        true => Ok(()),
        false => failed(format!("it did not see its child killed: {told}")),
    }
}

fn cut_as_gone(scene: &Scene) -> Outcome {
    let told = cut(scene, "gone")?;
    match told.contains("NO CHILD\n") && !told.contains("TOLD") {
        true => Ok(()),
        false => failed(format!("it found a child: {told}")),
    }
}

/// Leads a session, which its child leaves.
const LEAVING: &str = r#"
import os, signal
if os.getsid(0) != os.getpid():
    os.setsid()
child = os.fork()
if child == 0:
    os.setsid()
    print("CHILD", os.getpid(), flush=True)
signal.pause()
"#;

/// A child that has left the session would be lost without a word.
fn session_with_a_child_outside(scene: &Scene) -> Outcome {
    let program = Program::installed("python3")?.arguments(["-c", LEAVING]);
    let job = scene.start("job", &program)?;
    let child = scene.wait_for("the child", LIMIT, || {
        let output = job.output();
        let child = output.strip_prefix("CHILD ")?.strip_suffix('\n')?;
        Some(child.to_owned())
    })?;
    let session = job.pid().to_string();
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", "--session", &session, "-o"])
        .arguments([&image])
        .run()?
        .refusal(&[&child, "--cut"])?;
    let line = ["checkpoint", "--session", "--cut", "gone", &session, "-o"];
    scene.cryo(line).arguments([&image]).run()?.success()?;
    Ok(())
}

for_each_user! {
    process_alone, group, stopped_afterwards, cut_as_killed, cut_as_gone, session_with_a_child_outside
}
