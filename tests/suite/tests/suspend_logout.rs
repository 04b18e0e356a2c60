//! A suspended job whose user leaves: what holds it then, and that nothing is saved of it meanwhile.

use std::fs;
use std::time::Duration;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Scene, Screen, failed, for_each_user, processes};
use rustix::process::Signal;

/// How a user leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Closes the terminal's window.
    HangUp,
    /// Says so, twice if the shell asks back.
    Exit,
}

/// An interactive shell on a terminal, in which this command was started; what that wrote to the file "pid".
fn login<'scene>(scene: &'scene Scene, command: &str) -> Outcome<(Screen<'scene>, i32)> {
    let bash = Program::installed("bash")?.path;
    let shell = Screen::start_program(scene, &bash, ["--norc", "-i"])?;
    shell.expect("$ ")?;
    shell.type_keys(&format!("{command}\r"))?;
    let pid = scene.wait_for("the pid of the job", LIMIT, || {
        let text = fs::read_to_string(scene.work("pid")).ok()?;
        text.strip_suffix('\n')?.trim().parse().ok()
    })?;
    Ok((shell, pid))
}

fn log_out(scene: &Scene, mut shell: Screen<'_>, how: Leaving) -> Outcome {
    match how {
        Leaving::HangUp => {
            let mut bash = shell.vanish();
            scene.wait_for("the shell's end", LIMIT, || bash.try_wait().ok().flatten())?;
            Ok(())
        }
        Leaving::Exit => {
            shell.type_keys("exit\r")?;
            // It may ask back, because of stopped jobs.
            let _ = shell.type_keys("exit\r");
            shell.wait().map(drop)
        }
    }
}

/// Suspends a job; whether signals hold it, and what is said of logging out.
fn suspend(scene: &Scene, target: &str) -> Outcome<(bool, bool)> {
    let done = scene
        .cryo(["suspend", "--partial", "--json", target])
        .run()?
        .success()?;
    let by_signals = done.stdout.contains("\"way\":\"signals\"");
    Ok((by_signals, done.stdout.contains("logging out of the shell")))
}

fn expect_suspended(scene: &Scene) -> Outcome {
    let listed = scene.cryo(["list"]).run()?.success()?.stdout;
    match listed.contains("suspended since") && !listed.contains("somebody") {
        true => Ok(()),
        false => failed(format!("cryo list says {listed:?}")),
    }
}

/// A job of the shell's own: the freezer keeps it; where signals hold it, it is said before that they will not.
fn started_by_a_shell(scene: &Scene, how: Leaving) -> Outcome {
    let (shell, pid) = login(scene, "nohup sleep 873 > nothing 2>&1 & echo $! > pid")?;
    let (by_signals, told) = suspend(scene, &pid.to_string())?;
    if by_signals != told {
        return failed(format!("held by signals: {by_signals}, warned: {told}"));
    }
    expect_suspended(scene)?;
    log_out(scene, shell, how)?;
    if by_signals {
        // It is true.
        return scene.wait_for("the job to be woken or ended", LIMIT, || {
            (processes::state(pid) != Some('T')).then_some(())
        });
    }
    expect_suspended(scene)?;
    let pid = pid.to_string();
    scene.cryo(["resume", &pid]).run()?.success()?;
    Ok(())
}

/// A job that `cryo run` has started stays suspended, and goes on when it is resumed.
fn started_by_run(scene: &Scene) -> Outcome {
    let command = format!(
        "{} run --detach --name kept --terminal -- sleep 874 < /dev/null > said 2>&1; echo $? > pid",
        scene.cryo_path().display()
    );
    let (shell, status) = login(scene, &command)?;
    if status != 0 {
        return failed(fs::read_to_string(scene.work("said"))?);
    }
    if suspend(scene, "kept")?.1 {
        return failed("it is said that logging out ends it");
    }
    log_out(scene, shell, Leaving::HangUp)?;
    resumed(scene)
}

/// The same of a job in the foreground, whose terminal goes.
fn started_in_the_foreground(scene: &Scene) -> Outcome {
    let screen = Screen::start(
        scene,
        [
            "run",
            "--name",
            "kept",
            "--",
            "sh",
            "-c",
            "echo be''gun; exec sleep 875",
        ],
    )?;
    screen.expect("begun")?;
    if suspend(scene, "kept")?.1 {
        return failed("it is said that logging out ends it");
    }
    log_out(scene, screen, Leaving::HangUp)?;
    resumed(scene)
}

fn resumed(scene: &Scene) -> Outcome {
    expect_suspended(scene)?;
    scene.cryo(["resume", "kept"]).run()?.success()?;
    let listed = scene.cryo(["list"]).run()?.success()?.stdout;
    match listed.contains("kept  pid") && !listed.contains("suspended") {
        true => Ok(()),
        false => failed(format!("after the resume cryo list says {listed:?}")),
    }
}

/// No periodic checkpoint is made of a job that stands still; the next comes when it goes on.
fn not_saved_meanwhile(scene: &Scene) -> Outcome {
    let directory = scene.make_directory("images")?;
    let images = || fs::read_dir(&directory).map_or(0, Iterator::count);
    let run = scene
        .cryo([
            "run", "--name", "saved", "--every", "1s", "--keep", "100", "--dir",
        ])
        .arguments([&directory])
        .arguments(["--", "sleep", "876"])
        .start("run")?;
    scene.wait_for("a checkpoint", LIMIT, || (images() > 0).then_some(()))?;
    suspend(scene, "saved")?;
    // One that was due before waits until the suspension is made.
    std::thread::sleep(Duration::from_millis(1500));
    let saving = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words
            .split(|&byte| byte == 0)
            .any(|word| word == b"checkpoint")
    };
    scene.wait_for("the end of a checkpoint under way", LIMIT, || {
        let family = processes::descendants(std::process::id() as i32);
        (!family.iter().any(saving)).then_some(())
    })?;
    let before = images();
    std::thread::sleep(Duration::from_millis(3500));
    if images() != before {
        return failed(format!(
            "{before} images when it was suspended, then {}",
            images()
        ));
    }
    expect_suspended(scene)?;
    scene.cryo(["resume", "saved"]).run()?.success()?;
    scene.wait_for("the next checkpoint", LIMIT, || {
        (images() > before).then_some(())
    })?;
    run.signal(Signal::TERM);
    scene.wait(&run)?;
    Ok(())
}

for_each_user! {
    hang_up => |scene| started_by_a_shell(scene, Leaving::HangUp);
    exit => |scene| started_by_a_shell(scene, Leaving::Exit);
    detached => started_by_run;
    foreground => started_in_the_foreground;
    periodic => not_saved_meanwhile;
}
