//! Suspend and resume where something goes wrong: a second suspension that fails, impatience at the keyboard, processes that die or
//! are let go by halves, a list of jobs that is lost or has no room, and `cryo` killed while a suspended job is checkpointed.
//!
//! `CRYONAUT_KILL_ROUNDS` says how many random instants (20 each as root and as an ordinary user, unless said).

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use cryonaut_suite::outcome::skip;
use cryonaut_suite::scene::{LIMIT, describe_status};
use cryonaut_suite::swap::{Delegated, cgroup_of};
use cryonaut_suite::victim::{checkpoint, finish, start_ready};
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, failed, for_each_user, kill_rounds, processes,
};
use rustix::process::Signal;

fn rounds() -> u32 {
    kill_rounds(20)
}

fn suspend(scene: &Scene, job: &Running) -> Outcome {
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    Ok(())
}

fn resume(scene: &Scene, job: &Running) -> Outcome {
    let pid = job.pid().to_string();
    scene.cryo(["resume", &pid]).run()?.success()?;
    Ok(())
}

/// What the counting victim has counted.
fn counts(scene: &Scene) -> Outcome<Vec<u8>> {
    Ok(fs::read(scene.work("count"))?)
}

fn expect_suspended(scene: &Scene, job: &Running) -> Outcome {
    let listed = scene.cryo(["list"]).run()?.success()?;
    if !listed.stdout.contains("suspended since") || listed.stdout.contains("somebody") {
        return failed(format!("cryo list says {:?}", listed.stdout));
    }
    let before = counts(scene)?;
    std::thread::sleep(Duration::from_millis(20));
    match before == counts(scene)? && job.ended().is_none() {
        true => Ok(()),
        false => failed("the job runs"),
    }
}

/// Every thread of the counting victim runs.
fn expect_running(scene: &Scene, job: &Running) -> Outcome {
    let listed = scene.cryo(["list"]).run()?.success()?;
    if listed.stdout.contains("suspended") {
        return failed(format!("cryo list says {:?}", listed.stdout));
    }
    let before = counts(scene)?;
    scene.wait_for("every thread to count", LIMIT, || {
        let now = counts(scene).ok()?;
        (0..4)
            .all(|place| before[8 * place..8 * place + 8] != now[8 * place..8 * place + 8])
            .then_some(())
    })?;
    match job.ended() {
        None => Ok(()),
        Some(status) => failed(format!("the job {}", describe_status(status))),
    }
}

/// Starts a call of `cryo`, sends it so many signals after a random time, and gives how it ended.
fn interrupted(
    scene: &Scene,
    random: &mut Random,
    signals: u32,
    arguments: &[&str],
) -> Outcome<ExitStatus> {
    let delay = random.between(Duration::ZERO, Duration::from_millis(250));
    let call = scene.cryo(arguments);
    call.signalled_after(delay, Signal::INT, signals)
}

/// Whoever is impatient finds the job as it was, or suspended, and nothing between.
fn impatient(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    for _ in 0..rounds() {
        let status = interrupted(scene, &mut random, 2, &["suspend", "--partial", &pid])?;
        let listed = scene.cryo(["list"]).run()?.success()?.stdout;
        let suspended = listed.contains("suspended since");
        match status.code() {
            Some(4) => expect_running(scene, &job)?,
            // A signal ends it at once before anything has begun, and when all has been told.
            None if !suspended => expect_running(scene, &job)?,
            Some(0) | None => {
                expect_suspended(scene, &job)?;
                resume(scene, &job)?;
            }
            _ => return failed(format!("cryo suspend {}", describe_status(status))),
        }
    }
    finish(scene, &job, &job)
}

/// A second suspension that is given up leaves the first as it was.
fn second_given_up(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    suspend(scene, &job)?;
    let before = counts(scene)?;
    let mut given_up = 0;
    for _ in 0..rounds() {
        let status = interrupted(scene, &mut random, 1, &["suspend", "--partial", &pid])?;
        given_up += u32::from(status.code() == Some(4));
        expect_suspended(scene, &job)?;
    }
    println!("{given_up} of {} were given up on the way", rounds());
    if counts(scene)? != before {
        return failed("the job ran meanwhile");
    }
    resume(scene, &job)?;
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// One process of a suspended job is killed at some instant of its checkpoint: that ends, and the other stands still.
fn dies_meanwhile(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    for round in 0..10 {
        let job = start_ready(scene, "counting", &[])?;
        suspend(scene, &job)?;
        let child = processes::descendants(job.pid());
        let pid = job.pid().to_string();
        let image = scene.file("image");
        let saving = scene
            .cryo(["checkpoint", &pid, "-o"])
            .arguments([&image])
            .start(&format!("checkpoint.{round}"))?;
        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(150)));
        for pid in child {
            processes::signal(pid, Signal::KILL);
        }
        // Whatever it says: it says it.
        scene.wait(&saving)?;
        let before = counts(scene)?;
        std::thread::sleep(Duration::from_millis(20));
        if counts(scene)? != before {
            return failed("what is left of the job runs");
        }
        resume(scene, &job)?;
        job.signal(Signal::KILL);
        scene.wait(&job)?;
    }
    Ok(())
}

/// A suspension of which somebody has let a part go: it can be saved, completed, and ended.
fn by_halves(scene: &Scene) -> Outcome {
    let own = Delegated::make(scene)?;
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    own.take(job.pid())?;
    let children = processes::descendants(job.pid());
    for &child in &children {
        own.take(child)?;
    }
    for command in [
        &["checkpoint", "--leave-running", &pid, "-o", "image"][..],
        &["suspend", "--partial", &pid],
        &["resume", &pid],
    ] {
        suspend(scene, &job)?;
        for &child in &children {
            own.take(child)?;
        }
        let listed = scene.cryo(["list"]).run()?.success()?;
        if !listed.stdout.contains("suspended in part") {
            return failed(format!("cryo list says {:?}", listed.stdout));
        }
        scene.cryo(command).run()?.success()?;
        match command[0] {
            "suspend" => {
                expect_suspended(scene, &job)?;
                resume(scene, &job)?;
            }
            "checkpoint" => resume(scene, &job)?,
            _ => {}
        }
        expect_running(scene, &job)?;
    }
    finish(scene, &job, &job)
}

/// A job that somebody else holds still is not said to run.
fn frozen_above(scene: &Scene) -> Outcome {
    let own = Delegated::make(scene)?;
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    own.take(job.pid())?;
    for child in processes::descendants(job.pid()) {
        own.take(child)?;
    }
    suspend(scene, &job)?;
    fs::write(own.path().join("cgroup.freeze"), "1")?;
    let ended = scene.cryo(["resume", &pid]).run()?.success()?;
    if ended.stdout.contains("resumed") || !ended.stdout.contains("somebody else has frozen") {
        return failed(format!("cryo resume says {:?}", ended.stdout));
    }
    fs::write(own.path().join("cgroup.freeze"), "0")?;
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// A list of jobs that knows nothing of it: the freezer tells, or the user is.
fn another_list(scene: &Scene) -> Outcome {
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    suspend(scene, &job)?;
    let other = scene.make_directory("other")?;
    let call = || {
        scene
            .cryo(["resume", &pid])
            .variable("XDG_RUNTIME_DIR", &other)
    };
    if cgroup_of(job.pid()).contains("cryonaut-suspended") {
        call().run()?.success()?;
        // The first list still has it.
        resume(scene, &job)?;
    } else {
        call()
            .run()?
            .refusal_with(&[2], &["another xdg_runtime_dir"])?;
        resume(scene, &job)?;
    }
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// The job goes on after the command, whatever that does to the list of jobs.
fn list_lost_meanwhile(scene: &Scene) -> Outcome {
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    let command = format!("rm -r {}", scene.file("run/cryonaut").display());
    scene
        .cryo(["suspend", "--partial", &pid, "--for", &command])
        .run()?
        .success()?;
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// A small file system of the test's own. Dropping it takes it away.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(scene: &Scene, path: &'a Path) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("mounting a file system needs root");
        }
        let options = format!("size=64k,mode=700,uid={}", scene.user_id());
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(path)
            .output()?;
        match done.status.success() {
            true => Ok(Self(path)),
            false => skip(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Resuming needs no room.
fn no_room_for_notes(scene: &Scene) -> Outcome {
    let place = scene.make_directory("small")?;
    let _small = Small::mount(scene, &place)?;
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    let call = |verb: &str| {
        scene
            .cryo([verb, &pid, "--json"])
            .variable("XDG_RUNTIME_DIR", &place)
    };
    call("suspend").arguments(["--partial"]).run()?.success()?;
    let filled = fs::write(place.join("filler"), vec![1; 1 << 20]);
    if filled.is_ok() {
        return failed("the small file system does not fill up");
    }
    call("resume").run()?.success()?;
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// Kills a call of `cryo` at a random instant; whether that was before its end.
fn kill_one(
    scene: &Scene,
    random: &mut Random,
    longest: Duration,
    arguments: &[&str],
) -> Outcome<bool> {
    let delay = random.between(Duration::ZERO, longest);
    scene.cryo(arguments).killed_after(delay)
}

/// Tasks of the job that are traced.
fn traced(job: &Running) -> bool {
    let family = processes::family(job.pid());
    family.iter().any(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// A suspended job is saved again and again by a `cryo` that is killed: not one instruction of it is executed.
fn killed_checkpoints(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start_ready(scene, "counting", &[])?;
    suspend(scene, &job)?;
    let before = counts(scene)?;
    let pid = job.pid().to_string();
    let image = scene.file("image");
    let start = std::time::Instant::now();
    checkpoint(scene, &pid, &image, "--leave-running")?;
    // One that was slow by chance would have most of the others end before they are killed.
    let usual = start.elapsed().min(Duration::from_millis(120));
    let image = image.to_string_lossy().into_owned();
    let (mut killed, mut finished) = (0, 0);
    while killed < rounds() {
        match kill_one(
            scene,
            &mut random,
            usual * 5 / 4,
            &["checkpoint", &pid, "-o", &image],
        )? {
            true => killed += 1,
            false => finished += 1,
        }
        // The process that does the work lets go in order, a moment after the death of the other.
        scene.wait_for("the job to be let go", LIMIT, || {
            (!traced(&job)).then_some(())
        })?;
        if counts(scene)? != before {
            return failed(format!("after {killed} kills the job has run"));
        }
    }
    expect_suspended(scene, &job)?;
    println!("{killed} checkpoints killed, {finished} finished first");
    resume(scene, &job)?;
    expect_running(scene, &job)?;
    finish(scene, &job, &job)
}

/// A shell that starts processes all the time, in which `cryo` is killed: no child stays stopped when it is resumed.
fn forking(scene: &Scene) -> Outcome {
    const SCRIPT: &str = "while :; do (/bin/true; /bin/true) & { /bin/true & wait; } & wait; echo -n . >> steps; done";
    let mut random = Random::new();
    let job = scene.start(
        "job",
        &Program::installed("bash")?.arguments(["-c", SCRIPT]),
    )?;
    let pid = job.pid().to_string();
    let steps = || fs::metadata(scene.work("steps")).map_or(0, |file| file.len());
    let goes_on = || -> Outcome {
        let before = steps();
        scene.wait_for("the script to go on", LIMIT, || {
            (steps() > before + 1).then_some(())
        })
    };
    goes_on()?;
    for round in 0..rounds() {
        // Only its standing still: so most instants lie where processes are stopped.
        kill_one(
            scene,
            &mut random,
            Duration::from_millis(80),
            &["suspend", "--no-reclaim", &pid],
        )?;
        if round % 2 == 0 {
            scene
                .cryo(["suspend", "--no-reclaim", &pid])
                .run()?
                .success()?;
            let before = steps();
            std::thread::sleep(Duration::from_millis(20));
            if steps() != before {
                return failed("the script runs while it is suspended");
            }
        }
        // Not suspended is an answer, too.
        scene.cryo(["resume", &pid]).run()?;
        goes_on()?;
    }
    job.signal(Signal::KILL);
    scene.wait(&job)?;
    Ok(())
}

for_each_user! {
    impatience => impatient;
    second => second_given_up;
    dying => dies_meanwhile;
    half => by_halves;
    above => frozen_above;
    elsewhere => another_list;
    lost => list_lost_meanwhile;
    room => no_room_for_notes;
    kill_checkpoint => killed_checkpoints;
    kill_forking => forking;
}
