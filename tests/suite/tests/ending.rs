//! A job that ends by itself while it is being checkpointed: there is an error and no image, or an image that can be restarted; and
//! one that is killed, which has ended when that is said.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::{LIMIT, describe_status};
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{Outcome, Program, Random, Scene, User, failed, place, processes, test};
use rustix::process::Signal;

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

/// Starts a program, saves and kills it, and says at once what state it is in.
const KILLED: &str = r#"
victim=$1 cryo=$2 image=$3
"$victim" > ready &
while ! grep -qs READY ready; do sleep 0.01; done
"$cryo" checkpoint $! --kill -o "$image" > /dev/null || exit
state=gone
[ ! -e /proc/$! ] || read -r _ _ state _ < /proc/$!/stat
echo "$state"
wait
"#;

/// What is said to be killed has ended, also what takes its time for that, so that its parent finds it and its numbers get free.
fn killed_has_ended(scene: &Scene) -> Outcome {
    // The kernel waits for readers of its own when it takes contexts of asynchronous I/O away.
    let victim = Program::victim("aio", &[])?.path;
    let arguments = [victim, place::cryo()?, scene.file("image")];
    let shell = Program::installed("dash")?.arguments(["-c", KILLED, "dash"]);
    let job = scene.start("shell", &shell.arguments(arguments))?;
    scene.wait(&job)?;
    match job.output().trim() {
        // The shell may have taken notice.
        "Z" | "gone" => Ok(()),
        found => failed(format!(
            "killed it was found like this: {found:?}; {}",
            job.errors()
        )),
    }
}

/// A job that is said to be killed has left the list of jobs, also where the init of its namespaces takes its time to end.
fn killed_has_left_the_list(scene: &Scene) -> Outcome {
    let words = [
        "run",
        "--namespaces",
        "--name",
        "job",
        "--",
        "sleep",
        "1000",
    ];
    let job = scene.cryo(words).start("job")?;
    let listed = || -> Outcome<String> { Ok(scene.cryo(["list"]).run()?.success()?.stdout) };
    let root = scene.wait_for("the job in the list", LIMIT, || {
        let text = listed().ok()?;
        text.split_once("  pid ")?
            .1
            .split(' ')
            .next()?
            .parse::<i32>()
            .ok()
    })?;
    let stat = fs::read_to_string(format!("/proc/{root}/stat"))?;
    let parent = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    let Some(init) = parent else {
        return failed(format!("who is the parent? {stat}"));
    };
    processes::signal(init, Signal::STOP);
    let saving = scene
        .cryo(["checkpoint", "job", "--kill", "-o"])
        .arguments([scene.file("image")])
        .start("saving")?;
    scene.wait_for("the job's end", LIMIT, || {
        matches!(processes::state(root), None | Some('Z')).then_some(())
    })?;
    std::thread::sleep(Duration::from_secs(1));
    if saving.ended().is_some() {
        return failed(format!(
            "it is said to be killed, and listed: {}",
            listed()?
        ));
    }
    processes::signal(init, Signal::CONT);
    if !scene.wait(&saving)?.success() || !listed()?.is_empty() {
        return failed(format!("it is listed: {}", listed()?));
    }
    scene.wait(&job)?;
    Ok(())
}

/// A job whose parent takes its time to take notice of its end: its numbers are waited for.
fn reaped_late(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("mem_private", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY\n").then_some(())
    })?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    let restarted = scene
        .cryo(["restart", "--pids", "keep"])
        .arguments([&image])
        .start("restart")?;
    // Long enough for a restart that does not wait to be refused.
    std::thread::sleep(Duration::from_millis(200));
    scene.wait(&job)?;
    scene.go()?;
    let status = scene.wait(&restarted)?;
    if !status.success() {
        return failed(format!(
            "the restart {}: {}",
            describe_status(status),
            restarted.errors()
        ));
    }
    Ok(())
}

/// A restart that is told to end, at any instant, once or twice: it gives up, or the job is told.
fn told_to_end(scene: &Scene) -> Outcome {
    const ATTEMPTS: u32 = 60;
    let program = Program::installed("sleep")?.argument("1000");
    let job = scene.start("job", &program)?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let start = Instant::now();
    let life = restart(scene, &image, "whole")?;
    let usual = start.elapsed();
    processes::signal(life.running.pid(), Signal::TERM);
    scene.wait(&life.running)?;
    let (mut random, mut given_up) = (Random::new(), 0);
    for number in 0..ATTEMPTS {
        let restarting = scene
            .cryo(["restart"])
            .arguments([&image])
            .start(&format!("restart.{number}"))?;
        std::thread::sleep(random.between(Duration::ZERO, usual * 3 / 2));
        let family = processes::descendants(restarting.pid());
        for _ in 0..=number % 2 {
            processes::signal(restarting.pid(), Signal::TERM);
        }
        let status = scene.wait(&restarting)?;
        match (status.code(), status.signal()) {
            (Some(125), _) => given_up += 1,
            // The job's own end, or that of a cryo that had hardly begun.
            (Some(143), _) | (_, Some(15)) => {}
            _ => {
                return failed(format!(
                    "the restart {}: {}",
                    describe_status(status),
                    restarting.errors()
                ));
            }
        }
        scene.wait_for_disappearance(&family)?;
    }
    let account = format!("{given_up} of {ATTEMPTS} restarts were given up");
    scene.note(&account);
    match given_up {
        // It was told at no interesting instant.
        0 | ATTEMPTS => failed(account),
        _ => Ok(()),
    }
}

#[test]
fn root() {
    test("ending::root", User::Root, ends_meanwhile);
}

#[test]
fn user() {
    test("ending::user", User::Ordinary, ends_meanwhile);
}

#[test]
fn killed_root() {
    test("ending::killed_root", User::Root, killed_has_ended);
}

#[test]
fn killed_user() {
    test("ending::killed_user", User::Ordinary, killed_has_ended);
}

#[test]
fn left_root() {
    test("ending::left_root", User::Root, killed_has_left_the_list);
}

#[test]
fn left_user() {
    test(
        "ending::left_user",
        User::Ordinary,
        killed_has_left_the_list,
    );
}

#[test]
fn reaped_late_root() {
    test("ending::reaped_late_root", User::Root, reaped_late);
}

#[test]
fn told_root() {
    test("ending::told_root", User::Root, told_to_end);
}

#[test]
fn told_user() {
    test("ending::told_user", User::Ordinary, told_to_end);
}
