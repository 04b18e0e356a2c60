//! The commands that only tell: check, show, verify, list, doctor, and demo; for people and as JSON.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{Outcome, Program, Scene, User, failed, for_each_user, processes};

/// A rough look at JSON: one value, its brackets balanced outside of strings.
fn expect_json(what: &str, text: &str) -> Outcome {
    let mut depth = 0i32;
    let (mut in_string, mut escaped) = (false, false);
    for letter in text.trim().chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => depth += 1,
            '}' | ']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    if text.trim().starts_with(['{', '[']) && depth == 0 && !in_string {
        return Ok(());
    }
    failed(format!("{what}: no JSON: {text}"))
}

fn expect_json_of(scene: &Scene, arguments: &[&str]) -> Outcome {
    let result = scene
        .cryo(arguments)
        .arguments(["--json"])
        .run()?
        .success()?;
    expect_json(&result.what, &result.stdout)
}

fn tell(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("task_tree", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let pid = job.pid().to_string();
    scene.cryo(["check", &pid]).run()?.success()?;
    expect_json_of(scene, &["check", &pid])?;
    let image = scene.file("image");
    checkpoint(scene, &pid, &image, "--leave-running")?;
    let name = image.to_string_lossy().into_owned();
    let shown = scene.cryo(["show", &name]).run()?.success()?;
    if !shown.stdout.contains(&pid) || !shown.stdout.contains("task_tree") {
        return failed("cryo show names neither the process nor the program");
    }
    expect_json_of(scene, &["show", &name])?;
    scene.cryo(["verify", &name]).run()?.success()?;
    expect_json_of(scene, &["verify", &name])?;
    if fs::metadata(&image)?.permissions().mode() & 0o777 != 0o600 {
        return failed("the image may be read by others");
    }
    scene.go()?;
    scene.wait(&job)?;
    Ok(())
}

fn look_around(scene: &Scene) -> Outcome {
    scene.cryo(["doctor"]).run()?;
    let doctor = scene.cryo(["doctor", "--json"]).run()?;
    expect_json(&doctor.what, &doctor.stdout)?;
    scene.cryo(["list"]).run()?.success()?;
    expect_json_of(scene, &["list"])?;
    scene.cryo(["--version"]).run()?.success()?;
    scene.cryo(["--help"]).run()?.success()?;
    for command in [
        "run",
        "checkpoint",
        "restart",
        "attach",
        "suspend",
        "resume",
        "check",
        "show",
        "verify",
        "list",
        "doctor",
        "demo",
    ] {
        scene.cryo([command, "--help"]).run()?.success()?;
    }
    Ok(())
}

fn named_jobs(scene: &Scene) -> Outcome {
    let program = Program::victim("mem_stack", &[])?;
    let job = scene
        .cryo(["run", "--name", "listed", "--"])
        .arguments([&program.path])
        .start("job")?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let listed = scene.cryo(["list"]).run()?.success()?;
    if !listed.stdout.contains("listed") {
        return failed("cryo list does not show the job");
    }
    scene
        .cryo(["run", "--name", "listed", "--", "true"])
        .run()?
        .refusal(&["listed"])?;
    unseen_from_elsewhere(scene)?;
    scene.go()?;
    let status = scene.wait(&job)?;
    if !status.success() {
        return failed("cryo run does not end with the job's status");
    }
    let listed = scene.cryo(["list"]).run()?.success()?;
    if listed.stdout.contains("listed") {
        return failed("cryo list shows a job that has ended");
    }
    Ok(())
}

/// A cryo that cannot see the job's processes leaves its entry alone.
fn unseen_from_elsewhere(scene: &Scene) -> Outcome {
    let mut command = scene.command(&Program::installed("unshare")?.path);
    if scene.user() == User::Ordinary {
        command.args(["--user", "--map-current-user"]);
    }
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(scene.cryo_path()).arg("list");
    let listing = scene.spawn("elsewhere", command)?;
    let status = scene.wait(&listing)?;
    if !status.success() {
        return failed("cryo list in another pid namespace");
    }
    let listed = scene.cryo(["list"]).run()?.success()?;
    if listing.output().contains("listed") || !listed.stdout.contains("listed") {
        return failed("a cryo in another pid namespace took the job for one that has gone");
    }
    Ok(())
}

/// The job's status is that of `cryo run`; its own failures have their own numbers.
fn exit_statuses(scene: &Scene) -> Outcome {
    for (script, wanted) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 200", 200),
        ("kill -9 $$", 128 + 9),
        ("kill -15 $$", 128 + 15),
    ] {
        let result = scene.cryo(["run", "--", "sh", "-c", script]).run()?;
        if result.status.code() != Some(wanted) {
            return failed(format!("{}: expected {wanted}", result.what));
        }
    }
    for (program, wanted) in [("/nowhere/at/all", 127), ("/etc/passwd", 126)] {
        let result = scene.cryo(["run", "--", program]).run()?;
        if result.status.code() != Some(wanted) {
            return failed(format!("{}: expected {wanted}", result.what));
        }
    }
    Ok(())
}

/// One image, two lives side by side in namespaces of their own.
fn side_by_side(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("mem_private", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.file("image");
    let family = processes::family(job.pid());
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let mut lives = Vec::new();
    for number in 1..=2 {
        let label = format!("life.{number}");
        let pid_path = scene.file(format!("{label}.pid"));
        let running = scene
            .cryo(["restart", "--pids", "namespace", "--pidfile"])
            .arguments([&pid_path, &image])
            .start(&label)?;
        scene.wait_for("the restarted job", LIMIT, || {
            fs::read_to_string(&pid_path)
                .ok()
                .filter(|text| !text.is_empty())
                .or(running.ended().map(|_| String::new()))
        })?;
        lives.push(running);
    }
    scene.go()?;
    for running in lives {
        let status = scene.wait(&running)?;
        if !status.success() {
            return failed("a life of two failed");
        }
    }
    // Both append to the one file that the image names.
    if job.output() == "READY\nOK\nOK\n" {
        return Ok(());
    }
    failed(format!("two lives wrote {:?}", job.output()))
}

/// A program whose output is a pipe of somebody outside writes to a file afterwards, or to where `cryo restart` does.
fn outside_output(scene: &Scene) -> Outcome {
    let program = Program::victim("mem_private", &[])?;
    let mut command = scene.session_command(&program.path);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut reader = child.stdout.take().expect("piped");
    let mut ready = [0; 6];
    reader.read_exact(&mut ready)?;
    let image = scene.file("image");
    checkpoint(scene, &child.id().to_string(), &image, "--kill")?;
    child.wait()?;
    scene.go()?;
    let file = scene.file("restarted.out");
    scene.write(&file, "")?;
    scene
        .cryo(["restart", "--stdout"])
        .arguments([&file, &image])
        .run()?
        .success()?;
    let text = fs::read_to_string(&file)?;
    if text != "OK\n" {
        return failed(format!("the file given by --stdout holds {text:?}"));
    }
    let inherited = scene
        .cryo(["restart"])
        .arguments([&image])
        .run()?
        .success()?;
    if inherited.stdout.ends_with("OK\n") {
        return Ok(());
    }
    failed(format!("cryo restart passed {:?} on", inherited.stdout))
}

/// `--detach` ends at once; the pid file holds a pid that can be used.
fn detached(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("mem_private", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.file("image");
    let family = processes::family(job.pid());
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let pid_path = scene.file("pid");
    scene
        .cryo(["restart", "--detach", "--pidfile"])
        .arguments([&pid_path])
        .arguments([&image])
        .run()?
        .success()?;
    let pid: i32 = match fs::read_to_string(&pid_path)?.trim().parse() {
        Ok(pid) => pid,
        Err(error) => return failed(format!("the pid file: {error}")),
    };
    if processes::state(pid).is_none() {
        return failed(format!("there is no process {pid}"));
    }
    scene.go()?;
    scene.wait_for("the detached job's end", LIMIT, || {
        job.output().contains("OK\n").then_some(())
    })
}

/// A stream from one cryo to another.
fn streamed(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("mem_private", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.file("image");
    let mut command = scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o", "-"])
        .command();
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return failed("cryo checkpoint -o - failed");
    }
    scene.write(&image, &output.stdout)?;
    let family = processes::family(job.pid());
    for pid in &family {
        processes::signal(*pid, rustix::process::Signal::KILL);
    }
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    let life = restart(scene, &image, "restart")?;
    scene.go()?;
    let status = scene.wait(&life.running)?;
    if status.success() && job.output() == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!("the restarted job: {}", job.output()))
}

fn demo(scene: &Scene) -> Outcome {
    let call = scene.cryo(["demo"]).start("demo")?;
    let status = scene.wait_within(&call, std::time::Duration::from_secs(120))?;
    if status.success() {
        Ok(())
    } else {
        failed("cryo demo failed")
    }
}

for_each_user!(
    tell,
    look_around,
    named_jobs,
    exit_statuses,
    side_by_side,
    outside_output,
    detached,
    streamed,
    demo
);
