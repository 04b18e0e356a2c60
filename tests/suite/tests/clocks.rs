//! Jobs that come back where the monotonic clocks stand elsewhere: after a reboot, or on another machine.

use std::path::Path;

use cryonaut_suite::victim::{await_ready, checkpoint, finish, restart};
use cryonaut_suite::{Outcome, Program, Scene, User, processes, skip, test};

/// A command line that runs what follows it with its clocks this many seconds ahead.
fn ahead(seconds: &str) -> Vec<String> {
    ["--time", "--monotonic", seconds, "--boottime", seconds]
        .map(String::from)
        .to_vec()
}

/// The victim's clocks are far ahead of the machine's, as they would be if that had been started again.
fn clocks_behind(scene: &Scene) -> Outcome {
    let unshare = unshare()?;
    let victim = Program::victim("clock_goes_on", &[])?;
    let program = Program::at(unshare.path)
        .arguments(ahead("100000"))
        .argument(&victim.path);
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    let image = scene.file("image.1");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart.1")?;
    let second = scene.file("image.2");
    checkpoint(scene, &life.pid.to_string(), &second, "--kill")?;
    scene.wait(&life.running)?;
    let life = restart(scene, &second, "restart.2")?;
    finish(scene, &job, &life.running)
}

/// The machine's clocks are far ahead of the victim's, and count from another start.
fn clocks_ahead(scene: &Scene) -> Outcome {
    let unshare = unshare()?;
    let job = scene.start("victim", &Program::victim("clock_goes_on", &[])?)?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    let family = processes::descendants(job.pid());
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let boot = scene.file("boot_id");
    scene.write(&boot, "another\n")?;
    let script =
        "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && exec \"$2\" restart \"$3\"";
    let shell = Program::at(unshare.path)
        .arguments(ahead("100000"))
        .arguments(["--mount", "sh", "-c", script, "sh"])
        .argument(&boot)
        .argument(scene.cryo_path())
        .argument(&image);
    let life = scene.start("restart", &shell)?;
    finish(scene, &job, &life)
}

/// unshare(1), with time namespaces to be had.
fn unshare() -> Outcome<Program> {
    if !Path::new("/proc/self/timens_offsets").exists() {
        return skip("this kernel has no time namespaces");
    }
    Program::installed("unshare")
}

#[test]
fn clocks_that_would_go_back_go_on() {
    test("clocks_behind", User::Root, clocks_behind);
}

#[test]
fn clocks_that_would_leap_ahead_go_on() {
    test("clocks_ahead", User::Root, clocks_ahead);
}
