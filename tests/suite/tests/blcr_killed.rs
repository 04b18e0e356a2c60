//! BLCR's commands killed with SIGKILL at random instants: the job lives and is told of one outcome for each checkpoint, and there is
//! the whole image or none; after a restart there is the whole job, or nothing of it.
//!
//! `cr_checkpoint` has a child that does the work: the command is killed, or the child, or both.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use cryonaut_suite::blcr::{checkpoint, command, program, restart, start};
use cryonaut_suite::lines::{await_word, expect_end, lines};
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, failed, for_each_user, kill_rounds, processes,
};
use rustix::process::Signal;

/// All callbacks of a job that registers in this order.
const CALLBACKS: [&str; 5] = ["first", "second", "main", "other-first", "other-second"];

/// What CR_ETEMPFAIL gives to a callback whose checkpoint came to nothing.
const GIVEN_UP: &str = "-2354";

/// The exit status for a job that another checkpoint has not let go yet.
const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// How often a callback was told any of these.
fn told(job: &Running, name: &str, events: &[&str]) -> usize {
    let is_one = |line: &String| {
        events
            .iter()
            .any(|event| *line == format!("{name} {event}"))
    };
    lines(job).iter().filter(|line| is_one(line)).count()
}

/// Waits until a checkpoint can be made of the job again, and makes it.
fn checkpoint_at_last(scene: &Scene, job: &Running) -> Outcome {
    scene.wait_for("the job to be free for a checkpoint", LIMIT, || {
        let result = checkpoint(scene, job, &[]).and_then(|call| call.run());
        match result {
            Ok(result) if result.status.code() == Some(BUSY) => None,
            other => Some(other.and_then(|result| result.success())),
        }
    })??;
    Ok(())
}

/// Kills one `cr_checkpoint` after some time: the command, its child, or both; whether that was before its end.
fn kill_one(
    scene: &Scene,
    job: &Running,
    whom: u64,
    delay: Duration,
    label: &str,
) -> Outcome<bool> {
    let call = checkpoint(scene, job, &[])?.start(label)?;
    std::thread::sleep(delay);
    let children: Vec<i32> = processes::descendants(call.pid())
        .into_iter()
        .filter(|pid| processes::parent(*pid) == Some(call.pid()))
        .collect();
    if whom != 1 {
        call.signal(Signal::KILL);
    }
    if whom != 0 {
        for child in &children {
            processes::signal(*child, Signal::KILL);
        }
    }
    let status = scene.wait(&call)?;
    Ok(!status.success() && status.code() != Some(BUSY))
}

/// The image is whole, if there is one.
fn expect_whole(scene: &Scene) -> Outcome {
    let image = scene.file("image");
    if image.exists() {
        let verify = scene.cryo(["verify"]).arguments([&image]);
        verify.run()?.success()?;
    }
    Ok(())
}

fn checkpoints(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start(scene, &["order"])?;
    let begin = Instant::now();
    checkpoint_at_last(scene, &job)?;
    let usual = begin.elapsed();
    let (mut killed, mut finished) = (0, 0);
    for round in 0..kill_rounds(40) {
        let delay = random.between(Duration::ZERO, usual * 5 / 4);
        let label = format!("checkpoint.{round}");
        match kill_one(scene, &job, random.below(3), delay, &label)? {
            true => killed += 1,
            false => finished += 1,
        }
        expect_whole(scene)?;
        if round % 4 == 3 {
            // A file that was there stays what it was, and one that was not comes whole or not at all.
            fs::remove_file(scene.file("image")).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    scene.note(format!("{killed} killed, {finished} finished first"));
    checkpoint_at_last(scene, &job)?;
    for name in CALLBACKS {
        scene.wait_for("one outcome for each checkpoint", LIMIT, || {
            let before = told(&job, name, &["checkpoint"]);
            let after = told(&job, name, &["continue", GIVEN_UP]);
            (before == after).then_some(())
        })?;
    }
    // What is left over from the others goes when the next is made.
    let image = scene.file("image");
    let stray = fs::read_dir(image.parent().unwrap_or(&image))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains(".tmp"));
    if let Some(stray) = stray {
        return failed(format!("{} is left over", stray.path().display()));
    }
    scene.go()?;
    expect_end(scene, &job)?;
    fs::remove_file(scene.go_path())?;
    let again = restart(scene, &[])?;
    await_word(scene, &job, "first restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    match killed {
        0 => failed("none was killed before its end"),
        _ => Ok(()),
    }
}

/// With a program that has callbacks beside others.
fn restarts(scene: &Scene) -> Outcome {
    const NAMES: [&str; 3] = ["dash", "blcr", "sleep"];
    let callbacks = program(&[])?;
    let script = format!("{} order & sleep 1000 & wait", callbacks.path.display());
    let shell = Program::installed("dash")?.arguments(["-c", &script]);
    let job = scene.start("job", &shell)?;
    await_word(scene, &job, "READY\n")?;
    let family = processes::family(job.pid());
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let saved = fs::metadata(job.out_path())?.len();
    let begin = Instant::now();
    let whole = restart(scene, &[])?;
    let all_told = || {
        let is_told = |name: &&str| told(&job, name, &["restart"]) == 1;
        CALLBACKS.iter().all(is_told)
    };
    scene.wait_for("all to be told", LIMIT, || all_told().then_some(()))?;
    let usual = begin.elapsed();
    let (mut random, mut nothing, mut all) = (Random::new(), 0, 0);
    let mut last = whole;
    for number in 0..kill_rounds(40) {
        last.signal(Signal::KILL);
        scene.wait(&last)?;
        scene.end_all(scene.whole_or_nothing(&NAMES)?)?;
        // What an earlier life wrote must not be taken for what this one does.
        File::options()
            .write(true)
            .open(job.out_path())?
            .set_len(saved)?;
        let delay = random.between(Duration::ZERO, usual * 3 / 2);
        last = command(scene, "cr_restart", &[])?
            .arguments([scene.file("image")])
            .start(&format!("restart.{number}"))?;
        std::thread::sleep(delay);
        last.signal(Signal::KILL);
        scene.wait(&last)?;
        if scene.whole_or_nothing(&NAMES)?.is_empty() {
            nothing += 1;
            if told(&job, "first", &["restart"]) != 0 {
                return failed("a job that is not there was told of its new life");
            }
        } else {
            all += 1;
            scene.wait_for("all to be told", LIMIT, || all_told().then_some(()))?;
        }
    }
    scene.note(format!("{nothing} times nothing, {all} times the job"));
    match nothing {
        0 => failed("none was killed before its end"),
        _ => Ok(()),
    }
}

for_each_user! { checkpoints, restarts }
